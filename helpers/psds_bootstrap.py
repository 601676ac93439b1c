"""Confidence intervals of PSDS: the clips are drawn again with replacement, and everything else is computed exactly.

The collected changes are walked again with each clip weighted by how often it was drawn; no clip is scored again.
1,000 resamples of 2,000 clips with 407 classes took 11 s on two busy cores (docs/benchmarks.md); time grows a little
less than the number of clips.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from errors import UserError
from helpers.curve_kernels import Changes, Resamples, Steps, resample_class
from helpers.psds_accumulator import PSDSAccumulator
from helpers.psds_curves import area
from helpers.psds_figures import changes, clip_ranks, compute, event_table, events_per_class

BLOCK_VALUES = 2**21  # steps of curves held at once by each thread


@dataclass(frozen=True)
class Interval:
    """A figure and how it varies over resampled clips.

    Clips drawn with replacement differ more between classes than the clips themselves, so the samples of a figure with
    a penalty for that lie below the estimate. The interval is the percentile interval moved by this bias, and cut off
    where no figure can be: a single model's at 0 and 1, a difference's at -1 and 1.

    Attributes:
        estimate: the figure of the clips themselves.
        low, high: ends of the interval.
        std: standard deviation of the samples (standard error of the estimate).
        samples: the figure of each resample; NaN, and left out of the others, where it drew no event.
    """

    estimate: float
    low: float
    high: float
    std: float
    samples: np.ndarray


def bootstrap(
    collected: PSDSAccumulator, n_resamples: int = 1000, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Confidence intervals of PSDS and of its macro average over resampled clips.

    In each resample the classes that have events in it are scored.

    Args:
        collected: built with `keep_clips=True`.
        n_resamples: number of resamples, 1 or more.
        confidence: share of the samples inside the interval, in (0, 1).
        seed: of the draws; the same seed draws the same clips for every model.

    Returns:
        "psds" and "psds_macro".

    Raises:
        UserError: built without `keep_clips`, or the thresholds dropped because of `all_durations` matter (which takes
            a draw far from the clips themselves).
    """
    samples = _resample(collected, n_resamples, seed)
    result = compute(collected)
    return {name: _interval(getattr(result, name), values, confidence, 0.0) for name, values in samples.items()}


