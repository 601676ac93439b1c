"""Event decoding against scipy.ndimage.label and loops that do one class at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import label as label_runs

from helpers.classes import ClassName
from helpers.events import EventDecoder, decode_events

RNG = np.random.default_rng(7)


def smooth_scores(n_classes: int, n_frames: int) -> np.ndarray:
    noise = RNG.standard_normal((n_classes, n_frames + 8))
    curve = np.stack([np.convolve(row, np.ones(9) / 3, "valid") for row in noise])
    return (1 / (1 + np.exp(-curve))).astype(np.float32)


def slow_events(scores, high, low, min_frames, max_gap):
    """(class, start, end, mean, peak) by plain loops over classes and runs."""
    found = []
    for c, row in enumerate(scores):
        marks, n = label_runs(row > low[c])
        runs = [np.flatnonzero(marks == i + 1) for i in range(n)]
        runs = [[r[0], r[-1] + 1, list(row[r])] for r in runs if row[r].max() > high[c]]
        joined = []
        for run in runs:
            if joined and run[0] - joined[-1][1] <= max_gap:
                joined[-1][1], joined[-1][2] = run[1], joined[-1][2] + run[2]
            else:
                joined.append(run)
        found += [(c, a, b, np.mean(v), np.max(v)) for a, b, v in joined if b - a >= min_frames]
    return sorted(found)


def names(n: int) -> list[ClassName]:
    return [ClassName(f"class {i}", f"/m/{i}") for i in range(n)]


@pytest.mark.parametrize("hysteresis", [1.0, 0.6])
@pytest.mark.parametrize(("min_frames", "max_gap"), [(1, 0), (5, 0), (1, 4), (6, 3), (30, 40)])
def test_equals_slow_loops(hysteresis, min_frames, max_gap):
    scores = smooth_scores(20, 400)
    high = RNG.uniform(0.3, 0.9, 20).astype(np.float32)
    table = decode_events(
        scores, names(20), high, hysteresis=hysteresis, min_duration=min_frames / 25, max_gap=max_gap / 25
    )
    expected = slow_events(scores, high, high * np.float32(hysteresis), min_frames, max_gap)
    got = sorted(
        (int(c), round(a * 25), round(b * 25)) for c, a, b in zip(table.cls, table.onset, table.offset, strict=True)
    )
    assert got == [e[:3] for e in expected]
    assert len(expected) > 5
    order = np.lexsort((table.onset, table.cls))
    np.testing.assert_allclose(table.mean_score[order], [e[3] for e in expected], rtol=1e-5)
    np.testing.assert_allclose(table.peak_score[order], [e[4] for e in expected], rtol=0)


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_blocks_give_the_events_of_the_whole(piece):
    scores = smooth_scores(10, 300)
    high = np.full(10, 0.7, np.float32)
    arguments = dict(low=high * 0.8, min_frames=4, max_gap=5)
    whole = EventDecoder(high, **arguments)
    expected = np.concatenate([whole.push(scores), whole.finish()])
    decoder = EventDecoder(high, **arguments)
    parts = [decoder.push(scores[:, i : i + piece]) for i in range(0, 300, piece)]
    got = np.concatenate([*parts, decoder.finish()])
    expected, got = (np.sort(runs, order=["cls", "start"]) for runs in (expected, got))
    for field in ("cls", "start", "end", "active", "peak"):
        np.testing.assert_array_equal(got[field], expected[field])
    np.testing.assert_allclose(got["total"], expected["total"])
    assert len(got) > 10


def test_announced_onsets_are_those_of_the_final_events():
    scores = smooth_scores(10, 300)
    high = np.full(10, 0.7, np.float32)
    decoder = EventDecoder(high, high * 0.8, min_frames=4, max_gap=5)
    announced, final = set(), []
    for i in range(0, 300, 3):
        final.append(decoder.push(scores[:, i : i + 3]))
        announced |= {(r["cls"], r["start"]) for r in decoder.ongoing()}
    final.append(decoder.finish())
    starts = {(r["cls"], r["start"]) for r in np.concatenate(final)}
    # Nothing is announced that does not come; what begins and becomes final within one block needs no announcement.
    assert announced <= starts
    assert len(announced) > 10


def test_the_last_frame_ends_with_the_audio():
    table = decode_events(np.ones((1, 10), np.float32), names(1), 0.5, duration=0.37)
    assert [tuple(e)[:4] for e in table] == [(0.0, 0.37, "class 0", "/m/0")]


def test_a_score_equal_to_the_threshold_is_not_above_it():
    edges = np.array([[0.25, 0.5, 0.75, 0.5, 0.25]], np.float32)  # equal ones beside one above
    assert [(round(25 * e.onset), round(25 * e.offset)) for e in decode_events(edges, names(1), 0.5)] == [(2, 3)]
    longer = decode_events(edges, names(1), 0.5, hysteresis=0.5)  # of 0.25, which the outer frames equal
    assert [(round(25 * e.onset), round(25 * e.offset)) for e in longer] == [(1, 4)]
    assert len(decode_events(np.full((1, 5), 0.5, np.float32), names(1), 0.5)) == 0
    assert len(decode_events(np.ones((1, 5), np.float32), names(1), 1.0)) == 0
    assert len(decode_events(np.zeros((1, 5), np.float32), names(1), 0.0)) == 0


def test_no_frames_and_no_events():
    assert len(decode_events(np.zeros((3, 0), np.float32), names(3))) == 0
    assert list(decode_events(np.zeros((3, 9), np.float32), names(3))) == []
