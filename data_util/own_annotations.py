"""Readers of annotations of one's own recordings: tables (CSV, TSV), Audacity label tracks, Raven selection tables.

All give `Row`s: what the file says, checked line by line, before anything is known about the audio.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UserError, reading

# Names under which columns are known, in lower case; the first is ours.
COLUMNS = {
    "filename": ("filename", "file", "audio", "audio_filename", "path", "recording"),
    "onset": ("onset", "start", "start_time", "start_time_seconds", "begin", "begin time (s)"),
    "offset": ("offset", "end", "end_time", "end_time_seconds", "stop", "end time (s)"),
    "label": ("label", "event_label", "class", "event", "annotation", "species", "category"),
    "split": ("split", "subset"),
}
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "eval", "evaluation"),
}
RAVEN_MARK = "begin time (s)"  # column that only selection tables have


@dataclass(frozen=True)
class Row:
    """One annotation.

    Attributes:
        name: of the audio file, as the annotations give it.
        where: file and line, for messages.
        onset, offset: seconds, 0 <= onset <= offset.
        label: of the class; empty: this recording is annotated, and the line adds nothing else.
        split: train, val, test, or empty where nobody says.
        group: what must stay together in a split, or empty.
    """

    name: str
    where: str
    onset: float = 0.0
    offset: float = 0.0
    label: str = ""
    split: str = ""
    group: str = ""


def read_table(path: Path, group_column: str | None = None) -> tuple[list[Row], list[str]]:
    """Read a CSV or TSV with the columns filename, onset, offset, label and, if it likes, split.

    Args:
        path: UTF-8 text with a header; separated by commas, semicolons (times may then have decimal commas) or tabs.
        group_column: name of a further column.

    Returns:
        The rows, and notes about what was not used. A line with a file name alone says that nothing happens in it.

    Raises:
        UserError: missing file, other encoding, missing columns, more cells than columns, a quote that is not closed,
            bad time, empty name or label, control characters in them, unknown split.
    """
    with reading(path, "--events"):
        text = path.read_text(encoding="utf-8-sig")
    header = text.split("\n", 1)[0]
    separator = max("\t;,", key=header.count)
    text = _without_blanks_after_quotes(text, separator)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    found = [name.strip() for name in table.fieldnames or ()]
    table.fieldnames = found
    column = _columns(path, found)
    if group_column is not None and group_column not in found:
        raise UserError(f"--group_column is {group_column}: {path} has the columns {', '.join(found)}")
    used = {*column.values(), group_column}
    unused = [name for name in found if name not in used]
    notes = [f"{path.name}: columns that are not used: {', '.join(unused)}"] if unused else []
    rows = []
    try:
        for record in table:
            where = f"{path}, line {table.line_num}"
            _refuse_surplus(record, where, TABLE_SURPLUS)
            if any(value for value in record.values()):
                rows.append(_table_row(record, column, group_column, where, decimal_comma=separator == ";"))
    except csv.Error as error:
        raise UserError(f"{path}, line {table.reader.line_num}: {error}; a stray quote?") from None
    if not rows:
        raise UserError(f"{path} holds no annotations below its header")
    return rows, notes


def _without_blanks_after_quotes(text: str, separator: str) -> str:
    """The text, in which nothing stands between a quoted cell and the separator or line end, as strict reading wants.

    Only within one line: a stray quote must not find its partner in a later one.
    """
    blank = " \t".replace(separator, "")
    return re.sub(rf'((?:^|{separator}) *"(?:[^"\n]|"")*")[{blank}]+(?={separator}|$)', r"\1", text, flags=re.M)


def _columns(path: Path, found: Sequence[str]) -> dict[str, str]:
    """Our name of a column -> its name in the file."""
    by_key = {name.lower(): name for name in reversed(found)}
    column = {ours: next((by_key[n] for n in names if n in by_key), "") for ours, names in COLUMNS.items()}
    missing = [name for name in ("filename", "onset", "offset", "label") if not column[name]]
    if missing:
        raise UserError(
            f"{path} has no column {', '.join(missing)}: expected filename, onset, offset, label; "
            f"found {', '.join(found) or 'nothing'}"
        )
    return {ours: name for ours, name in column.items() if name}


def _table_row(
    record: Mapping[str, str], column: Mapping[str, str], group_column: str | None, where: str, *, decimal_comma: bool
) -> Row:
    cell = {ours: (record.get(name) or "").strip() for ours, name in column.items()}
    if not cell["filename"]:
        raise UserError(f"{where}: the file name is empty")
    split = cell.get("split", "").lower()
    ours = next((name for name, words in SPLITS.items() if split in words), "")
    if split and not ours:
        raise UserError(f"{where}: split {split!r} is none of train, val, test")
    group = (record.get(group_column) or "").strip() if group_column else ""
    name = cell["filename"]
    _refuse_control(name, "file name", where)
    if not (cell["onset"] or cell["offset"] or cell["label"]):
        return Row(name, where, split=ours, group=group)
    onset, offset, label = _event(cell["onset"], cell["offset"], cell["label"], where, decimal_comma)
    return Row(name, where, onset, offset, label, ours, group)


def _event(onset: str, offset: str, label: str, where: str, decimal_comma: bool = False) -> tuple[float, float, str]:
    """Checked times and label of one event."""
    times = []
    for name, text in (("onset", onset), ("offset", offset)):
        try:
            time = float(text.replace(",", ".") if decimal_comma else text)
        except ValueError:
            time = math.nan
        if not 0 <= time < math.inf:
            raise UserError(f"{where}: {name} {text!r} is not a time in seconds from 0 on")
        times.append(time)
    if times[1] < times[0]:
        raise UserError(f"{where}: the event ends ({offset}) before it begins ({onset})")
    if not label:
        raise UserError(f"{where}: the label of the event is empty")
    _refuse_control(label, "label", where)
    return times[0], times[1], label


TABLE_SURPLUS = "quote cells that hold the separator, and write times with a point in a table with commas"
RAVEN_SURPLUS = "a tab in an annotation, a remark without a heading, or row names (in R: row.names=FALSE)?"


def _refuse_surplus(record: dict[str, Any], where: str, advice: str) -> None:
    """Take cells beyond the last column from a record; UserError unless they are blank: the others would be shifted."""
    surplus = record.pop(None, ())  # type: ignore[call-overload]  # the key that csv.DictReader puts them under
    if any(cell.strip() for cell in surplus):
        raise UserError(f"{where}: more cells than the header has columns; {advice}")


def _refuse_control(text: str, what: str, where: str) -> None:
    """UserError for line breaks and the like: most often a stray quote has joined two lines."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise UserError(f"{where}: {what} {text[:40]!r} holds a line break or a control character; a stray quote?")


