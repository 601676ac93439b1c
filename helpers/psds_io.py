"""Ground truth and durations as files, and which clips of them have scores."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from data_util.clip_names import ClipNames, fullest_names
from data_util.labels import load_vocabulary
from data_util.tables import NUMBER, TEXT, OddLineError, line_of, numbers, open_text, plain_rows, uncollected
from data_util.times import LATEST, WHAT, parse_seconds
from errors import UserError, reading

Event = tuple[float, float, str]


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises a UserError if the path is there and must not be replaced."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; give --overwrite or another name")


@uncollected()
def read_ground_truth(path: str | Path, vocabulary: str = "strong") -> dict[str, list[Event]]:
    """Reads events; the header tells which of two forms the file has.

    Args:
        path: TSV of sed_scores_eval (filename, onset, offset, event_label; clips without events have empty cells) or
            of AudioSet Strong (segment_id, start_time_seconds, end_time_seconds, label).
        vocabulary: "strong" or a file, for the names behind the labels of the second form.

    Returns:
        Name of the file, with `/` -> events (onset s, offset s, class name).

    Raises:
        UserError: missing file, other columns, or a malformed line (file, line, value).
    """
    path = Path(path)
    with _open_text(path) as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        rows.fieldnames = columns = [name.strip() for name in rows.fieldnames or ()]
        if "segment_id" in columns:
            from data_util.label_files import read_strong_tsv

            classes = load_vocabulary(vocabulary)
            return read_strong_tsv(path, classes).as_lists(classes.names)
        if not {"filename", "onset", "offset", "event_label"} <= set(columns):
            raise UserError(f"{path}: columns {columns}; expected filename, onset, offset, event_label")
        try:
            found = _plain_events(path, columns)
        except (OddLineError, UnicodeDecodeError):  # the other way says which line it is
            found = _events(path, rows)
    truth: dict[str, list[Event]] = {}
    for name, clip in fullest_names(found).items():
        truth.setdefault(clip, []).extend(found[name])
    return truth


def _events(path: Path, rows: Iterable[Mapping[str, str | None]]) -> dict[str, list[Event]]:
    """Name as the table gives it -> events; row by row."""
    found: dict[str, list[Event]] = {}
    for line, row in enumerate(rows, start=2):
        events = found.setdefault(_file_name(path, line, row["filename"]), [])
        if label := (row["event_label"] or "").strip():
            events.append((_seconds(path, line, row["onset"]), _seconds(path, line, row["offset"]), label))
    return found


def _plain_events(path: Path, columns: Sequence[str]) -> dict[str, list[Event]]:
    """As `_events`, for a table of plain lines; else OddLineError."""
    kinds = {"filename": TEXT, "onset": NUMBER, "offset": NUMBER, "event_label": TEXT}
    places = [columns.index(name) for name in kinds]
    if any(columns.count(name) > 1 for name in kinds) or not path.is_file():  # a pipe can be read only once
        raise OddLineError
    order = [sorted(places).index(place) for place in places]
    found: dict[str, list[Event]] = {}
    clean: dict[str, str] = {}  # one text for each label, not for each row
    line = line_of([kinds.get(name, "") for name in columns], "\t")
    for rows in plain_rows(path, line, n_header=1):
        if not rows:
            continue
        cells = tuple(zip(*rows, strict=True))
        names, onsets, offsets, labels = (cells[i] for i in order)
        if any(not name.strip() for name in set(names)):
            raise OddLineError
        clean.update((label, label.strip()) for label in set(labels) - clean.keys())
        if not all(map(clean.__getitem__, labels)):  # clips without events have no times
            onsets, offsets = (
                tuple(time if clean[label] else "0" for time, label in zip(column, labels, strict=True))
                for column in (onsets, offsets)
            )
        times = [numbers(column, 0.0, LATEST) for column in (onsets, offsets)]
        for name, onset, offset, label in zip(names, *times, map(clean.__getitem__, labels), strict=True):
            events = found.get(name)
            if events is None:
                events = found[name] = []
            if label:
                events.append((onset, offset, label))
    return found


@uncollected()
def read_durations(path: str | Path) -> dict[str, float]:
    """Reads durations by clip: TSV with the columns filename and duration, or CSV of `<clip>,<seconds>` without header.

    Raises:
        UserError: missing file or a malformed line (file, line, value).
    """
    path = Path(path)
    with _open_text(path) as lines:
        first = lines.readline()
    header = [name.strip() for name in first.removeprefix("\ufeff").split("\t")]
    columns = header if "filename" in header and "duration" in header else None
    separator = "\t" if "\t" in first else ","
    try:
        found = _plain_durations(path, columns, separator)
    except (OddLineError, UnicodeDecodeError):
        found = _durations(path, columns, separator)
    return {clip: found[name] for name, clip in fullest_names(found).items()}


def _durations(path: Path, columns: Sequence[str] | None, separator: str) -> dict[str, float]:
    """Name as the table gives it -> seconds; row by row. Without columns: name and seconds."""
    found: dict[str, float] = {}
    with _open_text(path) as lines:
        if columns is not None:
            for line, row in enumerate(csv.DictReader(lines, columns, delimiter="\t"), start=1):
                if line > 1:
                    found[_file_name(path, line, row["filename"])] = _seconds(path, line, row["duration"])
        else:
            for line, fields in enumerate(csv.reader(lines, delimiter=separator), start=1):
                if fields:
                    value = fields[1] if len(fields) == 2 else ""
                    found[_file_name(path, line, fields[0])] = _seconds(path, line, value)
    return found


def _plain_durations(path: Path, columns: Sequence[str] | None, separator: str) -> dict[str, float]:
    """As `_durations`, for a table of plain lines; else OddLineError."""
    header = columns or ("filename", "duration")
    kinds = {"filename": TEXT, "duration": NUMBER}
    if any(header.count(name) > 1 for name in kinds):
        raise OddLineError
    found: dict[str, float] = {}
    line = line_of([kinds.get(name, "") for name in header], separator)
    for rows in plain_rows(path, line, n_header=columns is not None):
        if rows:
            cells = list(zip(*rows, strict=True))
            names, seconds = cells if header.index("filename") < header.index("duration") else reversed(cells)
            if not all(map(str.strip, names)):
                raise OddLineError
            found.update(zip(names, numbers(seconds, 0.0, LATEST), strict=True))
    return found


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    with reading(path, "the table"), open_text(path) as lines:
        yield lines


def _file_name(path: Path, line: int, text: str | None) -> str:
    if not (text or "").strip():
        raise UserError(f"{path}, line {line}: the name of the file is empty")
    return str(text)


def _seconds(path: Path, line: int, text: str | None) -> float:
    try:
        return parse_seconds(text or "")
    except ValueError:
        raise UserError(f"{path}, line {line}: {text!r} is not {WHAT}") from None


def merge_overlaps(events: Sequence[Event]) -> list[Event]:
    """Joins the events of one clip that overlap or touch within their class, as the published validation does."""
    joined: list[Event] = []
    for onset, offset, label in sorted(events, key=lambda event: (event[2], event[0])):
        if joined and joined[-1][2] == label and onset <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], offset), label)
        else:
            joined.append((onset, offset, label))
    return joined


def match_clips(
    scored: Sequence[str], truth: Mapping[str, Sequence[Event]], where: str = "the ground truth"
) -> tuple[dict[str, str], list[str], list[str]]:
    """Finds the ground truth of each scored clip, by all the names that `data_util.clip_names` knows.

    Returns:
        Scored clip -> clip of the ground truth, scored clips without ground truth, clips without scores.

    Raises:
        UserError: a name of the ground truth may mean several scored clips, or the other way round.
    """
    scored_of = ClipNames(scored).match(truth, where)
    name_of = {clip: name for name, clip in scored_of.items()}
    names = {clip: name_of[clip] for clip in scored if clip in name_of}
    return names, [clip for clip in scored if clip not in names], sorted(truth.keys() - scored_of.keys())


def match_durations(names: Mapping[str, str], durations: Mapping[str, float], where: str) -> dict[str, float]:
    """Finds the duration of each clip.

    Args:
        names: scored clip -> its name in the ground truth; the table may use either.
        durations: by clip.
        where: the table.

    Returns:
        Name in the ground truth -> seconds.

    Raises:
        UserError: a clip without duration, or a name that may mean several clips.
    """
    found = {name: durations[name] for name in names.values() if name in durations}
    left = {clip: name for clip, name in names.items() if name not in found}
    rest = ClipNames(left).match(durations.keys() - found.keys(), where) if left else {}
    found |= {left[clip]: durations[name] for name, clip in rest.items()}
    if missing := [name for name in left.values() if name not in found]:
        raise UserError(f"{where}: no duration of clip {shorten(missing)}")
    return found


def shorten(names: Sequence[str]) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
