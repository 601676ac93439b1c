"""The clips of a clip-wise task as a map-style data set, straight from their audio files.

A sample is a dict that the default collate function can stack:

    audio     float32 [N]   mono, 16 kHz; in training always of the length asked for
    weak      float32 [C]   0 or 1
    known     float32 [C]   which of these are known (tasks with partial labels)
    group     int           number of the clip's group, such as its recording device (tasks that have them)
    clip_id   str           name of the file
    index     int           of the clip in the data set
    valid     bool          False: the file cannot be decoded; audio is silence, leave it out of scores

Files that cannot be decoded are handled as `data_util.audioset` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_util.audio import SAMPLE_RATE, decode, fix_length
from data_util.audioset import ClipDataset
from data_util.downstream import ClipList
from data_util.samplers import ShuffleSampler


class AudioFiles:
    """Files of a split in place of a packed HDF5 file.

    Attributes:
        path: folder that all of them are in.
        clip_ids: their names.
    """

    def __init__(self, clips: ClipList) -> None:
        self.path, self._paths = clips.paths[0].parent, list(clips.paths)
        self.clip_ids = np.array([path.name for path in self._paths], np.str_)

    def mp3(self, row: int) -> bytes:
        """The bytes of a file, of whatever format."""
        return Path(self._paths[row]).read_bytes()


class TaskClips(ClipDataset):
    """Clips of one split of a task.

    Args:
        clips: the split.
        seconds: length of a clip; shorter files are padded with zeros, longer ones cut at random.
        seed: of the random cuts; None: for evaluation, where longer files are cut at their end, or kept.
        whole: keep longer files whole (evaluation only; clips then differ in length).
    """

    def __init__(self, clips: ClipList, seconds: float, *, seed: int | None = None, whole: bool = False) -> None:
        files: Any = AudioFiles(clips)
        super().__init__([files], [np.arange(len(clips))], replace_corrupt=seed is not None)
        self.clips, self.seed, self.whole = clips, seed, whole
        self.n_samples = round(seconds * SAMPLE_RATE)
        self.groups = sorted(set(clips.groups))

    def decoded(self, index: int) -> np.ndarray:
        """All of a file, float32 [n]."""
        return decode(self.mp3(index))

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The sample of a clip; numbers beyond the last clip go round again, with other random cuts (`EpochCuts`)."""
        epoch, index = divmod(int(number), len(self))
        audio = self.audio(index)
        if audio is None and self.replace_corrupt:
            index, audio = self._replacement(index)
        valid = audio is not None
        cut = self._cut(np.zeros(0, np.float32) if audio is None else audio, epoch, index)
        return {**self.sample(index), "audio": torch.from_numpy(cut), "valid": valid}

    def _cut(self, audio: np.ndarray, epoch: int, index: int) -> np.ndarray:
        surplus = len(audio) - self.n_samples
        if surplus > 0 and self.whole:
            return audio
        first = 0
        if surplus > 0 and self.seed is not None:
            first = int(np.random.default_rng([self.seed, epoch, index]).integers(surplus + 1))
        return fix_length(audio[first : first + self.n_samples], self.n_samples)

    def sample(self, index: int) -> dict[str, Any]:
        """Labels and name of a clip."""
        clips = self.clips
        sample: dict[str, Any] = {"weak": torch.from_numpy(clips.targets[index])}
        if clips.known is not None:
            sample["known"] = torch.from_numpy(clips.known[index].astype(np.float32))
        if clips.groups:
            sample["group"] = self.groups.index(clips.groups[index])
        return {**sample, "clip_id": self.clip_ids[index], "index": index}


class EpochCuts(ShuffleSampler):
    """Shuffled clips, numbered on from epoch to epoch, so that `TaskClips` knows in its workers which cut to draw."""

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.n_clips
        return (first + index for index in super().__iter__())
