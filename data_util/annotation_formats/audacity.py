"""Label tracks of Audacity: onset, offset, label between tabs, without a header."""

from __future__ import annotations

import math

from data_util.own_annotations import Row, Source, checked_event
from errors import UserError


def fits(text: str) -> bool:
    """Whether the first line begins with two times."""
    cells = next((line for line in _lines(text) if line.strip()), "").split("\t")
    return len(cells) > 1 and all(_is_number(cell) for cell in cells[:2])


def rows(source: Source) -> list[Row]:
    """Rows; a line that begins with a backslash holds the frequencies of the one above."""
    source.refuse_group_column()
    source.refuse_label_column()
    found = []
    for number, line in enumerate(_lines(source.text), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        where = f"{source.path}, line {number}"
        cells = line.split("\t")
        if len(cells) < 2:
            raise UserError(f"{where}: expected onset, offset and label between tabs, as Audacity exports them")
        words = cells[2:3] if len(cells) == 4 and _is_number(cells[3]) else cells[2:]  # BirdNET appends its score
        label = " ".join(words).strip()
        found.append(Row(source.name, where, *checked_event(cells[0], cells[1], label, where, decimal_comma=True)))
    return found


def _lines(text: str) -> list[str]:
    """Lines of any system; `str.splitlines` would split labels, too, at rare characters."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text.replace(",", ".")))
    except ValueError:
        return False