def read_label_file(path: Path, name: str) -> list[Row]:
    """Read what stands beside one recording: an Audacity label track or a Raven selection table.

    Args:
        path: the label file; an empty one says that nothing happens in the recording.
        name: of the recording.

    Raises:
        UserError: as `read_table`.
    """
    with reading(path, "the labels"):
        text = path.read_text(encoding="utf-8-sig")
        first = text.split("\n", 1)[0].lower()
        rows = list((_raven_rows if RAVEN_MARK in first else _audacity_rows)(text, path, name))
    return [Row(name, str(path)), *rows]


def _audacity_rows(text: str, path: Path, name: str) -> Iterator[Row]:
    """Lines of onset, offset, label; a line that begins with a backslash holds the frequencies of the one above."""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("\\"):
            continue
        where = f"{path}, line {number}"
        cells = line.split("\t")
        if len(cells) < 2:
            raise UserError(f"{where}: expected onset, offset and label between tabs, as Audacity exports them")
        yield Row(name, where, *_event(cells[0], cells[1], " ".join(cells[2:]).strip(), where))


def _raven_rows(text: str, path: Path, name: str) -> Iterator[Row]:
    """Selections; Raven lists each of them once per view, with equal times.

    It knows no quotes. Other programs put them around whole cells, and there they are taken off.
    """
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    table.fieldnames = [_unquoted(name) for name in table.fieldnames or ()]
    column = _columns(path, ["filename", *table.fieldnames])
    for record in table:
        where = f"{path}, line {table.line_num}"
        _refuse_surplus(record, where, RAVEN_SURPLUS)
        onset, offset, label = (_unquoted(record.get(column[c]) or "") for c in ("onset", "offset", "label"))
        yield Row(name, where, *_event(onset, offset, label, where))


def _unquoted(cell: str) -> str:
    """A cell without blanks around it and, where they are a pair, without its outer quotes."""
    cell = cell.strip()
    quoted = re.fullmatch(r'"((?:[^"]|"")*)"', cell)
    return quoted[1].replace('""', '"').strip() if quoted else cell
