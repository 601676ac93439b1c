"""From collected changes to figures: PSDS, AUROC, F1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from errors import UserError
from helpers.curve_kernels import Changes, Rates, operating_points
from helpers.psds_curves import F1, ROC, area, f1_at, overall_roc, partial_auroc, segment_counts

if TYPE_CHECKING:
    from helpers.psds_accumulator import PSDSAccumulator


@dataclass(frozen=True)
class PSDSResult:
    """What `PSDSAccumulator.compute` returns; areas as shares, not percent.

    Attributes:
        psds: area under the overall curve, with the penalty alpha_st for the spread over classes.
        psds_macro: mean over classes of the area under their own curve.
        psds_per_class: that area for each class.
        roc: overall curve: effective true positive rates, effective false positives per hour.
        class_rocs: curve of each class.
        pauroc: mean over classes of the partial area under the segment-based ROC curve.
        pauroc_per_class: that area for each class; NaN (and left out of the mean) if it is active in every segment.
        n_events: number of events of each class.
        n_clips: number of clips.
        hours: their total duration.
    """

    psds: float
    psds_macro: float
    psds_per_class: dict[str, float]
    roc: tuple[np.ndarray, np.ndarray]
    class_rocs: dict[str, ROC]
    pauroc: float
    pauroc_per_class: dict[str, float]
    n_events: dict[str, int]
    n_clips: int
    hours: float


def compute(collected: PSDSAccumulator) -> PSDSResult:
    """Computes PSDS and partial AUROC of everything collected (see `PSDSAccumulator.compute`)."""
    n_events = events_per_class(collected)
    settings = collected.settings
    rocs = class_rocs(collected)
    per_class = {name: area(roc.efpr, roc.tpr, settings.max_efpr) for name, roc in rocs.items()}
    tpr, efpr = overall_roc(list(rocs.values()), settings.alpha_st)
    pauroc = {name: segment_auroc(collected, name) for name in rocs}
    return PSDSResult(
        psds=area(efpr, tpr, settings.max_efpr),
        psds_macro=mean(per_class.values()),
        psds_per_class=per_class,
        roc=(tpr, efpr),
        class_rocs=rocs,
        pauroc=mean(value for value in pauroc.values() if not math.isnan(value)),
        pauroc_per_class=pauroc,
        n_events=n_events,
        n_clips=len(collected.clips),
        hours=math.fsum(collected.durations) / 3600.0,
    )


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean; NaN of nothing."""
    listed = list(values)
    return math.fsum(listed) / len(listed) if listed else math.nan


def events_per_class(collected: PSDSAccumulator) -> dict[str, int]:
    """Number of events of each class that has any: the classes that are scored.

    Raises:
        UserError: there is no event, or the clips are longer than `all_durations` promised.
    """
    if collected.all_durations is not None:
        promised, given = math.fsum(collected.all_durations), math.fsum(collected.durations)
        if given > promised * (1 + 1e-9):
            raise UserError(f"all_durations add up to {promised:.2f} s, but clips of {given:.2f} s were scored")
    if not len(event_table(collected)):
        raise UserError(f"nothing to score: the {len(collected.clips)} clips given so far hold no event")
    counts = np.bincount(event_table(collected)[:, 1].astype(np.int64), minlength=len(collected.class_names))
    return {name: int(n) for name, n in zip(collected.class_names, counts, strict=True) if n}


def event_table(collected: PSDSAccumulator) -> np.ndarray:
    """All events as rows (clip, class, seconds)."""
    return np.concatenate([np.empty((0, 3)), *collected.events])


def clip_ranks(collected: PSDSAccumulator) -> np.ndarray:
    """Position of each clip, in the order of arrival, among the sorted names: the same however they arrived."""
    ranks = np.empty(len(collected.clips), np.int32)
    ranks[[collected.clips[clip_id] for clip_id in sorted(collected.clips)]] = np.arange(len(ranks))
    return ranks


def rates(collected: PSDSAccumulator, weights: np.ndarray | None = None) -> Rates:
    """How counts become false positives per hour.

    Args:
        weights: how often each clip is counted [n_clips], clips in the order of their sorted names; None: once.
    """
    settings = collected.settings
    n_times = np.ones(len(collected.clips)) if weights is None else weights[clip_ranks(collected)]
    per_second: np.ndarray = np.zeros(0)
    if settings.cttc is not None:
        lengths: list[list[float]] = [[] for _ in collected.class_names]
        for clip, c, seconds in event_table(collected).tolist():
            lengths[int(c)].append(seconds * n_times[int(clip)])
        per_second = np.array([1.0 / max(math.fsum(of_class), 1e-12) for of_class in lengths])
    n_other = max(1, len(events_per_class(collected)) - 1)
    seconds = math.fsum(np.array(collected.durations) * n_times)  # fsum: whatever the order, the same sum
    return Rates(seconds, settings.alpha_ct, per_second, n_other, settings.max_efpr)


