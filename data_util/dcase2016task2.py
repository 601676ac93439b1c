"""DCASE 2016 task 2 in HEAR's packaging: sound events in recordings of two minutes.

A task folder holds `16000/{train,valid,test}/*.wav` (mono, 16 kHz), `{train,valid,test}.json` (file name -> list of
{label, start, end}, milliseconds) and `labelvocabulary.csv` (idx, label); its `task_metadata.json` is not needed.

Source: Turian et al., "HEAR: Holistic Evaluation of Audio Representations", PMLR 176, 2022; Mesaros et al.,
"Detection and Classification of Acoustic Scenes and Events: Outcome of the DCASE 2016 Challenge", 2018.
"""

from __future__ import annotations

import csv
import difflib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch.utils.data import Dataset

from data_util.audio import CLIP_SAMPLES, SAMPLE_RATE, DecodeError, fix_length
from data_util.samplers import ShuffleSampler
from errors import UserError, reading

SPLITS = ("train", "valid", "test")
LABELS_FILE, METADATA_FILE = "labelvocabulary.csv", "task_metadata.json"
LABEL_COLUMNS = ("idx", "label")
CROPS_PER_FILE = 12  # training crops per file and epoch
FRAME_MS = 40.0
FRAME_SAMPLES = round(SAMPLE_RATE * FRAME_MS / 1000)
PIECE_FRAMES = CLIP_SAMPLES // FRAME_SAMPLES
END_TOLERANCE_MS = 1e-4  # an event that ends just at a frame's stamp covers it

log = logging.getLogger("efficientsed")


@dataclass(frozen=True)
class Recording:
    """One file of a split: its events as (start ms, end ms, class index), sorted, inside the file."""

    path: Path
    n_samples: int
    events: list[tuple[float, float, int]]

    @property
    def n_frames(self) -> int:
        """Frames whose middle lies in the file."""
        return math.ceil(self.n_samples / FRAME_SAMPLES - 0.5)


# ---- reading --------------------------------------------------------------------------------------------------


def read_labels(task_path: Path) -> list[str]:
    """Class names in the order of their index; raises UserError unless the indices are 0, 1, 2, ..., each once."""
    path = task_path / LABELS_FILE
    with reading(path, "the labels"):
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    if not rows or not set(LABEL_COLUMNS) <= rows[0].keys():
        raise UserError(f"{path}: it must have the columns {','.join(LABEL_COLUMNS)} and a row per class")
    indices, labels = [row["idx"] or "" for row in rows], [row["label"] or "" for row in rows]
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
            f"there is no folder {folder}; {task_path} must be HEAR's folder of the task, with 16 kHz audio"
        )
    missing = [name for name in annotations if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise UserError(f"{len(missing)} files of {split}.json are not in {folder}: {', '.join(missing[:3])}")
    notes = _Notes(split)
    notes.unlisted = [p.name for p in sorted(folder.glob("*.wav")) if p.name not in annotations]
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
        text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text)
    except ValueError as error:
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
        if event["label"] not in labels:
            near = difflib.get_close_matches(str(event["label"]), labels, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"{where}: label {event['label']!r} is not in {LABELS_FILE}{hint}")
        start, end = event["start"], event["end"]
        if not all(isinstance(t, (int, float)) and not isinstance(t, bool) and math.isfinite(t) for t in (start, end)):
            raise UserError(f"{where}: start {start!r} and end {end!r} must be numbers of milliseconds")
        if not 0 <= start < end:
            raise UserError(f"{where}: it starts at {start:g} ms and ends at {end:g} ms")
        parsed.append((float(start), float(end), index[event["label"]]))
    return sorted(parsed)


def _length(path: Path, notes: _Notes) -> int:
    """Samples of a file, 0 if it cannot be read; raises UserError for another sample rate."""
    try:
        info = soundfile.info(path)
    except (soundfile.SoundFileError, OSError) as error:
        notes.unreadable.append(f"{path.name} ({getattr(error, 'error_string', error)})")
        return 0
    if info.samplerate != SAMPLE_RATE:
        raise UserError(f"{path}: {info.samplerate} Hz; files in the folder {SAMPLE_RATE} must have {SAMPLE_RATE} Hz")
    if info.frames == 0:
        notes.unreadable.append(f"{path.name} (no samples)")
    return info.frames


@dataclass
class _Notes:
    """What was odd about a split, told in one warning."""

    split: str
    unlisted: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
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
        }
        for text, count in notes.items():
            if count:
                log.warning("%s: %d %s", self.split, count, text)


# ---- data sets ------------------------------------------------------------------------------------------------


def frame_labels(recording: Recording, first_frame: int, n_classes: int) -> np.ndarray:
    """Frame-wise labels of 10 s, uint8 [C, 250]: 1 where the frame's middle lies in an event.

    Args:
        recording: with its events.
        first_frame: frame of the file, at 25 per second, that comes first.
        n_classes: C.
    """
    stamps = (first_frame + np.arange(PIECE_FRAMES) + 0.5) * FRAME_MS
    target = np.zeros((n_classes, PIECE_FRAMES), np.uint8)
    for start, end, label in recording.events:
        first, stop = np.searchsorted(stamps, (start, end + END_TOLERANCE_MS))
        target[label, first:stop] = 1
    return target


