"""Mono out of several channels: the mean, unless they cancel each other out in it."""

from __future__ import annotations

import numpy as np
import pytest

from data_util.channels import ChannelMixer, to_mono


def noise(n: int, channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (n, channels)).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 8])
def test_independent_channels_are_averaged(channels: int) -> None:
    audio = noise(16_000, channels)
    mixer = ChannelMixer()
    np.testing.assert_array_equal(mixer(audio), audio.mean(axis=1))
    assert mixer.note is None


def test_one_loud_channel_among_silent_ones_is_no_cancellation() -> None:
    audio = noise(16_000, 8) * np.eye(8, dtype=np.float32)[3]
    mixer = ChannelMixer()
    np.testing.assert_array_equal(mixer(audio), audio.mean(axis=1))
    assert mixer.note is None


@pytest.mark.parametrize("residue", [0.0, 0.05])
def test_of_channels_in_antiphase_the_louder_one_is_taken_and_kept(residue: float) -> None:
    left = noise(16_000, 1)
    audio = np.concatenate([left, -1.1 * left + residue * noise(16_000, 1, seed=1)], axis=1)
    mixer = ChannelMixer()
    np.testing.assert_array_equal(mixer(audio), audio[:, 1])
    assert mixer.note is not None and "channel 2 is taken" in mixer.note
    in_phase = np.repeat(left, 2, axis=1)
    np.testing.assert_array_equal(mixer(in_phase), left[:, 0])


def test_a_channel_by_number() -> None:
    audio = np.concatenate([noise(100, 1), -noise(100, 1)], axis=1)
    np.testing.assert_array_equal(to_mono(audio, 1), audio[:, 1])
    assert not np.array_equal(to_mono(audio, 0), audio[:, 1])


def test_digital_silence_stays_silence() -> None:
    assert not to_mono(np.zeros((100, 2), np.float32)).any()
