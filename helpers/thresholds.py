"""Thresholds per class: from a command line (`0.5 Dog=0.3`), a table, or a dictionary."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

import numpy as np

from config import refuse
from errors import UserError, reading
from helpers.classes import ClassName

OPTION, FILE_OPTION = "detection_thresholds", "thresholds"
_CLASS_COLUMNS = ("label", "class", "event_label", "name", "mid")
_COLUMN = "threshold"
_QUOTES = "a name with blanks needs quotes around both, e.g. 'Beep, bleep=0.7'"

ClassThresholds = Mapping[str, float]


def parse_thresholds(words: Sequence[str]) -> tuple[list[float], dict[str, float]]:
    """Numbers, rising and each once, and thresholds by class, from words such as `0.5` and `Dog=0.3`.

    Raises:
        UserError: the list is empty, a value is not a number between 0 and 1, or a class has two thresholds.
    """
    if not words:
        refuse(OPTION, "empty", "give at least one")
    numbers: set[float] = set()
    by_class: dict[str, float] = {}
    for word in words:
        name, equals, number = word.rpartition("=")
        value = _number(number)
        if value is None or (equals and not name.strip()):
            refuse(OPTION, word, f"expected numbers between 0 and 1, or CLASS=NUMBER, e.g. 0.5 Dog=0.3; {_QUOTES}")
        if not equals:
            numbers.add(value)
        elif by_class.setdefault(name.strip(), value) != value:
            refuse(OPTION, word, f"'{name.strip()}' already has {by_class[name.strip()]:g}; give each class once")
    return sorted(numbers), by_class


def require_one_number(numbers: Sequence[float]) -> None:
    """Raise UserError for several numbers beside thresholds of classes: these make one list of events."""
    if len(numbers) > 1:
        words = " ".join(f"{number:g}" for number in numbers)
        refuse(OPTION, words, "beside thresholds of classes, give one number for the other classes")


def read_thresholds(path: str | PathLike[str]) -> dict[str, float]:
    """Thresholds by class, from a table with the columns `label` (a name or MID) and `threshold`.

    The columns are separated by commas, semicolons or tabs; the last two allow decimal commas.

    Raises:
        UserError: the file cannot be read, lacks a column or any threshold, or holds a threshold that is not a number
            between 0 and 1, or more cells in a line than columns.
    """
    where = f"--{FILE_OPTION} {fspath(path)}"
    with reading(path, "the thresholds"):
        text = Path(path).read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        separator = max("\t;,", key=first.count)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        header = [name.strip().lower() for name in next(rows, [])]
        column = next((header.index(name) for name in _CLASS_COLUMNS if name in header), None)
        if column is None or _COLUMN not in header:
            raise UserError(f"{where}: expected the columns label and threshold, got {', '.join(header) or 'nothing'}")
        found: dict[str, float] = {}
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if any(cell.strip() for cell in row[len(header) :]):
                raise UserError(
                    f"{where}, line {rows.line_num}: expected at most {len(header)} cells as in the header, got "
                    f"{len(row)}; a label that holds '{separator}' needs double quotes"
                )
            cells = [*row, *[""] * (len(header) - len(row))]
            name, number = cells[column].strip(), cells[header.index(_COLUMN)].strip()
            value = _number(number if separator == "," else number.replace(",", "."))
            if value is None or not name:
                raise UserError(
                    f"{where}, line {rows.line_num}: expected a class and a number between 0 and 1, "
                    f"got '{name}' and '{number}'"
                )
            if found.setdefault(name, value) != value:
                raise UserError(f"{where}, line {rows.line_num}: '{name}' already has {found[name]:g}")
    if not found:
        raise UserError(f"{where}: expected a class and its threshold beneath the header, got none")
    return found


def check_thresholds(thresholds: object) -> dict[str, float]:
    """The same from a dictionary; UserError for another type, or a value that is not a number between 0 and 1."""
    if not isinstance(thresholds, Mapping):
        raise UserError(f'thresholds is {thresholds!r}: expected a dictionary such as {{"Dog": 0.3}}, or a path')
    checked = {}
    for name, number in thresholds.items():
        value = _number(number)
        if value is None:
            raise UserError(f"threshold of '{name}' is {number!r}: expected a number between 0 and 1")
        checked[str(name)] = value
    return checked


def apply_thresholds(
    thresholds: np.ndarray, by_class: ClassThresholds, classes: Sequence[ClassName], source: str = ""
) -> np.ndarray:
    """Thresholds [C] with those of `by_class` in the place of the classes that it names (by name or MID, any case).

    Arguments:
        source: where `by_class` comes from, for messages.

    Raises:
        UserError: the model has no class of that name (the nearest ones are named), or a class has two thresholds.
    """
    result = np.array(thresholds, np.float32)
    where = f"{source}: " if source else ""
    named: dict[int, str] = {}
    for name, value in by_class.items():
        key = name.strip().lower()
        found = [i for i, about in enumerate(classes) if key in (about.label.lower(), about.mid.lower())]
        if not key or not found:
            raise UserError(f"{where}threshold of '{name}': the model has no such class; {_hint(key, classes)}")
        for i in found:
            other = named.setdefault(i, name)
            if by_class[other] != value:
                raise UserError(
                    f"{where}threshold of '{name}' is {value:g}: that is the same class as '{other}', which has "
                    f"{by_class[other]:g}; give each class once"
                )
        result[found] = value
    return result


def _hint(key: str, classes: Sequence[ClassName]) -> str:
    known = {about.label.lower(): about.label for about in classes}
    near = [known[name] for name in difflib.get_close_matches(key, known, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else f"it has {len(classes)}, e.g. {classes[0].label}"


def _number(value: object) -> float | None:
    """A number between 0 and 1, or None."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and 0 <= number <= 1 else None