def read_piece(path: Path, first_frame: int) -> np.ndarray:
    """10 s of a file from a frame on, float32 [160000], zeros after its end; only these samples are read.

    Raises:
        DecodeError: the samples cannot be read or are not finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(first_frame * FRAME_SAMPLES)
            audio = file.read(CLIP_SAMPLES, dtype="float32", always_2d=True).mean(axis=1)
    except (soundfile.SoundFileError, OSError, RuntimeError) as error:
        raise DecodeError(str(error)) from None
    if not np.isfinite(audio).all():
        raise DecodeError("samples that are not finite")
    return fix_length(audio)


class Dcase2016Task2(Dataset):
    """Pieces of 10 s of one split; the base of `Crops` and `Pieces`.

    A sample is a dict: audio float32 [160000], strong uint8 [C, 250], file and first_frame int, valid bool (False: the
    samples could not be read; silence without events stands in their place, and the file is reported).

    Attributes:
        labels: names of the C classes.
        recordings: the files with their events.
    """

    def __init__(self, task_path: Path, split: str) -> None:
        """Read names and labels; raises UserError, see `read_labels` and `read_split`."""
        self.labels = read_labels(task_path)
        self.split, self.recordings = split, read_split(task_path, split, self.labels)
        # 1: cannot be read, 3: that was reported, too; written by all loader processes, read by the main one
        self._status = torch.zeros(len(self.recordings), dtype=torch.uint8).share_memory_()

    def place(self, index: int) -> tuple[int, int]:
        """File and first frame of a sample."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        file, first_frame = self.place(int(index))
        recording, valid = self.recordings[file], True
        strong = frame_labels(recording, first_frame, len(self.labels))
        try:
            audio = read_piece(recording.path, first_frame)
        except DecodeError:
            self._status[file] |= 1
            valid, audio, strong = False, np.zeros(CLIP_SAMPLES, np.float32), np.zeros_like(strong)
        tensors = {"audio": torch.from_numpy(audio), "strong": torch.from_numpy(strong)}
        return {**tensors, "file": file, "first_frame": first_frame, "valid": valid}

    def new_corrupt_report(self) -> str | None:
        """One line about files that could not be read and that no earlier call has reported; None: nothing new."""
        fresh = (self._status == 1).nonzero().flatten().tolist()
        self._status[fresh] = 3
        names = ", ".join(self.recordings[i].path.name for i in fresh)
        return f"{self.split}: {len(fresh)} files could not be read and do not count: {names}" if fresh else None

    def ground_truth(self) -> dict[str, list[tuple[float, float, str]]]:
        """File name -> list of (onset s, offset s, class name)."""
        return {
            recording.path.name: [(a / 1000, b / 1000, self.labels[label]) for a, b, label in recording.events]
            for recording in self.recordings
        }


class Crops(Dcase2016Task2):
    """Random crops for training, on the grid of the frames: 12 per file and epoch, to be drawn by `CropSampler`.

    Where a crop lies depends on the seed and the index alone; indices count on from epoch to epoch.
    """

    def __init__(self, task_path: Path, split: str = "train", *, seed: int = 0) -> None:
        """Args: folder of the task, split, seed of the crops."""
        super().__init__(task_path, split)
        self.seed = seed

    def __len__(self) -> int:
        return CROPS_PER_FILE * len(self.recordings)

    def place(self, index: int) -> tuple[int, int]:
        file = index % len(self.recordings)
        n_places = max(0, self.recordings[file].n_samples // FRAME_SAMPLES - PIECE_FRAMES) + 1
        return file, int(np.random.default_rng([self.seed, index]).integers(n_places))


class Pieces(Dcase2016Task2):
    """The files of a split in consecutive pieces of 10 s (twelve for two minutes), for evaluation.

    A sample has its labels under `target`: what is scored is the whole file, see `join`.
    """

    def __init__(self, task_path: Path, split: str) -> None:
        """Args: folder of the task, split."""
        super().__init__(task_path, split)
        self.names = [recording.path.name for recording in self.recordings]
        counts = [max(1, math.ceil(r.n_frames / PIECE_FRAMES)) for r in self.recordings]
        self._places = [(file, k * PIECE_FRAMES) for file, count in enumerate(counts) for k in range(count)]

    def __len__(self) -> int:
        return len(self._places)

    def place(self, index: int) -> tuple[int, int]:
        return self._places[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        sample["target"] = sample.pop("strong")
        return sample

    def join(self, file: int, pieces: Mapping[tuple[int, int], np.ndarray]) -> np.ndarray | None:
        """What pieces say about a whole file.

        Args:
            file: number of the file.
            pieces: (file, first frame) -> [C, 250].

        Returns:
            [C, frames of the file]; None if a piece of it is missing.
        """
        n_frames = self.recordings[file].n_frames
        of_file = [pieces.get((file, first)) for first in range(0, max(1, n_frames), PIECE_FRAMES)]
        found = [piece for piece in of_file if piece is not None]
        return np.concatenate(found, axis=1)[:, :n_frames] if len(found) == len(of_file) else None


class CropSampler(ShuffleSampler):
    """Shuffles the crops of an epoch, with indices that count on from epoch to epoch so that each gives new crops."""

    def order(self, epoch: int) -> np.ndarray:
        """Indices (int64 [n_samples]) of all ranks in this epoch."""
        return super().order(epoch) + epoch * self.n_clips
