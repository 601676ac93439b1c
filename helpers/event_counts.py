"""Detected and true events of one recording in numbers: hits, false alarms, confusions; and intervals from draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Event = tuple[float, float, str]  # onset s, offset s, class name

INTERSECTION = 0.7  # share of a detection, and of an event, that must coincide: the criteria of PSDS1
MIN_OVERLAP = 0.2  # intersection over union of two events that may be one for the other
TOLERANCE = 1e-6  # s, rounding of times


def event_counts(detected: Sequence[Event], true: Sequence[Event], labels: Sequence[str]) -> np.ndarray:
    """Hits, false alarms and misses of one recording by the intersection criteria of PSDS1.

    A detection is relevant if at least 70 % of it lie in events of its class; an event is hit if relevant detections
    cover at least 70 % of it; detections that are not relevant are false alarms.

    Args:
        detected, true: events; those of one class do not overlap.
        labels: the C classes.

    Returns:
        int64 [C, 3].

    Source: Bilen et al., "A framework for the robust evaluation of sound event detection", ICASSP 2020.
    """
    counts = np.zeros((len(labels), 3), np.int64)
    for c, label in enumerate(labels):
        found, there = (
            np.array([e[:2] for e in events if e[2] == label]).reshape(-1, 2) for events in (detected, true)
        )
        shared = _overlaps(found, there)
        relevant = shared.sum(1) >= INTERSECTION * (found[:, 1] - found[:, 0]) - TOLERANCE
        hit = shared[relevant].sum(0) >= INTERSECTION * (there[:, 1] - there[:, 0]) - TOLERANCE
        counts[c] = hit.sum(), (~relevant).sum(), (~hit).sum()
    return counts


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Seconds that each of [N, 2] spans shares with each of [M, 2]."""
    end, start = np.minimum(first[:, None, 1], second[None, :, 1]), np.maximum(first[:, None, 0], second[None, :, 0])
    return np.maximum(end - start, 0.0)


def segment_counts(
    detected: Sequence[Event], true: Sequence[Event], labels: Sequence[str], duration: float, seconds: float = 1.0
) -> np.ndarray:
    """Hits, false alarms and misses among segments of a recording; the last one may be shorter.

    A segment is active where any part of it is.

    Args:
        detected, true, labels: as in `event_counts`.
        duration: of the recording, seconds.
        seconds: length of a segment.

    Returns:
        int64 [C, 3].
    """
    found, there = (_active(events, labels, duration, seconds) for events in (detected, true))
    return np.stack([(found & there).sum(1), (found & ~there).sum(1), (~found & there).sum(1)], axis=1)


def _active(events: Sequence[Event], labels: Sequence[str], duration: float, seconds: float) -> np.ndarray:
    """Which segments of each class an event touches, bool [C, n]."""
    active = np.zeros((len(labels), max(1, math.ceil(duration / seconds - TOLERANCE))), bool)
    for onset, offset, label in events:
        first, last = math.floor(onset / seconds + TOLERANCE), math.ceil(offset / seconds - TOLERANCE)
        active[labels.index(label), first:last] = True
    return active


def confusion(detected: Sequence[Event], true: Sequence[Event], labels: Sequence[str]) -> np.ndarray:
    """What was detected in place of each event of one recording.

    Events and detections are paired one to one so that together they overlap most (intersection over union, at least
    0.2 each), equal classes before all others.

    Args:
        detected, true, labels: as in `event_counts`.

    Returns:
        int64 [C + 1, C + 1]: row = class of the event, column = class of the detection; the last row counts detections
        without an event, the last column events without a detection.
    """
    from scipy.optimize import linear_sum_assignment

    index = {label: i for i, label in enumerate(labels)}
    rows, columns = (np.array([index[e[2]] for e in events], np.int64) for events in (true, detected))
    spans = [np.array([e[:2] for e in events]).reshape(-1, 2) for events in (true, detected)]
    shared = _overlaps(spans[0], spans[1])
    lengths = [span[:, 1] - span[:, 0] for span in spans]
    union = lengths[0][:, None] + lengths[1][None] - shared
    share = shared / np.maximum(union, TOLERANCE)
    possible = share >= MIN_OVERLAP
    gain = np.where(possible, share + len(share) * (rows[:, None] == columns[None]), 0.0)
    pairs = [(i, j) for i, j in zip(*linear_sum_assignment(gain, maximize=True), strict=True) if possible[i, j]]
    table = np.zeros((len(labels) + 1, len(labels) + 1), np.int64)
    for i, j in pairs:
        table[rows[i], columns[j]] += 1
    for i in set(range(len(rows))) - {i for i, _ in pairs}:
        table[rows[i], -1] += 1
    for j in set(range(len(columns))) - {j for _, j in pairs}:
        table[-1, columns[j]] += 1
    return table


class Estimate(NamedTuple):
    """A figure with the ends of its confidence interval; NaN where nothing could be counted."""

    value: float
    low: float
    high: float


def f1(counts: np.ndarray) -> np.ndarray:
    """F1 of hits, false alarms and misses [..., 3]; NaN where there is neither an event nor a detection."""
    tp, fp, fn = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    total = 2 * tp + fp + fn
    return np.divide(2 * tp, total, out=np.full(total.shape, np.nan), where=total > 0)


def f1_intervals(
    counts: np.ndarray, n_resamples: int = 1000, *, confidence: float = 0.95, seed: int = 0
) -> tuple[list[Estimate], Estimate]:
    """F1 of each class and their mean, with percentile intervals over resampled recordings.

    Args:
        counts: [N, C, 3] of recordings, or of groups of them that belong together: these are drawn.
        n_resamples: draws of N with replacement.
        confidence: share of the draws inside the interval.
        seed: of the draws.

    Returns:
        Estimates of the C classes, and of the mean over the classes that have events.
    """
    n = len(counts)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    total = counts.sum(0)
    scored = total[:, 0] + total[:, 2] > 0
    drawn = f1(np.einsum("rn,nck->rck", weights, counts))  # [R, C]
    tails = [50 * (1 - confidence), 50 * (1 + confidence)]

    def estimate(value: float, draws: np.ndarray) -> Estimate:
        draws = draws[~np.isnan(draws)]
        return Estimate(value, *(np.percentile(draws, tails).tolist() if len(draws) else (math.nan, math.nan)))

    classes = [estimate(value, drawn[:, c]) for c, value in enumerate(f1(total).tolist())]
    if not scored.any():
        return classes, Estimate(math.nan, math.nan, math.nan)
    known = ~np.isnan(drawn[:, scored])
    means = np.nansum(drawn[:, scored], axis=1) / np.maximum(known.sum(1), 1)
    return classes, estimate(float(np.nanmean(f1(total)[scored])), means[known.any(1)])
