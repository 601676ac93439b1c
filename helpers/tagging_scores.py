"""Scores of clip-wise predictions: mean average precision, AUROC and d-prime over all classes with positives."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import torch
from scipy.special import ndtri
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat

_LARGEST_AUROC = 1 - 1e-9  # of a perfect ranking; its d-prime would be infinite


class TaggingScores(Metric):
    """Collects clip logits and labels and computes the figures over all of them, on all processes together.

    Figures are exact (no binning of thresholds) and unweighted means over the classes that occur; a class without
    positives has no average precision.
    """

    full_state_update = False
    logits: list[Tensor]
    targets: list[Tensor]
    known: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")
        self.add_state("known", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, targets: Tensor, known: Tensor | None = None) -> None:
        """Add a batch: logits [B, C], labels [B, C] of 0 and 1, and which of these are known (None: all)."""
        self.logits.append(logits.detach().float())
        self.targets.append(targets.to(torch.uint8))
        self.known.append(torch.ones_like(targets, dtype=torch.bool) if known is None else known.bool())

    def compute(self) -> dict[str, Any]:
        """Compute the figures.

        Returns:
            `mAP`, `auroc` (means over classes), `d_prime` (of the mean AUROC; Hershey et al., "CNN Architectures for
            Large-Scale Audio Classification", 2017, section 4.2), and `ap_per_class`: class index -> average
            precision. All NaN without any label.
        """
        scores = dim_zero_cat(self.logits).cpu().double().sigmoid()  # double: distinct logits stay distinct
        targets = dim_zero_cat(self.targets).cpu().long()
        known = dim_zero_cat(self.known).cpu()
        count = (targets * known).sum(0)
        present = ((count > 0) & (count < known.sum(0))).nonzero().flatten()
        if len(present) == 0:
            return {"mAP": math.nan, "auroc": math.nan, "d_prime": math.nan, "ap_per_class": {}}
        of_class = {c: (scores[known[:, c], c], targets[known[:, c], c]) for c in present.tolist()}
        precision = {c: float(binary_average_precision(*pair)) for c, pair in of_class.items()}
        auroc = fmean(float(binary_auroc(*pair)) for pair in of_class.values())
        return {
            "mAP": fmean(precision.values()),
            "auroc": auroc,
            "d_prime": math.sqrt(2) * float(ndtri(min(auroc, _LARGEST_AUROC))),
            "ap_per_class": precision,
        }
