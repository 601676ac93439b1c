"""Writing files so that a reader never meets half of one; standard library only."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


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
def made(folder: Path) -> Iterator[None]:
    """Make a folder, and those above it, for the block; where that fails, those that were missing and are empty go."""
    missing = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for place in missing:
            with suppress(OSError):  # it holds something, perhaps of another process
                place.rmdir()
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends well, else remove it.

    An `OSError` on the way names `path`, which the user knows, and not the temporary one.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    with made(path.parent), unfinished(part), naming(part, path):
        yield part
        os.replace(part, path)


OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # what writing to an open file ends in


@contextmanager
def naming(part: Path, path: Path) -> Iterator[None]:
    """Let an `OSError` of this block name the file or folder `path` in place of `part` or what is in it, and of nothing
    where the disk is full.
    """
    try:
        yield
    except OSError as error:
        named = error.filename
        if named is None and error.errno in OF_THE_DISK:
            error.filename = str(path)
        elif isinstance(named, (str, Path)) and Path(named).is_relative_to(part):
            error.filename = str(path / Path(named).relative_to(part))
        raise


class LibraryFile(io.RawIOBase):
    """A new file for a C library to write, which does not survive that a write fails (HDF5) or does not say why
    (libsndfile).

    The library is never told: what cannot be written is kept in memory, and `check` raises the error. So the library
    can close its file in good order. Call `check` often: after the first failure, memory fills up.

    Args:
        path: of the file, which is made or emptied.
    """

    def __init__(self, path: str | Path) -> None:
        self._file, self._path = io.FileIO(path, "w+"), str(path)
        self.error: OSError | None = None
        self._kept: list[tuple[int, bytes]] = []  # what could not be written: place, bytes
        self._position = self._end = 0

    def check(self) -> None:
        """Raise the first error that writing has met."""
        if self.error is not None:
            raise self.error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        return self._position

    def write(self, data: Any) -> int:
        """Write all of the data; where that fails, keep it, and the error for `check`."""
        data = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(data) and self.error is None:
                self._file.seek(self._position + done)
                done += self._file.write(data[done:])
        except OSError as error:
            self._note(error)
        if done < len(data):
            self._kept.append((self._position + done, bytes(data[done:])))
        self._position += len(data)
        self._end = max(self._end, self._position)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        size = max(0, min(len(target), self._end - self._position))
        target = target[:size]
        target[:] = bytes(size)
        self._file.seek(self._position)
        self._file.readinto(target)
        for place, data in self._kept:
            first, last = max(place, self._position), min(place + len(data), self._position + size)
            if first < last:
                target[first - self._position : last - self._position] = data[first - place : last - place]
        self._position += size
        return size

    def truncate(self, size: int | None = None) -> int:
        self._end = self._position if size is None else size
        try:
            self._file.truncate(self._end)
        except OSError as error:
            self._note(error)
        return self._end

    def _note(self, error: OSError) -> None:
        if self.error is None:
            self.error = error
            error.filename = self._path

    def close(self) -> None:
        super().close()
        self._file.close()
