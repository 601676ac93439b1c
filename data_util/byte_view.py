"""Parts of a file as files of their own: how a damaged header is replaced without copying the audio behind it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True)
class Part:
    """Bytes `begin` to `end` of a file, behind a header that replaces what the file begins with."""

    begin: int
    end: int
    header: bytes = b""


class PartView(io.RawIOBase):
    """A `Part` as a seekable binary file for reading; the file it is part of stays open as long as it is used."""

    def __init__(self, file: BinaryIO, part: Part) -> None:
        super().__init__()
        self._file, self._part, self._position = file, part, 0
        self._size = len(part.header) + max(0, part.end - part.begin)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def, override]
        target = memoryview(buffer).cast("B")
        wanted = min(len(target), max(0, self._size - self._position))
        header = self._part.header[self._position : self._position + wanted]
        target[: len(header)] = header
        filled = len(header)
        if filled < wanted:
            self._file.seek(self._part.begin + self._position + filled - len(self._part.header))
            data = self._file.read(wanted - filled)
            target[filled : filled + len(data)] = data
            filled += len(data)
        self._position += filled
        return filled
