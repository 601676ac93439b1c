"""Readers of label files as Google publishes them: strong TSV, weak CSV; and lengths of clips."""

from __future__ import annotations

import csv
import itertools
import logging
import math
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_util.labels import Events, Vocabulary, merge_events
from data_util.times import LATEST, WHAT, parse_seconds
from errors import UserError, reading

if TYPE_CHECKING:
    import pandas as pd

LARGE_TABLE = 50_000_000  # bytes, about a million rows
STRONG_COLUMNS = ("segment_id", "start_time_seconds", "end_time_seconds", "label")

_SEGMENT = re.compile(r"\s*(.+)_(\d+)\s*")  # greedy: a YouTube id may hold underscores and dashes itself
_UNKNOWN, _IGNORED = -2, -1
_log = logging.getLogger(__name__)


def read_strong_tsv(path: str | Path, vocabulary: Vocabulary) -> Events:
    """Read strong labels as Google publishes them (segment_id, start and end in seconds, label = MID).

    Args:
        path: tab-separated file with a header; CRLF, quotes and blank lines do no harm.
        vocabulary: gives the class index of each MID; its `ignored_mids` are read over.

    Returns:
        The merged events, grouped by clip. Of a video with several segments only the first one counts.

    Raises:
        UserError: missing file, other columns, malformed row, bad time or unknown MID (file, line, value).
    """
    path = Path(path)
    with reading(path, "the labels"):
        table = _read_table(path)
    segment, label = table["segment_id"].cat, table["label"].cat
    class_of = np.array([_class_of(vocabulary, mid) for mid in label.categories], np.int64)[label.codes]
    _refuse(path, table, "label", class_of == _UNKNOWN, f"is none of the {len(vocabulary)} classes")
    clip_ids, clip_of_segment = _clips_of_segments(path, table, list(segment.categories))
    clip = clip_of_segment[segment.codes]
    rows = np.flatnonzero((clip >= 0) & (class_of >= 0))
    rows = rows[np.argsort(clip[rows], kind="stable")]
    starts = np.searchsorted(clip[rows], np.arange(len(clip_ids) + 1)).astype(np.int64)
    onset, offset = (table[name].to_numpy()[rows] for name in STRONG_COLUMNS[1:3])
    return merge_events(Events(clip_ids, starts, onset, offset, class_of[rows]), len(vocabulary))


def read_mids(path: Path) -> set[str]:
    """All labels of a strong TSV, also those without a logit; raises UserError as `read_strong_tsv`."""
    with reading(path, "the labels"):
        return set(_read_table(path)["label"].cat.categories)


def _class_of(vocabulary: Vocabulary, mid: str) -> int:
    return vocabulary.index_by_mid.get(mid, _IGNORED if mid in vocabulary.ignored_mids else _UNKNOWN)


def _announce(path: Path) -> None:
    """Say what takes a while: about 10 s per 100 MB."""
    if (size := path.stat().st_size) > LARGE_TABLE:
        print(f"reading {path} ({size / 1e6:,.0f} MB) ...", file=sys.stderr, flush=True)


def _read_table(path: Path) -> pd.DataFrame:
    """The four columns, checked; the index holds the line numbers."""
    import pandas as pd  # half a second of import that only the start of a run needs

    _announce(path)
    kinds = dict(zip(STRONG_COLUMNS, ("category", "float64", "float64", "category"), strict=True))
    options = {"sep": "\t", "skip_blank_lines": False, "keep_default_na": False, "na_values": [""]}
    try:
        header = pd.read_csv(path, nrows=0, **options)
        if missing := [c for c in STRONG_COLUMNS if c not in header.columns]:
            wanted = ", ".join(STRONG_COLUMNS)
            raise UserError(f"{path}: no column {missing[0]}; expected tab-separated columns {wanted}")
        try:
            table = pd.read_csv(path, dtype=kinds, usecols=list(STRONG_COLUMNS), **options)
        except ValueError:  # a time that is no number: read as text to find its line
            table = pd.read_csv(path, dtype=str, usecols=list(STRONG_COLUMNS), **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path} is not a tab-separated label file: {error}") from None
    table.index = table.index + 2  # line 1 is the header
    table = table.dropna(how="all")
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
        raise UserError(f"{path}, line {table.index[row]}: {column} {str(value)!r} {why}{more}")


