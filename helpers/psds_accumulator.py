"""Collects, clip by clip and class by class, the scores at which counts of detections change."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from errors import UserError
from helpers import psds_batches as batches
from helpers.postprocess import check_windows
from helpers.psds_curves import F1, PSDS1, PSDSSettings
from helpers.psds_pools import Pool, TopPool
from helpers.score_kernels import score_classes
from helpers.score_tables import Batch, Criteria, Found, plan_windows

if TYPE_CHECKING:
    from helpers.psds_figures import PSDSResult

_log = logging.getLogger(__name__)
MAX_VALUES = 2**23  # scores in one call of the compiled loops; bounds their output buffers


class PSDSAccumulator:
    """Takes batches of clips and computes PSDS, partial AUROC and F1 over all of them.

    Only classes with events in the clips given so far are scored. A segment without any frame (the clip is longer than
    its scores) scores 0 in the AUROC, as in sed_scores_eval. The result depends neither on the order of the
    clips nor on how they are spread over accumulators that are merged, to the last bit. The first update on a machine
    compiles the inner loops (about 20 s; kept on disk for later runs).

    Args:
        class_names: names of the C classes in the order of the scores.
        settings: criteria of the PSDS.
        frame_rate: frames per second, where no time stamps are given.
        median_window: odd length in frames of a median filter over time, for all classes or one per class; 1: none.
        segment_seconds, max_fpr: segment length of the AUROC and the false positive rate up to which it is taken.
        clip_to_duration: ends the last frame with the clip and leaves later ones out; False scores all T frames.
        all_durations: seconds of all clips that will be scored (by all accumulators that are merged). They bound the
            memory: thresholds that give more than max_efpr false positives per hour are dropped. Without them
            everything is kept.
        keep_clips: remembers which clip each change comes from, as the bootstrap needs (twice the memory).
        n_threads: threads of the inner loops; by default those of torch.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        settings: PSDSSettings = PSDS1,
        *,
        frame_rate: float = 25.0,
        median_window: int | Sequence[int] = 1,
        segment_seconds: float = 1.0,
        max_fpr: float = 0.1,
        clip_to_duration: bool = True,
        all_durations: Iterable[float] | None = None,
        keep_clips: bool = False,
        n_threads: int | None = None,
    ) -> None:
        self.class_names = list(class_names)
        if len(set(self.class_names)) != len(self.class_names) or not self.class_names:
            raise UserError("class_names: expected at least one class, and each name once")
        if not 0.0 < max_fpr <= 1.0 or not segment_seconds > 0.0 or not frame_rate > 0.0:
            raise UserError("expected 0 < max_fpr <= 1, segment_seconds > 0 and frame_rate > 0")
        self.settings, self.frame_rate = settings, float(frame_rate)
        self.segment_seconds, self.max_fpr = float(segment_seconds), float(max_fpr)
        self.windows = plan_windows(check_windows(median_window, len(self.class_names)))
        self.clip_to_duration, self.keep_clips, self.n_threads = clip_to_duration, keep_clips, n_threads
        self.all_durations = sorted(map(float, all_durations or ())) or None
        self.class_index = {name: c for c, name in enumerate(self.class_names)}
        self.reset()

    def reset(self) -> None:
        """Forgets all clips."""
        n = len(self.class_names)
        max_fps, max_quiet = self._bounds()
        clip = (np.int32,) if self.keep_clips else ()
        self.peaks = TopPool(n, np.float32, *clip, top=max_fps)  # highest score of each clip without the class
        self.quiet = TopPool(n, np.float32, top=max_quiet)  # highest scores of segments without the class
        self.active = Pool(np.full(n, -np.inf), np.float32)  # and with it
        floor = self.peaks.floor  # below, too many clips without the class are detected
        self.turns = Pool(floor, np.float32, np.int8, *clip)  # changes in clips without the class
        self.steps = Pool(floor, np.float32, np.int32, np.int32, *clip)  # with it: false and true positives
        self.triggers = Pool(floor, np.float32, np.int32, np.int32, *clip)  # cross triggers: change, other class
        self.peaks.followers = [self.turns, self.steps, self.triggers]
        self.clips: dict[str, int] = {}
        self.durations: list[float] = []
        self.n_segments = 0
        self.events: list[np.ndarray] = []  # rows (clip, class, seconds)
        self._buffer: Found | None = None

    def _bounds(self) -> tuple[int | None, int | None]:
        """How many clips (or segments) without a class are enough to exceed max_efpr (or max_fpr) for certain.

        Every clip without the class whose highest score reaches a threshold holds at least one false positive there
        and at every lower threshold, so from the score of the n-th best of these clips downwards there are at least n.
        """
        if self.all_durations is None:
            return None, None
        fps = math.floor(self.settings.max_efpr * math.fsum(self.all_durations) / 3600.0) + 2
        if self.keep_clips:
            fps += fps // 4 + 50  # resampled clips may hold fewer false positives
        segments = sum(math.ceil(duration / self.segment_seconds) for duration in self.all_durations)
        return fps, math.floor(self.max_fpr * segments) + 2

    def update(
        self,
        scores: torch.Tensor | np.ndarray,
        clip_ids: Sequence[str],
        ground_truth: Mapping[str, Sequence[batches.Event]],
        durations: Mapping[str, float],
        stamps: np.ndarray | None = None,
    ) -> None:
        """Adds B clips.

        Args:
            scores: [B, C, T] of any float type: the higher, the more likely; logits will do.
            clip_ids: B names; each clip is counted once.
            ground_truth: clip -> events (onset s, offset s, class name), of these clips or of all.
            durations: clip -> seconds, of these clips or of all.
            stamps: frame times [T + 1] in seconds that all B clips share; by default T frames at the frame rate.

        Raises:
            UserError: a clip is given twice or is missing in the ground truth or durations, its events overlap within
                a class, or its scores hold NaN or infinite values. Nothing of the batch is counted then.
        """
        if len(self.class_names) != scores.shape[1] or len(clip_ids) != scores.shape[0] or scores.ndim != 3:
            expected = (len(clip_ids), len(self.class_names), "T")
            raise UserError(f"scores of shape {tuple(scores.shape)}: expected [clips, classes, frames] = {expected}")
        repeated = next((clip for clip, n in Counter(clip_ids).items() if n > 1 or clip in self.clips), None)
        if repeated is not None:
            raise UserError(f"clip {repeated}: given twice; score every clip once")
        seconds = [batches.clip_duration(clip, durations) for clip in clip_ids]
        events = [batches.clip_events(clip, ground_truth, self.class_index) for clip in clip_ids]
        values = _as_float(scores)
        size = max(1, MAX_VALUES // max(1, values[0].size)) if len(values) else 1
        rows = []
        for i in range(0, len(clip_ids), size):
            part = slice(i, i + size)
            rows += self._scan(values[part], clip_ids[part], events[part], seconds[part], stamps, len(self.clips) + i)
        for pool, c, columns in rows:
            pool.add(c, columns)
        for clip_id, duration, of_clip in zip(clip_ids, seconds, events, strict=True):
            clip = self.clips[clip_id] = len(self.clips)
            self.durations.append(duration)
            self.n_segments += math.ceil(duration / self.segment_seconds)
            self.events.append(np.array([(clip, c, off - on) for c, on, off in of_clip]).reshape(-1, 3))

    def _scan(
        self,
        values: np.ndarray,
        clip_ids: Sequence[str],
        events: Sequence[Sequence[tuple[int, float, float]]],
        seconds: Sequence[float],
        stamps: np.ndarray | None,
        first_clip: int,
    ) -> list[tuple[Pool, int, tuple[np.ndarray, ...]]]:
        """Runs the compiled loops over some clips and returns the rows to add to each pool."""
        n_classes = len(self.class_names)
        batch = self._batch(values, clip_ids, seconds, stamps)
        table = batches.event_table(events, n_classes)
        found = self._output(values, batch.segment_frames.shape[1], events)
        cttc = -1.0 if self.settings.cttc is None else self.settings.cttc
        criteria = Criteria(self.settings.dtc, self.settings.gtc, cttc, self.peaks.floor, self.quiet.floor)
        n_threads = self.n_threads or torch.get_num_threads()
        step = -(-n_classes // (4 * n_threads))  # several pieces per thread: classes differ in their work
        if not getattr(score_classes, "signatures", True):
            _log.info("first use: compiling the scoring loops, some 20 s unless an earlier run has kept them on disk")
        with ThreadPoolExecutor(n_threads) as pool:
            parts = range(0, n_classes, step)
            list(pool.map(lambda c: score_classes(batch, table, criteria, found, c, min(c + step, n_classes)), parts))
        for c in np.flatnonzero(found.bad_clip >= 0):
            clip_id, name = clip_ids[found.bad_clip[c]], self.class_names[c]
            raise UserError(f"clip {clip_id}: scores of {name!r} hold NaN or infinite values; check the model's output")
        return list(self._rows(found, first_clip))

    def _rows(self, found: Found, first_clip: int) -> Iterator[tuple[Pool, int, tuple[np.ndarray, ...]]]:
        """Copies what the compiled loops found out of their buffers."""
        tables: list[tuple[Pool, tuple[np.ndarray, ...], np.ndarray | None]] = [
            (self.turns, (found.turn_score, found.turn_sign), found.turn_clip),
            (self.steps, (found.step_score, found.step_fp, found.step_tp), found.step_clip),
            (self.triggers, (found.trigger_score, found.trigger_change, found.trigger_other), found.trigger_clip),
            (self.peaks, (found.peak_score,), found.peak_clip),
            (self.quiet, (found.quiet,), None),
            (self.active, (found.active,), None),
        ]
        for k, (pool, columns, clip) in enumerate(tables):
            for c in np.flatnonzero(found.counts[:, k]):
                n = found.counts[c, k]
                copies = tuple(column[c, :n].copy() for column in columns)
                if clip is not None and self.keep_clips:
                    copies += (clip[c, :n] + np.int32(first_clip),)
                yield pool, c, copies

    def _batch(
        self, values: np.ndarray, clip_ids: Sequence[str], seconds: Sequence[float], stamps: np.ndarray | None
    ) -> Batch:
        """Lays out the time grids and segments of some clips."""
        n_frames = values.shape[2]
        grids, segments = [], []
        for clip_id, duration in zip(clip_ids, seconds, strict=True):
            if stamps is not None:
                grids.append((n_frames, batches.check_stamps(clip_id, stamps, n_frames)))
            else:
                end = duration if self.clip_to_duration else n_frames / self.frame_rate
                grids.append(batches.frame_grid(n_frames, self.frame_rate, end))
            n, times = grids[-1]
            segments.append(batches.segment_grid(times[: n + 1], duration, self.segment_seconds))
        n_segments = np.array([len(frames) for _, frames in segments])
        bounds = np.zeros((len(seconds), n_segments.max() + 1))
        frames = np.zeros((len(seconds), n_segments.max(), 2), np.int64)
        for b, (of_clip, frames_of_clip) in enumerate(segments):
            bounds[b, : len(of_clip)], frames[b, : len(frames_of_clip)] = of_clip, frames_of_clip
        return Batch(
            scores=values,
            windows=self.windows,
            n_frames=np.array([n for n, _ in grids]),
            stamps=np.stack([times for _, times in grids]),
            n_segments=n_segments,
            segment_bounds=bounds,
            segment_frames=frames,
            gaps=np.array([(f[:, 1] <= f[:, 0]).any() for _, f in segments]),
        )

    def _output(
        self, values: np.ndarray, n_segments: int, events: Sequence[Sequence[tuple[int, float, float]]]
    ) -> Found:
        """Output buffers that are wide enough for some clips, reused from call to call."""
        B, C, T = values.shape
        labels = [c for of_clip in events for c in {c for c, *_ in of_clip}]
        crossing = self.settings.cttc is not None
        steps = T * (B if crossing else max(Counter(labels).values(), default=0))  # clips with the same class
        triggers = T * len(labels) * crossing
        score, turns = values.dtype, B * T + 1
        shapes: list[tuple[int, Any]] = [
            *((turns, score), (turns, np.int8), (turns, np.int32)),
            *((steps, score), (steps, np.int32), (steps, np.int32), (steps, np.int32)),
            *((triggers, score), (triggers, np.int32), (triggers, np.int32), (triggers, np.int32)),
            *((B, score), (B, np.int32), (B * n_segments + 1, score), (B * n_segments, score)),
        ]
        if self._buffer is None or any(
            column.shape[1] < width or column.dtype != dtype
            for column, (width, dtype) in zip(self._buffer[2:], shapes, strict=True)
        ):
            columns = (np.empty((C, width), dtype) for width, dtype in shapes)
            self._buffer = Found(np.zeros((C, 6), np.int64), np.zeros(C, np.int64), *columns)
        return self._buffer

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_buffer": None}

    def merge(self, other: PSDSAccumulator) -> None:
        """Adds all clips of another accumulator, which stays as it is.

        Raises:
            UserError: the two were built with different options, or a clip is in both.
        """
        options, others = self._options(), other._options()
        differing = [name for name in options if options[name] != others[name]]
        if differing:
            raise UserError(f"cannot merge: the accumulators differ in {', '.join(differing)}")
        repeated = self.clips.keys() & other.clips.keys()
        if repeated:
            raise UserError(f"clip {min(repeated)}: scored by two processes; give every clip to one of them")
        first_clip = len(self.clips)
        for name in ("peaks", "quiet", "turns", "steps", "triggers", "active"):
            mine, theirs = getattr(self, name), getattr(other, name)
            np.maximum(mine.floor, theirs.floor, out=mine.floor)
            for c in np.flatnonzero(theirs.sizes):
                columns = theirs.rows(c)
                if self.keep_clips and name not in ("quiet", "active"):
                    columns = (*columns[:-1], columns[-1] + np.int32(first_clip))
                mine.add(c, columns)
        self.clips.update({clip_id: first_clip + i for clip_id, i in other.clips.items()})
        self.durations += other.durations
        self.n_segments += other.n_segments
        self.events += [rows + np.array([first_clip, 0, 0]) for rows in other.events]

    def _options(self) -> dict[str, Any]:
        names = "class_names settings frame_rate segment_seconds max_fpr clip_to_duration keep_clips all_durations"
        return {name: getattr(self, name) for name in names.split()} | {"median_window": self.windows.lengths.tolist()}

    def compute(self) -> PSDSResult:
        """Computes PSDS and partial AUROC over the clips given so far.

        Raises:
            UserError: there is no event, or the clips are longer than `all_durations` promised.
        """
        from helpers.psds_figures import compute

        return compute(self)

    def intersection_f1(self, threshold: float | Mapping[str, float] | None = None) -> dict[str, F1]:
        """F1 of each class, counting detections by the criteria of the settings; arguments as for `segment_f1`."""
        from helpers.psds_figures import intersection_f1

        return intersection_f1(self, threshold)

    def segment_f1(self, threshold: float | Mapping[str, float] | None = None) -> dict[str, F1]:
        """F1 of each class over segments.

        Args:
            threshold: decisions are scores above it; one for all classes or one per class name; None takes the best
                of each class.

        Raises:
            UserError: the figure depends on thresholds that were dropped because of `all_durations`.
        """
        from helpers.psds_figures import segment_f1

        return segment_f1(self, threshold)


def _as_float(scores: torch.Tensor | np.ndarray) -> np.ndarray:
    """Contiguous float64 if the scores are, else float32, which holds the shorter types without loss."""
    if isinstance(scores, torch.Tensor):
        scores = scores.detach().to(torch.float64 if scores.dtype == torch.float64 else torch.float32).cpu().numpy()
    return np.ascontiguousarray(scores, dtype=np.float64 if scores.dtype == np.float64 else np.float32)
