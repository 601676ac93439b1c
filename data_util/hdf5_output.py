"""Writing HDF5 files on disks that may be full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from atomic import LibraryFile


class Hdf5Output(h5py.File):
    """An HDF5 file under construction. HDF5 itself crashes the process when it closes a file on a full disk; here, the
    trouble is kept from it, and `check` or the end of the block raises it.

    Args:
        path: of the file, which is made or emptied.
    """

    def __init__(self, path: str | Path) -> None:
        self._sink = LibraryFile(path)
        super().__init__(self._sink, "w")

    def check(self) -> None:
        """Raise the OSError that writing has met; call it after each row (`check_written`)."""
        self._sink.check()

    def close(self) -> None:
        """Close the file; raises OSError where not all of it is written."""
        super().close()
        self._sink.close()
        self.check()


def check_written(file: h5py.File) -> None:
    """Raise the OSError that writing to an open file has met, where it is one of `create_hdf5`."""
    if isinstance(file, Hdf5Output):
        file.check()


@contextmanager
def create_hdf5(path: str | Path) -> Iterator[Hdf5Output]:
    """A new HDF5 file, open for this block.

    Raises:
        OSError: the file cannot be made or written, for lack of space or other reasons.
    """
    file = Hdf5Output(path)
    try:
        yield file
    except BaseException as error:
        try:
            file.close()
        except OSError as trouble:  # what the error comes from, in many cases
            if isinstance(error, Exception):
                raise trouble from None
        raise
    else:
        file.close()
