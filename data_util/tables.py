"""Tables of millions of rows: plain lines at the speed of regular expressions, and a bar with the time that is left.

A reader of tables has two ways. `plain_rows` takes lines whose cells need no thought: no quotes, no escapes, as many
cells as the header. Of a table with any other line it gives nothing, and the reader goes through it row by row with
the module csv, which is right about everything and knows the number of a bad line. So both ways have the same result.
"""

from __future__ import annotations

import gc
import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

PATIENCE = 5.0  # seconds until a bar appears
BLOCK = 1 << 23  # characters that are taken at once
_PAUSE = {True: 0.2, False: 30.0}  # seconds between reports on a terminal, and into a log file

# Cells; longer ones are left to the module csv, which has a limit.
_LONGEST = 100_000
TEXT, NUMBER = "text", "number"
_CELLS = {TEXT: '([^{sep}"\\r\\n\\0]{{0,{n}}})', NUMBER: "([0-9.eE+-]{{0,{n}}})", "": '[^{sep}"\\r\\n\\0]{{0,{n}}}'}


class OddLineError(Exception):
    """A table has a line that is not plain."""


class _Counted(io.RawIOBase):
    """A file that tells a bar how many bytes have been read."""

    def __init__(self, path: Path, bar: tqdm[Any]) -> None:
        self._file, self._bar = io.FileIO(path), bar

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._file.readinto(buffer) or 0
        self._bar.update(n)
        return n

    def close(self) -> None:
        super().close()
        self._file.close()


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for cycles within: millions of new tuples set it off again and again, which takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """A table to read from its beginning to its end; what takes longer than `PATIENCE` has a bar with the time left."""
    size = path.stat().st_size if path.is_file() else None
    pause = _PAUSE[sys.stderr.isatty()]
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "mininterval": pause, "maxinterval": pause}
    with (
        tqdm(total=size, desc=f"reading {path.name}", delay=PATIENCE, leave=False, **options) as bar,
        io.BufferedReader(_Counted(path, bar), 1 << 20) as file,
    ):
        yield file  # type: ignore[misc]


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """As `open_bytes`, for the module csv: UTF-8, with or without a mark at the beginning."""
    with open_bytes(path) as file:
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def line_of(cells: Sequence[str], separator: str) -> str:
    """The pattern of a plain line.

    Args:
        cells: for each cell `TEXT` or `NUMBER` (perhaps empty, perhaps no number after all), or "" to read over it.
        separator: between them.
    """
    return re.escape(separator).join(_CELLS[kind].format(sep=re.escape(separator), n=_LONGEST) for kind in cells)


def plain_rows(path: Path, line: str, comment: str = "", n_header: int = 0) -> Iterator[list[tuple[str, ...]]]:
    """The rows of a table, many at a time.

    Args:
        path: the table, UTF-8.
        line: pattern of a line with two groups or more, as `line_of` makes it.
        comment: how lines begin that are read over, at the top.
        n_header: lines to leave out, at the top.

    Yields:
        The groups of each line.

    Raises:
        OddLineError: a line is not of this pattern, or is empty.
    """
    pattern = re.compile(f"^{line}\\r?$", re.MULTILINE)
    above = re.compile(f'(?:{re.escape(comment)}[^"\\r\\n\\0]*\\r?\\n)*' if comment else "")
    with open_text(path) as file:
        if any('"' in file.readline() for _ in range(n_header)):  # it may go on in the next line
            raise OddLineError
        first = True
        while block := file.read(BLOCK):
            if not block.endswith("\n"):
                block += file.readline()
            if first:
                block, first = block[above.match(block).end() :], False  # type: ignore[union-attr]
            block = block.removesuffix("\n")
            rows = pattern.findall(block) if block else []
            if len(rows) != block.count("\n") + bool(block):
                raise OddLineError
            yield rows


def numbers(cells: Sequence[str], low: float, high: float) -> list[float]:
    """Cells as numbers; OddLineError unless all of them are, and from `low` to `high`."""
    try:
        found = list(map(float, cells))
    except ValueError:
        raise OddLineError from None
    if found and not (min(found) >= low and max(found) <= high):
        raise OddLineError
    return found
