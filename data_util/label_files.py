"""Readers of label files as Google publishes them: strong TSV, weak CSV; and lengths of clips."""

from __future__ import annotations

import csv
import itertools
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_util.clip_names import file_clip, segment_clip
from data_util.labels import CLIP_FRAMES, FRAME_RATE, Events, Vocabulary, merge_events
from data_util.tables import (
    NUMBER,
    TEXT,
    OddLineError,
    line_of,
    numbers,
    open_bytes,
    open_text,
    plain_rows,
    uncollected,
)
from data_util.times import LATEST, WHAT, parse_seconds
from errors import UserError, reading

if TYPE_CHECKING:
    import pandas as pd

STRONG_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")
FILENAME = "filename"  # in place of segment_id: names of files, whatever they look like
_OTHER_NAMES = {"onset": "start_time_seconds", "offset": "end_time_seconds", "event_label": "label"}
_WEAK_LABELS = ("label", "labels", "positive_labels", "event_label")

_COMPRESSED = {".gz", ".bz2", ".zip", ".xz", ".zst"}  # which pandas reads by the name

_UNKNOWN, _IGNORED = -2, -1
_log = logging.getLogger(__name__)


def read_strong_tsv(path: str | Path, vocabulary: Vocabulary) -> Events:
    """Read strong labels as Google publishes them (segment_id, start and end in seconds, label = MID or name).

    Args:
        path: tab-separated file with a header; CRLF, quotes and blank lines do no harm. For recordings of one's own,
            commas may separate, segment_id may be any name or a column `filename`, and times onset and offset.
        vocabulary: gives the class index of each MID and name; classes that it ignores are read over.

    Returns:
        The merged events, grouped by clip. Of a video with several segments only the first one counts.

    Raises:
        UserError: missing file, other columns, malformed row, bad time or unknown label (file, line, value).
    """
    path = Path(path)
    with reading(path, "the labels"):
        table = _read_table(path)
    return _events(path, table, _clips_of_table(path, table), vocabulary)


def _events(path: Path, table: pd.DataFrame, clips: _Clips, vocabulary: Vocabulary) -> Events:
    """The merged events of a table."""
    label = table["label"].cat
    class_of = np.array([_class_of(vocabulary, mid) for mid in label.categories], np.int64)[label.codes]
    _refuse(path, table, "label", class_of == _UNKNOWN, _none_of(vocabulary))
    clip_ids, clip = clips.ids, clips.of_row
    rows = np.flatnonzero((clip >= 0) & (class_of >= 0))
    rows = rows[np.argsort(clip[rows], kind="stable")]
    starts = np.searchsorted(clip[rows], np.arange(len(clip_ids) + 1)).astype(np.int64)
    onset, offset = (table[name].to_numpy()[rows] for name in STRONG_COLUMNS[1:3])
    return merge_events(Events(clip_ids, starts, onset, offset, class_of[rows]), len(vocabulary))


def read_mids(path: Path) -> set[str]:
    """All labels of a strong TSV, also those without a logit; raises UserError as `read_strong_tsv`."""
    with reading(path, "the labels"):
        return set(_read_table(path)["label"].cat.categories)


def _class_of(vocabulary: Vocabulary, label: str) -> int:
    if (index := vocabulary.index_of(label)) is not None:
        return index
    return _IGNORED if vocabulary.ignores(label) else _UNKNOWN


def _none_of(vocabulary: Vocabulary) -> str:
    """Why a label is refused, and what would be right."""
    first = f"{vocabulary.names[0]!r} or {vocabulary.mids[0]!r}" if len(vocabulary) else "none"
    return (
        f"is not one of the {len(vocabulary)} classes; expected a name or MID as in resources/audioset_*_classes.csv, "
        f"such as {first} (for classes of your own: ex_finetune.py)"
    )


def _read_table(path: Path) -> pd.DataFrame:
    """The four columns, checked; the index holds the line numbers."""
    import pandas as pd  # half a second of import that only the start of a run needs

    kinds = dict(zip(STRONG_COLUMNS, ("category", "float64", "float64", "category"), strict=True))
    options = {"sep": "\t", "skip_blank_lines": False, "keep_default_na": False, "na_values": [""]}
    try:
        header = pd.read_csv(path, nrows=0, **options)
        if FILENAME not in header.columns and len(header.columns) == 1:
            options["sep"] = ","
            header = pd.read_csv(path, nrows=0, **options)
        names = _columns(path, list(header.columns))
        kinds = {found: kinds[name] for name, found in names.items()}
        try:
            with open_bytes(path) as file:
                source = path if path.suffix in _COMPRESSED else file
                table = pd.read_csv(source, dtype=kinds, usecols=list(kinds), **options)
        except ValueError:  # a time that is no number: read as text to find its line
            table = pd.read_csv(path, dtype=str, usecols=list(kinds), **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} is not a tab-separated label file: {error}") from None
    table.index = table.index + 2  # line 1 is the header
    table = table.dropna(how="all").rename(columns={found: name for name, found in names.items()})
    table.attrs["names"] = names
    for name in STRONG_COLUMNS[1:3]:
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy()
        bad = ~((numbers >= 0) & (numbers <= LATEST))  # NaN, too
        _refuse(path, table, name, bad, f"is not {WHAT}")
        table[name] = numbers
    reversed_times = (table[STRONG_COLUMNS[2]] < table[STRONG_COLUMNS[1]]).to_numpy()
    _refuse(path, table, STRONG_COLUMNS[2], reversed_times, "lies before the start of the event")
    for name in (STRONG_COLUMNS[0], STRONG_COLUMNS[3]):
        _refuse(path, table, name, table[name].isna().to_numpy(), "is empty")
        table[name] = _without_blanks(table[name].astype("category"))
    return table


