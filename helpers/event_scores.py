"""Scores of strong (frame-wise) predictions during validation: PSDS1 and partial AUROC, clip by clip."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from errors import UserError
from helpers.postprocess import median_filter

Event = tuple[float, float, str]


class StrongEvaluator:
    """Collects the predictions of an evaluation set and computes PSDS1 and the segment-based partial AUROC.

    The scored classes are those of `class_names` that occur in the ground truth; a clip without an event of
    `class_names` is left out unless `keep_empty_clips`. Frames are scored up to the end of their clip.

    Args:
        class_names: names of the C classes in the order of the scores.
        frame_rate: frames per second.
        median_window: odd length in frames of the median filter over time, for all classes or one per class.
        keep_empty_clips: scores clips without events as well (their detections count as false positives).
        all_durations: seconds of all clips of the evaluation set (on all processes together); bounds the memory,
            because thresholds with more than 100 false positives per hour are dropped on the way.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        frame_rate: float = 25.0,
        median_window: int | Sequence[int] = 9,
        keep_empty_clips: bool = False,
        all_durations: Iterable[float] | None = None,
    ) -> None:
        self.class_names = list(class_names)
        self.frame_rate = frame_rate
        self.median_window = median_window
        self.keep_empty_clips = keep_empty_clips
        self.reset()

    def reset(self) -> None:
        """Forgets all clips."""
        self._clips: dict[str, tuple[np.ndarray, float, list[Event]]] = {}

    def update(
        self,
        scores: torch.Tensor | np.ndarray,
        clip_ids: Sequence[str],
        ground_truth: Mapping[str, Sequence[Event]],
        durations: Mapping[str, float],
    ) -> None:
        """Adds a batch of clips.

        Args:
            scores: logits [B, C, T], not yet median filtered.
            clip_ids: B names, each given once.
            ground_truth: clip -> events (onset s, offset s, class name), of this batch or of all clips.
            durations: clip -> seconds, of this batch or of all clips.

        Raises:
            UserError: NaN scores, a clip given twice or missing in the ground truth or the durations.
        """
        filtered = median_filter(torch.as_tensor(scores).detach().float(), self.median_window).cpu().numpy()
        names = set(self.class_names)
        for clip_id, curve in zip(clip_ids, filtered, strict=True):
            for known, what in ((ground_truth, "ground truth"), (durations, "durations")):
                if clip_id not in known:
                    raise UserError(f"clip {clip_id}: not in the {what}; add it or leave the clip out")
            if not np.isfinite(curve).all():
                raise UserError(f"clip {clip_id}: scores hold NaN or infinite values; check the model's output")
            events = [(float(on), float(off), label) for on, off, label in ground_truth[clip_id] if label in names]
            if events or self.keep_empty_clips:
                self._clips[clip_id] = (curve, float(durations[clip_id]), events)

    def merge(self, other: StrongEvaluator) -> None:
        """Adds the clips of another process; the result does not depend on the order."""
        self._clips.update(other._clips)

    def compute(self) -> dict[str, Any]:
        """Computes the figures over all clips given so far.

        Returns:
            "psds1" (with the penalty for the spread over classes, alpha_st = 1), "psds1_macro_averaged" (mean over
            classes, the figure usually reported), "pauroc" (1 s segments, false positive rate up to 0.1) in [0, 1],
            "psds1_per_class": class name -> PSDS1.

        Raises:
            UserError: no clip with events was given.
        """
        from sed_scores_eval import intersection_based, segment_based
        from sed_scores_eval.base_modules.scores import create_score_dataframe

        present = {label for _, _, events in self._clips.values() for *_, label in events}
        columns = [i for i, name in enumerate(self.class_names) if name in present]
        names = [self.class_names[i] for i in columns]
        if not names:
            raise UserError("no clip with an event of the given classes: nothing to score")
        frames, truth, durations = {}, {}, {}
        for clip_id, (curve, duration, events) in self._clips.items():
            stamps = np.arange(curve.shape[1] + 1) / self.frame_rate
            n = int(np.searchsorted(stamps[:-1], duration, side="left"))
            frames[clip_id] = create_score_dataframe(curve[columns, :n].T, np.minimum(stamps[: n + 1], duration), names)
            truth[clip_id], durations[clip_id] = events, duration
        psds, per_class, *_ = intersection_based.psds(
            frames, truth, durations, dtc_threshold=0.7, gtc_threshold=0.7, alpha_st=1.0, max_efpr=100.0
        )
        auroc, _ = segment_based.auroc(frames, truth, durations, segment_length=1.0, max_fpr=0.1)
        return {
            "psds1": float(psds),
            "psds1_macro_averaged": float(np.mean(list(per_class.values()))),
            "pauroc": float(auroc["mean"]),
            "psds1_per_class": {name: float(value) for name, value in per_class.items()},
        }
