"""Writing files so that a reader never meets half of one; standard library only."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def check_writable(path: str | Path) -> None:
    """Raise the `OSError` that writing the file `path` would end in, without writing or making anything.

    Folders that are missing count as made, where that is possible.
    """
    path = Path(path).absolute()
    place = path.parent
    while not _exists(place):
        place = place.parent
    if not place.is_dir():
        raise _os_error(errno.ENOTDIR, place)
    if not os.access(place, os.W_OK | os.X_OK):
        raise _os_error(errno.EACCES, place)
    if _exists(path) and path.is_dir():
        raise _os_error(errno.EISDIR, path)


def _os_error(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True  # any other error is one


_parts: set[Path] = set()  # that are being written
_leftovers: dict[Path, list[str]] = {}  # names of parts that lay in a folder when this process first wrote there


def _remove_leftovers(part: Path) -> None:
    before, number, after = part.name.rpartition(str(os.getpid()))
    if not number:
        return
    folder = part.parent
    if folder not in _leftovers:  # looked for once: a folder may hold a file for each of many recordings
        with suppress(OSError):
            _leftovers[folder] = [name for name in os.listdir(folder) if name.startswith(".") and ".part" in name]
    for name in _leftovers.get(folder, ()):
        middle = name[len(before) : len(name) - len(after)]
        if name == before + middle + after and middle.isdecimal() and not _is_running(int(middle)):
            _remove(folder / name)


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # other systems have no question without consequences
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it is another user's
    return True


@contextmanager
def unfinished(part: Path) -> Iterator[Path]:
    """Remove the file or folder `part` when the block ends, or when a second signal ends the process within it.

    What processes that were killed have left of the same file is removed first: `part` under their process numbers.
    """
    _remove_leftovers(part)
    _parts.add(part)
    try:
        yield part
    finally:
        _remove(part)
        _parts.discard(part)


def discard_parts() -> None:
    """Remove what is under temporary names now; for a process that ends at once."""
    for part in list(_parts):
        _remove(part)


def _remove(part: Path) -> None:
    with suppress(OSError):
        if part.is_dir() and not part.is_symlink():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink()


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    An `OSError` on the way names `path`, which the user knows, and not the temporary one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with unfinished(path.with_name(f".{path.name}.{os.getpid()}.part")) as part:
        try:
            yield part
            os.replace(part, path)
        except OSError as error:
            if error.filename == str(part):
                error.filename = str(path)
            raise
