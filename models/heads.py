"""Heads: from frame features to logits per frame and per clip."""

from __future__ import annotations

from torch import Tensor, nn


class StrongHead(nn.Linear):
    """Frame-wise classifier: features [B, T, F] -> logits [B, C, T]."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).transpose(1, 2)


class WeakHead(nn.Linear):
    """Clip-wise classifier on the mean over time: features [B, T, F] -> logits [B, C]."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.mean(1))
