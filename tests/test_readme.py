"""The README's tables are those of the code, and its command lines parse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python (\S+\.py) (.*)$", README.replace("\\\n", " "), re.MULTILINE)


def test_tables_are_up_to_date() -> None:
    subprocess.run([sys.executable, str(ROOT / "docs" / "make_tables.py"), "--check"], check=True, cwd=ROOT)


@pytest.mark.parametrize(("script", "arguments"), [c for c in COMMANDS if c[0].startswith("ex_audioset_strong")])
def test_training_commands_parse(script: str, arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("FILE", "runs/my_run/best.ckpt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    config.parse(config.StrongOptions, shlex.split(arguments))


def test_files_that_it_names_exist() -> None:
    for name in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
