"""Event extraction against SciPy and a slow loop, scores against sed_eval."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.ndimage import median_filter

from helpers.onset_scores import COLLARS, Event, count_onset_hits, find_events, score_events, smooth_activity

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sed_eval

LABELS = ["bell", "knock", "speech"]


@pytest.mark.parametrize("window", [1, 2, 5, 6, 9, 40])
@pytest.mark.parametrize("n_frames", [1, 7, 250])
def test_filtered_decisions_are_the_decisions_on_filtered_scores(window: int, n_frames: int) -> None:
    scores = np.random.default_rng(window).normal(size=(4, n_frames))
    expected = median_filter(scores, size=(1, window)) > 0.3
    assert np.array_equal(smooth_activity(scores > 0.3, window), expected)


def test_three_of_six_frames_suffice() -> None:
    """The published window: output i is the fourth smallest of i - 3 ... i + 2."""
    active = np.random.default_rng(0).random((1, 400)) < 0.5
    values = active[0].astype(int)
    fourth = [sorted(values[i - 3 : i + 3])[3] for i in range(3, 397)]
    assert smooth_activity(active, 6)[0, 3:397].tolist() == [bool(v) for v in fourth]


def test_events_run_from_stamp_to_stamp_and_need_five_frames() -> None:
    active = np.zeros((3, 20), bool)
    active[0, 0:4] = True  # 120 ms from stamp to stamp
    active[1, 2:7] = True  # 160 ms
    active[2, 15:20] = True
    assert find_events(active, LABELS) == [(0.1, 0.26, "knock"), (0.62, 0.78, "speech")]
    assert len(find_events(active, LABELS, min_ms=120)) == 3


def random_events(rng: np.random.Generator, n: int) -> list[Event]:
    """Events on a grid of 10 ms, so that many differences lie just at a collar."""
    onset = rng.integers(0, 800, n) / 100
    length = rng.integers(5, 300, n) / 100
    labels = rng.choice(LABELS, n)
    return sorted((float(a), float(a + d), str(label)) for a, d, label in zip(onset, length, labels, strict=True))


def as_dicts(events: list[Event]) -> list[dict[str, object]]:
    return [{"event_onset": a, "event_offset": b, "event_label": label, "filename": "f"} for a, b, label in events]


@pytest.mark.parametrize("seed", range(12))
def test_scores_equal_sed_eval(seed: int) -> None:
    """Dense, sparse, empty, displaced and overlapping events of the same class."""
    rng = np.random.default_rng(seed)
    true, found = {}, {}
    for name in "abcde":
        true[name] = random_events(rng, int(rng.integers(0, 25)))
        near = [(a + float(rng.integers(-25, 26)) / 100, b, label) for a, b, label in true[name] if rng.random() < 0.7]
        near = [(max(a, 0.0), max(b, a + 0.05), label) for a, b, label in near]
        found[name] = near + random_events(rng, int(rng.integers(0, 8)))
    scores = score_events(true, found, LABELS)

    for figure, collar in COLLARS.items():
        metric = sed_eval.sound_event.EventBasedMetrics(
            LABELS, evaluate_onset=True, evaluate_offset=False, t_collar=collar
        )
        for name in true:
            metric.evaluate(as_dicts(true[name]), as_dicts(found[name]))
        overall = metric.results_overall_metrics()["f_measure"]["f_measure"]
        assert scores.overall[figure] == pytest.approx(overall, abs=1e-12)
        for label, figures in metric.results_class_wise_metrics().items():
            assert scores.per_class[figure][label] == pytest.approx(figures["f_measure"]["f_measure"], abs=1e-12)

    segments = sed_eval.sound_event.SegmentBasedMetrics(LABELS, time_resolution=1.0)
    for name in true:
        if true[name] or found[name]:  # sed_eval cannot score a file without any event
            segments.evaluate(as_dicts(true[name]), as_dicts(found[name]))
    rate = segments.results_overall_metrics()["error_rate"]["error_rate"]
    assert scores.overall["segment_1s_er"] == pytest.approx(rate, abs=1e-12)


def test_matching_is_the_largest() -> None:
    """A chain in which taking the nearest first would lose a pair."""
    assert count_onset_hits([0.0, 0.2], [0.1, 0.15], 0.1).n_hits == 2
    assert count_onset_hits([0.0, 0.3, 0.6], [0.19, 0.49, 0.79], 0.2).n_hits == 3
    assert count_onset_hits([1.0], [0.99, 1.0, 1.01], 0.2).n_hits == 1


def test_nothing_found_and_nothing_there() -> None:
    nothing = score_events({"a": [(0.0, 1.0, "bell")]}, {}, LABELS).overall
    assert nothing == {"onset_fms": 0.0, "onset_fms_50": 0.0, "segment_1s_er": 1.0}
    empty = score_events({"a": []}, {"a": []}, LABELS).overall
    assert all(math.isnan(value) for value in empty.values())
