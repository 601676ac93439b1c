"""Heads: from frame features to logits per frame and per clip."""

from __future__ import annotations

import math

from torch import Tensor, nn


class Head(nn.Linear):
    """A classifier of features."""

    def expect_rare_events(self, probability: float = 0.02) -> None:
        """Start all outputs at a small probability, in place of a half.

        Most classes are silent in most frames; a training from scratch need not spend its first steps on learning
        that (Lin et al., "Focal Loss for Dense Object Detection", 2017, section 3.3).
        """
        nn.init.constant_(self.bias, math.log(probability / (1 - probability)))


class StrongHead(Head):
    """Frame-wise classifier: features [B, T, F] -> logits [B, C, T]."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features).transpose(1, 2)


class WeakHead(Head):
    """Clip-wise classifier on the mean over time: features [B, T, F] -> logits [B, C]."""

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.mean(1))
