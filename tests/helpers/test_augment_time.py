"""Shifts and time masks against loops over clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.augment import (
    apply_signal,
    draw_frame_shift,
    draw_freq_mask,
    draw_roll,
    draw_spec_time_mask,
    draw_time_mask,
)
from helpers.augment.timing import SPEC_LEVEL, Shift, TimeMask, roll
from models.mel import FLOOR, LogMel


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("shape", [(5, 13), (5, 1, 4, 20), (5, 3, 7)])
def test_roll_equals_numpy_roll(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    steps = torch.tensor([0, 1, -3, 1000, -shape[-1]])
    expected = np.stack([np.roll(clip, step, axis=-1) for clip, step in zip(x.numpy(), steps.tolist(), strict=True)])
    np.testing.assert_array_equal(roll(x, steps).numpy(), expected)


def test_labels_shift_by_a_quarter_of_the_mel_frames(generator: torch.Generator) -> None:
    draw = draw_frame_shift(64, 1000, 0.125, generator)
    mel, labels = torch.randn(64, 1, 3, 1000), torch.rand(64, 2, 250)
    rolled_mel, rolled_labels = draw.signal(mel).numpy(), draw.frames(labels).numpy()
    for i, step in enumerate(draw.steps.tolist()):
        np.testing.assert_array_equal(rolled_mel[i], np.roll(mel[i].numpy(), step, axis=-1))
        np.testing.assert_array_equal(rolled_labels[i], np.roll(labels[i].numpy(), round(step / 4), axis=-1))


def test_shifts_are_normal_with_the_asked_spread(generator: torch.Generator) -> None:
    steps = draw_frame_shift(20_000, 1000, 0.125, generator).steps.double()
    assert abs(steps.mean()) < 3
    assert abs(steps.std() - 125) < 3
    assert abs((steps.abs() < 125).double().mean() - 0.6827) < 0.015


def test_teacher_with_half_the_frames_is_shifted_by_half() -> None:
    draw = Shift(torch.tensor([100, -60]), 1000)
    mel = torch.randn(2, 1, 4, 500)
    expected = torch.stack([mel[0].roll(50, -1), mel[1].roll(-30, -1)])
    torch.testing.assert_close(apply_signal(mel, [draw]), expected, rtol=0, atol=0)


def test_waveform_roll_moves_labels_along(generator: torch.Generator) -> None:
    draw = draw_roll(256, 160_000, 2000, generator)
    assert draw.steps.min() >= -2000 and draw.steps.max() <= 2000
    assert draw.steps.min() < -1800 and draw.steps.max() > 1800
    wave = torch.arange(160_000.0).expand(256, -1)
    moved = draw.signal(wave)[:, 0].long()  # what now comes first
    assert torch.equal(moved, -draw.steps % 160_000)
    labels = torch.arange(250.0).expand(256, 1, -1)
    assert torch.equal(draw.frames(labels)[:, 0, 0].long(), -torch.round(draw.steps / 640).long() % 250)


@pytest.mark.parametrize("per_clip", [False, True])
def test_time_mask_silences_mel_and_labels_alike(generator: torch.Generator, per_clip: bool) -> None:
    draw = draw_time_mask(6, 250, 0.3, generator, per_clip=per_clip)
    mel, labels = torch.rand(6, 1, 3, 1000) + 0.1, torch.rand(6, 2, 250) + 0.1
    expected_mel, expected_labels = mel.clone(), labels.clone()
    for i in range(6):
        first, end = int(draw.start[i]), int(draw.start[i] + draw.width[i])
        expected_mel[i, :, :, 4 * first : 4 * end] = 0
        expected_labels[i, :, first:end] = 0
    assert torch.equal(draw.signal(mel), expected_mel)
    assert torch.equal(draw.frames(labels), expected_labels)
    assert (len(set(zip(draw.start.tolist(), draw.width.tolist(), strict=True))) > 1) == per_clip


def test_time_mask_widths_and_places_cover_their_range(generator: torch.Generator) -> None:
    draw = draw_time_mask(50_000, 250, 0.1, generator, per_clip=True)
    assert set(draw.width.tolist()) == set(range(12, 25))  # int(250 * .05) ... int(250 * .1) - 1
    assert draw.start.min() == 0 and (draw.start + draw.width).max() == 250


def test_smallest_time_mask_has_the_smallest_width(generator: torch.Generator) -> None:
    assert set(draw_time_mask(100, 250, 0.051, generator, per_clip=True).width.tolist()) == {12}


def test_time_mask_scales_to_other_frame_rates() -> None:
    draw = TimeMask(torch.tensor([50]), torch.tensor([25]), 250)
    masked = (draw.signal(torch.ones(1, 1, 1, 998)) == 0).flatten().nonzero().flatten()
    assert masked.min() == round(50 * 998 / 250) and masked.max() == round(75 * 998 / 250) - 1


def test_spec_augment_masks_a_range_of_bins_and_a_stretch_of_each_clip(generator: torch.Generator) -> None:
    mel, labels = torch.rand(6, 1, 128, 1000) - 2, torch.rand(6, 2, 250) + 0.1
    bins, time = draw_freq_mask(6, 128, 48, generator), draw_spec_time_mask(6, 1000, 400, generator)
    expected = mel.clone()
    for i in range(6):
        expected[i, :, int(bins.first[i]) : int(bins.first[i] + bins.width[i])] = 0.9
        expected[i, ..., int(time.start[i]) : int(time.start[i] + time.width[i])] = 0.9
    assert torch.equal(apply_signal(mel, [bins, time]), expected)
    assert len(set(bins.first.tolist())) > 1 and len(set(time.start.tolist())) > 1
    assert torch.equal(bins.frames(labels), labels)
    cleared = time.frames(labels) == 0
    assert torch.equal(cleared.sum(-1)[:, 0], torch.round((time.start + time.width) / 4) - torch.round(time.start / 4))
    assert apply_signal(torch.rand(6, 1, 64, 99), [bins, time]).shape == (6, 1, 64, 99)  # of a teacher


def test_spec_augment_covers_its_range(generator: torch.Generator) -> None:
    draw = draw_freq_mask(50_000, 128, 10, generator)
    assert set(draw.width.tolist()) == set(range(10))
    assert draw.first.min() == 0 and (draw.first + draw.width).max() == 128
    assert (draw_freq_mask(100, 8, 99, generator).width <= 8).all()  # fewer bins than the longest mask


def test_spec_augment_fills_with_a_logarithm_of_zero() -> None:
    """The published masks come before the normalisation."""
    silence = LogMel()(torch.zeros(1, 1600))
    torch.testing.assert_close(silence, torch.full_like(silence, SPEC_LEVEL + np.log(FLOOR) / 5))
