"""Block-wise reading against soundfile and soxr on the whole file, and files that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import soxr

from errors import UserError
from helpers import audio_reader
from helpers.audio_reader import Audio, read_blocks


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(audio_reader, "BLOCK_SECONDS", 0.37)


def noise(n: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(1).uniform(-0.9, 0.9, (n, channels)).astype(np.float32)


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (16000, 3), (8000, 1), (44100, 2), (96000, 1), (11025, 8)])
def test_blocks_equal_the_whole(tmp_path, rate, channels):
    audio = noise(2 * rate + 17, channels)
    soundfile.write(tmp_path / "a.wav", audio, rate, "FLOAT")
    expected = soxr.resample(audio.mean(axis=1), rate, 16_000, quality="HQ")
    got = np.concatenate(list(read_blocks(tmp_path / "a.wav")))
    assert abs(len(got) - len(expected)) <= 1
    n = min(len(got), len(expected))
    np.testing.assert_allclose(got[:n], expected[:n], atol=2e-5)
    from_memory = np.concatenate(list(read_blocks(Audio(audio, rate))))
    np.testing.assert_array_equal(from_memory, got)


def test_a_channel_of_many(tmp_path):
    audio = noise(9000, 8)
    soundfile.write(tmp_path / "a.wav", audio, 16_000, "FLOAT")
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(tmp_path / "a.wav", 5))), audio[:, 5])


def bad_files(folder):
    soundfile.write(folder / "good.wav", noise(64_000), 16_000)
    soundfile.write(folder / "good.flac", noise(64_000), 16_000)
    wav, flac = (folder / "good.wav").read_bytes(), (folder / "good.flac").read_bytes()
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("this is not audio\n" * 100)
    (folder / "cut.wav").write_bytes(wav[: len(wav) // 3])
    (folder / "cut.flac").write_bytes(flac[: len(flac) // 3])
    (folder / "header.wav").write_bytes(wav[:30])
    soundfile.write(folder / "no_samples.wav", np.zeros(0), 16_000)
    soundfile.write(folder / "nan.wav", np.full(800, np.nan), 16_000, "FLOAT")
    (folder / "folder.wav").mkdir()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty.wav", "is empty"),
        ("text.wav", "cannot be read as audio"),
        ("header.wav", "cannot be read as audio|no samples"),
        ("no_samples.wav", "holds no samples"),
        ("nan.wav", "not finite"),
        ("folder.wav", "is a folder"),
        ("missing.wav", "does not exist"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, message):
    bad_files(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        list(read_blocks(tmp_path / name))
    assert name in str(error.value) and "\n" not in str(error.value)
    assert sum(len(b) for b in read_blocks(tmp_path / "good.wav")) == 64_000


@pytest.mark.parametrize("name", ["cut.wav", "cut.flac"])
def test_files_that_are_cut_off_are_read_as_far_as_they_go_and_refused_by_strict(tmp_path, name):
    bad_files(tmp_path)
    notes = []
    n_samples = sum(len(block) for block in read_blocks(tmp_path / name, notes=notes))
    assert 64_000 / 3 - 8000 < n_samples < 64_000 / 3 + 100
    assert len(notes) == 1 and "cut off: it announces 4.00 s" in notes[0]
    with pytest.raises(UserError, match=f"{name}.*cut off.*--strict"):
        list(read_blocks(tmp_path / name, strict=True))


def test_wav_of_unknown_length_from_a_pipe_is_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(16_000), 16_000, "PCM_16")
    data = bytearray((tmp_path / "a.wav").read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    assert sum(len(b) for b in read_blocks(tmp_path / "a.wav")) == 16_000


@pytest.mark.parametrize(
    "samples",
    [np.zeros(0), np.zeros((2, 3, 4)), np.full(5, np.inf), np.zeros((2, 16_000)), np.zeros(800, np.int16), None],
)
def test_bad_arrays(samples):
    with pytest.raises(UserError):
        list(read_blocks(Audio(samples)))


@pytest.mark.parametrize("rate", [0, -16_000, 10**9, float("nan")])
def test_bad_rates(rate):
    with pytest.raises(UserError, match="sample rate"):
        list(read_blocks(Audio(np.zeros(800), rate)))
