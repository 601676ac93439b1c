"""Audio files and events of a task in HEAR's packaging, read and checked.

A task folder holds `16000/{train,valid,test}/*.wav` (mono, 16 kHz), `{train,valid,test}.json` (file name -> list of
{label, start, end}, milliseconds) and `labelvocabulary.csv` (idx, label); its `task_metadata.json` is not needed.

Source: Turian et al., "HEAR: Holistic Evaluation of Audio Representations", PMLR 176, 2022.
"""

from __future__ import annotations

import csv
import difflib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_util.audio import SAMPLE_RATE
from data_util.audio_file import DecodeError, measure
from data_util.audio_folders import beneath
from data_util.times import LATEST
from errors import UserError, reading, wrong_path

SPLITS = ("train", "valid", "test")
LABELS_FILE, METADATA_FILE = "labelvocabulary.csv", "task_metadata.json"
LABEL_COLUMNS = ("idx", "label")

log = logging.getLogger("efficientsed")


@dataclass(frozen=True)
class Recording:
    """One file of a split: its events as (start ms, end ms, class index), sorted, inside the file."""

    path: Path
    n_samples: int
    events: list[tuple[float, float, int]]


def read_labels(task_path: Path) -> list[str]:
    """Class names in the order of their index; raises UserError unless the indices are 0, 1, 2, ..., each once."""
    path = task_path / LABELS_FILE
    with reading(path, "the labels"):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    if not rows or not set(LABEL_COLUMNS) <= rows[0].keys():
        raise UserError(f"{path}: it must have the columns {','.join(LABEL_COLUMNS)} and a row per class")
    indices, labels = ([(row[name] or "").strip() for row in rows] for name in LABEL_COLUMNS)
    if sorted(indices) != sorted(str(i) for i in range(len(rows))):
        raise UserError(f"{path}: idx must be 0 to {len(rows) - 1}, each once, but is {', '.join(indices)[:80]}")
    if len(set(labels)) < len(labels) or "" in labels:
        raise UserError(f"{path}: every class needs a name of its own")
    return [label for _, label in sorted(zip(map(int, indices), labels, strict=True))]


def read_split(task_path: Path, split: str, labels: Sequence[str]) -> list[Recording]:
    """The files of a split with their events; of the audio only the headers are read.

    Events that go beyond their file are cut or left out, unreadable audio is left out, either with a warning.

    Raises:
        UserError: a missing or malformed file, an unknown label, a time that is no number or out of order.
    """
    annotations = _read_json(task_path / f"{split}.json")
    folder = task_path / str(SAMPLE_RATE) / split
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {wrong_path('folder', folder)}; --task_path is HEAR's folder of the task, with 16 kHz audio"
        )
    missing = [name for name in annotations if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise UserError(f"{len(missing)} files of {split}.json are not in {folder}: {', '.join(missing[:3])}")
    notes = _Notes(split)
    below = [p.relative_to(folder).as_posix() for p in beneath(folder)]
    notes.unlisted = [name for name in below if name not in annotations]
    found = [
        Recording(folder / name, n_samples, notes.inside(_parse(name, events, split, labels), n_samples))
        for name, events in annotations.items()
        if (n_samples := _length(folder / name, notes)) > 0
    ]
    notes.warn()
    if not found:
        raise UserError(f"{split}.json names no file in {folder} that can be read")
    return found


def _read_json(path: Path) -> dict[str, list[Any]]:
    with reading(path, "the events"):
        text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text, parse_int=float)  # integers may be larger than any time
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(content, dict) or not all(isinstance(events, list) for events in content.values()):
        raise UserError(f"{path}: it must map file names to lists of events")
    return content


def _parse(name: str, events: list[Any], split: str, labels: Sequence[str]) -> list[tuple[float, float, int]]:
    index = {label: i for i, label in enumerate(labels)}
    parsed = []
    for number, event in enumerate(events, start=1):
        where = f"{split}.json, {name}, event {number}"
        if not isinstance(event, dict) or not {"label", "start", "end"} <= event.keys():
            raise UserError(f"{where}: it must have label, start and end")
        label = str(event["label"]).strip()
        if label not in index:
            near = difflib.get_close_matches(label, labels, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where}: label {event['label']!r} is not in {LABELS_FILE}{hint}")
        start, end = event["start"], event["end"]
        if not all(isinstance(t, (int, float)) and not isinstance(t, bool) and math.isfinite(t) for t in (start, end)):
            raise UserError(f"{where}: start {start!r} and end {end!r} must be numbers of milliseconds")
        if not 0 <= start < end <= 1000 * LATEST:
            raise UserError(f"{where}: it starts at {start:g} ms and ends at {end:g} ms")
        parsed.append((float(start), float(end), index[label]))
    return sorted(parsed)


def _length(path: Path, notes: _Notes) -> int:
    """Samples of a file, 0 if it cannot be read; raises UserError for another sample rate."""
    try:
        length = measure(path)
    except DecodeError as error:
        notes.unreadable.append(f"{path.name} ({error})")
        return 0
    if length.sample_rate != SAMPLE_RATE:
        raise UserError(f"{path}: expected {SAMPLE_RATE} Hz in the folder {SAMPLE_RATE}, got {length.sample_rate} Hz")
    notes.odd += [f"{path.name} ({note})" for note in length.notes]
    return length.samples


@dataclass
class _Notes:
    """What was odd about a split, told in one warning."""

    split: str
    unlisted: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    odd: list[str] = field(default_factory=list)
    cut: int = 0
    beyond: int = 0
    overlapping: int = 0

    def inside(self, events: list[tuple[float, float, int]], n_samples: int) -> list[tuple[float, float, int]]:
        """The events of a file, cut to its length; overlaps within a class are counted."""
        duration = 1000 * n_samples / SAMPLE_RATE
        kept = [(start, min(end, duration), label) for start, end, label in events if start < duration]
        self.beyond += len(events) - len(kept)
        self.cut += sum(start < duration < end for start, end, _ in events)
        latest: dict[int, float] = {}
        for start, end, label in kept:
            self.overlapping += start < latest.get(label, 0.0)
            latest[label] = max(end, latest.get(label, 0.0))
        return kept

    def warn(self) -> None:
        notes = {
            "events end after their file and were cut": self.cut,
            "events begin after the end of their file and were left out": self.beyond,
            "events overlap one of their own class: their frames are joined, each counts in the scores": (
                self.overlapping
            ),
            f"files have no entry in {self.split}.json and were left out": len(self.unlisted),
            f"files cannot be read and were left out: {', '.join(self.unreadable[:3])}": len(self.unreadable),
            f"files have odd audio and are used as far as they go: {', '.join(self.odd[:3])}": len(self.odd),
        }
        for text, count in notes.items():
            if count:
                log.warning("%s: %d %s", self.split, count, text)
