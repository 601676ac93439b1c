"""Writing files so that a reader never meets half of one; standard library only."""

from __future__ import annotations

import errno
import os
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


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    An `OSError` on the way names `path`, which the user knows, and not the temporary one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    except OSError as error:
        if error.filename == str(part):
            error.filename = str(path)
        raise
    finally:
        with suppress(OSError):
            part.unlink()
