"""Sound events in audio of any length: `Detector`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike, fspath
from typing import Any

import numpy as np

from config import build, option, refuse
from data_util.labels import load_vocabulary
from errors import UserError
from helpers.audio_reader import SAMPLE_RATE, Audio, read_blocks
from helpers.backends import Backend, TorchBackend, load_torch_model
from helpers.chunking import RunningFilter, ScoreBlender, WindowPlan, WindowSplitter
from helpers.events import ClassName, EventDecoder, EventTable, make_table, to_frames

Source = str | PathLike[str] | Audio
ScoreSink = Callable[[np.ndarray], None]


@dataclass
class DetectionOptions:
    """How frame scores are computed and turned into events."""

    detection_thresholds: list[float] = option(
        [0.1, 0.2, 0.5], "scores above it are events; each threshold gives its own list", low=0, high=1
    )
    median_window: int = option(9, "frames (40 ms each) of the median filter, odd; 1: none", low=1)
    hysteresis: float = option(1.0, "an event goes on above this share of its threshold", low=0, high=1)
    min_duration: float = option(0.0, "shortest event, seconds", low=0)
    max_gap: float = option(0.0, "gaps within an event that are bridged, seconds", low=0)
    window: float = option(10.0, "seconds that the network hears at once", low=1)
    overlap: float = option(2.0, "seconds that windows share, blended; 0: the published chunks side by side", low=0)
    batch_size: int = option(8, "windows per call of the network", low=1)

    def check(self) -> None:
        """Raise UserError where values do not go together."""
        self.detection_thresholds = sorted(set(self.detection_thresholds))
        if not self.detection_thresholds:
            refuse("detection_thresholds", "empty", "give at least one")
        if self.median_window % 2 == 0:
            refuse("median_window", self.median_window, "must be odd")
        if self.overlap > self.window / 2:
            refuse("overlap", self.overlap, f"must be at most half the window of {self.window:g} s")

    @property
    def plan(self) -> WindowPlan:
        """How the windows lie over the audio."""
        return WindowPlan(to_frames(self.window), to_frames(self.overlap))


def detection_options(options: DetectionOptions) -> dict[str, Any]:
    """The fields of `DetectionOptions` in the options of a script that extends them."""
    return {f.name: getattr(options, f.name) for f in fields(DetectionOptions)}


@dataclass
class Detection:
    """What was found in one audio.

    Attributes:
        name: of the file, or of the `Audio`.
        duration: seconds.
        classes: name and MID of every class of the model.
        thresholds: in rising order.
        tables: the events at each threshold.
        tags: probability of each class somewhere in the clip, float32 [Cw], the mean over windows.
        scores: frame scores after the median filter, float32 [C, T]; None unless they were asked for.
    """

    name: str
    duration: float
    classes: Sequence[ClassName]
    thresholds: list[float]
    tables: list[EventTable]
    tags: np.ndarray
    scores: np.ndarray | None = None

    @property
    def events(self) -> EventTable:
        """The events at the first, lowest threshold."""
        return self.tables[0]


def class_names(labels: Sequence[str]) -> list[ClassName]:
    """Names with their AudioSet MIDs; the MID is empty for a class that AudioSet does not have."""
    strong, weak = load_vocabulary("strong"), load_vocabulary("weak")
    mids = dict(zip(weak.names, weak.mids, strict=True)) | dict(zip(strong.names, strong.mids, strict=True))
    return [ClassName(label, mids.get(label, "")) for label in labels]


class _Clip:
    """One audio on its way: from the scores of its windows to its events, in bounded memory."""

    def __init__(self, name: str, detector: Detector, keep_scores: bool, sink: ScoreSink | None) -> None:
        options = detector.options
        self.name, self.detector, self.sink = name, detector, sink
        self._blender = ScoreBlender(options.plan)
        self._smoother = RunningFilter(detector.smooth, options.median_window // 2)
        self._decoders = [detector.make_decoder(threshold) for threshold in options.detection_thresholds]
        self._runs: list[list[np.ndarray]] = [[] for _ in self._decoders]
        self._scores: list[np.ndarray] | None = [] if keep_scores else None
        self._tag_sum: np.ndarray | float = 0.0
        self._n_windows = 0
        self.n_samples: int | None = None  # known once the audio has been read

    def add(self, start: int, strong: np.ndarray, weak: np.ndarray) -> None:
        """Take the scores of the window that starts at frame `start`: [C, T] and [Cw]."""
        self._tag_sum = self._tag_sum + weak
        self._n_windows += 1
        self._decode(self._smoother.push(self._blender.add(start, strong)))

    def finish(self) -> Detection:
        """The result, after the last window."""
        assert self.n_samples is not None
        plan = self.detector.options.plan
        self._decode(self._smoother.push(self._blender.finish(plan.count_frames(self.n_samples))))
        self._decode(self._smoother.finish())
        duration = self.n_samples / SAMPLE_RATE
        tables = []
        for decoder, runs in zip(self._decoders, self._runs, strict=True):
            all_runs = np.concatenate([*runs, decoder.finish()])
            tables.append(make_table(all_runs, self.detector.classes, decoder.high, duration=duration))
        return Detection(
            self.name,
            duration,
            self.detector.classes,
            self.detector.options.detection_thresholds,
            tables,
            np.asarray(self._tag_sum / max(1, self._n_windows), np.float32),
            None if self._scores is None else np.concatenate(self._scores, axis=1),
        )

    def _decode(self, scores: np.ndarray) -> None:
        if scores.shape[1] == 0:
            return
        if self._scores is not None:
            self._scores.append(scores)
        if self.sink is not None:
            self.sink(scores)
        for decoder, runs in zip(self._decoders, self._runs, strict=True):
            runs.append(decoder.push(scores))


@dataclass
class _Batch:
    """Windows of any number of clips that wait for the network."""

    owners: list[tuple[_Clip, int]] = field(default_factory=list)
    windows: list[np.ndarray] = field(default_factory=list)


class Detector:
    """Find sound events in files, arrays and streams of any length.

    For the events of a file: `Detector("fmn10", seq_model_type="tf").detect("street.mp3").events`.

    Arguments:
        model: the name of a backbone with released weights, or a module with `mel_forward`, `forward`, `labels`,
            or a `Backend`.
        checkpoint: a weights file in place of released ones.
        seq_model_type, seq_model_dim, pretrained: as in `models.create_model`.
        device, precision: where and how PyTorch computes.
        channel: of the audio, counted from 0; None: the mean of all.
        options: the fields of `DetectionOptions`.
    Raises:
        UserError: a bad option, an unknown model, missing weights.
    """

    def __init__(
        self,
        model: Any = "fmn10",
        *,
        checkpoint: str | PathLike[str] | None = None,
        seq_model_type: str | None = None,
        seq_model_dim: int = 256,
        pretrained: str = "strong",
        device: str = "cpu",
        precision: str = "32-true",
        channel: int | None = None,
        **options: Any,
    ) -> None:
        self.options, self.channel = build(DetectionOptions, options), channel
        if isinstance(model, str):
            model = load_torch_model(
                model,
                seq_model_type=seq_model_type,
                seq_model_dim=seq_model_dim,
                pretrained=pretrained,
                checkpoint=None if checkpoint is None else fspath(checkpoint),
            )
        self.backend: Backend = TorchBackend(model, device, precision) if hasattr(model, "mel_forward") else model
        self.classes = class_names(self.backend.labels)

    def detect(self, source: Source, *, keep_scores: bool = False, on_scores: ScoreSink | None = None) -> Detection:
        """Find the events of one file or `Audio`.

        Arguments:
            keep_scores: put the frame scores [C, T] into the result (45 KB per second for 447 classes).
            on_scores: called with each block of frame scores [C, t], in order, for scores too long to keep.
        Raises:
            UserError: the source cannot be read.
        """
        clip = _Clip(_source_name(source), self, keep_scores, on_scores)
        batch = _Batch()
        for start, window in self._windows(source, clip):
            batch.owners.append((clip, start))
            batch.windows.append(window)
            if len(batch.windows) == self.options.batch_size:
                self._run(batch)
                batch = _Batch()
        self._run(batch)
        return clip.finish()

    def _windows(self, source: Source, clip: _Clip) -> Iterator[tuple[int, np.ndarray]]:
        splitter = WindowSplitter(self.options.plan)
        for block in read_blocks(source, self.channel):
            yield from splitter.push(block)
        if splitter.n_samples == 0:
            raise UserError(f"'{_source_name(source)}' holds no samples")
        yield from splitter.finish()
        clip.n_samples = splitter.n_samples

    def _run(self, batch: _Batch) -> None:
        if not batch.windows:
            return
        strong, weak = self.backend(np.stack(batch.windows))
        expected = (len(self.classes), self.options.plan.window)
        if strong.shape[1:] != expected:
            raise ValueError(f"expected scores [B, {expected[0]}, {expected[1]}], the model gave {strong.shape}")
        for (clip, start), frames, tags in zip(batch.owners, strong, weak, strict=True):
            clip.add(start, frames, tags)

    def smooth(self, scores: np.ndarray) -> np.ndarray:
        """Median filter over scores [C, T]."""
        if self.options.median_window == 1:
            return scores
        from helpers.postprocess import median_filter

        return median_filter(scores, self.options.median_window)

    def make_decoder(self, threshold: float) -> EventDecoder:
        """A decoder of frame scores into events at this threshold."""
        high = np.full(len(self.classes), threshold, np.float32)
        return EventDecoder(
            high,
            high * np.float32(self.options.hysteresis),
            min_frames=max(1, to_frames(self.options.min_duration)),
            max_gap=to_frames(self.options.max_gap),
        )


def _source_name(source: Source) -> str:
    return source.name if isinstance(source, Audio) else fspath(source)
