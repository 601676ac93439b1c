"""One writer for each output, whatever ended the one before."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import locks
from errors import describe, exit_on_user_error

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time, multiprocessing, locks
locks.hold(sys.argv[1], folder=sys.argv[2] == "folder")
multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=False).start()
print("held", flush=True)
time.sleep(60)
"""


def another_process(output: Path, folder: bool = False) -> subprocess.Popen[str]:
    """A process that holds the lock of an output, and has a child that outlives it."""
    arguments = [sys.executable, "-c", HOLDER, str(output), "folder" if folder else "file"]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("folder", [False, True])
def test_the_second_process_is_refused_and_told_who_the_first_one_is(tmp_path: Path, folder: bool) -> None:
    output = tmp_path / "out"
    process = another_process(output, folder)
    try:
        with pytest.raises(BlockingIOError) as refused, locks.held(output, folder=folder):
            pass
        line = describe(refused.value)
        assert line.startswith(f"{output}: process {process.pid} on {platform.node()}, since ") and "wait" in line
        with locks.held(tmp_path / "other", folder=folder):  # another output is free
            pass
        # A kill -9 frees the lock at once, although a child of the process lives on.
        process.kill()
        process.wait()
        with locks.held(output, folder=folder):
            assert json.loads(locks.lock_of(output, folder=folder).read_text())["pid"] == os.getpid()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert not locks.lock_of(output, folder=folder).exists()


@pytest.mark.parametrize("left", ["", "garbage", "[1]", '{"pid": "x"}', '{"pid": 99999999}', '{"pid": -1}'])
def test_what_a_dead_process_left_is_taken_over(tmp_path: Path, left: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for has_locks in (True, False):
        if not has_locks:
            monkeypatch.setattr(fcntl, "lockf", no_locks)
        (tmp_path / ".out.lock").write_text(left.replace("}", f', "host": "{platform.node()}"}}'))
        with locks.held(tmp_path / "out"):
            pass
        assert list(tmp_path.iterdir()) == []


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_without_locks_of_the_file_system_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = another_process(tmp_path / "out")
    monkeypatch.setattr(fcntl, "lockf", no_locks)
    lock = locks.lock_of(tmp_path / "out")
    try:
        with pytest.raises(BlockingIOError, match=f"process {process.pid}"):
            locks.hold(tmp_path / "out")
        there = json.loads(lock.read_text())
        lock.write_text(json.dumps({**there, "started": "1"}))  # the number of the process is given again
        with locks.held(tmp_path / "out"):
            pass
        lock.write_text(json.dumps({**there, "host": "elsewhere", "started": "1"}))
        with pytest.raises(BlockingIOError, match="on elsewhere"):
            locks.hold(tmp_path / "out")
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_a_command_frees_its_outputs_when_it_ends(tmp_path: Path) -> None:
    @exit_on_user_error()
    def main() -> None:
        locks.hold(tmp_path / "made" / "out")
        locks.hold(tmp_path / "made" / "out")  # the same process may ask again
        assert locks.lock_of(tmp_path / "made" / "out").exists()
        raise OSError("trouble")

    with pytest.raises(SystemExit):
        main()
    assert list(tmp_path.iterdir()) == []  # nor is there a folder without results


def test_a_lock_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / ".out.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic link"):
        locks.hold(tmp_path / "out")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_full_disk_does_not_cost_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with locks.held(tmp_path / "out"):
        assert locks.lock_of(tmp_path / "out").read_text() == ""
