"""Scores of clip-wise tasks, by the name of the figure that counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from helpers.tagging_scores import TaggingScores


class AccuracyScores(Metric):
    """Share of the clips whose largest logit is that of their class: over all, per class and per group."""

    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")  # [B, 3]: class, group, whether the logits are right

    def update(self, logits: Tensor, targets: Tensor, group: Tensor | None = None) -> None:
        """Add a batch: logits [B, C], one-hot targets [B, C], number of each clip's group [B] (None: no groups)."""
        truth = targets.argmax(1)
        group = torch.full_like(truth, -1) if group is None else group.to(truth)
        self.rows.append(torch.stack([truth, group, (logits.argmax(1) == truth).long()], 1))

    def compute(self) -> dict[str, Any]:
        """Compute the figures.

        Returns:
            `accuracy` over all clips, `macro_accuracy` (unweighted mean over classes, as in the DCASE challenges), and
            `accuracy_per_class`, `accuracy_per_group`: number -> accuracy of those that occur.
        """
        rows = dim_zero_cat(self.rows).cpu() if len(self.rows) else torch.zeros(0, 3, dtype=torch.long)
        truth, group, right = rows.unbind(1)
        per_class = {c: float(right[truth == c].double().mean()) for c in truth.unique().tolist()}
        return {
            "accuracy": float(right.double().mean()) if len(rows) else math.nan,
            "macro_accuracy": sum(per_class.values()) / len(per_class) if per_class else math.nan,
            "accuracy_per_class": per_class,
            "accuracy_per_group": {
                g: float(right[group == g].double().mean()) for g in group.unique().tolist() if g >= 0
            },
        }


SCORES: dict[str, Callable[[], Metric]] = {"accuracy": AccuracyScores, "mAP": TaggingScores}