def _columns(path: Path, found: list[str]) -> dict[str, str]:
    """Published name of each column -> its name in the file."""
    known = {**dict(zip(STRONG_COLUMNS, STRONG_COLUMNS, strict=True)), **_OTHER_NAMES, FILENAME: "segment_id"}
    names = {known[name]: name for name in reversed(found) if name in known}
    if missing := [c for c in STRONG_COLUMNS if c not in names]:
        wanted = f"{', '.join(STRONG_COLUMNS)} (or filename, onset, offset, label)"
        raise UserError(f"{path}: no column {missing[0]}; expected tab-separated columns {wanted}")
    return names


def _without_blanks(column: pd.Series) -> pd.Series:
    """A column of categories without blanks around them; the rows are touched only where there are any."""
    stripped = column.cat.categories.str.strip()
    if (stripped == column.cat.categories).all():
        return column
    return column.map(dict(zip(column.cat.categories, stripped, strict=True))).astype("category")


def _refuse(path: Path, table: pd.DataFrame, column: str, bad: np.ndarray, why: str) -> None:
    """Raise a UserError that names the first bad row."""
    if bad.any():
        row = int(np.argmax(bad))
        more = f" ({int(bad.sum())} such lines)" if bad.sum() > 1 else ""
        value = table[column].iloc[row]
        name = table.attrs["names"][column]
        raise UserError(f"{path}, line {table.index[row]}: {name} {str(value)!r} {why}{more}")


@dataclass(frozen=True)
class _Clips:
    """Clips of a strong table.

    Attributes:
        ids: [N] clip ids, sorted.
        names: [N] as the table gives them.
        start_ms: [N] of the segments in their videos; 0 of other recordings.
        of_row: clip of each row, -1 for a further segment of a video.
    """

    ids: np.ndarray
    names: list[str]
    start_ms: list[int]
    of_row: np.ndarray


def _clips_of_table(path: Path, table: pd.DataFrame) -> _Clips:
    """The clips that a table names; of a video with several segments the first one."""
    segment = table["segment_id"].cat
    given, by_file = list(segment.categories), table.attrs["names"]["segment_id"] == FILENAME
    parsed = [(file_clip(name), None) if by_file else segment_clip(name) for name in given]
    ids = np.array([clip for clip, _ in parsed], dtype=np.str_)
    start_ms = np.array([start or 0 for _, start in parsed], dtype=np.int64)
    order = np.lexsort((start_ms, ids))
    new = np.ones(len(ids), bool)  # in that order: a clip that the one before is not
    new[1:] = ids[order][1:] != ids[order][:-1]
    first = np.maximum.accumulate(np.where(new, np.arange(len(ids)), 0))
    counts = start_ms[order] == start_ms[order][first] if len(ids) else new
    clip = np.empty(len(ids), np.int64)
    clip[order] = np.where(counts, np.cumsum(new) - 1, -1)
    if not counts.all():
        _log.warning(
            "%s: %d further segments of a video are left out, its first one counts (of recordings that are no videos, "
            "give the names in a column filename)",
            path,
            int((~counts).sum()),
        )
    kept = order[new].tolist()
    return _Clips(ids[kept], [given[i] for i in kept], start_ms[kept].tolist(), clip[segment.codes])


def read_segments(path: str | Path, vocabulary: Vocabulary) -> ClipLabels:
    """The clips of a strong TSV with the classes of their events, clips sorted by name, without the events.

    Raises:
        UserError: as `read_strong_tsv`.
    """
    path = Path(path)
    with reading(path, "the labels"):
        table = _read_table(path)
    clips = _clips_of_table(path, table)
    events = _events(path, table, clips, vocabulary)
    mids = _mids_of_clips(events, vocabulary)
    counts, late = clips.of_row >= 0, (table[STRONG_COLUMNS[1]] >= CLIP_FRAMES / FRAME_RATE).to_numpy()
    n_rows, n_late = (np.bincount(clips.of_row[rows], minlength=len(mids)).tolist() for rows in (counts, counts & late))
    return ClipLabels(clips.ids.tolist(), clips.start_ms, mids, clips.names, n_rows, int((~counts).sum()), n_late)


