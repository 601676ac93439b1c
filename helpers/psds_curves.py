"""From counts at every threshold to ROC curves, areas and F1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from errors import UserError


@dataclass(frozen=True)
class PSDSSettings:
    """Which detections count and how the PSD-ROC is weighted.

    Source: Bilen et al., "A framework for the robust evaluation of sound event detection", ICASSP 2020.

    Args:
        dtc: share of a detection that must lie in events of its class, in (0, 1].
        gtc: share of an event that such detections must cover, in (0, 1].
        cttc: share of any other detection on events of another class that makes it a cross trigger, in (0, 1]; None
            leaves cross triggers out.
        alpha_ct: weight of the cross triggers in the false positive rate, 0 or more; above 0 only with cttc.
        alpha_st: weight of the standard deviation over classes, 0 or more.
        max_efpr: false positives per hour up to which the area is taken.

    Raises:
        UserError: a value out of its range.
    """

    dtc: float = 0.7
    gtc: float = 0.7
    cttc: float | None = None
    alpha_ct: float = 0.0
    alpha_st: float = 1.0
    max_efpr: float = 100.0

    def __post_init__(self) -> None:
        for name in ("dtc", "gtc", "cttc"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value <= 1.0:
                raise UserError(f"{name} {value}: must be above 0 and at most 1")
        if min(self.alpha_ct, self.alpha_st) < 0.0 or not self.max_efpr > 0.0:
            raise UserError("alpha_ct and alpha_st must be 0 or more, max_efpr above 0")
        if (self.alpha_ct > 0.0) != (self.cttc is not None):
            raise UserError("alpha_ct and cttc belong together: give both or neither")


PSDS1 = PSDSSettings()
PSDS2 = PSDSSettings(dtc=0.1, gtc=0.1, cttc=0.3, alpha_ct=0.5)


class ROC(NamedTuple):
    """The operating points of one class that no other threshold beats, from high to low thresholds."""

    tpr: np.ndarray  # share of the events found, strictly increasing
    efpr: np.ndarray  # effective false positives per hour, strictly increasing from 0
    thresholds: np.ndarray  # score that the threshold must fall below


def area(x: np.ndarray, y: np.ndarray, max_x: float) -> float:
    """Area under the staircase through the points (x ascending, y) from 0 to max_x, as a share of max_x."""
    inside = x <= max_x
    edges = np.append(x[inside], max_x)
    return float(np.sum(y[inside] * np.diff(edges)) / max_x)


def overall_roc(rocs: Sequence[ROC], alpha_st: float) -> tuple[np.ndarray, np.ndarray]:
    """Averages the curves of the classes and subtracts alpha_st standard deviations.

    Returns:
        Effective true positive rates (at least 0) and effective false positive rates per hour (ascending).
    """
    efpr = np.unique(np.concatenate([roc.efpr for roc in rocs]))
    # one class at a time: with cross triggers the union of all operating points can be large
    steps = [np.searchsorted(roc.efpr, efpr, side="right") - 1 for roc in rocs]
    mean = sum((roc.tpr[step] for roc, step in zip(rocs, steps, strict=True)), np.zeros(len(efpr))) / len(rocs)
    squares = np.zeros(len(efpr))
    for roc, step in zip(rocs, steps, strict=True):
        squares += (roc.tpr[step] - mean) ** 2
    return np.maximum(mean - alpha_st * np.sqrt(squares / len(rocs)), 0.0), efpr


def segment_counts(active: np.ndarray, quiet: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts segments at and above every score.

    Args:
        active: highest scores of the segments with an event.
        quiet: highest scores of the segments without.

    Returns:
        The distinct scores in descending order, true positives and false positives at each.
    """
    active, quiet = np.sort(active), np.sort(quiet)
    thresholds = np.unique(np.concatenate((active, quiet)))[::-1]
    tps = len(active) - np.searchsorted(active, thresholds, side="left")
    return thresholds, tps, len(quiet) - np.searchsorted(quiet, thresholds, side="left")


def partial_auroc(
    tps: np.ndarray,
    fps: np.ndarray,
    n_active: int,
    n_quiet: int,
    max_fpr: float,
    sort_kind: Literal["stable", "quicksort"] = "stable",
) -> float:
    """Area under the ROC staircase up to max_fpr, divided by max_fpr (chance: max_fpr / 2).

    NaN where it is not defined: without quiet segments, or without active ones (all events behind the clip's end).

    Args:
        tps, fps: counts from high to low thresholds.
        n_active, n_quiet: numbers of segments with and without an event.
        max_fpr: highest false positive rate, in (0, 1].
        sort_kind: how `numpy.argsort` orders points with equal false positive rate. "stable" keeps the one with the
            most true positives last, as the staircase needs it; sed_scores_eval leaves it to the default "quicksort",
            which mixes them up on long curves and gives a little less.
    """
    if not (n_quiet and n_active):
        return float("nan")
    tpr = np.append(0, tps) / n_active
    fpr = np.append(0, fps) / n_quiet
    order = np.argsort(fpr, kind=sort_kind)
    return area(fpr[order], tpr[order], max_fpr)


class F1(NamedTuple):
    """F1 of one class at one threshold."""

    f1: float
    precision: float
    recall: float
    threshold: float
    tp: int
    fp: int


def f1_at(
    thresholds: np.ndarray,
    tps: np.ndarray,
    fps: np.ndarray,
    n_ref: int,
    threshold: float | None = None,
    floor: float = -np.inf,
) -> F1:
    """F1 at one threshold, or the best one.

    Args:
        thresholds: distinct scores in descending order.
        tps, fps: counts at and above each score.
        n_ref: number of events (or active segments); 0, where all events lie behind their clip's end, gives 0.
        threshold: decisions are scores above it; None looks for the highest F1 (and there for the highest threshold).
        floor: counts at lower scores are unknown.

    Returns:
        F1, precision (1 without any detection) and recall. The best threshold lies halfway between the lowest score
        that must be detected and the next lower one that changes the counts.
    """
    tps, fps = np.append(0, tps), np.append(0, fps)
    precision = np.where(tps + fps > 0, tps / np.maximum(tps + fps, 1), 1.0)
    recall = tps / max(n_ref, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-15)
    if threshold is not None:
        i = int(np.searchsorted(-thresholds, -threshold, side="left"))  # the number of scores above the threshold
    else:
        i = int(np.argmax(f1))
        changed = np.flatnonzero((tps[i + 1 :] != tps[i]) | (fps[i + 1 :] != fps[i]))
        if i == 0:
            threshold = float("inf")
        elif not len(changed):
            threshold = float(np.nextafter(floor, -np.inf))
        else:
            threshold = float(thresholds[i - 1] + thresholds[i + changed[0]]) / 2
    return F1(float(f1[i]), float(precision[i]), float(recall[i]), threshold, int(tps[i]), int(fps[i]))
