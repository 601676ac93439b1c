"""Attention over frames: `tf` (transformer blocks) and `attn` (attention alone).

Both see the whole clip, so neither is causal. The same gated attention with rotary positions serves both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import register_sequence_model
from models.sequence.stack import (
    N_BLOCKS,
    ResidualSequential,
    RMSNorm,
    SequenceModel,
    Stack,
    check_dim,
    projection,
)

N_HEADS = 8
FEW_HEADS, FEW_HEADS_BELOW = 4, 128  # heads of `tf` when its dimension is below 128


def split_heads(qkv: Tensor, n_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [B, H, T, D/H], from one projection [B, T, 3 D] laid out (3, H, D/H)."""
    q, k, v = qkv.unflatten(-1, (3, n_heads, -1)).permute(2, 0, 3, 1, 4)  # 3 x [B, H, T, D/H]
    return q, k, v


class RotaryEncoding(nn.Module):
    """Rotary positions of queries and keys: pairs of neighbouring features turn with the frame index.

    The frequencies are a part of the released checkpoints and are taken from there, but are not trained.
    With an odd number of features the last one is left as it is.

    Args:
        head_dim: features E per head.
        theta: base of the geometric row of frequencies.

    Source: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, section 3.2.
    """

    def __init__(self, head_dim: int, theta: float = 10_000.0) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim - 1, 2, dtype=torch.float32) / head_dim
        self.freqs = nn.Parameter(theta**-exponents, requires_grad=False)  # [E/2], radians per frame

    def angles(self, n_frames: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [T, E/2] for frames 0 ... T-1, in float32 whatever the precision of the model."""
        with torch.autocast(self.freqs.device.type, enabled=False):
            frames = torch.arange(n_frames, device=self.freqs.device, dtype=torch.float32)
            angles = torch.outer(frames, self.freqs.float())
            return angles.cos(), angles.sin()

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Turn queries and keys [B, H, T, E] by the positions of their frames."""
        cos, sin = (a.to(q.dtype) for a in self.angles(q.shape[-2]))
        return self._turn(q, cos, sin), self._turn(k, cos, sin)

    def _turn(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n_pairs = self.freqs.numel()
        even, odd = x[..., : 2 * n_pairs].unflatten(-1, (n_pairs, 2)).unbind(-1)  # [B, H, T, E/2] each
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
        return torch.cat((turned, x[..., 2 * n_pairs :]), dim=-1)


class GatedAttention(nn.Module):
    """Pre-normalised multi-head self-attention whose heads are each gated by the input frame.

    Args:
        dim: features D per frame, a multiple of `n_heads`.
        n_heads: number of heads H.
        dropout: probability, 0 ... 1, on attention weights and output.
    """

    def __init__(self, dim: int, n_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.pos_encoding = RotaryEncoding(dim // n_heads)
        self.norm = RMSNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_gates = nn.Linear(dim, n_heads)
        self.to_out = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        x = self.norm(x)
        q, k, v = split_heads(self.to_qkv(x), self.n_heads)
        q, k = self.pos_encoding(q, k)
        heads = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        gates = self.to_gates(x).sigmoid().unsqueeze(-1)  # [B, T, H, 1]
        return self.to_out((heads.transpose(1, 2) * gates).flatten(-2))


class FeedForward(nn.Module):
    """Pre-normalised two-layer perceptron on each frame, four times as wide inside.

    Args:
        dim: features D per frame.
        dropout: probability, 0 ... 1, after either layer.
    """

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            RMSNorm(dim),
            nn.Linear(dim, 4 * dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * dim, dim),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        return self.net(x)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@register_sequence_model("tf")
def tf(in_dim: int, dim: int) -> SequenceModel:
    """Two transformer blocks: [B, T, in_dim] -> [B, T, dim]; `dim` a multiple of 8."""
    n_heads = N_HEADS if dim >= FEW_HEADS_BELOW else FEW_HEADS
    check_dim("tf", dim, 8, f"{n_heads} heads whose features turn in pairs")
    blocks = (
        ResidualSequential(GatedAttention(dim, n_heads, dropout=0.2), FeedForward(dim, dropout=0.2))
        for _ in range(N_BLOCKS)
    )
    stack = Stack(nn.Sequential(*blocks), norm=RMSNorm(dim)).apply(_init_linear)
    return SequenceModel(projection(in_dim, dim), stack, out_dim=dim)


@register_sequence_model("attn")
def attn(in_dim: int, dim: int) -> SequenceModel:
    """Two layers of attention without feed-forward: [B, T, in_dim] -> [B, T, dim]; `dim` a multiple of 8."""
    check_dim("attn", dim, N_HEADS, f"{N_HEADS} heads")
    layers = ResidualSequential(*(GatedAttention(dim, N_HEADS) for _ in range(N_BLOCKS)))
    return SequenceModel(projection(in_dim, dim), Stack(layers).apply(_init_linear), out_dim=dim)
