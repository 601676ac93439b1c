"""What annotations of one's own recordings say, checked line by line, before anything is known about the audio.

Here are `Row`, its checks, and the reader of tables (CSV, TSV); `annotation_formats` lists all readers.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from data_util.times import WHAT, parse_seconds
from errors import UserError

# Names under which columns are known, in lower case; the first is ours.
COLUMNS = {
    "filename": ("filename", "file", "audio", "audio_filename", "path", "recording", "begin file", "begin path"),
    "onset": (
        *("onset", "start", "start_time", "start_time_seconds", "start (s)", "begin", "begin time (s)", "onset_s"),
        *("onset (s)", "start_s", "start_seconds", "start time", "start time (s)", "begin_time", "begin time"),
    ),
    "offset": (
        *("offset", "end", "end_time", "end_time_seconds", "end (s)", "stop", "end time (s)", "offset_s"),
        *("offset (s)", "end_s", "end_seconds", "end time", "stop_time", "stop time (s)", "stop (s)", "stop_s"),
    ),
    "label": (
        *("label", "event_label", "class", "event", "annotation", "annotations", "call type", "call_type", "calltype"),
        *("common name", "common_name", "species", "species name", "scientific name", "scientific_name"),
        *("species code", "category", "sound type", "tag", "labels"),
    ),
    "split": ("split", "subset"),
}
SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "eval", "evaluation"),
}
# What BirdNET writes where it found nothing, in columns of these names
NOTHING, NOTHING_IN = "nocall", ("common name", "scientific name", "species code")


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


@dataclass
class Source:
    """A file with annotations, and what is known about it.

    Attributes:
        path, text: of the file.
        name: of the recording that it is about, unless it names others.
        beside: whether it lies beside that recording; otherwise the user named it, and `name` is a guess.
        find: (a name in the file, where) -> the recording that it means, or None.
        label_column: column, tier or control that holds the labels; None: found by its name.
        group_column: column that says what stays together in a split.
        notes: what was not used: a sentence -> names to count behind it, or none.
    """

    path: Path
    text: str
    name: str
    beside: bool = False
    find: Callable[[str, str], str | None] = lambda name, where: name
    label_column: str | None = None
    group_column: str | None = None
    notes: dict[str, list[str]] = field(default_factory=dict)

    def note(self, what: str, *names: str) -> None:
        """Tell the user about something, once for all files in which it occurs."""
        known = self.notes.setdefault(what, [])
        known += [name for name in names if name not in known]

    def recording(self, said: str, where: str) -> str | None:
        """Recording that another program's name means, or None; one without a folder is looked for here first."""
        folder = self.name.rpartition("/")[0]
        near = f"{folder}/{said}" if folder and not set(said) & set("/\\") else said
        return self.find(near, where)

    def refuse_group_column(self) -> None:
        """UserError for --group_column where the file has no columns."""
        if self.group_column is not None:
            raise UserError(f"--group_column is {self.group_column}: {self.path} is not a table and has no columns")

    def refuse_label_column(self) -> None:
        """UserError for --label_column where the file has one place for labels."""
        if self.label_column is not None:
            raise UserError(f"--label_column is {self.label_column}: {self.path} has no names for its columns")


def last_part(name: str) -> str:
    """File name without folders of any system."""
    return PureWindowsPath(name).name