def _clips_of_segments(path: Path, table: pd.DataFrame, segments: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sorted clip ids, and for each segment its clip index, -1 for a further segment of a video."""
    matches = [_SEGMENT.fullmatch(segment) for segment in segments]
    malformed = np.array([match is None for match in matches], bool)
    codes = table[STRONG_COLUMNS[0]].cat.codes.to_numpy()
    _refuse(path, table, STRONG_COLUMNS[0], malformed[codes], "is not <ytid>_<start ms>")
    names = np.array([f"Y{match[1]}" for match in matches if match], dtype=np.str_)
    seconds = np.array([int(match[2]) for match in matches if match], dtype=np.int64)
    order = np.lexsort((seconds, names))
    first = np.ones(len(names), bool)
    first[1:] = names[order][1:] != names[order][:-1]
    clip_of_segment = np.empty(len(names), np.int64)
    clip_of_segment[order] = np.where(first, np.cumsum(first) - 1, -1)
    if not first.all():
        _log.warning("%s: %d videos have several segments; their first counts", path, int((~first).sum()))
    return names[order][first], clip_of_segment


def read_segments(path: str | Path, vocabulary: Vocabulary) -> ClipLabels:
    """The clips of a strong TSV with the classes of their events, clips sorted by name, without the events.

    Raises:
        UserError: as `read_strong_tsv`.
    """
    import pandas as pd

    events = read_strong_tsv(path, vocabulary)
    segments = pd.read_csv(path, sep="\t", usecols=["segment_id"], dtype=str)["segment_id"].dropna().unique()
    start_of: dict[str, int] = {}
    for match in filter(None, map(_SEGMENT.fullmatch, segments)):
        clip, start = f"Y{match[1]}", int(match[2])
        start_of[clip] = min(start, start_of.get(clip, start))
    clips = events.clip_ids.tolist()
    return ClipLabels(clips, [start_of[clip] for clip in clips], _mids_of_clips(events, vocabulary))


def _mids_of_clips(events: Events, vocabulary: Vocabulary) -> list[tuple[str, ...]]:
    """The MIDs of each clip's classes, each once, in the order of the vocabulary; for millions of events."""
    clip = np.repeat(np.arange(len(events)), np.diff(events.starts))
    pairs = np.unique(clip * len(vocabulary) + events.class_index)
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
    """

    clip_ids: list[str]
    start_ms: list[int]
    mids: list[tuple[str, ...]]


def read_weak_csv(path: str | Path, vocabulary: Vocabulary) -> ClipLabels:
    """Read weak labels: comment lines with `#`, then `ytid, start s, end s, "mid,mid,..."`.

    Raises:
        UserError: missing file, malformed row, unknown MID (file, line, value).
    """
    labels = ClipLabels([], [], [])
    for line, row in _csv_rows(Path(path), "the labels", skipinitialspace=True):
        if not row[0].startswith("#"):
            _add_weak_row(labels, row, f"{path}, line {line}", vocabulary)
    return labels


def _csv_rows(path: Path, what: str, **dialect: Any) -> list[tuple[int, list[str]]]:
    """Line numbers and fields of the rows that are not blank; raises UserError for what is no CSV."""
    with reading(path, what), path.open(newline="", encoding="utf-8-sig") as handle:
        return [(line, row) for line, row in enumerate(csv.reader(handle, **dialect), start=1) if row]


def _add_weak_row(labels: ClipLabels, row: list[str], where: str, vocabulary: Vocabulary) -> None:
    try:
        ytid, start, end, mids = row[0].strip(), parse_seconds(row[1]), parse_seconds(row[2]), row[3]
    except (IndexError, ValueError):
        ytid, start, end, mids = "", math.nan, math.nan, ""
    if not ytid or not 0 <= start < end < math.inf:
        raise UserError(f'{where}: {",".join(row)!r} is not `ytid, start s, end s, "mid,..."`')
    found = tuple(mid.strip() for mid in mids.split(",") if mid.strip())
    if unknown := [mid for mid in found if mid not in vocabulary.index_by_mid]:
        raise UserError(f"{where}: label {unknown[0]!r} is none of the {len(vocabulary)} classes")
    labels.clip_ids.append(f"Y{ytid}")
    labels.start_ms.append(round(start * 1000))
    labels.mids.append(found)


def read_durations(path: str | Path) -> dict[str, float]:
    """Read lengths of clips: CSV without a header, `Y<ytid>,seconds`.

    Returns:
        Clip id -> seconds; nothing where there is no such file.

    Raises:
        UserError: the file cannot be read, a row has not two fields, or a length is no positive number (file, line,
            value).
    """
    path = Path(path)
    durations: dict[str, float] = {}
    if not path.exists():
        return durations
    for line, row in _csv_rows(path, "the lengths of the clips"):
        try:
            name, seconds = row[0], parse_seconds(row[1])
        except (IndexError, ValueError):
            name, seconds = "", math.nan
        if not 0 < seconds < math.inf:
            raise UserError(f"{path}, line {line}: {','.join(row)!r} is not `Y<ytid>,seconds`")
        durations[name.removesuffix(".mp3")] = seconds
    return durations
