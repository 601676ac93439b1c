"""Losses between clip logits [B, C] and targets that may be mixtures of two clips, by name.

Every target is linear in the mixture, so that a mixed clip has exactly the mixture of the losses of its two parts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.losses import bce


def cross_entropy(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean over clips of the cross-entropy with shares of the classes, [B, C] with rows that sum to 1."""
    return F.cross_entropy(logits.to(shares.dtype), shares)


def votes(targets: Tensor, known: Tensor) -> Tensor:
    """Partly known targets [B, C] in {0, 1} as votes [B, 2 C]: for each class, then against each; none if unknown."""
    return torch.cat([targets * known, (1 - targets) * known], 1)


def masked_bce(logits: Tensor, votes: Tensor) -> Tensor:
    """Binary cross-entropy per vote: the mean over the known targets.

    Args:
        logits: z [B, C].
        votes: what `votes` returned, or a mixture of such rows; float [B, 2 C].
    """
    logits = logits.to(votes.dtype)
    yes, no = votes.chunk(2, 1)  # [B, C] each
    total = (yes * F.softplus(-logits) + no * F.softplus(logits)).sum()
    return total / votes.sum().clamp(min=torch.finfo(votes.dtype).tiny)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "masked_bce": masked_bce,
}
