"""The README's tables are those of the code, and its command lines parse."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import config
from helpers.detector import Detector
from tests.tone_model import ToneModel, tones

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


DETECTION = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")
SNIPPETS = [code for code in re.findall(r"```python\n(.*?)```", README + DETECTION, re.DOTALL) if "Detector(" in code]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippets_run(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = tones(5, [(1, 2, "Siren")], 48_000)
    for name in ("recording.wav", "street.mp3"):
        soundfile.write(tmp_path / name, audio, 48_000)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helpers.backends.load_torch_model", lambda *_, **__: ToneModel())
    printed: list[str] = []
    names = {"Detector": Detector, "microphone": [audio], "paths": ["street.mp3"]}
    exec(code, {**names, "print": lambda *words: printed.append(" ".join(map(str, words)))})
    assert any("Siren" in line for line in printed)


def test_a_stream_of_the_docs_tells_the_end_of_what_is_on_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [code for code in SNIPPETS if "microphone" in code]
    monkeypatch.setattr("helpers.backends.load_torch_model", lambda *_, **__: ToneModel())
    ends: dict[float, list[str]] = {}
    for end in (3.0, 5.0):  # of the sound, in 5 s
        printed: list[str] = []
        names = {"Detector": Detector, "microphone": [tones(5, [(1, end, "Siren")], 48_000)]}
        exec(code, {**names, "print": lambda *words, to=printed: to.append(" ".join(map(str, words)))})
        ends[end] = [line for line in printed if line.startswith("offset")]
    assert ends[3.0] == ["offset 3.0 Siren"] and ends[5.0] == ["offset 5.0 Siren"]


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 3
