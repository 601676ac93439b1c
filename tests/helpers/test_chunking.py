"""Windows, blending and the running filter against doing everything at once."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import median_filter

from helpers.chunking import RunningFilter, ScoreBlender, WindowPlan, WindowSplitter, blend_weights

PLAN = WindowPlan(window=25, overlap=6, samples_per_frame=4)


def split(plan: WindowPlan, audio: np.ndarray, pieces: int) -> list[tuple[int, np.ndarray]]:
    splitter = WindowSplitter(plan)
    windows = []
    for piece in np.array_split(audio, pieces):
        windows += [(start, window.copy()) for start, window in splitter.push(piece)]
    return windows + list(splitter.finish())


@pytest.mark.parametrize("n_samples", [1, 3, 99, 100, 101, 176, 177, 240, 1000, 1001])
@pytest.mark.parametrize("overlap", [0, 1, 6, 12])
def test_windows_cover_the_audio(n_samples, overlap):
    plan = WindowPlan(25, overlap, 4, pad_short=True)
    audio = np.arange(1, n_samples + 1, dtype=np.float32)
    padded = np.concatenate([audio, np.zeros(200, np.float32)])
    windows = split(plan, audio, 1)
    for start, window in windows:
        np.testing.assert_array_equal(window, padded[start * 4 : start * 4 + 100])
    starts = [start for start, _ in windows]
    n_frames = -(-n_samples // 4)
    assert starts[0] == 0 and starts[-1] + 25 >= n_frames
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= 25 - overlap).all()
    assert (steps[:-1] == 25 - overlap).all()
    assert len(windows) == max(1, -(-(n_frames - overlap) // (25 - overlap)))  # no window too many
    if overlap and len(windows) > 1:
        assert starts[-1] + 25 == n_frames  # the last one is moved back, not padded with silence


@pytest.mark.parametrize(
    ("n_frames", "expected"), [(1, 25), (25, 25), (26, 30), (120, 120), (121, 125), (249, 250), (250, 250)]
)
def test_audio_shorter_than_a_window_is_hardly_padded(n_frames, expected):
    for overlap, length in ((50, expected), (0, 250)):  # overlap 0: the published form
        windows = split(WindowPlan(250, overlap, 4), np.ones(n_frames * 4 - 1, np.float32), 1)
        assert [(start, len(window)) for start, window in windows] == [(0, length * 4)]
        assert windows[0][1].sum() == n_frames * 4 - 1


@pytest.mark.parametrize("pieces", [1, 2, 13, 400])
def test_pieces_do_not_matter(pieces):
    audio = np.random.default_rng(0).standard_normal(1003).astype(np.float32)
    expected = split(PLAN, audio, 1)
    got = split(PLAN, audio, pieces)
    assert [s for s, _ in got] == [s for s, _ in expected]
    np.testing.assert_array_equal(np.stack([w for _, w in got]), np.stack([w for _, w in expected]))


def test_splitter_memory_is_bounded():
    splitter = WindowSplitter(PLAN)
    for _ in range(200):
        list(splitter.push(np.zeros(333, np.float32)))
        assert len(splitter._kept) <= PLAN.window_samples + PLAN.samples_per_frame


def test_empty_audio_has_no_windows():
    assert split(PLAN, np.zeros(0, np.float32), 1) == []


@pytest.mark.parametrize("n_frames", [1, 24, 25, 26, 44, 45, 200, 237])
@pytest.mark.parametrize("overlap", [0, 6, 12])
def test_blending_equals_the_weighted_mean(n_frames, overlap):
    plan = WindowPlan(25, overlap, 4, pad_short=True)
    rng = np.random.default_rng(n_frames)
    starts = [start for start, _ in split(plan, np.zeros(n_frames * 4, np.float32), 1)]
    scores = [rng.random((3, 25)).astype(np.float32) for _ in starts]
    total, weight = np.zeros((3, n_frames + 25)), np.zeros(n_frames + 25)
    for start, score in zip(starts, scores, strict=True):
        total[:, start : start + 25] += score * blend_weights(plan)
        weight[start : start + 25] += blend_weights(plan)
    blender = ScoreBlender(plan)
    blocks = [blender.add(start, score) for start, score in zip(starts, scores, strict=True)] + [
        blender.finish(n_frames)
    ]
    got = np.concatenate(blocks, axis=1)
    np.testing.assert_allclose(got, (total / np.maximum(weight, 1e-9))[:, :n_frames], rtol=1e-5)


def test_constant_scores_stay_constant():
    blender = ScoreBlender(PLAN)
    one = np.full((2, 25), 0.3, np.float32)
    got = np.concatenate([blender.add(0, one), blender.add(19, one), blender.add(30, one), blender.finish(55)], axis=1)
    np.testing.assert_allclose(got, np.full((2, 55), 0.3), rtol=1e-6)


def test_ramps_of_neighbours_add_up_to_one():
    weights = blend_weights(PLAN)
    np.testing.assert_allclose(weights[-6:] + weights[:6], 1)
    assert (weights > 0).all()
    assert (blend_weights(WindowPlan(25, 0)) == 1).all()


@pytest.mark.parametrize("window", [1, 3, 9, 21])
@pytest.mark.parametrize("piece", [1, 4, 50, 300])
@pytest.mark.parametrize("n_frames", [1, 5, 30, 200])
def test_running_median_equals_the_whole(window, piece, n_frames):
    scores = np.random.default_rng(3).random((4, n_frames)).astype(np.float32)
    filtered = median_filter(scores, (1, window), mode="reflect")
    running = RunningFilter(lambda x: median_filter(x, (1, window), mode="reflect"), window // 2)
    blocks = [running.push(scores[:, i : i + piece]) for i in range(0, n_frames, piece)]
    blocks = [b for b in [*blocks, running.finish()] if b.size]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), filtered)
