"""Selection tables of Raven, which BirdNET writes, too."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from data_util.own_annotations import (
    Row,
    Source,
    checked_event,
    checked_time,
    columns_of,
    is_nothing,
    recordings_of,
    refuse_control,
    refuse_surplus,
    separator_of,
)
from errors import UserError

MARK = "begin time (s)"  # column that only selection tables have
NAMES = ("begin path", "begin file")  # columns that name the file of a selection; paths say more
OFFSET = "file offset (s)"  # where the selection begins in that file
ROUNDING = 0.002  # seconds: a border between files is known no better
SURPLUS = "a tab in an annotation, a remark without a heading, or row names (in R: row.names=FALSE)?"


def fits(text: str) -> bool:
    """Whether the header is that of a selection table."""
    return MARK in text.split("\n", 1)[0].lower()


@dataclass(frozen=True)
class _Selection:
    """One line: times as they are counted over all files of a sequence, and what it says about its file."""

    where: str
    onset: float
    offset: float
    label: str
    group: str
    said: str  # name of the file, or empty
    in_file: float | None  # onset in that file


def rows(source: Source) -> list[Row]:
    """Rows of all selections.

    Raven opens many files as one sequence: begin times then run on, and `Begin File` with `File Offset (s)` tell where
    a selection is. One that goes on into the next files is an event in each of them. Each selection is listed once per
    view and channel; that is one row.

    Raises:
        UserError: as for tables; begin times that may run on over several files, and nothing says where those begin.
    """
    found, records = _records(source)
    column = columns_of(source, found, [record for _, record in records])
    own = {name.lower(): name for name in reversed(found)}  # names of Raven's columns as they are spelled here
    comma = separator_of(source.text) in ";\t"
    selections = [_selection(record, column, own, source, where, comma) for where, record in _once(records, own)]
    said = {s.said: s.where for s in selections if s.said}
    home = recordings_of(source, said)
    stranger = source.beside and len(said) == 1 and source.recording(*next(iter(said.items()))) is None
    if not stranger:
        selections = [
            part for s, starts in zip(selections, _starts(selections), strict=True) for part in _parts(s, starts)
        ]
        _refuse_running_times([s for s in selections if s.said])
    return [Row(home.get(s.said, source.name), s.where, s.onset, s.offset, s.label, group=s.group) for s in selections]


def _records(source: Source) -> tuple[list[str], list[tuple[str, dict[str, str]]]]:
    """Column names; place and cells of each line that holds any.

    Raven knows no quotes; a table that commas separate went through another program.
    """
    separator = separator_of(source.text)
    text = io.StringIO(source.text, newline="")
    if separator == "\t":
        table = csv.DictReader(text, delimiter=separator, quoting=csv.QUOTE_NONE)
    else:
        table = csv.DictReader(text, delimiter=separator)
    found = table.fieldnames = [_unquoted(name) for name in table.fieldnames or ()]
    records = []
    for record in table:
        where = f"{source.path}, line {table.line_num}"
        refuse_surplus(record, where, SURPLUS)
        cells = {name: _unquoted(cell or "") for name, cell in record.items()}
        if any(cells.values()):
            records.append((where, cells))
    return found, records


def _unquoted(cell: str) -> str:
    """A cell without blanks around it and, where they are a pair, without its outer quotes."""
    cell = cell.strip()
    quoted = re.fullmatch(r'"((?:[^"]|"")*)"', cell)
    return quoted[1].replace('""', '"').strip() if quoted else cell


def _once(records: list[tuple[str, dict[str, str]]], own: Mapping[str, str]) -> list[tuple[str, dict[str, str]]]:
    """The lines without those that show a selection in another view or channel."""
    seen: dict[tuple[str, ...], set[tuple[str, str]]] = {}
    kept = []
    for where, record in records:
        view = (_cell(record, own, "view"), _cell(record, own, "channel"))
        key = tuple(_cell(record, own, name) for name in ("selection", MARK, "end time (s)", *NAMES, OFFSET))
        views = seen.setdefault(key, set())
        if not views or view in views or not key[0]:
            kept.append((where, record))
        views.add(view)
    return kept


def _cell(record: Mapping[str, str], own: Mapping[str, str], column: str) -> str:
    """Cell of a column (`name` in lower case); an empty string where the column is missing."""
    return record.get(own.get(column, ""), "")


def _selection(
    record: Mapping[str, str],
    column: Mapping[str, str],
    own: Mapping[str, str],
    source: Source,
    where: str,
    decimal_comma: bool,
) -> _Selection:
    onset, offset, label = (record[column[name]] for name in ("onset", "offset", "label"))
    times = checked_event(onset, offset, label, where, decimal_comma)[:2]
    in_file = _cell(record, own, OFFSET)
    said = next((name for column_name in NAMES if (name := _cell(record, own, column_name))), "")
    refuse_control(said, "file name", where)
    return _Selection(
        where,
        *times,
        label="" if is_nothing(label, column["label"]) else label,
        group=record[source.group_column] if source.group_column else "",
        said=said,
        in_file=checked_time(in_file, "File Offset (s)", where, decimal_comma) if in_file else None,
    )


def _within_file(s: _Selection) -> _Selection:
    """With times from the start of the file that it names, where it says so."""
    if not s.said or s.in_file is None:
        return s
    return replace(s, onset=s.in_file, offset=round(s.in_file + s.offset - s.onset, 9))


def _starts(selections: Sequence[_Selection]) -> list[dict[str, float]]:
    """Per selection the files of its sequence: where each begins in the running time.

    A table may be joined from several sequences, whose times begin anew: then files of one have the same beginnings as
    files of another, and each sequence ends where a new file begins no later than one before it.
    """
    offsets: dict[str, list[float]] = {}
    for s in selections:
        if s.said and s.in_file is not None:
            offsets.setdefault(s.said, []).append(s.onset - s.in_file)
    start = {said: median(values) for said, values in offsets.items()}  # Raven rounds times
    several = len({round(value, 2) for value in start.values()}) < len(start)
    sequences: list[dict[str, float]] = [{}]
    of_selection = []
    for s in selections:
        if s.said in start and s.said not in sequences[-1]:
            if several and any(start[s.said] <= known + ROUNDING for known in sequences[-1].values()):
                sequences.append({})
            sequences[-1][s.said] = start[s.said]
        of_selection.append(sequences[-1])
    return of_selection


def _parts(s: _Selection, starts: Mapping[str, float]) -> Iterator[_Selection]:
    """A selection within the file that it names, and what of it lies in the files that begin before it ends."""
    if not s.said or s.in_file is None or s.said not in starts:
        yield _within_file(s)
        return
    later = sorted(
        (start, said)
        for said, start in starts.items()
        if starts[s.said] + ROUNDING < start and s.onset < start < s.offset - ROUNDING
    )
    ends = [*(start for start, _ in later), s.offset]
    yield _within_file(replace(s, offset=ends[0]))
    for (start, said), end in zip(later, ends[1:], strict=True):
        yield replace(s, said=said, onset=0.0, offset=round(end - start, 9), in_file=0.0)


def _refuse_running_times(selections: list[_Selection]) -> None:
    """UserError where files have no offsets and times never start over, as they do if each file has its own."""
    n_files = len({s.said for s in selections})
    onsets = [s.onset for s in selections]
    unknown = next((s for s in selections[::-1] if s.in_file is None), None)
    if unknown and n_files > 1 and onsets == sorted(onsets):
        raise UserError(
            f"{unknown.where}: the table is about {n_files} files, and its begin times may run on over them: add "
            "the column File Offset (s) (in Raven: View, Choose Measurements), or save a table per file"
        )
