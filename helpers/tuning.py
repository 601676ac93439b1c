"""Threshold and median window of each class, tuned on whole recordings, scored as `inference.py` scores them."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_util.own_data import Recording
from errors import UserError
from helpers.backends import TUNING_KEYS
from helpers.classes import ClassName
from helpers.detection import DEFAULT_MEDIAN_WINDOW, Detection
from helpers.detector import Detector
from helpers.event_counts import Event
from helpers.events import decode_events
from helpers.pipeline import Job, in_one_list
from helpers.postprocess import median_filter
from helpers.psds import PSDSAccumulator
from helpers.psds_curves import segment_counts
from helpers.psds_figures import changes, clip_ranks, events_per_class
from helpers.run_folder import write_checkpoint
from models.checkpoints import METADATA_KEY, read_checkpoint
from models.sed_model import load_model

log = logging.getLogger("efficientsed")

MEDIAN_WINDOWS = (9, 5, 13, 1, 19, 27)  # frames; a later one is taken where it is better by the margin
MARGIN = 0.01  # of F1
DEFAULT_THRESHOLD = 0.5
GRID = np.linspace(-8, 8, 161)  # logits of the thresholds that are tried
SMOOTHING = 10  # grid points to both sides, that is 1 logit: a peak that is narrower is luck

Scores = Mapping[str, np.ndarray]  # recording -> probabilities [C, T], before any filter


@dataclass(frozen=True)
class Tuning:
    """Decisions of C classes: thresholds in [0, 1], and odd median windows in frames."""

    thresholds: tuple[float, ...]
    median_windows: tuple[int, ...]

    @classmethod
    def default(cls, n_classes: int) -> Tuning:
        """One threshold and one window for all."""
        return cls((DEFAULT_THRESHOLD,) * n_classes, (DEFAULT_MEDIAN_WINDOW,) * n_classes)


def score_recordings(
    model: torch.nn.Module, recordings: Sequence[Recording], device: str = "cpu"
) -> dict[str, np.ndarray]:
    """Frame scores of whole recordings of any length, in overlapping windows as in `inference.py`.

    Args:
        model: the detector.
        recordings: those that cannot be read are left out.
        device: to compute on.

    Returns:
        Name of the recording -> float32 [C, T] at 25 frames per second, not filtered.
    """
    detector = Detector(model, device=device, median_window=1, detection_thresholds=[DEFAULT_THRESHOLD])
    jobs = in_one_list([Job(str(r.path), r.channel, r.name) for r in recordings])
    scores: dict[str, np.ndarray] = {}
    for job, result in detector.detect_many(jobs, n_threads=2, keep_scores=True):
        if isinstance(result, Detection) and result.scores is not None:
            scores[str(job.key)] = result.scores
    return scores


def smooth(scores: np.ndarray, windows: Sequence[int], clip_labels: bool) -> np.ndarray:
    """Scores [C, T] after the median filter; with labels of clips, each class has its highest one everywhere."""
    filtered = median_filter(scores, windows)
    return np.broadcast_to(filtered.max(1, keepdims=True), filtered.shape).copy() if clip_labels else filtered


def collect(
    scores: Scores, recordings: Sequence[Recording], labels: Sequence[str], windows: Sequence[int], clip_labels: bool
) -> PSDSAccumulator:
    """All that scores of recordings say at any threshold."""
    collected = PSDSAccumulator(labels, keep_clips=True)
    for r in recordings:
        if r.name in scores:
            values = smooth(scores[r.name], windows, clip_labels)[None]
            collected.update(values, [r.name], {r.name: list(r.events)}, {r.name: r.duration})
    return collected


def tune(scores: Scores, recordings: Sequence[Recording], labels: Sequence[str], clip_labels: bool = False) -> Tuning:
    """Choose window and threshold of each class.

    What counts is the mean of event F1 (criteria of PSDS1) and F1 over segments of 1 s, averaged over neighbouring
    thresholds: on few recordings the highest single value would be luck. A class without events keeps the defaults.

    Args:
        scores: of the recordings.
        recordings: for validation.
        labels: the C classes.
        clip_labels: only the classes of the recordings are known.
    """
    default = Tuning.default(len(labels))
    best = np.full(len(labels), -1.0)
    thresholds, windows = list(default.thresholds), list(default.median_windows)
    for window in MEDIAN_WINDOWS:
        collected = collect(scores, recordings, labels, [window] * len(labels), clip_labels)
        for name in events_per_class(collected):
            c = collected.class_index[name]
            curve = _averaged(f1_curve(collected, name))
            top = np.flatnonzero(curve >= curve.max() - 1e-9)
            point = top[np.argmin(np.abs(GRID[top] - GRID[top].mean()))]  # the middle of a plateau
            if curve[point] > best[c] + MARGIN:
                best[c], windows[c] = curve[point], window
                thresholds[c] = round(float(1 / (1 + np.exp(-GRID[point]))), 6)
    return Tuning(tuple(thresholds), tuple(windows))


def f1_curve(collected: PSDSAccumulator, name: str) -> np.ndarray:
    """Mean of event F1 and segment F1 of a class at the thresholds of the grid."""
    limits = 1 / (1 + np.exp(-GRID))
    c = collected.class_index[name]
    of_class = changes(collected, c, clip_ranks(collected))
    above = np.searchsorted(-of_class.score, -limits)  # how many changes lie above each threshold
    tp, fp = (np.append(0, np.cumsum(steps))[above] for steps in (of_class.tp, of_class.fp))
    events = 2 * tp / (tp + fp + events_per_class(collected)[name])
    (active,), (quiet,) = collected.active.rows(c), collected.quiet.rows(c)
    values, tps, fps = segment_counts(active, quiet)
    above = np.searchsorted(-values, -limits)
    tp, fp = np.append(0, tps)[above], np.append(0, fps)[above]
    return (events + 2 * tp / (tp + fp + len(active))) / 2


def _averaged(curve: np.ndarray) -> np.ndarray:
    """Mean over neighbouring thresholds."""
    padded = np.pad(curve, SMOOTHING, mode="edge")
    return np.convolve(padded, np.full(2 * SMOOTHING + 1, 1 / (2 * SMOOTHING + 1)), mode="valid")


def detect(
    scores: Scores, recordings: Sequence[Recording], labels: Sequence[str], tuning: Tuning, clip_labels: bool = False
) -> dict[str, list[Event]]:
    """Events of each recording as `inference.py` finds them; with labels of clips they cover their recording."""
    classes = [ClassName(label, "") for label in labels]
    limits = np.array(tuning.thresholds, np.float32)
    found = {}
    for r in recordings:
        if r.name in scores:
            filtered = smooth(scores[r.name], tuning.median_windows, clip_labels)
            table = decode_events(filtered, classes, limits, duration=r.duration)
            found[r.name] = [(event.onset, event.offset, event.label) for event in table]
    return found


def tune_checkpoint(path: Path, recordings: Sequence[Recording], device: str) -> None:
    """Tune a checkpoint on recordings for validation, and write what was found into it; see `tune`."""
    model = load_model(path)
    clip_labels = bool(read_checkpoint(path)[1].get("clip_labels", False))
    tuning = tune(score_recordings(model, recordings, device), recordings, model.labels, clip_labels)
    store_tuning(path, tuning)
    for label, threshold, window in zip(model.labels, tuning.thresholds, tuning.median_windows, strict=True):
        log.info("  %-32s threshold %.3f, median window %d frames", label, threshold, window)


def read_tuning(metadata: Mapping[str, Any], n_classes: int) -> Tuning:
    """What a checkpoint's metadata says, or the defaults."""
    thresholds, windows = (metadata.get(key) for key in TUNING_KEYS)
    default = Tuning.default(n_classes)
    return Tuning(tuple(thresholds or default.thresholds), tuple(windows or default.median_windows))


def store_tuning(path: Path, tuning: Tuning) -> None:
    """Write tuned decisions into the metadata of a checkpoint of our own training.

    The states of optimiser and loops are left out: the file is for use, `last.ckpt` is for going on.
    """
    content = torch.load(path, map_location="cpu", weights_only=True)
    if METADATA_KEY not in content:
        raise UserError(f"checkpoint '{path}' is none of this project's training: it cannot hold thresholds")
    decisions = dict(zip(TUNING_KEYS, (list(tuning.thresholds), list(tuning.median_windows)), strict=True))
    kept = {"state_dict": content["state_dict"], METADATA_KEY: {**content[METADATA_KEY], **decisions}}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    write_checkpoint(path, buffer.getbuffer())
