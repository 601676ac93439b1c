"""Counts of events against sed_scores_eval and PSDSAccumulator, pairs against all permutations, intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from sed_scores_eval import intersection_based, segment_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

from data_util.own_data import merge
from helpers.classes import ClassName
from helpers.event_counts import Estimate, confusion, event_counts, f1, f1_intervals, segment_counts
from helpers.events import decode_events

LABELS = ["a", "b", "c"]
CLASSES = [ClassName(label, "") for label in LABELS]


def clips(seed: int, n_clips: int = 12):
    """Scores, true events, detections above 0.5, durations."""
    rng = np.random.default_rng(seed)
    scores, true, found, durations = {}, {}, {}, {}
    for i in range(n_clips):
        duration = float(rng.integers(50, 200)) / 25
        n = round(duration * 25)
        events = []
        for _ in range(rng.integers(0, 5)):
            onset = rng.uniform(0, duration - 0.5)
            events.append((onset, min(duration, onset + rng.uniform(0.3, 2)), str(rng.choice(LABELS))))
        events = list(merge(events))
        values = rng.uniform(0, 0.45, (3, n))
        for onset, offset, label in events:
            if rng.random() < 0.8:
                c = LABELS.index(label) if rng.random() < 0.9 else rng.integers(3)
                start = max(0, int(onset * 25 + rng.normal(0, 5)))
                values[c, start : int(offset * 25 + rng.normal(0, 5))] += 0.5
        name = f"clip{i}"
        scores[name], true[name], durations[name] = values, events, duration
        table = decode_events(values, CLASSES, 0.5, duration=duration)
        found[name] = [(e.onset, e.offset, e.label) for e in table]
    return scores, true, found, durations


def frames(scores: dict[str, np.ndarray], durations) -> dict[str, pd.DataFrame]:
    return {
        name: create_score_dataframe(values.T, np.arange(values.shape[1] + 1) / 25, LABELS)
        for name, values in scores.items()
    }


@pytest.mark.parametrize("seed", range(5))
def test_event_f1_equals_sed_scores_eval(seed: int) -> None:
    scores, true, found, durations = clips(seed)
    counts = sum(event_counts(found[name], true[name], LABELS) for name in scores)
    expected = intersection_based.fscore(
        frames(scores, durations), true, threshold=0.5, dtc_threshold=0.7, gtc_threshold=0.7, num_jobs=1
    )
    for c, label in enumerate(LABELS):
        np.testing.assert_allclose(f1(counts[c]), expected[0][label], atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_segment_f1_equals_sed_scores_eval(seed: int) -> None:
    scores, true, found, durations = clips(seed)
    counts = sum(segment_counts(found[name], true[name], LABELS, durations[name]) for name in scores)
    expected = segment_based.fscore(
        frames(scores, durations), true, durations, threshold=0.5, segment_length=1.0, num_jobs=1
    )
    for c, label in enumerate(LABELS):
        np.testing.assert_allclose(f1(counts[c]), expected[0][label], atol=1e-12)


def test_confusion_of_a_case_by_hand() -> None:
    true = [(0.0, 1.0, "a"), (2.0, 3.0, "b"), (4.0, 5.0, "b"), (6.0, 7.0, "c")]
    found = [(0.1, 1.0, "a"), (2.0, 3.0, "c"), (6.0, 6.5, "c"), (6.5, 7.0, "a"), (8.0, 9.0, "b")]
    expected = [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0]]
    np.testing.assert_array_equal(confusion(found, true, LABELS), expected)
    np.testing.assert_array_equal(confusion([], [], LABELS), np.zeros((4, 4)))


@pytest.mark.parametrize("seed", range(20))
def test_pairs_are_the_best_of_all(seed: int) -> None:
    """As many of one class as any pairing has."""
    rng = np.random.default_rng(seed)

    def draw() -> list[tuple[float, float, str]]:
        onsets = rng.uniform(0, 3, rng.integers(1, 5))
        return [(float(t), float(t + rng.uniform(0.3, 1.5)), str(rng.choice(LABELS))) for t in onsets]

    true, found = draw(), draw()

    def share(a, b) -> float:
        shared = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
        return shared / (a[1] - a[0] + b[1] - b[0] - shared)

    best = (-1, -1.0)
    padded = [*found, *[None] * len(true)]
    for chosen in itertools.permutations(padded, len(true)):
        pairs = [(t, d) for t, d in zip(true, chosen, strict=True) if d and share(t, d) >= 0.2]
        best = max(best, (sum(t[2] == d[2] for t, d in pairs), sum(share(t, d) for t, d in pairs)))
    table = confusion(found, true, LABELS)
    assert np.trace(table[:3, :3]) == best[0]
    assert table[:-1].sum() == len(true) and table[:, :-1].sum() == len(found) and table[-1, -1] == 0


def test_intervals_cover_the_true_figure_about_as_often_as_they_say() -> None:
    """Recordings with 10 events, each found with probability 0.7, no false alarms: F1 = 2 * 0.7 / 1.7."""
    rng, inside = np.random.default_rng(0), 0
    for i in range(200):
        hits = rng.binomial(10, 0.7, size=30)
        counts = np.stack([hits, np.zeros(30, int), 10 - hits], axis=1)[:, None]
        (estimate,), mean = f1_intervals(counts, 400, seed=i)
        assert estimate == mean and estimate.low <= estimate.value <= estimate.high
        inside += estimate.low <= 1.4 / 1.7 <= estimate.high
    assert 0.88 <= inside / 200 <= 0.99


def test_classes_without_events_have_no_figure() -> None:
    counts = np.array([[[1, 0, 0], [0, 0, 0], [0, 2, 0]]] * 4)
    classes, mean = f1_intervals(counts, 100)
    assert classes[0] == Estimate(1.0, 1.0, 1.0) and math.isnan(classes[1].value) and classes[2].value == 0.0
    assert mean == Estimate(1.0, 1.0, 1.0)
    assert all(math.isnan(x) for x in f1_intervals(np.zeros((3, 2, 3)), 100)[1])
