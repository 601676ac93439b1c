"""Ground truth and durations as files, and which clips of them have scores."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from data_util.labels import load_vocabulary
from errors import UserError, reading

Event = tuple[float, float, str]
AUDIO_SUFFIXES = (".wav", ".mp3", ".flac", ".ogg", ".m4a", ".opus")


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises a UserError if the path is there and must not be replaced."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already; give --overwrite or another name")


def clip_of_name(name: str) -> str:
    """File name -> clip: without folders and the ending of an audio file."""
    name = name.rpartition("/")[2]
    return next((name[: -len(suffix)] for suffix in AUDIO_SUFFIXES if name.lower().endswith(suffix)), name)


def read_ground_truth(path: str | Path, vocabulary: str = "strong") -> dict[str, list[Event]]:
    """Reads events; the header tells which of two forms the file has.

    Args:
        path: TSV of sed_scores_eval (filename, onset, offset, event_label; clips without events have empty cells) or
            of AudioSet Strong (segment_id, start_time_seconds, end_time_seconds, label).
        vocabulary: "strong" or a file, for the names behind the labels of the second form.

    Returns:
        Clip -> events (onset s, offset s, class name).

    Raises:
        UserError: missing file, other columns, or a malformed line (file, line, value).
    """
    path = Path(path)
    with _open_text(path) as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        columns = rows.fieldnames or []
        if "segment_id" in columns:
            from data_util.label_files import read_strong_tsv

            classes = load_vocabulary(vocabulary)
            return read_strong_tsv(path, classes).as_lists(classes.names)
        if not {"filename", "onset", "offset", "event_label"} <= set(columns):
            raise UserError(f"{path}: columns {columns}; expected filename, onset, offset, event_label")
        truth: dict[str, list[Event]] = {}
        for line, row in enumerate(rows, start=2):
            events = truth.setdefault(clip_of_name(row["filename"] or ""), [])
            if row["event_label"]:
                events.append(
                    (_seconds(path, line, row["onset"]), _seconds(path, line, row["offset"]), row["event_label"])
                )
    return truth


def read_durations(path: str | Path) -> dict[str, float]:
    """Reads durations: TSV with the columns filename and duration, or CSV of `<clip>,<seconds>` without a header.

    Raises:
        UserError: missing file or a malformed line (file, line, value).
    """
    path = Path(path)
    durations: dict[str, float] = {}
    with _open_text(path) as lines:
        first = lines.readline()
        lines.seek(0)
        header = first.rstrip("\r\n").split("\t")
        if "filename" in header and "duration" in header:
            for line, row in enumerate(csv.DictReader(lines, delimiter="\t"), start=2):
                durations[clip_of_name(row["filename"] or "")] = _seconds(path, line, row["duration"])
            return durations
        for line, fields in enumerate(csv.reader(lines, delimiter="\t" if "\t" in first else ","), start=1):
            if fields:
                value = fields[1] if len(fields) == 2 else ""
                durations[clip_of_name(fields[0])] = _seconds(path, line, value)
    return durations


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    with reading(path, "the table"), path.open(encoding="utf-8-sig", newline="") as lines:
        yield lines


def _seconds(path: Path, line: int, text: str | None) -> float:
    try:
        seconds = float(text or "")
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise UserError(f"{path}, line {line}: {text!r} is not a number of seconds")
    return seconds


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
    scored: Sequence[str], truth: Mapping[str, Sequence[Event]]
) -> tuple[dict[str, str], list[str], list[str]]:
    """Finds the ground truth of each scored clip; a file may name clips `Y<id>` where the other writes `<id>`.

    Returns:
        Scored clip -> clip of the ground truth, scored clips without ground truth, clips without scores.
    """
    names = {clip_id: name for clip_id in scored for name in (f"Y{clip_id}", clip_id) if name in truth}
    without_truth = [clip_id for clip_id in scored if clip_id not in names]
    return names, without_truth, sorted(truth.keys() - set(names.values()))
