"""Packed logits: size, speed and error on logits like those of a detector; damaged bytes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from data_util.logit_codec import LARGEST_CODE, QUIET_LOGIT, STEPS, decode_logits, encode_logits


def detector_logits(rng, n_classes=447, n_frames=250):
    """Low noisy rows, forty classes with a slight suspicion, eight with events."""
    x = np.repeat(rng.normal(-9, 1.5, n_classes).clip(-14, -5.5)[:, None], n_frames, axis=1)
    x += 3 * gaussian_filter1d(rng.normal(size=x.shape), 12, axis=1)
    for kind, count in (("suspicion", min(40, n_classes)), ("event", min(8, n_classes))):
        for c in rng.choice(n_classes, count, replace=False):
            first, length = rng.integers(0, n_frames - 5), rng.integers(5, 200)
            if kind == "event":
                x[c, first : first + length] = rng.uniform(-2, 5)
            else:
                x[c, first : first + length] += rng.uniform(2, 6)
    return (gaussian_filter1d(x, 1.5, axis=1) + 0.25 * rng.normal(size=x.shape)).astype(np.float16)


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


@pytest.fixture(scope="module")
def clips():
    rng = np.random.default_rng(0)
    return [detector_logits(rng) for _ in range(12)]


def test_size_and_error(clips):
    sizes, loss_errors = [], []
    for logits in clips:
        data = encode_logits(logits)
        found = decode_logits(data, 447, 250)
        assert found.dtype == np.float16 and found.shape == (447, 250)
        sizes.append(len(data))
        p, q = sigmoid(logits), sigmoid(found)
        assert np.abs(p - q).max() < 0.0101
        loud = logits.max(axis=1) >= QUIET_LOGIT
        half_step = np.sqrt(1 + logits[loud].astype(float) ** 2) / (2 * STEPS)  # derivative of sinh(code / STEPS)
        assert (np.abs(found[loud].astype(float) - logits[loud]) < 1.05 * half_step + 0.01).all()
        np.testing.assert_allclose(q[~loud].mean(axis=1), p[~loud].mean(axis=1), rtol=0.05)
        z = logits + np.random.default_rng(1).normal(size=logits.shape)  # a student near the teacher
        loss = [(np.logaddexp(0, z) - probability * z).mean() for probability in (p, q)]
        loss_errors.append(abs(loss[1] / loss[0] - 1))
    assert np.mean(sizes) < 6000 and np.mean(loss_errors) < 0.02


def n_calls(function, *arguments) -> int:
    """How many functions, of Python and compiled ones, a call runs."""
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event) if event in ("call", "c_call") else None)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return len(calls)


def test_reading_is_vectorised(clips):
    """A clip takes some dozen calls however large it is, not one per class or frame: well below a millisecond."""
    decode_logits(encode_logits(clips[0]), 447, 250)  # first use
    whole = n_calls(decode_logits, encode_logits(clips[0]), 447, 250)
    part = n_calls(decode_logits, encode_logits(clips[0][:40, :50]), 40, 50)
    assert 0 < whole < 100 and abs(whole - part) < 10


@pytest.mark.parametrize("shape", [(447, 250), (527, 1), (1, 3), (9, 10), (8, 7)])
@pytest.mark.parametrize("level", [-60.0, -5.0, 0.0, 60.0, 60_000.0])
def test_any_shape_and_level(shape, level):
    logits = np.full(shape, level, np.float16)
    found = decode_logits(encode_logits(logits), *shape)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(sigmoid(found), sigmoid(logits), atol=0.005)


def test_codes_wrap_around_without_loss():
    """Steps between the extremes exceed int8."""
    largest = np.sinh(LARGEST_CODE / STEPS)
    logits = np.tile([-largest, largest, 0.0, -largest], (5, 6)).astype(np.float16)
    np.testing.assert_allclose(decode_logits(encode_logits(logits), 5, 24), logits, rtol=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(value):
    logits = np.zeros((4, 5), np.float32)
    logits[1, 2] = value
    with pytest.raises(ValueError, match="finite"):
        encode_logits(logits)


def test_damaged_bytes_are_refused(clips):
    data = encode_logits(clips[0])
    for damaged in (b"", data[:100], b"y" + data[1:], encode_logits(clips[0][:, :100]), encode_logits(clips[0][:9])):
        with pytest.raises(ValueError, match="damaged"):
            decode_logits(damaged, 447, 250)


def test_a_bomb_is_not_inflated():
    """A megabyte that claims to be a gigabyte: it is refused after as many bytes as the logits of a clip have."""
    import tracemalloc
    import zlib

    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="damaged logits"):
            decode_logits(bomb, 447, 250)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    loud = np.full((447, 250), 3.0)  # the largest that is true
    assert np.abs(decode_logits(encode_logits(loud), 447, 250) - loud).max() < 0.2
