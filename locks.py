"""One writer for each output: a second process is refused and told who the first one is; no packages of others.

A lock is a hidden file beside the output (within it, where that is a folder) that the system keeps locked as long as
the process lives. So whatever ended the process, its lock is free again, and the next run takes the file over. The file
says which process it is. On file systems without locks, whether that process is still alive decides.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from json_text import json_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FOLDER_LOCK = ".efficientsed.lock"  # in an output that is a folder
_BUSY = {errno.EAGAIN, errno.EACCES}  # of a file that another process has locked
_SLOW_TO_DIE = 2.0  # seconds that a killed process may keep its lock

_held: dict[Path, int] = {}  # lock files of this process, with their descriptors
_made: set[Path] = set()  # folders that were made for a lock file
_scopes: list[list[Path]] = []


@contextmanager
def scope() -> Iterator[None]:
    """Release at the end of this block what `hold` locks within it; without a scope, the end of the process does."""
    _scopes.append([])
    try:
        yield
    finally:
        for lock in _scopes.pop():
            _release(lock)


def hold(output: str | Path, *, folder: bool = False, wait: bool = False) -> None:
    """Lock an output until the end of the `scope`; one that this process holds already stays locked.

    Args:
        output: file or folder that this process is going to write. Its folder is made.
        folder: whether it is a folder.
        wait: for the process that has it, in place of raising.

    Raises:
        BlockingIOError: another process writes it; names the output and the process.
        OSError: the lock cannot be written.
    """
    lock = lock_of(output, folder=folder)
    if lock in _held:
        return
    if not lock.parent.exists():
        lock.parent.mkdir(parents=True, exist_ok=True)
        _made.add(lock.parent)
    descriptor = _acquire(lock, Path(output), wait)
    with suppress(OSError):  # a full disk: the lock is ours nevertheless
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json_text(_this_process(), ensure_ascii=True).encode(), 0)
    _held[lock] = descriptor
    if _scopes:
        _scopes[-1].append(lock)


@contextmanager
def held(output: str | Path, *, folder: bool = False, wait: bool = False) -> Iterator[None]:
    """`hold`, until the end of this block."""
    with scope():
        hold(output, folder=folder, wait=wait)
        yield


def lock_of(output: str | Path, *, folder: bool = False) -> Path:
    """The lock file of an output."""
    path = Path(output).resolve()
    return path / FOLDER_LOCK if folder else path.with_name(f".{path.name}.lock")


def _acquire(lock: Path, output: Path, wait: bool) -> int:
    """A descriptor of the lock file, which is locked."""
    give_up_at = time.monotonic() + _SLOW_TO_DIE
    while True:
        # A lock file that somebody has made a link would let us write through it.
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        holder = _read(descriptor)
        if not _lock(descriptor, holder):
            os.close(descriptor)
            if not wait and (_alive(holder) or time.monotonic() >= give_up_at):
                raise BlockingIOError(errno.EAGAIN, _who(holder), str(output))
            time.sleep(0.05)
        elif _is_at(lock, descriptor):
            return descriptor
        else:  # its holder has removed it while we waited
            os.close(descriptor)


def _lock(descriptor: int, holder: dict[str, object]) -> bool:
    """Lock an open file for this process, if nobody has; released with the process, and not inherited by children."""
    try:
        if fcntl is not None:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError as error:
        if error.errno in _BUSY:
            return False
    return not _alive(holder)  # the file system or the system knows no locks


def _is_at(lock: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except OSError:
        return False


def _release(lock: Path) -> None:
    descriptor = _held.pop(lock)
    with suppress(OSError):  # removed before it is unlocked: nobody can take the file in between
        lock.unlink()
    with suppress(OSError):
        os.close(descriptor)
    if lock.parent in _made:  # a run that ends before its first result leaves no folder
        _made.discard(lock.parent)
        with suppress(OSError):
            lock.parent.rmdir()


def _this_process() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        **_age(os.getpid()),
    }


def _read(descriptor: int) -> dict[str, object]:
    """What a lock file says about its holder; nothing where it is empty or damaged."""
    try:
        content = json.loads(os.pread(descriptor, 4096, 0))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _alive(holder: dict[str, object]) -> bool:
    """Whether the process that a lock file names still runs; one of another machine counts as running."""
    pid = holder.get("pid")
    if not isinstance(pid, int) or pid < 1:
        return False
    if holder.get("host") != platform.node():
        return True
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return _age(pid).get("started") == holder.get("started")  # another process may have got the number


def _age(pid: int) -> dict[str, object]:
    """When a process was started, in ticks since the machine was (Linux; nothing elsewhere)."""
    try:
        return {"started": Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()}
    except (OSError, IndexError):
        return {}


def _who(holder: dict[str, object]) -> str:
    known = {"pid", "host", "since"} <= holder.keys()
    who = f"process {holder['pid']} on {holder['host']}, since {holder['since']}" if known else "another process"
    return f"{who} is writing it; wait until that ends, or name another place"
