"""Streams: the events of the whole audio, each onset and offset once, in time."""

from __future__ import annotations

import json
import operator
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import torch
from torch import nn

import models
from errors import UserError
from helpers.audio_reader import Audio
from helpers.detector import Detector
from tests.tone_model import ToneModel, tones

EVENTS = [(1.0, 2.0, "Sine wave"), (8.8, 12.0, "Siren"), (9.0, 9.8, "Beep, bleep"), (20.0, 24.2, "Siren")]


def run(stream, audio: np.ndarray, piece: int):
    """All events, each with how much audio had been pushed when it came."""
    events = []
    for i in range(0, len(audio), piece):
        events += [(event, i + piece) for event in stream.push(audio[i : i + piece])]
    return events + [(event, len(audio)) for event in stream.finish()]


@pytest.mark.parametrize(
    ("piece", "options"),
    [
        (160, {}),
        (4001, {"hop": 0.5, "lookahead": 0.2}),
        (70_000, {"hop": 3.0, "lookahead": 2.0}),
        (10**9, {}),
        (8000, {"hop": 0.04, "lookahead": 0.0}),
    ],
)
def test_a_stream_gives_the_events_of_the_whole(piece, options):
    detector = Detector(ToneModel(), detection_thresholds=[0.5], min_duration=0.2, max_gap=0.4)
    audio = tones(25.5, EVENTS)
    stream = detector.stream(**options)
    came = run(stream, audio, piece)
    onsets = {(e.label, e.onset): e.time for e, _ in came if e.kind == "onset"}
    offsets = [(e.onset, e.time, e.label) for e, _ in came if e.kind == "offset"]
    assert sorted(offsets) == sorted((e.onset, e.offset, e.label) for e in detector.detect(Audio(audio)).events)
    # Each onset came once, and has its offset.
    assert len(came) == 2 * len(offsets) == 8
    assert {(label, onset) for onset, _, label in offsets} == set(onsets)


def test_events_come_within_the_stated_latency():
    detector = Detector(ToneModel(), detection_thresholds=[0.5], min_duration=0.2, max_gap=0.4)
    stream = detector.stream(hop=0.6, lookahead=0.4)
    assert stream.latency == pytest.approx(0.6 + 0.4 + 4 / 25 + 0.4)
    came = run(stream, tones(25.5, EVENTS), 160)
    late = [pushed / 16_000 - event.time for event, pushed in came]
    assert len(late) == 8 and max(late) <= stream.latency + 0.05 and min(late) > 0.3


def test_with_hysteresis_the_latency_counts_from_the_threshold():
    detector = Detector(ToneModel(), detection_thresholds=[0.5], hysteresis=0.2)
    audio = tones(25, [(2.0, 20.0, "Siren")])
    audio[: 14 * 16_000] *= 0.36  # above 0.1, below 0.5
    stream = detector.stream()
    (onset, heard), _ = run(stream, audio, 160)
    assert onset.time == pytest.approx(2.0, abs=0.041)
    assert 14.0 < heard / 16_000 <= 14.0 + stream.latency + 0.05


def test_other_rates_and_channels():
    detector = Detector(ToneModel(), detection_thresholds=[0.5])
    audio = tones(25, EVENTS, 44_100)
    stream = detector.stream(sample_rate=44_100)
    came = run(stream, np.stack([audio, audio], axis=1), 5000)
    got = [(e.onset, e.time) for e, _ in came if e.kind == "offset"]
    np.testing.assert_allclose(sorted(got), sorted(e[:2] for e in EVENTS), atol=0.081)


def test_memory_is_bounded():
    stream = Detector(ToneModel()).stream()
    for _ in range(90):
        stream.push(np.zeros(16_000, np.float32))
        assert len(stream._samples) <= 14 * 16_000


@pytest.mark.parametrize("seconds", [0.0, 0.1, 1.99, 9.0, 10.0])
def test_short_streams_equal_files(seconds):
    detector = Detector(ToneModel(), detection_thresholds=[0.5])
    audio = tones(seconds, [(0, seconds, "Siren")])
    came = run(detector.stream(), audio, 999)
    offsets = [(e.onset, e.time) for e, _ in came if e.kind == "offset"]
    expected = [(e.onset, e.offset) for e in detector.detect(Audio(audio)).events] if seconds else []
    assert offsets == expected


