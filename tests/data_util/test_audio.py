"""Decoding and resampling, against SciPy and against what was written."""

from __future__ import annotations

import io
import sys
import types

import numpy as np
import pytest
import scipy.signal
import soundfile

from data_util.audio import DecodeError, decode, fix_length, resample
from data_util.optional import optional


def encode(samples, rate, **kind):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, **kind)
    return buffer.getvalue()


def band_limited_noise(seconds, rate, seed=0, cutoff=2000):
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    sos = scipy.signal.butter(8, cutoff, fs=rate, output="sos")
    return (0.1 * scipy.signal.sosfiltfilt(sos, noise)).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 22_050, 32_000, 44_100, 48_000])
def test_resampling_equals_scipy_on_band_limited_noise(rate):
    wave = band_limited_noise(2.0, rate)
    ours = resample(wave, rate)
    gcd = np.gcd(rate, 16_000)
    theirs = scipy.signal.resample_poly(wave.astype(float), 16_000 // gcd, rate // gcd, window=("kaiser", 12.0))
    assert ours.dtype == np.float32 and abs(len(ours) - 32_000) <= 1
    middle = slice(2000, 30_000)  # away from the ends, where filters see different continuations
    assert np.abs(ours[middle] - theirs[middle]).max() < 2e-3 * np.abs(theirs).max()


def test_no_aliasing():
    """A tone above the new Nyquist frequency must vanish instead of folding down."""
    tone = np.sin(2 * np.pi * 12_000 * np.arange(64_000) / 32_000).astype(np.float32)
    assert np.abs(resample(tone, 32_000)[1000:-1000]).max() < 1e-4


def test_mp3_round_trip_keeps_time_and_level():
    wave = band_limited_noise(10.0, 32_000)
    found = decode(encode(wave, 32_000, format="MP3", subtype="MPEG_LAYER_III"))
    expected = scipy.signal.resample_poly(wave.astype(float), 1, 2)
    assert len(found) == 160_000
    error = found - expected
    assert 10 * np.log10(np.mean(expected**2) / np.mean(error**2)) > 15
    lag = np.argmax(np.correlate(found[8000:24_000], expected[8000:24_000], "full")) - 15_999
    assert lag == 0


@pytest.mark.parametrize("kind", [{"format": "WAV", "subtype": "PCM_16"}, {"format": "FLAC"}, {"format": "OGG"}])
def test_stereo_is_averaged(kind):
    left = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    mono = decode(encode(np.stack([left, -0.5 * left], axis=1), 16_000, **kind))
    assert np.abs(mono - left / 4).max() < 0.02


def test_max_seconds_cuts_the_end():
    wave = band_limited_noise(3.0, 16_000)
    whole = decode(encode(wave, 16_000, format="WAV", subtype="FLOAT"))
    start = decode(encode(wave, 16_000, format="WAV", subtype="FLOAT"), max_seconds=1.0)
    np.testing.assert_array_equal(start, whole[:16_000])


def test_arrays_of_bytes_decode_too():
    data = encode(band_limited_noise(0.5, 16_000), 16_000, format="WAV", subtype="PCM_16")
    np.testing.assert_array_equal(decode(np.frombuffer(data, np.uint8)), decode(data))


@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"not audio at all", b"ID3", b"\xff\xfb", b"RIFF\0\0\0\0WAVE"])
def test_other_bytes_are_decode_errors(data):
    with pytest.raises(DecodeError):
        decode(data)


def test_empty_audio_is_a_decode_error():
    with pytest.raises(DecodeError, match="no samples"):
        decode(encode(np.zeros(0, np.float32), 16_000, format="WAV", subtype="PCM_16"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(value):
    wave = band_limited_noise(0.1, 16_000)
    wave[100] = value
    with pytest.raises(DecodeError, match="not finite"):
        decode(encode(wave, 16_000, format="WAV", subtype="FLOAT"))


def test_opposite_infinities_do_not_cancel():
    wave = np.array([np.inf, -np.inf] * 50, np.float32)
    with pytest.raises(DecodeError, match="not finite"):
        decode(encode(wave, 16_000, format="WAV", subtype="FLOAT"))


@pytest.mark.parametrize("n", [0, 5, 10, 15])
def test_fix_length(n):
    wave = np.arange(1, n + 1, dtype=np.float32)
    fixed = fix_length(wave, 10)
    assert fixed.tolist() == ([*range(1, n + 1)] + [0] * 10)[:10] and fixed.dtype == np.float32


def test_minimp3_is_used_for_mp3_where_it_is_installed(monkeypatch):
    """A stand-in with the interface of minimp3py: read(bytes) -> ([N, channels] float32, rate)."""
    fake = types.ModuleType("minimp3py")
    fake.read = lambda data: (np.full((320, 2), [0.5, 0.25], np.float32), 32_000)
    monkeypatch.setitem(sys.modules, "minimp3py", fake)
    optional.cache_clear()
    mp3 = encode(np.zeros(3200, np.float32), 32_000, format="MP3", subtype="MPEG_LAYER_III")
    wav = encode(np.zeros(320, np.float32), 16_000, format="WAV", subtype="PCM_16")
    assert decode(mp3)[40:120] == pytest.approx(0.375, abs=1e-2)
    assert decode(wav).max() == 0
    optional.cache_clear()


def test_a_clip_too_short_for_one_sample_is_no_audio():
    buffer = io.BytesIO()
    soundfile.write(buffer, np.ones(1, np.float32), 48_000, format="WAV")
    with pytest.raises(DecodeError, match="too short"):
        decode(buffer.getvalue())
