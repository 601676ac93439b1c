"""`hybrid`: blocks in which attention and a bidirectional minGRU work side by side. Not causal."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import register_sequence_model
from models.sequence.min_gru import BidirectionalMinGRU
from models.sequence.stack import N_BLOCKS, RMSNorm, SequenceModel, Stack, check_dim, projection
from models.sequence.transformer import N_HEADS, split_heads


class HybridMixer(nn.Module):
    """Attention without positions and a bidirectional minGRU on the same input, averaged head by head.

    The recurrent branch supplies the order of frames that the attention does not see.

    Args:
        dim: features D per frame, a multiple of `N_HEADS`.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.rnn = BidirectionalMinGRU(dim)
        self.rnn_out_norm = RMSNorm(dim // N_HEADS)
        self.attn_out_norm = RMSNorm(dim // N_HEADS)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        q, k, v = split_heads(self.to_qkv(x), N_HEADS)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # [B, T, H, D/H]
        recurrent = self.rnn(x).unflatten(-1, (N_HEADS, -1))  # [B, T, H, D/H]
        mixed = 0.5 * (self.attn_out_norm(attended) + self.rnn_out_norm(recurrent))
        return self.to_out(mixed.flatten(-2))


class HybridBlock(nn.Sequential):
    """Mixer and feed-forward network, each normalised before and with a connection around.

    Args:
        dim: features D per frame.
    """

    def __init__(self, dim: int) -> None:
        feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        super().__init__(RMSNorm(dim), HybridMixer(dim), RMSNorm(dim), feed_forward)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        mixer_norm, mixer, feed_forward_norm, feed_forward = self
        x = x + mixer(mixer_norm(x))
        return x + feed_forward(feed_forward_norm(x))


@register_sequence_model("hybrid")
def hybrid(in_dim: int, dim: int) -> SequenceModel:
    """Two hybrid blocks: [B, T, in_dim] -> [B, T, dim]; `dim` a multiple of 8."""
    check_dim("hybrid", dim, N_HEADS, f"{N_HEADS} heads")
    stack = Stack(nn.Sequential(*(HybridBlock(dim) for _ in range(N_BLOCKS))), norm=RMSNorm(dim))
    return SequenceModel(projection(in_dim, dim), stack, out_dim=dim)
