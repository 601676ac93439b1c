"""Cells of CSV files that people open in spreadsheets."""

from __future__ import annotations

from collections.abc import Iterable

from printable import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes what begins so


def safe_cells(row: Iterable[object]) -> list[object]:
    """The cells of a row; numbers as they are, text so that a spreadsheet shows it and a terminal does not obey it.

    Text that begins like a formula gets an apostrophe in front, which spreadsheets take for "this is text"; line breaks
    and escape sequences are escaped (`printable.printable`).
    """
    return [_safe(cell) if isinstance(cell, str) else cell for cell in row]


def _safe(text: str) -> str:
    text = printable(text, keep="\t")
    return f"'{text}" if text.startswith(_FORMULA) else text
