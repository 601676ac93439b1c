"""How well a fine-tuned detector does on recordings that it has not seen, as plain values for a report."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_util.labels import FRAME_RATE, encode_events
from data_util.own_data import Event, Recording
from helpers import tuning as decisions
from helpers.event_counts import Estimate, confusion, event_counts, f1_intervals, segment_counts
from helpers.psds import bootstrap
from helpers.tuning import Scores, Tuning

MAX_WORST = 8  # recordings that are listed


def examine(
    scores: Scores,
    recordings: Sequence[Recording],
    labels: Sequence[str],
    tuning: Tuning,
    *,
    clip_labels: bool = False,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of some recordings, of each class and of all, with 95 % confidence intervals.

    Args:
        scores: of the recordings, from `tuning.score_recordings`; those without scores are left out.
        recordings: with their true events.
        labels: the C classes.
        tuning: the decisions.
        clip_labels: only the classes of recordings are known; then all figures are about recordings.
        n_bootstrap: draws; groups of recordings that belong together are drawn together.
        seed: of the draws.

    Returns:
        Numbers, strings, lists and dicts; estimates as [value, low, high], None where nothing could be counted.
    """
    recordings = [r for r in recordings if r.name in scores]
    found = decisions.detect(scores, recordings, labels, tuning, clip_labels)
    events, segments = (_by_group(recordings, found, labels, clip_labels, kind) for kind in ("events", "segments"))
    of_classes, mean = f1_intervals(events, n_bootstrap, seed=seed)
    segments_of_classes, segment_mean = f1_intervals(segments, n_bootstrap, seed=seed)
    psds, psds_of_classes = _psds(scores, recordings, labels, tuning, clip_labels, n_bootstrap, seed)
    total = events.sum(0)
    classes = [
        {
            "label": label,
            "events": int(total[c, 0] + total[c, 2]),
            "threshold": tuning.thresholds[c],
            "median_window": tuning.median_windows[c],
            "event_f1": _plain(of_classes[c]),
            "precision": _share(int(total[c, 0]), int(total[c, 1])),
            "recall": _share(int(total[c, 0]), int(total[c, 2])),
            "segment_f1": _plain(segments_of_classes[c]),
            "psds1": psds_of_classes.get(label),
        }
        for c, label in enumerate(labels)
    ]
    tables = [confusion(found[r.name], r.events, labels) for r in recordings]
    return {
        "recordings": len(recordings),
        "seconds": round(sum(r.duration for r in recordings), 1),
        "event_f1": _plain(mean),
        "segment_f1": _plain(segment_mean),
        "psds1": _plain(psds),
        "classes": classes,
        "confusion": np.sum(tables, axis=0).tolist() if tables else [],
        "worst": worst(recordings, found, labels),
    }


def _plain(estimate: Estimate) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 4) for value in estimate]


def _share(part: int, rest: int) -> float | None:
    """Precision or recall; None where there is nothing to be right about."""
    return round(part / (part + rest), 4) if part + rest else None


def _by_group(
    recordings: Sequence[Recording], found: Mapping[str, list[Event]], labels: Sequence[str], clips: bool, kind: str
) -> np.ndarray:
    """Counts [G, C, 3] of the groups of recordings; a recording of clips is one segment."""
    groups: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((len(labels), 3), np.int64))
    for r in recordings:
        if kind == "events":
            groups[r.group] += event_counts(found[r.name], r.events, labels)
        else:
            seconds = r.duration if clips else 1.0
            groups[r.group] += segment_counts(found[r.name], r.events, labels, r.duration, seconds)
    return np.stack(list(groups.values())) if groups else np.zeros((1, len(labels), 3), np.int64)


def _psds(
    scores: Scores,
    recordings: Sequence[Recording],
    labels: Sequence[str],
    tuning: Tuning,
    clip_labels: bool,
    n_bootstrap: int,
    seed: int,
) -> tuple[Estimate, dict[str, float]]:
    """PSDS1, mean over the classes, and of each class; NaN without events."""
    if not any(r.events for r in recordings):
        return Estimate(math.nan, math.nan, math.nan), {}
    collected = decisions.collect(scores, recordings, labels, tuning.median_windows, clip_labels)
    of_classes = {name: round(value, 4) for name, value in collected.compute().psds_per_class.items()}
    if not all(r.events for r in recordings) and sum(bool(r.events) for r in recordings) < 3:
        return Estimate(collected.compute().psds_macro, math.nan, math.nan), of_classes
    interval = bootstrap(collected, n_bootstrap, seed=seed)["psds_macro"]
    low, high = np.clip([interval.low, interval.high], 0, 1).tolist()
    return Estimate(interval.estimate, low, high), of_classes


def worst(
    recordings: Sequence[Recording], found: Mapping[str, list[Event]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """The recordings with the most seconds of missed and of wrongly detected sound, most first."""
    rows: list[dict[str, Any]] = []
    for r in recordings:
        true, detected = (_frames(events, labels, r.duration) for events in (r.events, found[r.name]))
        missed, false = (float(x.sum() / FRAME_RATE) for x in (true & ~detected, ~true & detected))
        if missed + false > 0:
            entry: dict[str, Any] = {"name": r.name, "duration": round(r.duration, 3), "missed": missed, "false": false}
            rows.append({**entry, "true": [list(e) for e in r.events], "detected": [list(e) for e in found[r.name]]})
    return sorted(rows, key=lambda row: -(row["missed"] + row["false"]))[:MAX_WORST]


def _frames(events: Sequence[Event], labels: Sequence[str], duration: float) -> np.ndarray:
    """Which label frames are active, bool [C, T]."""
    onset, offset = (np.array([event[i] for event in events], np.float64) for i in (0, 1))
    classes = np.array([labels.index(event[2]) for event in events], np.int64)
    return encode_events(onset, offset, classes, len(labels), math.ceil(duration * FRAME_RATE)).astype(bool)
