"""What `make test` says of skipped tests, what CI makes of them, and what `make browser` says where it cannot help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.cuda
@pytest.mark.parametrize("i", range(3))
def test_on_a_gpu(i):
    pass

def test_runs():
    pass
"""
UNKNOWN = """
def test_of_something_rare():
    pytest.importorskip("no_such_package")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("more", "code"), [("", 0), (UNKNOWN, 1)])
def test_reasons_are_said_once_and_unknown_ones_fail(more: str, code: int, tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_some.py").write_text(TESTS + more)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    cuda: needs a CUDA device\n")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "--known_skips_only", str(tmp_path)]
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == code, done.stdout
    lines = [line for line in done.stdout.splitlines() if line.startswith("skipped")]
    assert lines[-1] == "skipped 3: no CUDA device" and len(lines) == 1 + code
    if code:
        assert "no_such_package" in lines[0] and lines[0].endswith("(fails: --known_skips_only)")


@pytest.mark.parametrize(
    ("commands", "words"),
    [
        ({}, "has no apt-get"),
        ({"apt-get": "exit 100", "id": "echo 0"}, "apt-get update failed"),
        ({"apt-get": "exit 100", "id": "echo 1000"}, "needs root, and there is no sudo"),
        ({"apt-get": "exit 0", "id": "echo 1000", "sudo": 'test "$1" = -n'}, "left none on the PATH"),
    ],
)
def test_where_no_browser_can_be_installed(commands: dict[str, str], words: str, tmp_path: Path) -> None:
    for name in ("bash", "env", "dirname"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!{shutil.which('sh')}\n{body}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        [str(ROOT / ".ci" / "browser"), sys.executable],
        env={"PATH": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and words in done.stderr
    assert "chromium" in done.stderr and done.stderr.startswith("error: no browser for the tests of pages: ")
