"""Gain, filter augmentation, frequency warping and device responses against slow formulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy import signal

from errors import UserError
from helpers.augment import (
    ImpulseResponses,
    draw_device_response,
    draw_filter_augment,
    draw_freq_warp,
    draw_gain,
    draw_mel_range,
    load_impulse_responses,
)
from helpers.augment.impulse import DeviceResponse
from helpers.augment.spectrum import Filter, FreqWarp, Gain, _draw_edges, _gain_curve


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(13)


def test_gain_is_in_decibels(generator: torch.Generator) -> None:
    x = torch.ones(3, 4)
    got = Gain(torch.tensor([0, 20, -6])).signal(x)
    torch.testing.assert_close(got[:, 0], torch.tensor([1.0, 10.0, 0.501187]))
    assert set(draw_gain(5000, 3, generator).db.tolist()) == {-3, -2, -1, 0, 1, 2}


def test_mel_range(generator: torch.Generator) -> None:
    draws = [draw_mel_range(generator) for _ in range(20_000)]
    low, high = (np.array(v) for v in zip(*draws, strict=True))
    assert set(low) == set(range(10))
    assert high.min() == 6001 and high.max() == 8000


def test_band_edges_respect_count_and_width(generator: torch.Generator) -> None:
    edges = _draw_edges(5000, 128, generator).numpy()
    counts = set()
    for row in edges:
        assert row[0] == 0 and row[-1] == 128
        inner = row[row < 128]
        counts.add(len(inner))
        assert (np.diff([*inner, 128]) >= 6).all()
    assert counts == {3, 4, 5}
    assert edges[:, 1].min() == 6  # the narrowest band does occur


def test_gain_curve_equals_lines_between_the_edges(generator: torch.Generator) -> None:
    edges = _draw_edges(50, 64, generator)
    gains = torch.rand(50, 6, generator=generator, dtype=torch.float64) * 12 - 6
    got = _gain_curve(edges, gains, 64).numpy()
    for i in range(50):
        curve = np.zeros(64)
        for band in range(5):
            low, high = int(edges[i, band]), int(edges[i, band + 1])
            if low < high:
                curve[low:high] = np.linspace(gains[i, band], gains[i, band + 1], high - low)
        np.testing.assert_allclose(got[i], curve, atol=1e-12)


def test_filter_multiplies_the_log_mel_by_the_factor(generator: torch.Generator) -> None:
    draw = draw_filter_augment(4, 64, 1.0, generator)
    mel = torch.randn(4, 1, 64, 10, dtype=torch.float64)
    expected = mel.numpy() * 10 ** (draw.db.numpy()[:, None, :, None] / 20)
    np.testing.assert_allclose(draw.signal(mel).numpy(), expected, atol=1e-12)
    assert draw.db.abs().max() <= 6 and not torch.equal(draw.db[0], draw.db[1])


def test_filter_stretches_to_a_teacher_with_other_bins() -> None:
    draw = Filter(torch.linspace(-6, 6, 128, dtype=torch.float64)[None])
    got = draw.signal(torch.ones(1, 1, 64, 3, dtype=torch.float64))[0, 0, :, 0]
    expected = 10 ** (torch.linspace(-6, 6, 64, dtype=torch.float64) / 20)
    torch.testing.assert_close(got, expected)


def test_filter_refuses_too_few_bins(generator: torch.Generator) -> None:
    with pytest.raises(ValueError, match="29 mel bins"):
        draw_filter_augment(2, 29, 1.0, generator)


@pytest.mark.parametrize("per_clip", [False, True])
def test_freq_warp_equals_bicubic_interpolation_per_clip(generator: torch.Generator, per_clip: bool) -> None:
    draw = draw_freq_warp(6, 128, 1.0, generator, per_clip=per_clip)
    mel = torch.randn(6, 1, 128, 30, dtype=torch.float64)
    for i, (first, height) in enumerate(zip(draw.first.tolist(), draw.height.tolist(), strict=True)):
        kept = mel[i : i + 1, :, first : first + height]
        expected = torch.nn.functional.interpolate(kept, (128, 30), mode="bicubic", align_corners=True)
        torch.testing.assert_close(draw.signal(mel)[i : i + 1], expected, rtol=0, atol=1e-12)
    assert (len(set(draw.height.tolist())) > 1) == per_clip


def test_freq_warp_ranges(generator: torch.Generator) -> None:
    draw = draw_freq_warp(20_000, 128, 1.0, generator, per_clip=True)
    assert draw.height.min() == int(128 * 0.6) and draw.height.max() == 127
    assert draw.first.min() == 0 and (draw.first + draw.height).max() == 128


def test_freq_warp_keeps_proportions_on_other_bins() -> None:
    draw = FreqWarp(torch.tensor([32]), torch.tensor([80]), 128)
    mel = torch.randn(1, 1, 64, 5, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(mel[:, :, 16:56], (64, 5), mode="bicubic", align_corners=True)
    torch.testing.assert_close(draw.signal(mel), expected, rtol=0, atol=1e-12)


def write_responses(folder: Path) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    responses = [rng.standard_normal(n) * np.exp(-np.arange(n) / 40) for n in (200, 350)]
    responses[1][:20] *= 0.01  # what comes before the direct sound
    responses[1][20] = 8.0
    for name, response in zip("ab", responses, strict=True):
        soundfile.write(folder / f"{name}.wav", response * 0.1, 16_000, subtype="DOUBLE")
    return responses


def test_device_response_equals_direct_convolution(tmp_path: Path) -> None:
    originals = write_responses(tmp_path)
    responses = load_impulse_responses(tmp_path)
    draw = DeviceResponse(responses, torch.tensor([0, 1, -1]))
    x = torch.randn(3, 4000, dtype=torch.float64)
    got = draw.signal(x).numpy()
    for i in (0, 1):
        kernel = originals[i] / np.sqrt(np.sum(originals[i] ** 2))
        delay = int(np.argmax(np.abs(kernel)))
        expected = signal.convolve(x[i].numpy(), kernel, mode="full", method="direct")[delay : delay + 4000]
        np.testing.assert_allclose(got[i], expected, atol=1e-5)  # the kernels are stored as float32
    np.testing.assert_array_equal(got[2], x[2].numpy())


def test_responses_are_resampled_and_cut(tmp_path: Path) -> None:
    impulse = np.zeros((96_000, 2))  # stereo, 48 kHz, 2 s
    impulse[48, :] = 1.0
    soundfile.write(tmp_path / "x.wav", impulse, 48_000)
    responses = load_impulse_responses(tmp_path, max_seconds=0.5)
    assert responses.kernels.shape == (1, 8000)
    assert abs(int(responses.delays[0]) - 16) <= 1
    torch.testing.assert_close(responses.kernels.square().sum(1), torch.ones(1))


def test_every_response_is_used(generator: torch.Generator) -> None:
    responses = ImpulseResponses(torch.eye(3), torch.arange(3))
    choice = draw_device_response(3000, 0.4, responses, generator).choice
    shares = torch.bincount(choice + 1, minlength=4) / 3000
    torch.testing.assert_close(shares, torch.tensor([0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3]), atol=0.04, rtol=0)


def test_bad_folders_of_responses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        load_impulse_responses(tmp_path / "missing")
    with pytest.raises(UserError, match="no audio file"):
        load_impulse_responses(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"not audio")
    with pytest.raises(UserError, match=r"cannot read.*broken\.wav"):
        load_impulse_responses(tmp_path)
    soundfile.write(tmp_path / "broken.wav", np.zeros(100), 16_000)
    with pytest.raises(UserError, match="silent"):
        load_impulse_responses(tmp_path)
