"""Sound events in audio of any length: `Detector`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from config import build, refuse
from errors import UserError
from helpers.audio_pipe import PipedAudio
from helpers.audio_reader import SAMPLE_RATE, Audio, Source
from helpers.backends import Backend, TorchBackend, load_backend
from helpers.classes import ClassName, class_names, select_classes, tag_names
from helpers.detection import (
    CLASS_THRESHOLDS,
    DEFAULT_MEDIAN_WINDOW,
    DEFAULT_THRESHOLD,
    DEFAULT_THRESHOLDS,
    NO_NUMBERS,
    ClipPass,
    Decoding,
    Detection,
    DetectionOptions,
    ScoreSink,
)
from helpers.pipeline import End, Job, Window, read_jobs
from helpers.thresholds import ClassThresholds, apply_thresholds, check_thresholds, read_thresholds, require_one_number

if TYPE_CHECKING:
    from helpers.streaming import EventStream


@dataclass(frozen=True)
class Failure:
    """An audio that could not be read, and why."""

    name: str
    error: UserError


@dataclass
class _Open:
    """A job on its way: windows that wait for the network, its pass once there are scores, and what failed there."""

    job: Job
    waiting: list[Window] = field(default_factory=list)
    clip: ClipPass | None = None
    error: UserError | None = None


class Detector:
    """Find sound events in files, arrays and streams of any length.

    For the events of a file: `Detector("fmn10", seq_model_type="tf").detect("street.mp3").events`.

    Several threads may use one detector: what belongs to a call is kept in that call, and the network computes for one
    thread at a time. For more speed, let `detect_many` read in several threads, or give each process a detector.

    Arguments:
        model: the name of a backbone with released weights, or a module with `mel_forward`, `forward`, `labels`,
            or a `Backend`.
        checkpoint: a weights file in place of released ones.
        seq_model_type, seq_model_dim, pretrained: as in `models.create_model`.
        device, precision: where and how the network computes.
        backend: torch, openvino or onnxruntime; None: what the checkpoint is for, PyTorch in doubt.
        thresholds: of classes, by name or MID, or a table of them; the others keep that of `detection_thresholds`,
            else the checkpoint's own, else 0.5.
        options: the other fields of `DetectionOptions`.
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
        backend: str | None = None,
        thresholds: Mapping[str, float] | str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self.options = build(DetectionOptions, options)
        self._given = _thresholds(self.options, thresholds)
        if isinstance(model, str):
            self.backend: Backend = load_backend(
                model,
                backend=backend,
                device=device,
                precision=precision,
                checkpoint=None if checkpoint is None else fspath(checkpoint),
                seq_model_type=seq_model_type,
                seq_model_dim=seq_model_dim,
                pretrained=pretrained,
            )
        else:
            self.backend = TorchBackend(model, device, precision) if hasattr(model, "mel_forward") else model
        length = self.backend.length
        if length is not None and length != self.options.plan.window_samples:
            refuse("window", self.options.window, f"this exported model takes {length / SAMPLE_RATE:g} s")
        self.lock = threading.Lock()  # runtimes do not promise to compute for several threads at once
        self.plan = replace(self.options.plan, pad_short=length is not None)
        self._all_classes = class_names(self.backend.labels)
        self._kept = select_classes(self._all_classes, self.options.include, self.options.exclude)
        self._keeps_all = len(self._kept) == len(self._all_classes)
        self.decoding = self._make_decoding([self._all_classes[i] for i in self._kept])
        self.classes = self.decoding.classes

    def __repr__(self) -> str:
        thresholds = ", ".join(self.decoding.thresholds)
        return f"Detector({self.backend.name}, {len(self.classes)} classes, thresholds: {thresholds})"

    def _make_decoding(self, classes: Sequence[ClassName]) -> Decoding:
        """What the options say, and where they are silent what the checkpoint says."""
        own = self.backend.tuning
        options = self.options
        median: int | list[int] = options.median_window or DEFAULT_MEDIAN_WINDOW
        if options.median_window is None and own.get("class_median_windows") is not None:
            median = [int(own["class_median_windows"][i]) for i in self._kept]
        return Decoding(
            classes,
            self._make_thresholds(own.get("class_thresholds")),
            median,
            options.hysteresis,
            options.min_duration,
            options.max_gap,
            options.top_k,
        )

    def _make_thresholds(self, tuned: Sequence[float] | None) -> dict[str, np.ndarray]:
        """The threshold of each kept class [C], by the name of its list of events; `tuned`: the checkpoint's own."""
        numbers, n_classes = self.options.split_thresholds()[0], len(self._all_classes)
        if not self._given and (numbers or tuned is None):
            return {f"{t:g}": np.full(len(self._kept), t, np.float32) for t in numbers or DEFAULT_THRESHOLDS}
        if numbers or tuned is None:
            tuned = [*numbers, DEFAULT_THRESHOLD][:1] * n_classes
        values = np.asarray(tuned, np.float32)
        for source, given in self._given:
            values = apply_thresholds(values, given, self._all_classes, source)
        return {CLASS_THRESHOLDS: values[self._kept]}

    def detect(
        self,
        source: Source | np.ndarray,
        *,
        sample_rate: int | None = None,
        channel: int | None = None,
        keep_scores: bool = False,
        on_scores: ScoreSink | None = None,
    ) -> Detection:
        """Find the events of one file, array or `Audio`.

        Arguments:
            source: a path, `Audio`, or samples, floats [n] or [n, channels] in [-1, 1].
            sample_rate: of samples, Hz; samples do not say it, and at a wrong one everything sounds different.
            channel: of the audio, counted from 0; None: the mean of all.
            keep_scores: put the frame scores [C, T] into the result (45 KB per second for 447 classes).
            on_scores: called with each block of frame scores [C, t], in order, for scores too long to keep.
        Raises:
            UserError: the source cannot be read, or samples come without their rate.
        """
        if isinstance(source, (str, PathLike, Audio, PipedAudio)):
            if sample_rate is not None:
                raise UserError("sample_rate is for samples in an array: a file says its own; leave it out")
        else:
            if sample_rate is None:
                raise UserError("detect(array) needs the rate of the samples: detect(array, sample_rate=48_000)")
            source = Audio(source, sample_rate)
        job = Job(source, channel)
        _, result = next(self.detect_many([job], keep_scores=keep_scores, make_sink=lambda _: on_scores))
        if isinstance(result, Failure):
            raise result.error
        return result

    def detect_many(
        self,
        jobs: Iterable[Job],
        *,
        n_threads: int = 1,
        keep_scores: bool = False,
        make_sink: Callable[[Job], ScoreSink | None] = lambda _: None,
        on_window: Callable[[Job, int], None] = lambda _, __: None,
    ) -> Iterator[tuple[Job, Detection | Failure]]:
        """Find the events of many audios; reading runs beside the network.

        The last digits of a window's scores depend on the size of its batch and on its row there, but not on the
        other rows. A job has batches of its own, so that it gets what it gets alone; jobs of one list
        (`pipeline.in_one_list`) that are one whole window each share batches whose size and rows follow from their
        places in the list. So neither what was read first nor what else is done changes a score.

        Arguments:
            jobs: taken one by one, as the readers get to them.
            n_threads: readers.
            keep_scores: as in `detect`.
            make_sink: gives the `on_scores` of each job, once it has scores.
            on_window: told the job and the first frame of each window that has been computed.
        Yields:
            Each job with its result as soon as that is known, in the same order in every run; a file that cannot be
            read gives a `Failure`.
        """
        run = _Run(self, keep_scores, make_sink, on_window)
        for item in read_jobs(jobs, self.plan, n_threads=n_threads, depth=2 * self.options.batch_size):
            if isinstance(item, Window):
                run.take(item)
            else:
                yield from run.end(item)
        yield from run.end_of_list()

    def scores(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the kept classes per frame [B, C, T], and of all tags [B, Cw], of windows [B, N]."""
        with self.lock:
            strong, weak = self.backend(windows)
        expected = (len(self.backend.labels), windows.shape[1] // self.plan.samples_per_frame)
        if strong.shape[1:] != expected:
            raise ValueError(f"expected scores [B, {expected[0]}, {expected[1]}], the model gave {strong.shape}")
        return self.select(strong), weak

    def select(self, strong: np.ndarray) -> np.ndarray:
        """The kept classes of scores [B, C, T]."""
        return strong if self._keeps_all else strong[:, self._kept]

    def stream(self, **options: Any) -> EventStream:
        """Events while the audio is still coming; the options of `helpers.streaming.EventStream`."""
        from helpers.streaming import EventStream

        return EventStream(self, **options)

    def tag_names(self, detection: Detection) -> list[ClassName]:
        """Names of `detection.tags`."""
        return tag_names(len(detection.tags), self._all_classes)


class _Run:
    """One call of `Detector.detect_many`: which windows go into which batch, and the results; arguments as there."""

    def __init__(
        self,
        detector: Detector,
        keep_scores: bool,
        make_sink: Callable[[Job], ScoreSink | None],
        on_window: Callable[[Job, int], None],
    ) -> None:
        self._detector, self._plan, self._batch_size = detector, detector.plan, detector.options.batch_size
        self._keep_scores, self._make_sink, self._on_window = keep_scores, make_sink, on_window
        self._running: dict[Job, _Open] = {}
        self._n_rows = 0  # of the batch that jobs share
        self._rows: dict[int, tuple[_Open, End]] = {}  # the jobs that wait for it, in order

    def take(self, window: Window) -> None:
        """The next window of a job."""
        entry = self._running.setdefault(window.job, _Open(window.job))
        entry.waiting.append(window)
        if len(entry.waiting) == self._batch_size:
            self._compute(entry)

    def end(self, end: End) -> Iterator[tuple[Job, Detection | Failure]]:
        """The end of a job; yields the results that are known now."""
        entry = self._running.pop(end.job, _Open(end.job))
        if end.error is None and self._may_share(entry):
            yield from self._share(entry, end)
            return
        if end.error is None:
            self._compute(entry)
        yield end.job, self._finish(entry, end)

    def end_of_list(self) -> Iterator[tuple[Job, Detection | Failure]]:
        """The results of the jobs that still wait for others."""
        return self._compute_shared()

    def _may_share(self, entry: _Open) -> bool:
        """Whether all of the audio is one whole window. Shorter ones have too many lengths to fill batches."""
        if entry.job.place is None or len(entry.waiting) != 1:
            return False
        window = entry.waiting[0]
        return window.start == 0 and len(window.samples) == self._plan.window_samples

    def _share(self, entry: _Open, end: End) -> Iterator[tuple[Job, Detection | Failure]]:
        place = entry.job.place
        assert place is not None
        n_rows = min(self._batch_size, place.n_jobs)
        row = place.number % n_rows
        if row in self._rows or n_rows != self._n_rows:
            yield from self._compute_shared()
        self._n_rows, self._rows[row] = n_rows, (entry, end)
        if len(self._rows) == n_rows:
            yield from self._compute_shared()

    def _compute_shared(self) -> Iterator[tuple[Job, Detection | Failure]]:
        """Compute the batch that jobs share; rows that none has taken are silent."""
        rows, self._rows = self._rows, {}
        if not rows:
            return
        windows = np.zeros((self._n_rows, self._plan.window_samples), np.float32)
        for row, (entry, _) in rows.items():
            windows[row] = entry.waiting[0].samples
        strong, weak = self._detector.scores(windows)
        for row, (entry, end) in rows.items():
            self._add(entry, entry.waiting[0], strong[row], weak[row])
            yield entry.job, self._finish(entry, end)

    def _compute(self, entry: _Open) -> None:
        """Compute the windows of a job that wait, until some scores are no numbers."""
        windows, entry.waiting = entry.waiting, []
        if not windows or entry.error is not None:
            return
        strong, weak = self._detector.scores(np.stack([window.samples for window in windows]))
        for window, frames, tags in zip(windows, strong, weak, strict=True):
            self._add(entry, window, frames, tags)

    def _add(self, entry: _Open, window: Window, frames: np.ndarray, tags: np.ndarray) -> None:
        """Hand the scores of a window to its job."""
        if entry.error is not None:
            return
        if not np.isfinite(frames).all():
            entry.error = UserError(f"'{entry.job.name}': {NO_NUMBERS}")
            return
        if entry.clip is None:
            job = entry.job
            decoding, sink = self._detector.decoding, self._make_sink(job)
            entry.clip = ClipPass(job.name, self._plan, decoding, job.channel, self._keep_scores, sink)
        entry.clip.add(window.start, frames, tags)
        self._on_window(entry.job, window.start)

    def _finish(self, entry: _Open, end: End) -> Detection | Failure:
        error = end.error or entry.error
        if error is not None:
            return Failure(end.job.name, error)
        assert entry.clip is not None  # audio has a window at least
        return entry.clip.finish(end.n_samples, end.notes)


def _thresholds(
    options: DetectionOptions, thresholds: Mapping[str, float] | str | PathLike[str] | None
) -> list[tuple[str, ClassThresholds]]:
    """Thresholds by class and where they come from: the table or dictionary, then `detection_thresholds` on top."""
    given: list[tuple[str, ClassThresholds]] = []
    if isinstance(thresholds, (str, PathLike)):
        given.append((f"--thresholds {fspath(thresholds)}", read_thresholds(thresholds)))
    elif thresholds is not None:
        given.append(("", check_thresholds(thresholds)))
    numbers, named = options.split_thresholds()
    given.append(("", named))
    given = [(source, by_class) for source, by_class in given if by_class]
    if given:
        require_one_number(numbers)
    return given