def paired_bootstrap(
    first: PSDSAccumulator, second: PSDSAccumulator, n_resamples: int = 1000, *, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Confidence intervals of the difference second - first of two models on the same clips, drawn together.

    Drawing the same clips for both takes out what the choice of clips does to both alike. Arguments, returns and
    errors as for `bootstrap`; besides, the two must have scored the same clips.
    """
    if first.clips.keys() != second.clips.keys():
        differing = min(first.clips.keys() ^ second.clips.keys())
        raise UserError(f"clip {differing}: scored by only one of the two models; compare them on the same clips")
    before, after = _resample(first, n_resamples, seed), _resample(second, n_resamples, seed)
    results = compute(first), compute(second)
    return {
        name: _interval(
            getattr(results[1], name) - getattr(results[0], name), after[name] - before[name], confidence, -1.0
        )
        for name in before
    }


def _interval(estimate: float, samples: np.ndarray, confidence: float, lowest: float) -> Interval:
    scored = samples[~np.isnan(samples)]
    if not len(scored):
        raise UserError(f"bootstrap: none of {len(samples)} resamples drew an event; draw more, or score more clips")
    ends = np.percentile(scored, [50.0 * (1.0 - confidence), 50.0 * (1.0 + confidence)])
    low, high = np.clip(estimate + ends - np.mean(scored), lowest, 1.0)
    return Interval(estimate, float(low), float(high), float(np.std(scored)), samples)


def _resample(collected: PSDSAccumulator, n_resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Samples [n_resamples] of "psds" and "psds_macro"."""
    if not collected.keep_clips:
        raise UserError("the bootstrap needs to know the clips: build the accumulator with keep_clips=True")
    if n_resamples < 1:
        raise UserError(f"n_resamples {n_resamples}: must be 1 or more")
    ranks = clip_ranks(collected)
    classes = [collected.class_index[name] for name in events_per_class(collected)]
    table = event_table(collected)
    table[:, 0] = ranks[table[:, 0].astype(np.int64)]
    table = table[np.lexsort(table.T)]  # sums must not depend on the order in which the clips came
    n_threads = collected.n_threads or torch.get_num_threads()
    block = max(1, min(-(-n_resamples // n_threads), BLOCK_VALUES // (2 * len(table))))
    blocks = [np.arange(i, min(i + block, n_resamples)) for i in range(0, n_resamples, block)]
    with ThreadPoolExecutor(n_threads) as pool:
        walks = list(pool.map(lambda c: changes(collected, c, ranks), classes))
        parts = list(
            pool.map(lambda draws: _resample_block(collected, classes, walks, table, ranks, draws, seed), blocks)
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in ("psds", "psds_macro")}


def _resample_block(
    collected: PSDSAccumulator,
    classes: Sequence[int],
    walks: Sequence[Changes],
    table: np.ndarray,
    ranks: np.ndarray,
    draws: np.ndarray,
    seed: int,
) -> dict[str, np.ndarray]:
    """The figures of some resamples.

    Args:
        table: events as rows (clip in the order of sorted names, class, seconds).
        draws: numbers of the resamples; each has its own random stream, however they are spread over blocks.
    """
    n_clips, n_classes, settings = len(ranks), len(collected.class_names), collected.settings
    weights = np.stack(
        [
            np.bincount(np.random.default_rng([seed, r]).integers(0, n_clips, n_clips), minlength=n_clips)
            for r in draws.tolist()
        ]
    ).astype(np.int32)
    durations = np.empty(n_clips)
    durations[ranks] = collected.durations
    clip, label = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    n_events = np.stack([np.bincount(label, w[clip], n_classes) for w in weights]).astype(np.int64)
    per_second: np.ndarray = np.zeros((len(draws), 0))
    if settings.cttc is not None:
        seconds = np.stack([np.bincount(label, w[clip] * table[:, 2], n_classes) for w in weights])
        per_second = 1.0 / np.maximum(seconds, 1e-12)
    n_scored = (n_events > 0).sum(axis=1)
    resamples = Resamples(weights, weights @ durations, per_second, np.maximum(n_scored - 1, 1))
    steps = Steps(np.zeros(len(draws), np.int64), *np.empty((3, len(draws), n_events.sum(axis=1).max())))
    areas = np.zeros((len(classes), len(draws)))
    for i, (c, walk) in enumerate(zip(classes, walks, strict=True)):
        _check_kept(collected, c, ranks, resamples)
        counts = n_events[:, c].copy()
        resample_class(walk, resamples, settings.alpha_ct, settings.max_efpr, counts, areas[i], steps)
    psds = [_overall(steps, r, int(n_scored[r]), settings.alpha_st, settings.max_efpr) for r in range(len(draws))]
    divisor = np.where(n_scored, n_scored, np.nan)  # a resample without events has no figure
    return {"psds": np.where(n_scored, psds, np.nan), "psds_macro": areas.sum(axis=0) / divisor}


def _check_kept(collected: PSDSAccumulator, c: int, ranks: np.ndarray, resamples: Resamples) -> None:
    """Makes sure that the counts that were dropped lie beyond max_efpr in these resamples too."""
    scores, clips = collected.peaks.rows(c)
    floor = collected.peaks.floor[c]
    if floor == -np.inf:
        return
    at_least = resamples.weights[:, ranks[clips[scores >= floor]]].sum(axis=1)
    if (at_least <= collected.settings.max_efpr * resamples.seconds / 3600.0).any():
        raise UserError("bootstrap: a resample needs thresholds that were dropped; build without all_durations")


def _overall(steps: Steps, r: int, n_classes: int, alpha_st: float, max_efpr: float) -> float:
    """Area under the overall curve of resample r from the steps of its classes."""
    n = steps.counts[r]
    order = np.argsort(steps.efpr[r, :n], kind="stable")
    mean = np.cumsum(steps.rise[r, order]) / n_classes
    variance = np.cumsum(steps.rise_of_square[r, order]) / n_classes - mean**2
    tpr = np.maximum(mean - alpha_st * np.sqrt(np.maximum(variance, 0.0)), 0.0)
    return area(steps.efpr[r, order], tpr, max_efpr)
