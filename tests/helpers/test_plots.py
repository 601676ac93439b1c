"""The picture: its spectrogram against scipy, its lanes, and that events lie where the audio has them."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy.signal import stft

from helpers.audio_reader import Audio, read_blocks
from helpers.detector import Detector
from helpers.outputs import TrueEvents
from helpers.plots import MAX_LANES, choose_lanes, hz_to_mel, log_mel, mel_bank, plot_events
from tests.tone_model import ToneModel, tones


def test_spectrogram_equals_scipy():
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 40_003).astype(np.float32)
    pieces = np.array_split(audio, 7)
    got = log_mel(pieces, len(audio) / 16_000)
    window = np.hanning(1024)
    _, _, spectrum = stft(
        np.pad(audio, 512), 16_000, window, 1024, 1024 - 160, boundary=None, padded=False, scaling="spectrum"
    )
    power = mel_bank() @ np.abs(spectrum * window.sum()) ** 2
    expected = 10 * np.log10(power + 1e-10)
    expected = np.clip(expected - expected.max(), -80, 0)
    assert got.shape == (128, 251)
    np.testing.assert_allclose(got[:, :248], expected[:, :248], atol=0.05)


def test_long_audio_is_averaged_to_few_columns():
    audio = tones(60, [(30, 60, "Siren")])
    picture = log_mel(np.array_split(audio, 11), 60, max_columns=100)
    assert picture.shape == (128, 100)
    row = int(hz_to_mel(3000) / hz_to_mel(8000) * 129) - 1
    loud = picture[row - 1 : row + 2].max(axis=0) > -20
    np.testing.assert_array_equal(loud, np.arange(100) >= 50)


def test_silence_is_dark():
    assert (log_mel([np.zeros(16_000, np.float32)], 1.0) == -80).all()


@pytest.mark.parametrize("n_samples", [1, 159, 1600])
def test_very_short_audio_has_a_picture(n_samples):
    picture = log_mel([np.ones(n_samples, np.float32)], n_samples / 16_000)
    assert np.isfinite(picture).all() and picture.shape[1] == -(-n_samples // 160)


def test_lanes_keep_true_events_and_the_surest(tmp_path):
    audio = Audio(tones(10, [(1, 9, "Siren"), (2, 3, "Sine wave")]))
    table = Detector(ToneModel(), detection_thresholds=[0.5]).detect(audio).events
    assert choose_lanes([table], None) == (["Siren", "Sine wave"], 0)
    many = TrueEvents([0.5 * i for i in range(40)], [20.0] * 40, [f"class {i}" for i in range(40)])
    lanes, left_out = choose_lanes([table], many)
    assert len(lanes) == MAX_LANES and left_out == 42 - MAX_LANES and "Siren" not in lanes


BLUE, ORANGE = (0x21, 0x71, 0xB2), (0xE6, 0x9F, 0x00)  # detected at the only threshold, true


def of_colour(pixels, colour):
    return np.abs(pixels - colour).sum(axis=2) < 30


def test_the_picture_shows_detected_and_true_events(tmp_path):
    audio = Audio(tones(10, [(2, 4, "Siren")]))
    table = Detector(ToneModel(), detection_thresholds=[0.5]).detect(audio).events
    spectrogram = log_mel(read_blocks(audio), 10)
    true = TrueEvents([6.0], [8.0], ["Costs $5 & <b>"])
    plot_events(tmp_path / "a.png", spectrogram, 10, [("above 0.5", table)], true, "odd $name$ _^.wav")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    blue, orange = (of_colour(pixels, colour) for colour in (BLUE, ORANGE))
    below = slice(pixels.shape[0] * 6 // 10, None)  # the lanes
    assert blue[below].sum() > 1000 and orange[below].sum() > 1000
    # Blue lies at 2 ... 4 s of the axis, orange at 6 ... 8 s: the gap equals the bars' width.
    b, o = (np.flatnonzero(colour[below].sum(axis=0) > 3) for colour in (blue, orange))
    width = b.max() - b.min()
    assert abs((o.max() - o.min()) - width) < 0.05 * width and abs((o.min() - b.max()) - width) < 0.05 * width


@pytest.mark.parametrize(
    "title", ["clip.wav", "W" * 40, "SITE_20240512_060000_" + "north side of the house " * 9 + "7.wav"]
)
def test_the_title_and_the_legend_do_not_meet(tmp_path, monkeypatch, title):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    empty = Detector(ToneModel(), detection_thresholds=[0.5]).detect(Audio(tones(1, []))).events
    tables = [(f"score above {t}", empty) for t in (0.1, 0.2, 0.5)]
    plot_events(tmp_path / "x.png", log_mel([np.zeros(160_000)], 10), 10.0, tables, TrueEvents([1], [2], ["x"]), title)
    text, legend = figures[0]._suptitle, figures[0].legends[0]
    assert text.get_window_extent().x1 < legend.get_window_extent().x0
    assert text.get_text().startswith(title[:8]) and text.get_text().endswith(title[-5:])
    assert (text.get_text() == title) == (title == "clip.wav")


def test_a_picture_without_events(tmp_path):
    table = Detector(ToneModel(), detection_thresholds=[0.5]).detect(Audio(tones(1, []))).events
    plot_events(tmp_path / "a.png", log_mel([tones(1, [])], 1), 1, [("above 0.5", table)])
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    lanes = pixels[len(pixels) * 8 // 10 :, pixels.shape[1] // 10 : pixels.shape[1] * 8 // 10]
    assert not of_colour(lanes, BLUE).any() and not of_colour(lanes, ORANGE).any()
    assert of_colour(lanes, (0x55, 0x55, 0x55)).sum() > 50  # "no events"
    assert len(np.unique(pixels[: len(pixels) // 2].reshape(-1, 3), axis=0)) > 100  # the spectrogram's levels
