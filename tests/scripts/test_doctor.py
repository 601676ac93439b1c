"""What doctor.py says of a machine: as a process, with packages, folders and a browser that are missing or broken."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import doctor
from doctor import DoctorOptions, Part, Row, examine, lines

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """The script in a process of its own, where nobody is logged in anywhere."""
    lent = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB_", "AUDIOSET_", "NETRC"))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**lent, **variables}, capture_output=True, text=True)


def row_of(name: str, text: str) -> str:
    """The text of a row of the screen."""
    found = re.search(rf"^  {re.escape(name)} +(.*(?:\n {{18}}.*)*)", text, re.MULTILINE)
    assert found, name
    return " ".join(found[1].split())


def test_one_screen_of_a_machine_on_which_everything_runs(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("doctor.py", HOME=str(tmp_path), OMP_WAIT_POLICY="passive")
    assert done.returncode == 0 and done.stderr == "" and time.monotonic() - started < 30
    screen = done.stdout.splitlines()
    assert len(screen) <= 40
    assert all(len(line) <= doctor.WIDTH for line in screen if "install" not in line)  # commands have the venv's path
    version = importlib.metadata.version("torch")
    assert row_of("torch", done.stdout).startswith(version)
    assert row_of("Python", done.stdout).startswith(".".join(map(str, sys.version_info[:3])))
    assert re.search(r", \d+ cores, \w+", row_of("CPU", done.stdout))
    for part in doctor.PARTS:
        assert row_of(part.name, done.stdout)
    assert row_of("selenium", "  selenium  x") == "x"  # the reader of rows reads
    assert "nobody is logged in" in row_of("W&B", done.stdout)
    assert row_of("OMP_WAIT_POLICY", done.stdout) == "passive"


def test_without_site_packages_it_says_what_is_missing_and_ends_with_code_2(tmp_path: Path) -> None:
    """`-S`: an interpreter without a single installed package, as before the installation."""
    done = run("-S", "doctor.py", HOME=str(tmp_path))
    assert done.returncode == 2
    assert row_of("packages", done.stdout).startswith("0 of ")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: not installed: torch, ") and line.endswith(("make setup", "requirements.txt"))
    assert "pip install -c requirements.txt av" in row_of("av", done.stdout)
    assert "OMP_WAIT_POLICY" in done.stdout  # the whole screen, all the same


def test_a_broken_torch_is_code_2_and_the_rest_is_still_said(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libc10.so: undefined symbol')\n")
    done = run("doctor.py", HOME=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "libc10.so: undefined symbol" in line and "make setup" in line
    assert "browser" in done.stdout
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)\n")
    done = run("doctor.py", HOME=str(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2 and "ended with code -4" in done.stderr


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without logins."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "NETRC", "AUDIOSET_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_a_missing_part_has_one_command_that_keeps_torch() -> None:
    (line,) = lines(doctor.optional(Part("no-such-package", "nothing")))
    assert line.split()[:2] == ["no-such-package", "missing"]
    assert re.search(r"pip install -c \S*requirements\.txt no-such-package", line)
    pins = dict(doctor._pins(ROOT / "requirements.txt"))
    assert pins["torch"] == importlib.metadata.version("torch").partition("+")[0]
    assert doctor.optional(Part("PyTorch", "", ("no-such-package", "torch"))).text.startswith(pins["torch"])


def test_other_versions_are_named_and_markers_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(
        "# core\nnumpy==0.1\nno-such-package==1; python_version < '3'\npytest==" + pytest.__version__ + "  # why\n"
    )
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    row = doctor.packages()
    assert row.text.startswith("2 of 2 installed; other versions: numpy ") and "(pinned: 0.1)" in row.text
    assert "pytest" not in row.text and not row.problem


@pytest.mark.parametrize("packaging", [True, False])
@pytest.mark.parametrize(("version", "numpy"), [((3, 10), "2.2.6"), ((3, 13), "2.2.6"), ((3, 14), "2.3.5")])
def test_each_python_has_one_pin_per_package(monkeypatch, packaging: bool, version, numpy: str) -> None:
    """Also before anything is installed that understands markers."""
    if packaging:
        markers = pytest.importorskip("packaging.markers")
        here = {**markers.default_environment(), "python_version": ".".join(map(str, version))}
        monkeypatch.setattr(markers, "default_environment", lambda: here)
    else:
        monkeypatch.setitem(sys.modules, "packaging.markers", None)
        monkeypatch.setattr(doctor.sys, "version_info", (*version, 1, "final", 0))
    pins = list(doctor._pins(ROOT / "requirements.txt"))
    assert len(dict(pins)) == len(pins) == 14 and dict(pins)["numpy"] == numpy


def test_files_of_audioset(synthetic_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    written = {path.name for path in synthetic_dir.iterdir() if path.suffix in (".hdf", ".tsv", ".csv")}
    names = {name for name, _ in doctor.AUDIOSET_FILES}
    assert {name for name, needed in doctor.AUDIOSET_FILES if needed} <= written and written <= names
    assert "no folder named" in doctor.audioset(None).text
    monkeypatch.setenv("AUDIOSET_DIR", str(tmp_path))
    for name in names:
        (tmp_path / name).touch()
    assert f"{tmp_path}: 6 of 6 files (python -m data_util.check" in doctor.audioset(None).text
    (tmp_path / "audioset_eval_strong.tsv").unlink()
    (tmp_path / "eval_durations.csv").unlink()
    assert doctor.audioset(None).text.endswith(
        "4 of 6 files; missing: audioset_eval_strong.tsv, eval_durations.csv (optional)"
    )
    assert not doctor.audioset(None).problem
    assert doctor.audioset(tmp_path / "gone").problem == (
        f"--data_dir is {tmp_path / 'gone'}: expected a folder, got a path that does not exist; check its spelling"
    )


def test_wandb_state_is_what_a_run_would_do(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    login = bare / ".netrc"
    assert doctor.wandb_state().text.startswith("offline, nobody is logged in")
    login.write_text("machine elsewhere.org login user password x\n")
    login.chmod(0o600)
    assert doctor.wandb_state().text.startswith("offline, nobody is logged in")
    login.write_text("machine api.wandb.ai login user password x\n")
    assert doctor.wandb_state().text.startswith("logged in")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert doctor.wandb_state().text.startswith("offline")
    login.write_text("machine wandb.example.org:8080 login user password x\n")
    assert doctor.wandb_state().text.startswith("logged in")
    monkeypatch.delenv("WANDB_BASE_URL")
    assert doctor.wandb_state().text.startswith("offline")
    (bare / ".config" / "wandb").mkdir(parents=True)
    (bare / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.example.org:8080\n")
    assert doctor.wandb_state().text.startswith("logged in")
    login.write_text("this is no netrc file\n")
    assert doctor.wandb_state().text.startswith("offline")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert doctor.wandb_state().text == "disabled (variable WANDB_MODE)"


def test_without_a_browser_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.find_browser() is None and doctor.browser().command.strip() == "make browser"
    for name in ("google-chrome", "chromedriver"):
        assert doctor.find_browser() is None  # one of the two is not enough
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert doctor.find_browser() == (tmp_path / "google-chrome", tmp_path / "chromedriver")


PROBED = {"gpus": [], "cuda_build": None, "nvidia_driver": False}
A_GPU = {"name": "NVIDIA H200", "bytes": 139 * 2**30, "error": None}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({}, "no"),
        ({"nvidia_driver": True}, "no: an NVIDIA driver is there, but torch is built without CUDA (README"),
        ({"cuda_build": "13.0"}, "no: torch is built for it, but finds no device"),
        ({"cuda_build": "13.0", "gpus": [A_GPU]}, "0: NVIDIA H200, 139 GiB"),
        ({"gpus": [A_GPU, {**A_GPU, "error": "no kernel image"}]}, "1: NVIDIA H200, 139 GiB; does not compute: no ker"),
    ],
)
def test_words_for_gpus(found: dict, words: str) -> None:
    assert words in doctor._cuda({**PROBED, **found})


def test_little_room_and_busy_waiting_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "little" not in doctor._size(1e12)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 * 10**6}))
    assert doctor.disk().text.startswith("0.1 GB free here (little)")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "slow" in doctor.waiting().text
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert "not set" in doctor.waiting().text


def test_an_old_python_and_a_wrong_folder_end_in_one_line(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "OLDEST_PYTHON", (99, 0))
    monkeypatch.setattr(doctor, "devices", lambda complete: iter(()))
    with pytest.raises(SystemExit) as stop:
        doctor.main([f"--data_dir={tmp_path / 'gone'}"])
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        stop.value.code == 2
        and "is too old" in line
        and "gone: expected a folder, got a path that does not exist" in line
    )


def test_long_rows_are_wrapped_and_commands_are_not() -> None:
    assert [len(line) <= doctor.WIDTH for line in lines(Row("x", "word " * 60))] == [True] * 4
    assert len(lines(Row("x", "missing", "  " + "command " * 60))) == 1
    assert [row.text for row in examine(DoctorOptions()) if not row.name] == ["Required", "Optional", "Around it"]