def _mids_of_clips(events: Events, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """The MIDs of each clip's classes within its 10 s, each once, as the vocabulary orders them; in bulk."""
    clip = np.repeat(np.arange(len(events)), np.diff(events.starts))
    within = events.onset < CLIP_FRAMES / FRAME_RATE
    pairs = np.unique((clip * len(vocabulary) + events.class_index)[within])
    mids = np.array(vocabulary.mids, dtype=object)[pairs % len(vocabulary)].tolist()
    borders = np.searchsorted(pairs, np.arange(len(events) + 1) * len(vocabulary)).tolist()
    return [tuple(mids[first:last]) for first, last in itertools.pairwise(borders)]


@dataclass(frozen=True)
class ClipLabels:
    """Clip-level labels.

    Attributes:
        clip_ids: [N] `Y<ytid>`, one each.
        start_ms: [N] start of the segment in the video, milliseconds.
        mids: [N] machine ids of each clip.
        names: [N] the clips as the table names them.
        n_rows: [N] rows of the table about each clip.
        further_rows: rows about further segments of a video, which do not count.
        n_late: [N] those of `n_rows` whose events begin after the 10 s of a clip; empty where rows have no times.
    """

    clip_ids: list[str]
    start_ms: list[int]
    mids: list[tuple[str, ...]]
    names: list[str]
    n_rows: list[int]
    further_rows: int = 0
    n_late: list[int] = field(default_factory=list)


@uncollected()
def read_weak_csv(path: str | Path, vocabulary: Vocabulary) -> ClipLabels:
    """Read weak labels: comment lines with `#`, then `ytid, start s, end s, "mid,mid,..."`.

    A table of one's own may have a header instead, with a column `filename` and one of labels: a row may hold several
    labels, and a file have several rows.

    Raises:
        UserError: missing file, malformed row, unknown label (file, line, value).
    """
    path = Path(path)
    with reading(path, "the labels"), path.open(encoding="utf-8-sig") as file:
        separator = "\t" if "\t" in file.readline() else ","
    try:
        return _plain_weak_labels(path, separator, vocabulary)
    except (OddLineError, UnicodeDecodeError):
        return _weak_labels(path, separator, vocabulary)


def _weak_labels(path: Path, separator: str, vocabulary: Vocabulary) -> ClipLabels:
    """As `read_weak_csv`, row by row."""
    rows = _csv_rows(path, "the labels", skipinitialspace=True, delimiter=separator)
    rows = ((line, row) for line, row in rows if not row[0].startswith("#"))
    labels = ClipLabels([], [], [], [], [])
    for line, row in rows:
        if not labels.names and FILENAME in (header := [cell.strip() for cell in row]):
            _add_named_rows(labels, path, header, rows, vocabulary)
        else:
            _add_weak_row(labels, row, f"{path}, line {line}", vocabulary)
    return labels


def _plain_weak_labels(path: Path, separator: str, vocabulary: Vocabulary) -> ClipLabels:
    """As `read_weak_csv`, for a table of plain lines in the published form; else OddLineError."""
    first, middle = line_of([TEXT], separator), line_of([NUMBER], separator)
    cell = f'("[^"\\r\\n\\0]{{0,100000}}"|[^ "{separator}\\s][^"{separator}\\r\\n\\0]{{0,100000}})'
    line = f"(?![#\\s]){f'{separator} *'.join((first, middle, middle, cell))}"
    labels = ClipLabels([], [], [], [], [])
    known: dict[str, tuple[str, ...]] = {}  # one list of classes for all clips that have the same
    for rows in plain_rows(path, line, comment="#"):
        if not rows:
            continue
        ytids, starts, ends, cells = zip(*rows, strict=True)
        for text in set(cells) - known.keys():
            try:
                known[text] = _mids(text.strip('"'), "", vocabulary)
            except UserError:
                raise OddLineError from None  # the other way says which line it is
        start, end = (np.array(numbers(column, 0.0, LATEST)) for column in (starts, ends))
        names = [ytid.strip() for ytid in ytids]
        if FILENAME in names or not all(names) or not (start < end).all():
            raise OddLineError
        labels.clip_ids.extend(f"Y{name}" for name in names)
        labels.start_ms.extend(np.rint(start * 1000).astype(np.int64).tolist())
        labels.mids.extend(map(known.__getitem__, cells))
        labels.names.extend(names)
        labels.n_rows.extend([1] * len(names))
    return labels


def holds_events(path: Path) -> bool:
    """Whether a table holds events with times (strong labels), not labels of whole clips: by its ending and header."""
    with reading(path, "the labels"), path.open(encoding="utf-8-sig") as file:
        header = {cell.strip().strip('"') for cell in file.readline().replace("\t", ",").split(",")}
    return bool(header & {"onset", "start_time_seconds"}) or (path.suffix.lower() == ".tsv" and FILENAME not in header)


def _csv_rows(path: Path, what: str, **dialect: Any) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and fields of the rows that are not blank; raises UserError for what is no CSV."""
    with reading(path, what), open_text(path) as handle:
        yield from ((line, row) for line, row in enumerate(csv.reader(handle, **dialect), start=1) if row)


def _add_weak_row(labels: ClipLabels, row: list[str], where: str, vocabulary: Vocabulary) -> None:
    try:
        ytid, start, end, mids = row[0].strip(), parse_seconds(row[1]), parse_seconds(row[2]), row[3]
    except (IndexError, ValueError):
        ytid, start, end, mids = "", math.nan, math.nan, ""
    if not ytid or not 0 <= start < end < math.inf:
        raise UserError(f'{where}: {",".join(row)!r} is not `ytid, start s, end s, "mid,..."`')
    _add_clip(labels, f"Y{ytid}", round(start * 1000), _mids(mids, where, vocabulary), ytid)


def _add_clip(labels: ClipLabels, clip: str, start_ms: int, mids: tuple[str, ...], name: str) -> None:
    for column, value in zip(
        (labels.clip_ids, labels.start_ms, labels.mids, labels.names, labels.n_rows),
        (clip, start_ms, mids, name, 1),
        strict=True,
    ):
        column.append(value)  # type: ignore[attr-defined]


def _mids(cell: str, where: str, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The MIDs of a cell's labels (a name with commas stands alone); UserError for an unknown one."""
    whole = vocabulary.index_of(cell.strip())
    found = [cell.strip()] if whole is not None else [label.strip() for label in cell.split(",") if label.strip()]
    indices = [vocabulary.index_of(label) for label in found]
    if None in indices:
        raise UserError(f"{where}: label {found[indices.index(None)]!r} {_none_of(vocabulary)}")
    return tuple(dict.fromkeys(vocabulary.mids[index] for index in indices if index is not None))


def _add_named_rows(
    labels: ClipLabels, path: Path, header: list[str], rows: Iterable[tuple[int, list[str]]], vocabulary: Vocabulary
) -> None:
    """Rows of file name and labels; those of one file are one clip."""
    label = next((header.index(name) for name in _WEAK_LABELS if name in header), None)
    if label is None:
        raise UserError(f"{path}: no column of labels; expected filename and {' or '.join(_WEAK_LABELS)}")
    place: dict[str, int] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(header) or not (name := row[header.index(FILENAME)].strip()):
            raise UserError(f"{where}: {','.join(row)!r} does not fit the header {','.join(header)}")
        clip, mids = file_clip(name), _mids(row[label], where, vocabulary)
        if clip in place:
            i = place[clip]
            labels.mids[i], labels.n_rows[i] = tuple(dict.fromkeys((*labels.mids[i], *mids))), labels.n_rows[i] + 1
        else:
            place[clip] = len(place)
            _add_clip(labels, clip, 0, mids, name)


@uncollected()
def read_durations(path: str | Path) -> dict[str, float]:
    """Read lengths of clips: CSV without a header, `Y<ytid>,seconds`.

    Returns:
        Clip id -> seconds; nothing where there is no such file.

    Raises:
        UserError: the file cannot be read, a row has not two fields, or a length is no positive number (file, line,
            value).
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        with reading(path, "the lengths of the clips"):
            return _plain_durations(path)
    except (OddLineError, UserError):  # the other way says which line it is
        return _durations(path)


def _durations(path: Path) -> dict[str, float]:
    """As `read_durations`, row by row."""
    durations: dict[str, float] = {}
    for line, row in _csv_rows(path, "the lengths of the clips"):
        try:
            name, seconds = row[0], parse_seconds(row[1])
        except (IndexError, ValueError):
            name, seconds = "", math.nan
        if not 0 < seconds < math.inf:
            raise UserError(f"{path}, line {line}: {','.join(row)!r} is not `Y<ytid>,seconds`")
        durations[name.removesuffix(".mp3")] = seconds
    return durations


def _plain_durations(path: Path) -> dict[str, float]:
    """As `read_durations`, for a table of plain lines; else OddLineError."""
    durations: dict[str, float] = {}
    for rows in plain_rows(path, line_of([TEXT, NUMBER], ",")):
        if rows:
            names, cells = zip(*rows, strict=True)
            seconds = numbers(cells, 0.0, LATEST)
            if min(seconds) <= 0:
                raise OddLineError
            durations.update(zip((name.removesuffix(".mp3") for name in names), seconds, strict=True))
    return durations
