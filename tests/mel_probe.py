"""A backbone that learns within seconds: one layer on the log-mel, for tests of what stands around a model."""

from __future__ import annotations

from typing import ClassVar

import pytest
from torch import Tensor, nn
from torch.nn import functional as F

from models import registry
from models.mel import N_MELS, LogMel

NAME = "mel-probe"


class MelProbe(registry.Backbone):
    """Means of four mel frames, one linear layer, ReLU."""

    embed_dim = 64
    n_depths = 1
    depth_patterns: ClassVar[tuple[tuple[str, int | None], ...]] = ((r"layer", 0),)
    has_mel_range = True

    def __init__(self) -> None:
        super().__init__()
        self.mel = LogMel()
        self.layer = nn.Linear(N_MELS, self.embed_dim)

    def mel_forward(self, waveform: Tensor, **mel_range: float) -> Tensor:
        return self.mel(waveform, **mel_range)

    def forward(self, mel: Tensor) -> Tensor:
        return F.relu(self.layer(F.avg_pool1d(mel[:, 0], 4, ceil_mode=True).mT))


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `--model_name=mel-probe` be known during a test."""
    monkeypatch.setitem(registry._backbones, NAME, MelProbe)
