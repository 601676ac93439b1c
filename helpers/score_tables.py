"""What goes into and out of the compiled loops of `score_kernels`, and sorting networks for the median filter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LONGEST_NETWORK = 63  # frames; longer median windows slide, at a cost that hardly grows with their length


class Windows(NamedTuple):
    """Median windows of C classes and how to filter with them."""

    lengths: np.ndarray  # int64 [C], odd
    steps: np.ndarray  # int64 [N, 2], comparators (lower, higher place) of the sorting networks, one after the other
    first: np.ndarray  # int64 [C], first comparator of each class
    last: np.ndarray  # int64 [C], last + 1; equal to `first` where the window slides instead


class Batch(NamedTuple):
    """Scores of B clips on their time grids."""

    scores: np.ndarray  # float32 or float64 [B, C, T]
    windows: Windows
    n_frames: np.ndarray  # int64 [B], frames that lie inside the clip
    stamps: np.ndarray  # float64 [B, T + 1], frame k lasts from stamps[k] to stamps[k + 1] seconds
    n_segments: np.ndarray  # int64 [B]
    segment_bounds: np.ndarray  # float64 [B, S + 1], seconds
    segment_frames: np.ndarray  # int64 [B, S, 2], first frame and last frame + 1 of each segment
    gaps: np.ndarray  # bool [B], whether a segment has no frame


class Events(NamedTuple):
    """Ground truth of the same clips, in two orders."""

    first: np.ndarray  # int64 [C * B + 1]: events first[c * B + b] ... first[c * B + b + 1] - 1 of class c in clip b
    onsets: np.ndarray  # float64 [E], sorted by class, clip, onset
    offsets: np.ndarray  # float64 [E]
    clip_first: np.ndarray  # int64 [B + 1], the same for the arrays below
    clip_label: np.ndarray  # int64 [E], sorted by clip, class, onset
    clip_onsets: np.ndarray  # float64 [E]
    clip_offsets: np.ndarray  # float64 [E]


class Criteria(NamedTuple):
    """What counts as a detection, and below which score nothing is needed any more."""

    dtc: float
    gtc: float
    cttc: float  # below 0: no cross triggers
    floor: np.ndarray  # float64 [C], for detections
    segment_floor: np.ndarray  # float64 [C], for segments without event


class Found(NamedTuple):
    """Output, one row per class; `counts` says how much of each row is used."""

    counts: np.ndarray  # int64 [C, 6]: turns, steps, triggers, peaks, quiet segments, active segments
    bad_clip: np.ndarray  # int64 [C], first clip with NaN or infinite scores, or -1
    turn_score: np.ndarray  # [C, B * T + 1], classes absent from a clip: number of detections changes by turn_sign
    turn_sign: np.ndarray  # int8
    turn_clip: np.ndarray  # int32
    step_score: np.ndarray  # [C, *], classes present in a clip: changes of false and true positives
    step_fp: np.ndarray  # int32
    step_tp: np.ndarray  # int32
    step_clip: np.ndarray  # int32
    trigger_score: np.ndarray  # [C, *], cross triggers with class trigger_other change by trigger_change
    trigger_change: np.ndarray  # int32
    trigger_other: np.ndarray  # int32
    trigger_clip: np.ndarray  # int32
    peak_score: np.ndarray  # [C, B], highest score of a clip without the class
    peak_clip: np.ndarray  # int32
    quiet: np.ndarray  # [C, B * S + 1], highest scores of the segments without the class
    active: np.ndarray  # [C, B * S], and of those with it


def plan_windows(lengths: np.ndarray) -> Windows:
    """Prepares the median filter for odd window lengths [C]."""
    networks = {n: median_network(n) if n <= LONGEST_NETWORK else [] for n in np.unique(lengths).tolist()}
    first, n_steps = {}, 0
    for n, network in networks.items():
        first[n] = n_steps
        n_steps += len(network)
    begin = np.array([first[n] for n in lengths.tolist()])
    end = begin + np.array([len(networks[n]) for n in lengths.tolist()])
    steps = np.array([step for network in networks.values() for step in network], np.int64).reshape(-1, 2)
    return Windows(np.asarray(lengths, np.int64), steps, begin, end)


def median_network(n: int) -> list[tuple[int, int]]:
    """Comparators that bring the median of n values to place n // 2 (Batcher's merge exchange without idle steps).

    Source: Knuth, The Art of Computer Programming, volume 3, algorithm 5.2.2M.
    """
    steps = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            steps += [(i, i + d) for i in range(n - d) if i & p == r]
            q, r, d = q // 2, p, q - p if q != p else 0
        p //= 2
    needed, kept = {n // 2}, []
    for low, high in reversed(steps):
        if low in needed or high in needed:
            needed |= {low, high}
            kept.append((low, high))
    return kept[::-1]
