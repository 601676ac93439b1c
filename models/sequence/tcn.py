"""`tcn`: a temporal convolutional network. Every convolution looks back only, so the model is causal.

Receptive field: 2 stacks x 5 blocks x 2 convolutions of 3 frames spaced 1, 2, 4, 8, 16 frames apart, that is
the present frame and 248 before it (9.96 s).

Source: Bai et al., "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence
Modeling", 2018, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import register_sequence_model
from models.sequence.stack import N_BLOCKS, ResidualSequential, SequenceModel, Stack, check_dim, projection

DILATIONS = (1, 2, 4, 8, 16)
KERNEL_SIZE = 3
DROPOUT = 0.2

# The published module stores each convolution twice, as a block's conv1 (conv2) and again as net.0 (net.4).
# Both names meet in one of ours; of two values the later one in the file stands.
KEY_MAP = (
    (r"^(seq_model\..*\.network\.\d+)\.net\.0\.", r"\1.conv1."),
    (r"^(seq_model\..*\.network\.\d+)\.net\.4\.", r"\1.conv2."),
)


class CausalConv1d(nn.Module):
    """Convolution over the present and earlier frames; each output channel has a learned norm and direction.

    Args:
        dim: channels D in and out.
        dilation: frames between two taps.

    Source: Salimans and Kingma, "Weight Normalization", NeurIPS 2016.
    """

    def __init__(self, dim: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.weight_v = nn.Parameter(torch.empty(dim, dim, KERNEL_SIZE).normal_(std=0.01))
        self.weight_g = nn.Parameter(self.weight_v.detach().norm(dim=(1, 2), keepdim=True))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-1, 1) / (dim * KERNEL_SIZE) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:  # [B, D, T] -> [B, D, T]
        weight = self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))
        x = F.pad(x, ((KERNEL_SIZE - 1) * self.dilation, 0))
        return F.conv1d(x, weight, self.bias, dilation=self.dilation)


class TemporalBlock(nn.Module):
    """Two causal convolutions and a connection around them.

    Args:
        dim: channels D.
        dilation: frames between two taps of either convolution.
        dropout: probability, 0 ... 1, after either convolution.
    """

    def __init__(self, dim: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = CausalConv1d(dim, dilation)
        self.conv2 = CausalConv1d(dim, dilation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:  # [B, D, T] -> [B, D, T]
        out = self.dropout(self.conv1(x).relu())
        out = self.dropout(self.conv2(out).relu())
        return (out + x).relu()


class TemporalConvNet(nn.Module):
    """Temporal blocks with dilation 1, 2, 4, 8 and 16.

    Args:
        dim: channels D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.network = nn.Sequential(*(TemporalBlock(dim, dilation, DROPOUT) for dilation in DILATIONS))

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        return self.network(x.transpose(1, 2)).transpose(1, 2)


@register_sequence_model("tcn")
def tcn(in_dim: int, dim: int) -> SequenceModel:
    """Two stacks of five temporal blocks: [B, T, in_dim] -> [B, T, dim]; any `dim`."""
    check_dim("tcn", dim)
    stack = Stack(ResidualSequential(*(TemporalConvNet(dim) for _ in range(N_BLOCKS))))
    return SequenceModel(projection(in_dim, dim), stack, out_dim=dim, causal=True, key_map=KEY_MAP)
