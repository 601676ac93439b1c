"""The rule for signals by itself; with the real commands: tests/scripts/test_signals.py."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

import signals
from errors import exit_on_user_error

ROOT = Path(__file__).parents[1]

MAIN = """
import os, signal, sys, time
from pathlib import Path
from atomic import replacing
from errors import exit_on_user_error

with exit_on_user_error():
    try:
        with replacing("file") as part:
            part.write_text("half")
            print("ready", flush=True)
            time.sleep(20)
    finally:
        print("clearing up", flush=True)
        with replacing("summary") as part:
            part.write_text("half")
            time.sleep(1.5)
"""


def start(code: str, folder: Path, **more: object) -> subprocess.Popen[str]:
    """Run a program up to its first line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], text=True, cwd=folder, env=environment, **pipes, **more)  # type: ignore[call-overload]
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_one_signal_or_the_same_again_clears_up(tmp_path: Path, number: int, code: int, word: str) -> None:
    process = start(MAIN, tmp_path)
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    assert (process.returncode, output, errors) == (code, "clearing up\n", f"{word}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["summary"]


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    process = start(MAIN, tmp_path)
    process.send_signal(signal.SIGTERM)
    time.sleep(signals.SAME_SECONDS + 0.3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143 and errors == "\nstopped at once by a second signal\n"
    assert not list(tmp_path.iterdir())


def test_nohup_is_respected(tmp_path: Path) -> None:
    process = start(MAIN, tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_handlers_are_as_before() -> None:
    before = [signal.getsignal(number) for number in signals.SIGNALS]
    with signals.caught():
        assert [signal.getsignal(number) for number in signals.SIGNALS] != before
        with signals.caught(lambda: None):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received() and signals.exit_code() == 143
        with pytest.raises(KeyboardInterrupt):
            signals.obey()
    assert [signal.getsignal(number) for number in signals.SIGNALS] == before and not signals.received()


def test_an_interruption_tells_how_to_resume(capsys: pytest.CaptureFixture[str]) -> None:
    """Also when Lightning has turned it into an exit; other exits keep their code."""

    def lightning(cause: type[BaseException]) -> None:
        try:
            raise cause
        except BaseException:
            sys.exit(1)

    for cause, code, line in [(KeyboardInterrupt, 130, "interrupted: do it\nagain"), (ValueError, 1, "")]:
        with (
            pytest.raises(SystemExit) as stop,
            exit_on_user_error(),
            signals.telling(lambda: "do it\nagain"),
            signals.telling(lambda: "an inner one"),
        ):
            lightning(cause)
        assert stop.value.code == code
        assert capsys.readouterr().err == (line.replace("\n", " ") + "\n" if line else "")


def work(ready: Event, patience: float | None) -> None:
    """A worker that has no end; `patience`: as where the sender of a signal cannot be known."""
    if patience is not None:
        del signal.sigtimedwait
        signals.UNKNOWN_SECONDS = patience
    signals.leave_signals_to_parent()
    ready.set()
    while True:
        time.sleep(0.05)


@pytest.mark.parametrize("patience", [None, 1.0])
def test_a_worker_obeys_its_parent_alone(patience: float | None) -> None:
    """The parent's SIGTERM ends it in good order; where nobody knows the sender, any one does after a while."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=work, args=(ready, patience), daemon=True)
    worker.start()
    assert ready.wait(20)
    for name in ("INT", "HUP", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    time.sleep(0.4)
    assert worker.is_alive()
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


PARENT = """
import multiprocessing, time
import signals

def work(started):
    signals.leave_signals_to_parent()
    started.set()
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context("METHOD")
    workers = []
    for _ in range(3):
        started = context.Event()
        workers.append(context.Process(target=work, args=(started,), daemon=True))
        workers[-1].start()
        started.wait(20)
    print("ready", flush=True)
    print(*[worker.pid for worker in workers], flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_leave_when_their_parent_is_killed(tmp_path: Path, method: str) -> None:
    (tmp_path / "parent.py").write_text(PARENT.replace("METHOD", method))
    process = start("import runpy; runpy.run_path('parent.py', run_name='__main__')", tmp_path)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3 and all(running(pid) for pid in pids)
    process.kill()
    process.wait()
    end = time.monotonic() + 10
    while any(running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(running(pid) for pid in pids)


def running(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


def test_a_deferred_signal_is_obeyed_at_the_end_of_the_block() -> None:
    """Within the block it only counts; after it the interruption comes, or what a training asked for in its place."""
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt), signals.caught():
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            steps.append("end of the block")
        steps.append("not reached")
    with signals.caught(lambda: steps.append("asked")):
        with signals.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            steps.append("end of the other block")
        steps.append("reached")
    assert steps == ["end of the block", "end of the other block", "asked", "reached"]
