"""Tuned decisions: found where they are known, stored, read by the detector that users run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data_util.own_data import Recording
from errors import UserError
from helpers import tuning as tuning_module
from helpers.detector import Detector
from helpers.finetune_scores import examine
from helpers.psds import PSDSAccumulator
from helpers.tuning import GRID, Tuning, collect, detect, f1_curve, read_tuning, score_recordings, store_tuning, tune
from models import create_model
from models.checkpoints import METADATA_KEY, read_checkpoint
from tests.tone_model import ToneModel, tones

LABELS = ("loud", "quiet", "flicker")
PEAKS = {"loud": 0.9, "quiet": 0.08, "flicker": 0.9}  # quiet events never reach 0.5


def made(n: int = 24, seed: int = 0) -> tuple[dict[str, np.ndarray], list[Recording]]:
    """Recordings with one event of each class, noise far below, and single frames of noise as loud as `flicker`."""
    rng = np.random.default_rng(seed)
    scores, recordings = {}, []
    for i in range(n):
        values = rng.uniform(0.001, 0.01, (3, 250)).astype(np.float32)
        events = []
        for c, label in enumerate(LABELS):
            start = int(rng.integers(10, 180))
            values[c, start : start + 50] = PEAKS[label] * rng.uniform(0.9, 1.1, 50)
            events.append((start / 25, start / 25 + 2.0, label))
        values[2, rng.integers(0, 250, 40)] *= 50
        values[2] = np.where(rng.random(250) < 0.25, 0.002, values[2])  # and holes within events
        name = f"r{i}"
        scores[name] = values.clip(0, 1)
        recordings.append(Recording(name, Path(name), 10.0, tuple(sorted(events)), name))
    return scores, recordings


def test_thresholds_and_windows_are_found_where_they_are_known() -> None:
    scores, recordings = made()
    tuning = tune(scores, recordings, LABELS)
    assert 0.01 < tuning.thresholds[1] < 0.08 and 0.05 < tuning.thresholds[0] < 0.9
    assert tuning.median_windows[:2] == (9, 9) and tuning.median_windows[2] > 1
    fresh_scores, fresh = made(seed=1)
    before = examine(fresh_scores, fresh, LABELS, Tuning.default(3), n_bootstrap=100)
    after = examine(fresh_scores, fresh, LABELS, tuning, n_bootstrap=100)
    assert [row["event_f1"][0] for row in after["classes"]][:2] == [1.0, 1.0]
    assert before["classes"][1]["event_f1"][0] == 0 and after["event_f1"][0] > before["event_f1"][0] + 0.25


def test_the_curve_equals_f1_at_each_threshold() -> None:
    scores, recordings = made(6)
    collected = collect(scores, recordings, LABELS, [5, 5, 5], False)
    for name in LABELS:
        curve = f1_curve(collected, name)
        for i in range(0, len(GRID), 20):
            threshold = float(1 / (1 + np.exp(-GRID[i])))
            events = collected.intersection_f1(threshold)[name].f1
            segments = collected.segment_f1(threshold)[name].f1
            np.testing.assert_allclose(curve[i], (events + segments) / 2, atol=1e-12)


def test_detections_are_those_that_the_figures_count() -> None:
    scores, recordings = made(8)
    tuning = Tuning((0.3, 0.05, 0.2), (9, 5, 27))
    figures = examine(scores, recordings, LABELS, tuning, n_bootstrap=100)
    collected = PSDSAccumulator(LABELS, median_window=tuning.median_windows)
    for r in recordings:
        collected.update(scores[r.name][None], [r.name], {r.name: list(r.events)}, {r.name: 10.0})
    limits = dict(zip(LABELS, tuning.thresholds, strict=True))
    for row in figures["classes"]:
        assert row["event_f1"][0] == round(collected.intersection_f1(limits)[row["label"]].f1, 4)
        assert row["segment_f1"][0] == round(collected.segment_f1(limits)[row["label"]].f1, 4)
    assert figures["psds1"][0] == round(collected.compute().psds_macro, 4)


def test_with_labels_of_clips_a_recording_is_right_or_wrong() -> None:
    scores = {f"r{i}": np.full((2, 50), 0.1, np.float32) for i in range(8)}
    for i in range(8):
        scores[f"r{i}"][i % 2, 20:40] = 0.6
    recordings = [Recording(f"r{i}", Path("x"), 2.0, ((0.0, 2.0, "xy"[i % 2]),), f"r{i}") for i in range(8)]
    tuning = tune(scores, recordings, ["x", "y"], clip_labels=True)
    assert all(0.1 < t < 0.6 for t in tuning.thresholds)
    found = detect(scores, recordings, ["x", "y"], tuning, clip_labels=True)
    assert found == {r.name: list(r.events) for r in recordings}
    figures = examine(scores, recordings, ["x", "y"], tuning, clip_labels=True, n_bootstrap=100)
    assert figures["event_f1"] == figures["segment_f1"] == [1.0, 1.0, 1.0] and figures["worst"] == []
    assert figures["confusion"] == [[4, 0, 0], [0, 4, 0], [0, 0, 0]]


def test_classes_without_events_keep_the_defaults() -> None:
    scores, recordings = made(4)
    recordings = [
        Recording(r.name, r.path, r.duration, tuple(e for e in r.events if e[2] != "quiet"), r.group)
        for r in recordings
    ]
    tuning = tune(scores, recordings, LABELS)
    assert (tuning.thresholds[1], tuning.median_windows[1]) == (0.5, 9)
    figures = examine(scores, recordings, LABELS, tuning, n_bootstrap=100)
    assert figures["classes"][1]["recall"] is None and figures["classes"][1]["psds1"] is None


def test_scores_are_those_of_the_detector(tmp_path: Path) -> None:
    """Of recordings longer than a window, too; one that cannot be read is left out."""
    soundfile.write(tmp_path / "long.wav", tones(23, [(12.0, 14.0, "Siren")]), 16_000)
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    recordings = [Recording(name, tmp_path / name, 23.0, (), name) for name in ("long.wav", "bad.wav")]
    scores = score_recordings(ToneModel(), recordings)
    expected = Detector(ToneModel(), median_window=1).detect(tmp_path / "long.wav", keep_scores=True).scores
    assert scores.keys() == {"long.wav"}
    np.testing.assert_array_equal(scores["long.wav"], expected)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = create_model("fmn04", labels=LABELS)
    content = {"state_dict": model.state_dict(), METADATA_KEY: {**model.metadata(), "untrained": []}}
    torch.save({**content, "optimizer_states": [{"large": torch.zeros(1000)}]}, tmp_path / "best.ckpt")
    return tmp_path / "best.ckpt"


def test_decisions_are_stored_where_the_detector_finds_them(checkpoint: Path) -> None:
    tuning = Tuning((0.1, 0.25, 0.875), (1, 9, 27))
    store_tuning(checkpoint, tuning)
    assert read_tuning(read_checkpoint(checkpoint)[1], 3) == tuning
    assert "optimizer_states" not in torch.load(checkpoint, weights_only=True)
    decoding = Detector(checkpoint=checkpoint).decoding
    assert [c.label for c in decoding.classes] == list(LABELS)
    np.testing.assert_allclose(decoding.thresholds["class"], tuning.thresholds)
    assert list(decoding.median_window) == list(tuning.median_windows)


def test_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match="none of this project's training"):
        store_tuning(tmp_path / "foreign.ckpt", Tuning.default(1))


def test_tuning_finds_no_luck_in_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """One recording whose single event peaks above one false alarm by chance: the threshold keeps away from both."""
    curve = np.zeros(len(GRID))
    curve[40], curve[80:121] = 0.9, 0.8
    smoothed = tuning_module._averaged(curve)
    assert 80 <= np.argmax(smoothed) <= 121
