"""Scores of strong (frame-wise) predictions during validation: PSDS1 and partial AUROC, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from errors import UserError
from helpers.psds import PSDSAccumulator
from helpers.psds_batches import Event


class StrongEvaluator:
    """Collects the predictions of an evaluation set and computes PSDS1 and the segment-based partial AUROC.

    The scored classes are those of `class_names` that occur in the ground truth; other events are ignored, and a clip
    without an event of `class_names` is left out unless `keep_empty_clips`. All figures are exact over all thresholds;
    the scores themselves are not kept. The first update on a machine compiles the inner loops (about 20 s; kept on
    disk for later runs).

    Args:
        class_names: names of the C classes in the order of the scores.
        frame_rate: frames per second.
        median_window: odd length in frames of the median filter over time, for all classes or one per class.
        keep_empty_clips: scores clips without events as well (their detections count as false positives).
        clip_to_duration: leaves out frames after the end of a clip; False scores the padding too.
        all_durations: seconds of all clips of the evaluation set (on all processes together); bounds the memory,
            because thresholds with more than 100 false positives per hour are dropped on the way.
        n_threads: threads of the inner loops; by default those of torch.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        frame_rate: float = 25.0,
        median_window: int | Sequence[int] = 9,
        keep_empty_clips: bool = False,
        clip_to_duration: bool = True,
        all_durations: Iterable[float] | None = None,
        n_threads: int | None = None,
    ) -> None:
        self.keep_empty_clips = keep_empty_clips
        self.collected = PSDSAccumulator(
            class_names,
            frame_rate=frame_rate,
            median_window=median_window,
            clip_to_duration=clip_to_duration,
            all_durations=all_durations,
            n_threads=n_threads,
        )

    def reset(self) -> None:
        """Forgets all clips."""
        self.collected.reset()

    def update(
        self,
        scores: torch.Tensor | np.ndarray,
        clip_ids: Sequence[str],
        ground_truth: Mapping[str, Sequence[Event]],
        durations: Mapping[str, float],
    ) -> None:
        """Adds a batch of clips.

        Args:
            scores: logits [B, C, T], not yet median filtered, on any device.
            clip_ids: B names, each given once.
            ground_truth: clip -> events (onset s, offset s, class name), of this batch or of all clips.
            durations: clip -> seconds, of this batch or of all clips.

        Raises:
            UserError: NaN scores, a clip given twice or missing in the ground truth or the durations, overlapping
                events of one class. Nothing of the batch is counted then.
        """
        known = self.collected.class_index
        events = {}
        for clip_id in clip_ids:
            if clip_id not in ground_truth:
                raise UserError(f"clip {clip_id}: not in the ground truth; add it (without events if it has none)")
            events[clip_id] = [event for event in ground_truth[clip_id] if event[2] in known]
        chosen = [i for i, clip_id in enumerate(clip_ids) if events[clip_id] or self.keep_empty_clips]
        if len(chosen) < len(clip_ids):
            scores = scores[chosen]
        if chosen:
            self.collected.update(scores, [clip_ids[i] for i in chosen], events, durations)

    def merge(self, other: StrongEvaluator) -> None:
        """Adds the clips of another process; the figures do not depend on the order, to the last bit.

        Raises:
            UserError: the two were built with different options, or a clip is in both.
        """
        self.collected.merge(other.collected)

    def compute(self) -> dict[str, Any]:
        """Computes the figures over all clips given so far.

        Returns:
            "psds1" (with the penalty for the spread over classes, alpha_st = 1), "psds1_macro_averaged" (mean over
            classes, the figure usually reported), "pauroc" (1 s segments, false positive rate up to 0.1), all in
            [0, 1], and "psds1_per_class": class name -> PSDS1.

        Raises:
            UserError: no clip with events was given.
        """
        result = self.collected.compute()
        return {
            "psds1": result.psds,
            "psds1_macro_averaged": result.psds_macro,
            "pauroc": result.pauroc,
            "psds1_per_class": result.psds_per_class,
        }

    def compute_over_processes(self) -> dict[str, Any]:
        """Computes the figures over the clips of all processes of torch.distributed; without it, those of this one.

        Every process has to call it, and every one gets the same figures. What each process has collected stays.

        Raises:
            UserError: on every process, as from `merge` and `compute`.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return self.compute()
        first = dist.get_rank() == 0
        parts: list[StrongEvaluator] | None = [self] * dist.get_world_size() if first else None
        dist.gather_object(self, parts)
        answer: list[Any] = [None]
        if parts is not None:
            try:
                whole = parts[0]
                for part in parts[1:]:
                    whole.merge(part)
                answer = [whole.compute()]
            except UserError as error:
                answer = [error]
        dist.broadcast_object_list(answer)
        if isinstance(answer[0], UserError):
            raise answer[0]
        return answer[0]