def table_rows(source: Source) -> list[Row]:
    """Rows of a CSV or TSV with the columns filename, onset, offset, label and, if it likes, split.

    It has a header and is separated by commas, semicolons or tabs; the last two allow decimal commas in times. A line
    with a file name alone says that nothing happens in it. Beside a recording the file name may be missing.

    Raises:
        UserError: missing columns, more cells than columns, a quote that is not closed, bad time, empty name or label,
            control characters in them, unknown split.
    """
    path = source.path
    text = re.sub(r"\Asep=(.)\r?\n", "", source.text)  # a line for Excel
    separator = separator_of(text)
    text = _without_blanks_after_quotes(text, separator)
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    found = [name.strip() for name in table.fieldnames or ()]
    table.fieldnames = found
    skipped = source.text.count("\n") - text.count("\n")
    records: list[tuple[str, dict[str, str]]] = []
    try:
        for record in table:
            where = f"{path}, line {table.line_num + skipped}"
            refuse_surplus(record, where, TABLE_SURPLUS)
            if any(value for value in record.values()):
                records.append((where, record))
    except csv.Error as error:
        raise UserError(f"{path}, line {table.reader.line_num + skipped}: {error}; a stray quote?") from None
    column = columns_of(source, found, [record for _, record in records])
    foreign = column["onset"].lower() == "start (s)"  # BirdNET names files by their path on its machine
    unused = [name for name in found if name not in {*column.values(), source.group_column}]
    if unused and not source.beside:
        source.note(f"{path.name}: columns that are not used: {', '.join(unused)}")
    rows = [_table_row(record, column, source, where, separator in ";\t") for where, record in records]
    if not (foreign or source.beside):
        return rows
    home = recordings_of(source, {row.name: row.where for row in rows})
    return [replace(row, name=home[row.name]) for row in rows]


def recordings_of(source: Source, said: Mapping[str, str]) -> dict[str, str]:
    """The recordings that names of other programs mean, which may have the folders of another machine.

    Args:
        source: the file.
        said: names in it -> where.

    Returns:
        Per name the recording; where none is meant, the bare file name. Beside a recording, a file that names one
        unknown recording alone is about that beside which it is.
    """
    home = {name: source.recording(name, where) for name, where in said.items()}
    if source.beside and list(home.values()) == [None]:
        source.note(OTHER_NAME, source.path.name)
        return dict.fromkeys(home, source.name)
    return {name: place or last_part(name) for name, place in home.items()}


OTHER_NAME = "label files that name another recording than the one beside which they are"


def is_table(text: str) -> bool:
    """Whether the first line names a column of onsets."""
    header = re.sub(r"\Asep=.\r?\n", "", text).split("\n", 1)[0]
    names = {name.strip(' "\r').lower() for name in header.split(separator_of(header))}
    return len(names) > 1 and not names.isdisjoint(COLUMNS["onset"])


def separator_of(text: str) -> str:
    """What separates the columns of a table."""
    return max("\t;,", key=text.split("\n", 1)[0].count)


def _without_blanks_after_quotes(text: str, separator: str) -> str:
    """The text, in which nothing stands between a quoted cell and the separator or line end, as strict reading wants.

    Only within one line: a stray quote must not find its partner in a later one.
    """
    blank = " \t".replace(separator, "")
    return re.sub(rf'((?:^|{separator}) *"(?:[^"\n]|"")*")[{blank}]+(?={separator}|$)', r"\1", text, flags=re.M)


def columns_of(source: Source, found: Sequence[str], records: Sequence[Mapping[str, str | None]]) -> dict[str, str]:
    """Our name of a column -> its name in the file.

    Args:
        source: the file; beside a recording, `filename` may be missing, and where there are no records, `label` too.
        found: names of its columns.
        records: its lines; of several columns that may hold the labels, the first one that holds any is taken.

    Raises:
        UserError: a column is missing.
    """
    by_key = {name.lower(): name for name in reversed(found)}
    column = {ours: next((by_key[n] for n in names if n in by_key), "") for ours, names in COLUMNS.items()}
    column["label"] = _label_column(source, found, by_key, records)
    optional = ["filename", "label"] if source.beside and not records else ["filename"] if source.beside else []
    missing = [name for name in ("filename", "onset", "offset", "label") if not column[name] and name not in optional]
    if missing:
        hint = "; name the one with the labels with --label_column" if missing == ["label"] else ""
        raise UserError(
            f"{source.path} has no column {', '.join(missing)}: expected filename, onset, offset, label; "
            f"found {', '.join(found) or 'nothing'}{hint}"
        )
    if source.group_column is not None and source.group_column not in found:
        raise UserError(f"--group_column is {source.group_column}: {source.path} has the columns {', '.join(found)}")
    return {ours: name for ours, name in column.items() if name}


