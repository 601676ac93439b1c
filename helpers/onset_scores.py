"""Events out of frame scores, and their scores, as DCASE 2016 task 2 has them in HEAR.

Onset F-measure and segment error rate equal those of sed_eval, which is not needed for them.

Source: Mesaros et al., "Metrics for Polyphonic Sound Event Detection", Applied Sciences 6(6), 2016.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

COLLARS = {"onset_fms": 0.2, "onset_fms_50": 0.05}  # s, of the onset F-measures
SEGMENT_SECONDS = 1.0  # of the error rate

Event = tuple[float, float, str]  # onset s, offset s, class name


# ---- events -----------------------------------------------------------------------------------------------------


def smooth_activity(active: np.ndarray, window: int) -> np.ndarray:
    """Median filter of decisions along time, with mirrored edges; equal to `scipy.ndimage.median_filter`.

    A window of even length takes the upper of its two middle values, as SciPy does and as the published scores do: 6
    frames around i are i - 3 ... i + 2, and 3 of them suffice. Filtering decisions equals filtering the scores
    before they are compared with a threshold: ranks do not change.

    Args:
        active: bool [C, T].
        window: frames, 1 or more.

    Returns:
        bool [C, T].
    """
    before, after = window // 2, window - window // 2 - 1
    padded = np.pad(active.astype(np.int32), ((0, 0), (before + 1, after)), mode="symmetric")
    padded[:, 0] = 0
    sums = padded.cumsum(axis=1)
    return sums[:, window:] - sums[:, :-window] >= window - window // 2


def find_events(
    active: np.ndarray, labels: Sequence[str], *, frame_ms: float = 40.0, min_ms: float = 125.0
) -> list[Event]:
    """Runs of active frames as events, from the middle of the first frame to the middle of the last.

    Args:
        active: bool [C, T].
        labels: C class names.
        frame_ms: length of a frame, milliseconds.
        min_ms: runs that are shorter, from middle to middle, are left out.

    Returns:
        Events sorted by onset.
    """
    edges = np.diff(np.pad(active.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    classes, first = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    keep = (stop - 1 - first) * frame_ms >= min_ms
    onset, offset = ((frames[keep] * frame_ms + frame_ms / 2) / 1000 for frames in (first, stop - 1))
    return sorted(zip(onset.tolist(), offset.tolist(), [labels[c] for c in classes[keep]], strict=True))


# ---- scores -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """What the F-measure of some events is made of."""

    n_true: int = 0
    n_found: int = 0
    n_hits: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.n_true + other.n_true, self.n_found + other.n_found, self.n_hits + other.n_hits)

    @property
    def f_measure(self) -> float:
        """F1 in [0, 1]; 0 without a hit, NaN with neither true nor found events."""
        total = self.n_true + self.n_found
        return 2 * self.n_hits / total if total else math.nan


def count_onset_hits(true: Iterable[float], found: Iterable[float], collar: float) -> Counts:
    """Match true and found onsets (s) of one class in one file, each at most once, as many as possible.

    Going through both in order and pairing the earliest ones in reach of each other is optimal for points on a line.
    """
    a, b = sorted(true), sorted(found)
    i = j = hits = 0
    while i < len(a) and j < len(b):
        if math.fabs(a[i] - b[j]) <= collar:
            i, j, hits = i + 1, j + 1, hits + 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return Counts(len(a), len(b), hits)


def segment_errors(true: Sequence[Event], found: Sequence[Event], labels: Sequence[str]) -> tuple[int, int]:
    """Substitutions, deletions and insertions in one file, and the number of true active classes, over segments.

    Args:
        true: events of the file.
        found: events found in it.
        labels: names of the classes.
    """
    n_segments = max((math.ceil(offset / SEGMENT_SECONDS) for _, offset, _ in (*true, *found)), default=0)
    index = {label: i for i, label in enumerate(labels)}
    rolls = np.zeros((2, n_segments, len(labels)), bool)
    for roll, events in zip(rolls, (true, found), strict=True):
        for onset, offset, label in events:
            roll[math.floor(onset / SEGMENT_SECONDS) : math.ceil(offset / SEGMENT_SECONDS), index[label]] = True
    n_true, n_found = rolls.sum(axis=2)
    n_hits = (rolls[0] & rolls[1]).sum(axis=1)
    # max(true, found) - hits: those of the smaller number that are wrong, plus the difference
    return int((np.maximum(n_true, n_found) - n_hits).sum()), int(n_true.sum())


@dataclass(frozen=True)
class OnsetScores:
    """Figures over all files: overall onset F-measures, segment error rate, and F-measures per class.

    Attributes:
        overall: onset_fms (collar 200 ms), onset_fms_50 (50 ms), segment_1s_er.
        per_class: figure -> class name -> onset F-measure; NaN for a class without events.
    """

    overall: dict[str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)


def score_events(
    true: Mapping[str, Sequence[Event]], found: Mapping[str, Sequence[Event]], labels: Sequence[str]
) -> OnsetScores:
    """Score the events found in some files.

    Args:
        true: file -> events; these files are scored.
        found: file -> events; a file that is not there has none.
        labels: names of the classes.

    Returns:
        Overall figures as sed_eval defines them (counts summed over files and classes); the F-measure is 0 where
        nothing is found, where sed_eval by default gives NaN; the error rate is NaN without true events.
    """
    counts = {figure: {label: Counts() for label in labels} for figure in COLLARS}
    errors = n_active = 0
    for name, events in true.items():
        answers = found.get(name, ())
        for label in labels:
            there, heard = ([onset for onset, _, other in some if other == label] for some in (events, answers))
            for figure, collar in COLLARS.items():
                counts[figure][label] += count_onset_hits(there, heard, collar)
        wrong, active = segment_errors(events, answers, labels)
        errors, n_active = errors + wrong, n_active + active
    overall = {figure: sum(of_class.values(), start=Counts()).f_measure for figure, of_class in counts.items()}
    overall["segment_1s_er"] = errors / n_active if n_active else math.nan
    per_class = {figure: {label: c.f_measure for label, c in of_class.items()} for figure, of_class in counts.items()}
    return OnsetScores(overall, per_class)
