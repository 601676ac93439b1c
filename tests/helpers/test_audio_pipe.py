"""Audio from pipes: WAV of every kind that soundfile writes, raw samples, odd pieces, broken headers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

from errors import UserError
from helpers.audio_pipe import RawFormat, open_pipe
from helpers.audio_reader import read_blocks

AUDIO = np.random.default_rng(0).uniform(-0.99, 0.99, (5000, 2)).astype(np.float32)


class Trickle(io.BytesIO):
    """A pipe that gives odd numbers of bytes."""

    def read1(self, n=-1):
        return super().read(min(n, 37))

    def read(self, n=-1):
        return super().read(min(n, 5) if n >= 0 else n)


def wav_bytes(subtype: str, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, AUDIO, 22_050, subtype, format=form)
    return file.getvalue()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
@pytest.mark.parametrize("pipe", [io.BytesIO, Trickle])
def test_piped_wav_equals_soundfile(subtype, form, pipe):
    data = wav_bytes(subtype, form)
    piped = open_pipe(pipe(data))
    expected, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert piped.sample_rate == rate
    np.testing.assert_allclose(np.concatenate(list(piped.blocks)), expected, atol=1e-7)


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x00\xf0\xff\x7f"])
def test_a_header_that_does_not_know_its_length(size):
    data = bytearray(wav_bytes("PCM_16"))
    at = data.index(b"data") + 4
    data[at : at + 4] = size
    assert sum(len(b) for b in open_pipe(io.BytesIO(bytes(data))).blocks) == len(AUDIO)


def test_chunks_after_the_samples_are_no_samples():
    data = wav_bytes("PCM_16") + b"LIST\x08\x00\x00\x00INFOjunk"
    assert sum(len(b) for b in open_pipe(io.BytesIO(data)).blocks) == len(AUDIO)


def test_raw_samples():
    data = (AUDIO * 32767).astype("<i2").tobytes() + b"\x01"  # half a sample at the end
    piped = open_pipe(Trickle(data), RawFormat.parse("48000:2:s16"))
    np.testing.assert_allclose(np.concatenate(list(piped.blocks)), AUDIO, atol=1e-4)
    mono = np.concatenate(list(read_blocks(open_pipe(io.BytesIO(data), RawFormat.parse("16000:2")))))
    np.testing.assert_allclose(mono, AUDIO.mean(axis=1), atol=1e-4)


@pytest.mark.parametrize("text", ["", "fast", "16000:0", "16000:1:mp3", "16000:1:s16:le", "16000:two", "10"])
def test_bad_layouts(text):
    with pytest.raises(UserError, match="--raw is"):
        RawFormat.parse(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"fLaC" + bytes(100), "no WAV header"),
        (wav_bytes("PCM_16")[:20], "header is damaged"),
        (wav_bytes("ULAW"), "of a kind that cannot be piped"),
    ],
)
def test_bad_pipes(data, message):
    with pytest.raises(UserError, match=message):
        open_pipe(io.BytesIO(data))


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (999, 1), (2**31, 1), (0, 1), (16_000, 0), (16_000, 60_000)])
def test_absurd_rates_and_channels_in_a_header_are_refused_at_once(rate, channels):
    data = bytearray(wav_bytes("PCM_16"))
    data[22:28] = channels.to_bytes(2, "little") + rate.to_bytes(4, "little")
    with pytest.raises(
        UserError, match=rf"{channels} channels at {rate} Hz: expected 1 to 256 channels at 1000 to 1000000"
    ):
        open_pipe(io.BytesIO(bytes(data)))