def _label_column(
    source: Source, found: Sequence[str], by_key: Mapping[str, str], records: Sequence[Mapping[str, str | None]]
) -> str:
    """The column with the labels, or an empty string."""
    wanted = source.label_column
    if wanted is not None:
        if wanted.strip().lower() not in by_key and (records or not source.beside):
            raise UserError(f"--label_column is {wanted}: {source.path} has the columns {', '.join(found)}")
        return by_key.get(wanted.strip().lower(), "")
    known = [by_key[name] for name in COLUMNS["label"] if name in by_key]
    filled = [name for name in known if any((record.get(name) or "").strip() for record in records)]
    if len(filled) > 1:
        source.note(f"labels are from the column {filled[0]}; choose another one with --label_column", *filled[1:])
    return next(iter([*filled, *known]), "")


def _table_row(
    record: Mapping[str, str], column: Mapping[str, str], source: Source, where: str, decimal_comma: bool
) -> Row:
    cell = {ours: (record.get(name) or "").strip() for ours, name in column.items()}
    name = cell.get("filename", source.name)
    if not name:
        raise UserError(f"{where}: the file name is empty")
    split = cell.get("split", "").lower()
    ours = next((name for name, words in SPLITS.items() if split in words), "")
    if split and not ours:
        raise UserError(f"{where}: split {split!r} is none of train, val, test")
    group = (record.get(source.group_column) or "").strip() if source.group_column else ""
    refuse_control(name, "file name", where)
    if not (cell["onset"] or cell["offset"] or cell["label"]) or is_nothing(cell["label"], column["label"]):
        return Row(name, where, split=ours, group=group)
    onset, offset, label = checked_event(cell["onset"], cell["offset"], cell["label"], where, decimal_comma)
    return Row(name, where, onset, offset, label, ours, group)


def is_nothing(label: str, column: str) -> bool:
    """Whether a label says that nothing was found, as BirdNET does in its columns."""
    return label == NOTHING and column.lower() in NOTHING_IN


def checked_event(
    onset: str, offset: str, label: str, where: str, decimal_comma: bool = False
) -> tuple[float, float, str]:
    """Checked times in seconds and label of one event; UserError with the place."""
    times = [checked_time(text, name, where, decimal_comma) for name, text in (("onset", onset), ("offset", offset))]
    if times[1] < times[0]:
        raise UserError(f"{where}: the event ends ({offset}) before it begins ({onset})")
    if not label:
        raise UserError(f"{where}: the label of the event is empty")
    refuse_control(label, "label", where)
    return times[0], times[1], label


def checked_time(text: str, name: str, where: str, decimal_comma: bool = False) -> float:
    """A time as `times.parse_seconds` reads it; with a decimal comma where allowed, but not with comma and point."""
    try:
        return parse_seconds(text.replace(",", ".") if decimal_comma and "." not in text else text)
    except ValueError:
        raise UserError(f"{where}: {name} {text!r} is not {WHAT}") from None


TABLE_SURPLUS = "quote cells that hold the separator, and write times with a point in a table with commas"


def refuse_surplus(record: dict[str, Any], where: str, advice: str) -> None:
    """Take cells beyond the last column from a record; UserError unless they are blank: the others would be shifted."""
    surplus = record.pop(None, ())  # type: ignore[call-overload]  # the key that csv.DictReader puts them under
    if any(cell.strip() for cell in surplus):
        raise UserError(f"{where}: more cells than the header has columns; {advice}")


def refuse_control(text: str, what: str, where: str) -> None:
    """UserError for line breaks and the like: most often a stray quote has joined two lines."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):  # Cs: half of a character
        raise UserError(f"{where}: {what} {text[:40]!r} holds a line break or a control character; a stray quote?")
