"""Audio from pipes: WAV of every kind that soundfile writes, raw samples, odd pieces, broken headers."""

from __future__ import annotations

import io
import os
import threading
import time
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import soundfile

from errors import UserError
from helpers.audio_pipe import RawFormat, ReadAhead, open_pipe
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


def test_names_of_ffmpeg():
    assert RawFormat.parse("16000:1:s16le") == RawFormat(16000) != RawFormat.parse("16000:1:f32le")
    assert RawFormat.parse("16000:1:f32le").encoding == "f32"
    with pytest.raises(UserError, match="--raw is 16000:1:s16be"):
        RawFormat.parse("16000:1:s16be")


def test_raw_samples_that_are_wav_with_another_layout():
    data = wav_bytes("PCM_16")
    with pytest.raises(UserError, match="--raw is 16000:2:s16, but standard input is WAV with 22050:2:s16: leave out"):
        open_pipe(io.BytesIO(data), RawFormat.parse("16000:2:s16"))
    same = open_pipe(io.BytesIO(data), RawFormat.parse("22050:2:s16"))
    assert sum(len(block) for block in same.blocks) == len(data) // 4
    damaged = bytearray(data)
    damaged[24:28] = bytes(4)  # a rate of 0 Hz, for which the message of the header sends people to --raw
    assert open_pipe(io.BytesIO(bytes(damaged)), RawFormat.parse("16000:2:s16")).sample_rate == 16_000


@pytest.mark.parametrize("n", [0, 3, 20, 36, 37])
def test_raw_samples_shorter_than_a_header_are_all_read(n):
    data = bytes(range(n))
    blocks = list(open_pipe(io.BytesIO(data), RawFormat.parse("16000:1:s16")).blocks)
    assert sum(len(block) for block in blocks) == n // 2
    if blocks:
        np.testing.assert_array_equal(np.concatenate(blocks)[:, 0] * 2**15, np.frombuffer(data[: n // 2 * 2], "<i2"))


def test_a_microphone_does_not_wait_for_the_reader():
    n_bytes = 1 << 20  # many times what a pipe holds
    data = np.random.default_rng(1).bytes(n_bytes)
    reading_end, writing_end = os.pipe()
    with open(reading_end, "rb") as file:
        ahead = ReadAhead(file)
        writer = threading.Thread(target=_write, args=(writing_end, data), daemon=True)
        writer.start()
        writer.join(60)
        assert not writer.is_alive()  # although nobody has asked for a byte
        assert b"".join(iter(lambda: ahead.read(1000), b"")) == data


def test_what_nobody_reads_is_kept_up_to_a_limit():
    reading_end, writing_end = os.pipe()
    with open(reading_end, "rb") as file:
        ahead = ReadAhead(file, most=100_000)
        writer = threading.Thread(target=_write, args=(writing_end, bytes(1 << 20)), daemon=True)
        writer.start()
        writer.join(0.5)
        assert writer.is_alive()
        assert len(b"".join(iter(lambda: ahead.read(1 << 20), b""))) == 1 << 20
        writer.join(60)
        assert not writer.is_alive()


def test_the_moment_at_which_a_stream_began():
    reading_end, writing_end = os.pipe()
    os.write(writing_end, bytes(32_000))  # a second at 16 kHz that was recorded before anybody looked
    before = datetime.now(timezone.utc)
    with open(reading_end, "rb") as file:
        ahead = ReadAhead(file)
        piped = open_pipe(ahead, RawFormat.parse("16000:1:s16"))
        assert piped.bytes_per_second == 32_000
        after = datetime.now(timezone.utc)
        time.sleep(0.2)  # a model is loaded
        began = ahead.began(piped.bytes_per_second)
        os.close(writing_end)
        assert before - timedelta(seconds=1) <= began <= after - timedelta(seconds=1)


def test_a_pipe_that_breaks():
    class Broken(io.BytesIO):
        def read1(self, n=-1):
            piece = super().read(n)
            if not piece:
                raise OSError("gone")
            return piece

    ahead = ReadAhead(Broken(b"abc"))
    assert ahead.read(2) + ahead.read(9) == b"abc"
    with pytest.raises(OSError, match="gone"):
        ahead.read(1)


def _write(writing_end, data):
    with open(writing_end, "wb") as file:
        file.write(data)
