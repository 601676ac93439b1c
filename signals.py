"""What signals do: the main process of a command ends well, and its worker processes leave the signals to it.

Ctrl-C (SIGINT), SIGTERM (clusters, systemd, containers, `timeout`) and SIGHUP (a terminal that closes) reach all
processes of a command at once, as often as not. The first one asks the main process to end: whatever runs is broken off
by `KeyboardInterrupt`, or, in a training, at the next moment that can be resumed (`helpers.callbacks`). A second one
ends it at once. Workers take no notice; they end with the main process, however that ends.

Standard library only.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from atomic import discard_parts

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SAME_SECONDS = 0.5  # `timeout` and others signal the process and then its group: signals this close are one
WATCH_SECONDS = 0.5  # between two looks of a worker at its parent
UNKNOWN_SECONDS = 10.0  # that a worker goes on after a SIGTERM from nobody knows whom (not on Linux)


class _Main:
    """State of the main process."""

    def __init__(self) -> None:
        self.pid = 0  # of the process that catches signals
        self.received: int | None = None
        self.at = 0.0  # time of the first signal
        self.on_first: Callable[[], None] | None = None  # in place of KeyboardInterrupt


_main = _Main()


# ---- the main process -----------------------------------------------------------------------------------------


@contextmanager
def caught(on_first: Callable[[], None] | None = None) -> Iterator[None]:
    """Catch the signals in this block: the first raises `KeyboardInterrupt`, the second ends the process at once.

    Blocks may be nested; one in another thread than the main one does nothing. A SIGHUP that is ignored (`nohup`) stays
    so.

    Args:
        on_first: called in place of raising `KeyboardInterrupt`; must be as careful as a signal handler (no logging).
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outermost = _main.pid != os.getpid()
    if outermost:
        _main.pid, _main.received = os.getpid(), None
    before, _main.on_first = _main.on_first, on_first
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    _install()
    try:
        yield
    finally:
        _main.on_first = before
        for number, handler in previous.items():
            if handler is not None:  # one that was not set from Python
                signal.signal(number, handler)
        if outermost:
            _main.pid, _main.received = 0, None


def reinstall() -> None:
    """Set the handlers again, within `caught`, after a library has set its own."""
    if _main.pid == os.getpid() and threading.current_thread() is threading.main_thread():
        _install()


def _install() -> None:
    for number in SIGNALS:
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle)


def received() -> bool:
    """Whether a signal has come since the outermost `caught` began."""
    return _main.received is not None


def obey() -> None:
    """Raise `KeyboardInterrupt` where a signal has come that was only noted so far."""
    if received():
        raise KeyboardInterrupt


def exit_code() -> int:
    """The exit code of a command that a signal ended, as shells report it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_main.received or signal.SIGINT)


def exit_line(stop: BaseException) -> str:
    """What to say at the end: `interrupted` or `terminated`, and how to resume, where the exception tells."""
    word = "interrupted" if exit_code() == 128 + signal.SIGINT else "terminated"
    text = " ".join(str(stop).split())
    return f"{word}: {text}" if text else word


def interruption(stop: BaseException) -> KeyboardInterrupt | None:
    """The interruption that an exception is, or that Lightning has turned into this `SystemExit`; None for others."""
    cause = stop.__context__ if isinstance(stop, SystemExit) else stop
    return cause if isinstance(cause, KeyboardInterrupt) else None


@contextmanager
def deferred() -> Iterator[None]:
    """Obey signals that come in this block at its end: an exception in C code's call back into Python would be lost."""
    if _main.pid != os.getpid() or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, came = _main.on_first, threading.Event()
    _main.on_first = came.set
    try:
        yield
    finally:
        _main.on_first = before
        if came.is_set():
            if before is None:
                raise KeyboardInterrupt
            before()


@contextmanager
def telling(how: Callable[[], str]) -> Iterator[None]:
    """Let an interruption of this block tell how to resume.

    Args:
        how: gives the words, for the line at the end; called when the interruption comes.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if interruption(stop) is None:
            raise
        raise KeyboardInterrupt(how()) from stop


def _handle(signum: int, frame: FrameType | None) -> None:
    if _main.pid != os.getpid():  # in a child that another library has forked: not our business
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
    elif _main.received is None:
        _main.received, _main.at = signum, time.monotonic()
        if _main.on_first is None:
            raise KeyboardInterrupt
        _main.on_first()
    elif time.monotonic() - _main.at >= SAME_SECONDS:
        end_at_once()


def end_at_once() -> None:
    """End this process without clearing up; files under temporary names are removed, whole ones stay as they are."""
    discard_parts()
    with suppress(OSError):
        os.write(2, b"\nstopped at once by a second signal\n")
    os._exit(exit_code())


# ---- worker processes -----------------------------------------------------------------------------------------


@contextmanager
def held() -> Iterator[None]:
    """Keep signals from processes that this block starts, until `leave_signals_to_parent` runs in them.

    Those that come to this process meanwhile act when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def leave_signals_to_parent() -> None:
    """Set up a worker process: it ignores all signals but a SIGTERM from its parent, and ends when that does.

    Libraries end their workers by SIGTERM, so that one must work. Its sender is known on Linux; elsewhere, any SIGTERM
    ends the worker, but so late that the main process has saved what it has.
    Works for forked and spawned processes, and after SIGKILL of the parent. Call it in the main thread.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    first, leave_at = os.getppid(), [float("inf")]

    def note(signum: int, frame: FrameType | None) -> None:
        leave_at[0] = min(leave_at[0], time.monotonic() + UNKNOWN_SECONDS)

    for number in SIGNALS:
        signal.signal(number, note if number == signal.SIGTERM else signal.SIG_IGN)
    sender_known = hasattr(signal, "sigtimedwait")
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if sender_known:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def watch() -> None:
        while os.getppid() == first and parent.is_alive() and time.monotonic() < leave_at[0]:
            if not sender_known:
                time.sleep(WATCH_SECONDS)
            elif _terminated_by(parent.pid):
                break
        os._exit(0)  # as torch's loaders end when they are told to

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()


def _terminated_by(parent: int | None) -> bool:
    """Wait a moment for a SIGTERM; whether one came from the parent."""
    info: Any = signal.sigtimedwait({signal.SIGTERM}, WATCH_SECONDS)
    return info is not None and info.si_pid == parent
