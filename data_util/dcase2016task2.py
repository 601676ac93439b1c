"""DCASE 2016 task 2 as data sets: random crops for training, consecutive pieces of whole files for evaluation.

The folder is in HEAR's packaging, see `data_util.hear_files`.

Source: Mesaros et al., "Detection and Classification of Acoustic Scenes and Events: Outcome of the DCASE 2016
Challenge", IEEE/ACM TASLP 26(2), 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data_util.audio import CLIP_SAMPLES, SAMPLE_RATE, DecodeError, fix_length, read_part
from data_util.hear_files import Recording, read_labels, read_split
from data_util.samplers import ShuffleSampler

CROPS_PER_FILE = 12  # training crops per file and epoch
FRAME_MS = 40.0
FRAME_SAMPLES = round(SAMPLE_RATE * FRAME_MS / 1000)
PIECE_FRAMES = CLIP_SAMPLES // FRAME_SAMPLES
END_TOLERANCE_MS = 1e-4  # an event that ends just at a frame's stamp covers it


def count_frames(n_samples: int) -> int:
    """Frames whose middle lies within so many samples."""
    return math.ceil(n_samples / FRAME_SAMPLES - 0.5)


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
    return fix_length(read_part(path, first_frame * FRAME_SAMPLES / SAMPLE_RATE, CLIP_SAMPLES / SAMPLE_RATE))


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
        counts = [max(1, math.ceil(count_frames(r.n_samples) / PIECE_FRAMES)) for r in self.recordings]
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
        n_frames = count_frames(self.recordings[file].n_samples)
        of_file = [pieces.get((file, first)) for first in range(0, max(1, n_frames), PIECE_FRAMES)]
        found = [piece for piece in of_file if piece is not None]
        return np.concatenate(found, axis=1)[:, :n_frames] if len(found) == len(of_file) else None


class CropSampler(ShuffleSampler):
    """Shuffles the crops of an epoch, with indices that count on from epoch to epoch so that each gives new crops."""

    def order(self, epoch: int) -> np.ndarray:
        """Indices (int64 [n_samples]) of all ranks in this epoch."""
        return super().order(epoch) + epoch * self.n_clips