def changes(collected: PSDSAccumulator, c: int, ranks: np.ndarray) -> Changes:
    """All changes of the counts of class c in descending order of score; `clip` counts in the order of sorted names.

    Args:
        ranks: from `clip_ranks`.
    """
    floor = collected.peaks.floor[c]
    tables = [pool.rows(c) for pool in (collected.turns, collected.steps, collected.triggers)]
    tables = [tuple(column[table[0] >= floor] for column in table) for table in tables]
    (turn_score, sign, *turn_clip), (step_score, fp, tp, *step_clip), (trigger_score, change, other, *rest) = tables
    score = np.concatenate((turn_score, step_score, trigger_score), dtype=np.float64)
    counts = np.concatenate((sign, fp, change), dtype=np.int32)
    hits = np.zeros(len(score), np.int32)
    hits[len(sign) : len(sign) + len(tp)] = tp
    clips: np.ndarray = np.zeros(len(score), np.int32)
    if collected.keep_clips:
        clips = ranks[np.concatenate((*turn_clip, *step_clip, *rest))]
    order = np.argsort(score)[::-1]
    others = np.concatenate((np.full(len(sign) + len(tp), -1, np.int32), other))
    others = others[order] if len(other) else others[:0]
    return Changes(score[order], counts[order], hits[order], clips[order], others)


def class_rocs(collected: PSDSAccumulator) -> dict[str, ROC]:
    """PSD-ROC of each class with events, up to max_efpr."""
    n_events = events_per_class(collected)
    ranks, shared = clip_ranks(collected), rates(collected)
    once = np.ones(max(1, len(ranks)), np.int32)

    def roc(name: str) -> ROC:
        of_class = changes(collected, collected.class_index[name], ranks)
        size = len(of_class.score) + 1
        efpr, hits, thresholds = np.empty(size), np.empty(size, np.int64), np.empty(size)
        n = operating_points(of_class, shared, once, efpr, hits, thresholds)
        return ROC(hits[:n] / n_events[name], efpr[:n].copy(), thresholds[:n].copy())

    with ThreadPoolExecutor(collected.n_threads or torch.get_num_threads()) as pool:
        return dict(zip(n_events, pool.map(roc, n_events), strict=True))


def segment_auroc(collected: PSDSAccumulator, name: str, sort_kind: Literal["stable", "quicksort"] = "stable") -> float:
    """Partial AUROC of one class over segments; sort_kind as in `partial_auroc`."""
    c = collected.class_index[name]
    (active,), (quiet,) = collected.active.rows(c), collected.quiet.rows(c)
    floor = collected.quiet.floor[c]
    _, tps, fps = segment_counts(active[active >= floor], quiet[quiet >= floor])
    n_quiet = collected.n_segments - len(active)
    return partial_auroc(tps, fps, len(active), n_quiet, collected.max_fpr, sort_kind)


def _class_f1(
    counts: tuple[np.ndarray, np.ndarray, np.ndarray],
    n_ref: int,
    floor: float,
    min_dropped: int | None,
    name: str,
    threshold: float | Mapping[str, float] | None,
) -> F1:
    """F1 of one class, or the reason why it cannot be told from what was kept.

    Args:
        counts: distinct scores in descending order, true and false positives.
        n_ref: number of events or active segments.
        floor: all counts at lower scores were dropped; there are at least `min_dropped` false positives at each.
    """
    at = threshold[name] if isinstance(threshold, Mapping) else threshold
    kept = counts[0] >= floor
    thresholds, tps, fps = counts[0][kept], counts[1][kept], counts[2][kept]
    result = f1_at(thresholds, tps, fps, n_ref, at, floor)
    if at is None:
        known = min_dropped is None or floor == -math.inf or result.f1 >= 2 * n_ref / (2 * n_ref + min_dropped)
    else:
        known = at >= floor
    if not known:
        raise UserError(f"F1 of {name!r}: counts at scores below {floor:.6g} were dropped; leave out all_durations")
    return result


def intersection_f1(collected: PSDSAccumulator, threshold: float | Mapping[str, float] | None = None) -> dict[str, F1]:
    """See `PSDSAccumulator.intersection_f1`."""
    ranks, result = clip_ranks(collected), {}
    for name, n_ref in events_per_class(collected).items():
        c = collected.class_index[name]
        of_class = changes(collected, c, ranks)
        last = np.append(of_class.score[1:] != of_class.score[:-1], True)[: len(of_class.score)]
        false = of_class.fp if not len(of_class.other) else of_class.fp * (of_class.other < 0)
        counts = of_class.score[last], np.cumsum(of_class.tp)[last], np.cumsum(false)[last]
        floor = collected.peaks.floor[c]
        result[name] = _class_f1(counts, n_ref, floor, collected.peaks.top, name, threshold)
    return result


def segment_f1(collected: PSDSAccumulator, threshold: float | Mapping[str, float] | None = None) -> dict[str, F1]:
    """See `PSDSAccumulator.segment_f1`."""
    result = {}
    for name in events_per_class(collected):
        c = collected.class_index[name]
        (active,), (quiet,) = collected.active.rows(c), collected.quiet.rows(c)
        counts = segment_counts(active, quiet)
        floor = collected.quiet.floor[c]
        result[name] = _class_f1(counts, len(active), floor, collected.quiet.top, name, threshold)
    return result


def macro_f1(per_class: Mapping[str, F1]) -> float:
    """Mean F1 over classes."""
    return mean(one.f1 for one in per_class.values())


def micro_f1(per_class: Mapping[str, F1], n_ref: int) -> float:
    """F1 of the summed counts of all classes.

    Args:
        n_ref: number of events (or active segments) of all classes.
    """
    tp, fp = sum(one.tp for one in per_class.values()), sum(one.fp for one in per_class.values())
    return 2 * tp / max(tp + fp + n_ref, 1)
