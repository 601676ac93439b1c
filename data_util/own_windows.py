"""One's own recordings as windows of equal length for training and validation.

A sample has the form of those of `data_util.audioset`: `audio` float32 [N], `strong` uint8 [C, T], `clip_id`, `index`,
`valid`. Of each file only the samples of the window are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data_util.audio import CLIP_SECONDS, SAMPLE_RATE, DecodeError, fix_length, read_part
from data_util.labels import FRAME_RATE, encode_events
from data_util.own_data import Event, Recording

SHORTEST_WINDOW = 1.0  # s
SHORTEST_REST = 0.2  # s; what remains of a recording after its last whole window, below which it is left out


@dataclass(frozen=True)
class Window:
    """A part of a recording: start and duration in seconds, and the events in it, counted from its start."""

    recording: Recording
    start: float
    duration: float
    events: tuple[Event, ...]

    @property
    def clip_id(self) -> str:
        """Name of the recording, and where in it."""
        return self.recording.name if self.start == 0 else f"{self.recording.name} from {self.start:g} s"


def window_seconds(recordings: Sequence[Recording]) -> float:
    """Length of the windows: 10 s, or whole seconds that the longest recording fits into."""
    longest = max(recording.duration for recording in recordings)
    return float(min(CLIP_SECONDS, max(SHORTEST_WINDOW, math.ceil(longest - 1e-6))))


def cut(recordings: Sequence[Recording], seconds: float, hop: float) -> list[Window]:
    """Windows over recordings; the last one of each may be shorter.

    Args:
        recordings: in the order of the windows.
        seconds: length of a window.
        hop: from one start to the next, in (0, seconds].
    """
    windows = []
    for recording in recordings:
        n = max(1, math.ceil((recording.duration - seconds - SHORTEST_REST) / hop) + 1)
        for start in np.arange(n) * hop:
            duration = min(seconds, recording.duration - start)
            inside = tuple(
                (max(onset - start, 0.0), min(offset - start, duration), label)
                for onset, offset, label in recording.events
                if onset < start + duration and offset > start
            )
            windows.append(Window(recording, float(start), float(duration), inside))
    return windows


class OwnWindows(Dataset):
    """Windows of recordings, zero-padded to one length; what cannot be decoded comes as silence, `valid` False.

    Attributes:
        windows: in the order of the indices.
        labels: the classes, in the order of the targets.
        seconds: length of the samples.
    """

    def __init__(self, recordings: Sequence[Recording], labels: Sequence[str], seconds: float, hop: float) -> None:
        """Args: the recordings, the classes, length of the windows and distance of their starts in seconds."""
        self.labels, self.seconds = tuple(labels), seconds
        self.windows = cut(recordings, seconds, hop)
        self._index = {label: i for i, label in enumerate(labels)}
        # one byte per window in shared memory: 1 cannot be decoded, 2 has been reported
        self._corrupt = torch.zeros(len(self.windows), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        window = self.windows[int(index)]
        audio, events, valid = np.zeros(0, np.float32), window.events, True
        try:
            audio = read_part(window.recording.path, window.start, window.duration, window.recording.channel)
        except DecodeError:
            events, valid = (), False
            self._corrupt[index] = max(1, int(self._corrupt[index]))
        columns = np.array([(onset, offset, self._index[label]) for onset, offset, label in events]).reshape(-1, 3).T
        n_frames = round(self.seconds * FRAME_RATE)
        strong = encode_events(columns[0], columns[1], columns[2].astype(np.int64), len(self.labels), n_frames)
        return {
            "audio": torch.from_numpy(fix_length(audio, round(self.seconds * SAMPLE_RATE))),
            "strong": torch.from_numpy(strong),
            "clip_id": window.clip_id,
            "index": int(index),
            "valid": valid,
        }

    def ground_truth(self) -> dict[str, list[Event]]:
        """Window -> its events."""
        return {window.clip_id: list(window.events) for window in self.windows}

    def durations(self) -> dict[str, float]:
        """Window -> seconds without the padding."""
        return {window.clip_id: window.duration for window in self.windows}

    def new_corrupt_report(self) -> str | None:
        """One line about windows that cannot be decoded and that no earlier call has reported."""
        fresh = (self._corrupt == 1).nonzero().flatten().tolist()
        if not fresh:
            return None
        self._corrupt[fresh] = 2
        names = ", ".join(self.windows[i].clip_id for i in fresh)
        return f"{len(fresh)} windows cannot be decoded and are left out: {names}"

    def sampling_weights(self, imbalance: float = 4.0) -> np.ndarray | None:
        """How often each window should be drawn; None where all may be drawn alike.

        A window weighs 1 / sqrt(windows with its rarest class), and all windows without events together weigh as much
        as a quarter of the others. None where no class has `imbalance` times the windows of another and at most half
        of the windows are empty.
        """
        present = [{self._index[label] for *_, label in window.events} for window in self.windows]
        counts = np.bincount([c for classes in present for c in classes], minlength=len(self.labels))
        empty = np.array([not classes for classes in present])
        known = counts[counts > 0]
        if known.max() < imbalance * known.min() and empty.mean() <= 0.5:
            return None
        weights = np.array([max((counts[c] ** -0.5 for c in classes), default=0.0) for classes in present])
        weights[empty] = 0.25 * weights.sum() / max(1, empty.sum())
        return weights
