"""`gru`: a bidirectional recurrent network. It reads the clip from both ends, so it is not causal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.registry import register_sequence_model
from models.sequence.stack import N_BLOCKS, SequenceModel, check_dim


class BidirectionalGRU(nn.Module):
    """Bidirectional gated recurrent units.

    Args:
        in_dim: features C per input frame.
        dim: features D per direction.

    Source: Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder", EMNLP 2014.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.gru = nn.GRU(in_dim, dim, num_layers=N_BLOCKS, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, C] -> [B, T, 2 D]
        if x.device.type != "cpu":
            return self.gru(x)[0]
        with torch.autocast("cpu", enabled=False):  # it would convert the weights again for every frame
            return self.gru(x.to(next(self.gru.parameters()).dtype))[0]


@register_sequence_model("gru")
def gru(in_dim: int, dim: int) -> SequenceModel:
    """Two bidirectional GRU layers without projection: [B, T, in_dim] -> [B, T, 2 * dim]; any `dim`."""
    check_dim("gru", dim)
    return SequenceModel(BidirectionalGRU(in_dim, dim), out_dim=2 * dim)
