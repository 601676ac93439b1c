from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errors import UserError
from helpers.compiling import compiled
from helpers.postprocess import median_filter
from helpers.score_tables import median_network


@settings(max_examples=60, deadline=None)
@given(
    n_frames=st.integers(1, 40),
    half=st.integers(0, 36),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([0, 2, 5]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
)
def test_equals_scipy(n_frames, half, seed, levels, dtype):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, 3, n_frames))
    x = (np.round(x * levels) if levels else x).astype(dtype)  # few levels: ties and plateaus
    window = 2 * half + 1
    mirrored = np.pad(x, ((0, 0), (0, 0), (half, half)), mode="symmetric")
    expected = np.median(np.lib.stride_tricks.sliding_window_view(mirrored, window, -1).astype(np.float64), -1)
    expected = expected.astype(dtype)
    if half <= n_frames:  # SciPy 1.15 reads beyond the curve when half a window is longer than it
        wide = x.astype(np.float64)
        theirs = scipy.ndimage.median_filter(wide, size=(1, 1, window), mode="reflect")
        np.testing.assert_array_equal(theirs.astype(dtype), expected)
    ours = median_filter(x, window)
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(median_filter(torch.from_numpy(x), window).numpy(), expected)


@pytest.mark.parametrize("window", range(1, 64, 2))
def test_network_finds_the_median(window):
    x = np.random.default_rng(window).integers(0, 9, (200, window))
    for low, high in median_network(window):
        x[:, low], x[:, high] = np.minimum(x[:, low], x[:, high]), np.maximum(x[:, low], x[:, high])
        assert low < high
    y = np.random.default_rng(window).integers(0, 9, (200, window))
    np.testing.assert_array_equal(x[:, window // 2], np.median(y, axis=1))


def test_one_window_per_class_and_devices():
    from helpers.postprocess import _median_filter_device

    x = torch.randn(4, 5, 50)
    windows = [1, 3, 9, 9, 61]
    expected = np.stack(
        [scipy.ndimage.median_filter(x[:, c].numpy(), size=(1, w), mode="reflect") for c, w in enumerate(windows)], 1
    )
    np.testing.assert_array_equal(median_filter(x, windows).numpy(), expected)
    np.testing.assert_array_equal(_median_filter_device(x, np.array(windows)).numpy(), expected)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_cuda_equals_cpu(dtype):
    x = torch.randn(8, 6, 250).to(dtype)
    windows = [1, 3, 5, 9, 31, 301]
    assert torch.equal(median_filter(x.cuda(), windows).cpu(), median_filter(x, windows))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_type_and_values(dtype):
    x = torch.randn(3, 50).to(dtype)
    out = median_filter(x, 5)
    assert out.dtype == dtype
    assert torch.equal(out.float(), median_filter(x.float(), 5))


def test_one_curve_and_no_clip():
    x = torch.randn(30)
    assert torch.equal(median_filter(x, 9), median_filter(x[None], 9)[0])
    assert median_filter(torch.empty(0, 4, 250), 9).shape == (0, 4, 250)


@pytest.mark.parametrize("window", [4, 0, -3, [3, 4], [3, 3, 3], 2.5])
def test_bad_windows_are_refused(window):
    with pytest.raises(UserError, match="median_window"):
        median_filter(torch.zeros(2, 10), window)


def test_compiling_without_a_writable_folder(monkeypatch):
    def refuse_cache(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr("helpers.compiling.njit", refuse_cache)
    assert compiled()(len) is len
