"""The decoder under fire: thousands of damaged MP3s must end in samples or in a DecodeError, soon."""

from __future__ import annotations

import faulthandler
import time

import numpy as np
import pytest

from data_util.audio import DecodeError, decode
from data_util.pack_clip import encode_mp3

N_MUTANTS = 2400
SECONDS = 0.6


def flip_bits(rng, data):
    for place in rng.integers(0, len(data), rng.integers(1, 60)):
        data[place] ^= 1 << rng.integers(8)
    return data


def overwrite_block(rng, data):
    first, length = rng.integers(0, len(data)), rng.integers(1, 400)
    data[first : first + length] = bytes(rng.integers(0, 256, len(data[first : first + length])).tolist())
    return data


def cut(rng, data):
    return data[: rng.integers(0, len(data))]


def cut_start(rng, data):
    return data[rng.integers(0, len(data)) :]


def remove_middle(rng, data):
    first = rng.integers(0, len(data))
    del data[first : first + rng.integers(1, 500)]
    return data


def repeat_block(rng, data):
    first = rng.integers(0, len(data))
    return data[:first] + data[first : first + rng.integers(1, 500)] * int(rng.integers(2, 6)) + data[first:]


def insert_rubbish(rng, data):
    first = rng.integers(0, len(data))
    return data[:first] + bytes(rng.integers(0, 256, rng.integers(1, 300)).tolist()) + data[first:]


def spoil_header(rng, data):
    """The first frame: sync word, rate, channels, and the Xing block that tells the length."""
    for place in rng.integers(0, 200, rng.integers(1, 12)):
        data[place] = rng.integers(0, 256)
    return data


def spoil_frame_headers(rng, data):
    """Change rate, layer or channel mode of frames in the middle."""
    places = [i for i in range(len(data) - 1) if data[i] == 0xFF and data[i + 1] & 0xE0 == 0xE0]
    for place in rng.choice(places, min(len(places), 5), replace=False):
        data[place + rng.integers(1, 4)] = rng.integers(0, 256)
    return data


def lie_about_id3(rng, data):
    size = bytes(rng.integers(0, 128, 4).tolist())
    return b"ID3\x04\x00" + bytes([rng.integers(256)]) + size + data


def claim_another_format(rng, data):
    head = [b"RIFF\xff\xff\xff\x7fWAVEfmt ", b"fLaC", b"OggS\0", b"FORM\x7f\xff\xff\xffAIFF", b".snd"]
    return head[rng.integers(len(head))] + data


MUTATIONS = [
    flip_bits,
    overwrite_block,
    cut,
    cut_start,
    remove_middle,
    repeat_block,
    insert_rubbish,
    spoil_header,
    spoil_frame_headers,
    lie_about_id3,
    claim_another_format,
]


@pytest.fixture(scope="module")
def sources():
    """Mono and stereo, three rates."""
    rng = np.random.default_rng(0)
    files = []
    for rate, channels in ((32_000, 1), (44_100, 2), (16_000, 1)):
        noise = 0.2 * rng.standard_normal((round(SECONDS * rate), channels))
        tone = np.sin(2 * np.pi * 700 * np.arange(len(noise)) / rate)[:, None]
        files.append(encode_mp3((0.3 * noise + 0.5 * tone).astype(np.float32), rate))
    return files


@pytest.mark.slow
def test_damaged_mp3s(sources):
    faulthandler.dump_traceback_later(120, exit=True)  # a hang inside the C library ends the test run with a trace
    rng = np.random.default_rng(1)
    outcomes = {"samples": 0, "errors": 0}
    slowest = 0.0
    for k in range(N_MUTANTS):
        mutate = MUTATIONS[k % len(MUTATIONS)]
        data = bytes(mutate(rng, bytearray(sources[rng.integers(len(sources))])))
        start = time.perf_counter()
        try:
            audio = decode(data, max_seconds=10.0)
        except DecodeError as error:
            assert str(error)
            outcomes["errors"] += 1
        else:
            assert audio.dtype == np.float32 and audio.ndim == 1 and 0 < len(audio) <= 160_001
            assert np.isfinite(audio).all()
            outcomes["samples"] += 1
        slowest = max(slowest, time.perf_counter() - start)
    faulthandler.cancel_dump_traceback_later()
    assert slowest < 5.0
    assert min(outcomes.values()) > 100, "the mutations must reach both ends"