@pytest.mark.parametrize("options", [{"hop": 0.0}, {"lookahead": -1.0}, {"hop": 6.0, "lookahead": 5.0}])
def test_bad_options(options):
    with pytest.raises(UserError, match="hop"):
        Detector(ToneModel()).stream(**options)


class LocalCausalModel(nn.Module):
    """A model in three parts: a local embedding, a running mean over past frames, a head."""

    frame_rate, labels, causal = 25.0, ("a", "b"), True

    def __init__(self):
        super().__init__()
        self.model = nn.Module()
        self.model.window_frames = None
        self.n_embedded = 0

    def mel_forward(self, waveform):
        return waveform.reshape(len(waveform), -1, 640)[:, None]

    def embed(self, mel):
        self.n_embedded += mel.shape[2]
        level = mel[:, 0].square().mean(-1, keepdim=True).sqrt() * 10
        return torch.cat([level, -level], -1)

    def seq_model(self, x):
        padded = torch.nn.functional.pad(x, (0, 0, 9, 0))
        return padded.unfold(1, 10, 1).mean(-1)

    def strong_head(self, x):
        return x.transpose(1, 2) * 5 - 2

    def forward(self, mel):
        strong = self.strong_head(self.seq_model(self.embed(mel)))
        return strong, strong.mean(-1)


def test_a_causal_stream_computes_new_frames_only_and_gives_the_same():
    audio = tones(40, EVENTS)
    results, frames = [], []
    for causal in (True, False):
        model = LocalCausalModel()
        detector = Detector(model, detection_thresholds=[0.3], overlap=0)
        came = run(detector.stream(hop=1.0, lookahead=0.0, causal=causal), audio, 3000)
        results.append([(e.kind, e.time, e.label) for e, _ in came])
        frames.append(model.n_embedded)
    assert results[0] == results[1] and len(results[0]) >= 6
    assert frames[0] < frames[1] / 4


def test_only_causal_models_can_be_asked_to_be():
    with pytest.raises(UserError, match="not causal"):
        Detector(ToneModel()).stream(causal=True)
    gru = Detector(models.create_model("fmn04", seq_model_type="gru", seq_model_dim=16))
    assert not gru.stream().causal
    tcn = Detector(models.create_model("fmn04", seq_model_type="tcn", seq_model_dim=16))
    stream = tcn.stream()
    assert stream.causal
    stream.push(np.random.default_rng(0).standard_normal(50_000).astype(np.float32) * 0.1)
    stream.finish()


def test_a_stream_gives_the_records_of_files():
    detector = Detector(ToneModel(), thresholds={"Siren": 0.6})
    audio = Audio(tones(25.5, EVENTS), name="street.wav")
    came = [event for event, _ in run(detector.stream(), audio.samples, 4000)]
    started = datetime(2026, 2, 28, 23, 59, 50, tzinfo=timezone(timedelta(hours=1)))
    lines = [json.loads(json.dumps(event.to_dict("street.wav", started=started), allow_nan=False)) for event in came]
    of_file = detector.detect(audio).to_dict()["events"]["class"]
    key = operator.itemgetter("onset", "label")
    offsets = [
        {k: v for k, v in line.items() if k not in ("kind", "time", "clock")}
        for line in lines
        if line["kind"] == "offset"
    ]
    assert len(of_file) == 4
    for one, other in zip(sorted(offsets, key=key), sorted(of_file, key=key), strict=True):
        scores = ("mean_score", "peak_score")
        assert {**one, **dict.fromkeys(scores)} == {**other, **dict.fromkeys(scores)}
        np.testing.assert_allclose([one[s] for s in scores], [other[s] for s in scores], atol=0.1)
    assert {line["offset"] for line in lines if line["kind"] == "onset"} == {None}
    siren = next(line for line in lines if line["kind"] == "onset" and line["label"] == "Siren")
    second = siren["time"]
    assert siren["threshold"] == 0.6 and siren["clock"] == f"2026-02-28T22:59:{50 + second:.3f}Z"
    assert "clock" not in came[0].to_dict()
