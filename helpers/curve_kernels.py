"""Compiled walk down the thresholds of one class; compiled on first use and kept on disk by numba."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from helpers.compiling import compiled


class Changes(NamedTuple):
    """What changes in the counts of one class when the threshold falls to each score, in descending order of score."""

    score: np.ndarray  # float32 or float64 [N]
    fp: np.ndarray  # int32 [N], false positives, or the cross triggers with class `other`
    tp: np.ndarray  # int32 [N], true positives
    clip: np.ndarray  # int32 [N], row of the clip in the weights
    other: np.ndarray  # int32 [N], -1 for false positives; empty when there are no cross triggers at all


class Rates(NamedTuple):
    """How counts become false positives per hour."""

    seconds: float  # total duration of the clips
    alpha_ct: float
    per_second: np.ndarray  # float64 [C], 1 / seconds of events of each class
    n_other: int  # number of other classes
    max_efpr: float


@compiled()
def _insert(x, tp, score, efpr, hits, threshold, n):  # type: ignore[no-untyped-def]
    """Inserts a point into the front of length n unless another has no more false and no fewer true positives."""
    first = n  # of the points with more false positives; nearly always the end, since both counts mostly grow
    while efpr[first - 1] > x:
        first -= 1
    if tp <= hits[first - 1]:
        return n
    if efpr[first - 1] == x:
        first -= 1
    last = first
    while last < n and hits[last] <= tp:
        last += 1
    shift = first + 1 - last
    if shift > 0:
        for i in range(n - 1, last - 1, -1):
            efpr[i + 1], hits[i + 1], threshold[i + 1] = efpr[i], hits[i], threshold[i]
    elif shift < 0:
        for i in range(last, n):
            efpr[i + shift], hits[i + shift], threshold[i + shift] = efpr[i], hits[i], threshold[i]
    efpr[first], hits[first], threshold[first] = x, tp, score
    return n + shift


@compiled()
def _set_leaf(tree, leaf, value):  # type: ignore[no-untyped-def]
    """Sets one of the len(tree) / 2 terms of a sum of which tree[1] is the total.

    Adding and subtracting would leave rounding errors behind that depend on the order; this total does not.
    """
    i = len(tree) // 2 + leaf
    tree[i] = value
    while i > 1:
        i //= 2
        tree[i] = tree[2 * i] + tree[2 * i + 1]


@compiled()
def operating_points(changes, rates, weights, efpr, hits, threshold):  # type: ignore[no-untyped-def]
    """Finds the operating points of one class that no other threshold beats.

    Args:
        changes: the class's counts; equal scores count as one threshold.
        rates: see above; points above max_efpr are left out.
        weights: int32 [n_clips], how often each clip is counted.
        efpr, hits, threshold: output of at least N + 1 values: false positives per hour (strictly increasing, from
            0), true positives (strictly increasing), score that the threshold must fall below.

    Returns:
        The number of points.
    """
    efpr[0], hits[0], threshold[0] = 0.0, 0, np.inf
    n, fp, tp = 1, 0, 0
    has_triggers = len(changes.other) > 0
    n_triggers = np.zeros(len(rates.per_second), np.int64)
    n_leaves = 1
    while n_leaves < len(n_triggers):
        n_leaves *= 2
    triggers = np.zeros(2 * n_leaves)
    for i in range(len(changes.score)):
        weight = weights[changes.clip[i]]
        if has_triggers and changes.other[i] >= 0:
            other = changes.other[i]
            n_triggers[other] += weight * changes.fp[i]
            _set_leaf(triggers, other, n_triggers[other] * rates.per_second[other])
        else:
            fp += weight * changes.fp[i]
            tp += weight * changes.tp[i]
        if i + 1 < len(changes.score) and changes.score[i + 1] == changes.score[i]:
            continue
        x = fp / rates.seconds
        if has_triggers:
            x += rates.alpha_ct * (triggers[1] / rates.n_other)
        x *= 3600.0
        if x <= rates.max_efpr:
            n = _insert(x, tp, changes.score[i], efpr, hits, threshold, n)
    return n


class Resamples(NamedTuple):
    """R weightings of the clips, and what follows from them."""

    weights: np.ndarray  # int32 [R, n_clips]
    seconds: np.ndarray  # float64 [R], total duration
    per_second: np.ndarray  # float64 [R, C], 1 / seconds of events of each class; [R, 0] without cross triggers
    n_other: np.ndarray  # int64 [R], number of other classes with events


class Steps(NamedTuple):
    """Where the curves of the classes rise, for R weightings; `counts` says how much of each row is used."""

    counts: np.ndarray  # int64 [R]
    efpr: np.ndarray  # float64 [R, *]
    rise: np.ndarray  # float64 [R, *], of the true positive rate
    rise_of_square: np.ndarray  # float64 [R, *]


@compiled()
def resample_class(changes, resamples, alpha_ct, max_efpr, n_events, areas, steps):  # type: ignore[no-untyped-def]
    """Walks down the thresholds of one class once for every weighting of the clips.

    Args:
        changes: the class's counts.
        n_events: int64 [R], events of the class; a weighting without any is skipped.
        areas: output float64 [R], area under the curve up to max_efpr as a share of max_efpr.
        steps: output, to which the steps of the curve are appended.
    """
    size = len(changes.score) + 1
    efpr, hits, threshold = np.empty(size), np.empty(size, np.int64), np.empty(size)
    for r in range(len(resamples.seconds)):
        if n_events[r] == 0:
            continue
        rates = Rates(resamples.seconds[r], alpha_ct, resamples.per_second[r], resamples.n_other[r], max_efpr)
        n = operating_points(changes, rates, resamples.weights[r], efpr, hits, threshold)
        area, before = 0.0, 0.0
        for i in range(n):
            tpr = hits[i] / n_events[r]
            area += tpr * ((efpr[i + 1] if i + 1 < n else max_efpr) - efpr[i])
            if tpr > before:
                k = steps.counts[r]
                steps.efpr[r, k], steps.rise[r, k] = efpr[i], tpr - before
                steps.rise_of_square[r, k] = tpr * tpr - before * before
                steps.counts[r] += 1
            before = tpr
        areas[r] = area / max_efpr
