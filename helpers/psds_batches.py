"""Checks clips and lays them out for the compiled loops: time grids, segments, events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from errors import UserError
from helpers.score_tables import Events

Event = tuple[float, float, str]
SHORTEST_FRAME = 1e-6  # seconds; times are compared with 6 decimals


def clip_duration(clip_id: str, durations: Mapping[str, float]) -> float:
    """Looks up the seconds of one clip.

    Raises:
        UserError: missing, or not a positive number.
    """
    if clip_id not in durations:
        raise UserError(f"clip {clip_id}: no duration; add it to the durations or leave the clip out")
    duration = float(durations[clip_id])
    if not 0.0 < duration < math.inf:
        raise UserError(f"clip {clip_id}: duration {duration} s; expected a positive number of seconds")
    return duration


def clip_events(
    clip_id: str, ground_truth: Mapping[str, Sequence[Event]], class_index: Mapping[str, int]
) -> list[tuple[int, float, float]]:
    """Checks the events of one clip and joins those of one class that touch.

    Returns:
        (class index, onset s, offset s), sorted.

    Raises:
        UserError: the clip or a class is unknown, an event ends before it starts, events of one class overlap.
    """
    if clip_id not in ground_truth:
        raise UserError(f"clip {clip_id}: not in the ground truth; add it (without events if it has none)")
    rows: list[tuple[int, float, float]] = []
    for onset, offset, label in ground_truth[clip_id]:
        if label not in class_index:
            raise UserError(f"clip {clip_id}: class {label!r} is not among the {len(class_index)} scored classes")
        if not 0.0 <= onset < offset < math.inf:
            raise UserError(f"clip {clip_id}: {label!r} from {onset} s to {offset} s; expected 0 <= onset < offset")
        rows.append((class_index[label], float(onset), float(offset)))
    rows.sort()
    joined: list[tuple[int, float, float]] = []
    for c, onset, offset in rows:
        if joined and joined[-1][0] == c and onset <= joined[-1][2]:
            if onset < joined[-1][2]:
                name = list(class_index)[c]
                raise UserError(
                    f"clip {clip_id}: events of {name!r} overlap at {onset} s; merge overlapping events of one class"
                )
            joined[-1] = (c, joined[-1][1], offset)
        else:
            joined.append((c, onset, offset))
    return joined


def event_table(clips: Sequence[Sequence[tuple[int, float, float]]], n_classes: int) -> Events:
    """Lays out the events of B clips (class, onset, offset; sorted within each clip) by class and by clip."""
    table = np.array([(b, *event) for b, events in enumerate(clips) for event in events]).reshape(-1, 4)
    clip, label = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    key = label * len(clips) + clip
    by_class = np.argsort(key, kind="stable")
    return Events(
        first=np.searchsorted(key[by_class], np.arange(n_classes * len(clips) + 1)),
        onsets=table[by_class, 2].copy(),
        offsets=table[by_class, 3].copy(),
        clip_first=np.searchsorted(clip, np.arange(len(clips) + 1)),
        clip_label=label,
        clip_onsets=table[:, 2].copy(),
        clip_offsets=table[:, 3].copy(),
    )


def frame_grid(n_frames: int, frame_rate: float, duration: float) -> tuple[int, np.ndarray]:
    """Time grid of one clip at a fixed frame rate, cut at the end of the clip.

    Returns:
        The number of frames that begin before `duration`, and the T + 1 stamps in seconds (frame k lasts from stamp k
        to stamp k + 1; those after the last scored frame are meaningless).
    """
    stamps = np.arange(n_frames + 1) / frame_rate
    n = max(1, int(np.searchsorted(stamps[:-1], duration - SHORTEST_FRAME, side="left")))
    stamps[n] = min(stamps[n], duration)
    return n, stamps


def check_stamps(clip_id: str, stamps: np.ndarray, n_frames: int) -> np.ndarray:
    """Checks given frame times.

    Raises:
        UserError: not T + 1 of them, not ascending from 0 or later, or a frame shorter than a microsecond.
    """
    stamps = np.asarray(stamps, dtype=np.float64)
    if stamps.shape != (n_frames + 1,):
        raise UserError(f"clip {clip_id}: {stamps.size} time stamps for {n_frames} frames; expected {n_frames + 1}")
    if not (stamps[0] >= 0.0 and (np.diff(stamps) > SHORTEST_FRAME).all() and np.isfinite(stamps[-1])):
        raise UserError(f"clip {clip_id}: time stamps must ascend from 0 s or later by more than a microsecond")
    return stamps


def segment_grid(stamps: np.ndarray, duration: float, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Cuts one clip into segments of equal length and finds the frames of each.

    Args:
        stamps: [n + 1] frame times.
        duration: of the clip in seconds; the last segment may reach beyond it.
        seconds: length of a segment.

    Returns:
        Bounds [S + 1] in seconds and frames [S, 2] (first, last + 1; first >= last + 1 in a segment without frames).
    """
    stamps = np.round(stamps, 6)
    bounds = np.round(np.arange(math.ceil(duration / seconds) + 1) * seconds, 6)
    first = np.maximum(np.searchsorted(stamps, bounds[:-1], side="right") - 1, 0)
    last = np.minimum(np.searchsorted(stamps, bounds[1:], side="left"), len(stamps) - 1)
    return bounds, np.stack((first, last), axis=1)
