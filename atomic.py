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


@contextmanager
def unfinished(part: Path) -> Iterator[Path]:
    """Remove the file or folder `part` when the block ends, or when a second signal ends the process within it."""
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
