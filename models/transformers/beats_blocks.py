"""The layers of BEATs: attention with gated relative position bias, post-norm with scaled residuals.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023; the gate is that of WavLM (Chen et
al., IEEE JSTSP 2022, section III-A), the scaled residuals those of DeepNet (Wang et al., 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from models.transformers.vit_blocks import LayerStack

N_BUCKETS = 320  # of relative positions, half for each direction
MAX_DISTANCE = 800  # from here on all distances share a bucket
N_LAYERS = 12  # the constants of the residuals and of the initialisation belong to this depth
RESIDUAL_SCALE = (2 * N_LAYERS) ** 0.25
INIT_GAIN = (8 * N_LAYERS) ** -0.25
POS_KERNEL, POS_GROUPS = 128, 16
DROPOUT = 0.1
LAYER_DROP = 0.05
GATE_UNITS = 8  # outputs of the gate's linear layer: four are summed for each of two gates


def relative_buckets(distance: Tensor) -> Tensor:
    """Bucket (0 ... 319) of each relative position key - query: exact up to 80 tokens, logarithmic beyond."""
    side = N_BUCKETS // 2
    exact = side // 2
    a = distance.abs()
    ratio = torch.log(a.clamp_min(1).float() / exact) / math.log(MAX_DISTANCE / exact)
    far = (exact + (ratio * (side - exact)).long()).clamp_max(side - 1)
    return torch.where(a < exact, a, far) + side * (distance > 0)


def relative_bias(table: Tensor, n_tokens: int) -> Tensor:
    """Bias [heads, query, key] from a table [buckets, heads]."""
    distance = torch.arange(1 - n_tokens, n_tokens, device=table.device)
    by_distance = table[relative_buckets(distance)].T  # [heads, 2 T - 1]
    # row q holds the distances -q ... T - 1 - q, which is the window that starts T - 1 - q entries from the left
    return by_distance.unfold(1, n_tokens, 1).flip(1)


class GatedAttention(nn.Module):
    """Self-attention whose relative position bias each query scales by a gate of its own.

    Args:
        dim, n_heads: width and heads.
        table: the embedding of the buckets, one for all layers.
    """

    def __init__(self, dim: int, n_heads: int, table: nn.Embedding) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"width {dim} is not divisible by {n_heads} heads")
        self.n_heads = n_heads
        self.grep_a = nn.Parameter(torch.ones(1, n_heads, 1, 1))
        self.relative_attention_bias = table
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.q_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.grep_linear = nn.Linear(dim // n_heads, GATE_UNITS)

    def gate(self, q: Tensor) -> Tensor:
        """Factor [B, heads, T, 1] on the bias of each query; `q` [B, heads, T, D / heads] is not scaled."""
        # the sum of four outputs of a linear layer is one output with summed weights
        weight = self.grep_linear.weight.unflatten(0, (2, -1)).sum(1)
        bias = self.grep_linear.bias.unflatten(0, (2, -1)).sum(1)
        a, b = F.linear(q, weight, bias).sigmoid().chunk(2, -1)
        return a * (b * self.grep_a - 1.0) + 2.0

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attend over x [B, T, D] with the bias [heads, T, T] of the relative positions."""
        B, T, D = x.shape
        q, k, v = (
            proj(x).view(B, T, self.n_heads, D // self.n_heads).transpose(1, 2)  # [B, heads, T, D / heads]
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        y = self._attend(q, k, v, self.gate(q).to(q.dtype), bias.to(q.dtype))
        return self.out_proj(y.transpose(1, 2).reshape(B, T, D))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor) -> Tensor:
        dropout = DROPOUT if self.training else 0.0
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or q.device.type != "cpu":
            return F.scaled_dot_product_attention(q, k, v, attn_mask=gate * bias, dropout_p=dropout)
        # one clip at a time keeps the gated bias in the cache, and in memory only once
        y = torch.empty_like(q)
        for i in range(q.shape[0]):
            one = slice(i, i + 1)
            y[one] = F.scaled_dot_product_attention(q[one], k[one], v[one], gate[one] * bias, dropout)
        return y


class BeatsLayer(nn.Module):
    """Post-norm transformer layer; the residual is scaled up before each sum."""

    def __init__(self, dim: int, n_heads: int, table: nn.Embedding) -> None:
        super().__init__()
        self.self_attn = GatedAttention(dim, n_heads, table)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(DROPOUT)
        self._initialise()

    def _initialise(self) -> None:
        attn = self.self_attn
        nn.init.normal_(attn.grep_linear.weight, std=0.02)
        for linear in (attn.q_proj, attn.k_proj):
            nn.init.xavier_normal_(linear.weight)
        for linear in (attn.v_proj, attn.out_proj, self.fc1, self.fc2):
            nn.init.xavier_normal_(linear.weight, gain=INIT_GAIN)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x [B, T, D], bias of the relative positions [heads, T, T]."""
        y = self.dropout(self.self_attn(x, bias))
        x = self.self_attn_layer_norm(torch.add(y, x, alpha=RESIDUAL_SCALE))
        y = self.dropout(self.fc2(F.gelu(self.fc1(x))))
        return self.final_layer_norm(torch.add(y, x, alpha=RESIDUAL_SCALE))


class BeatsEncoder(nn.Module):
    """Convolutional position embedding, norm, and the layers; [B, T, D] -> [B, T, D].

    Relative positions, like the convolution, run over the flattened index of time and frequency.
    """

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        conv = nn.Conv1d(dim, dim, POS_KERNEL, padding=POS_KERNEL // 2, groups=POS_GROUPS)
        nn.init.normal_(conv.weight, std=math.sqrt(4.0 / (POS_KERNEL * dim)))
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.pos_conv = nn.Sequential(weight_norm(conv, dim=2))  # normalised along the kernel
        table = nn.Embedding(N_BUCKETS, n_heads)
        nn.init.normal_(table.weight, std=0.02)
        self.layers = LayerStack(BeatsLayer(dim, n_heads, table) for _ in range(depth))
        self.layers.layer_drop = LAYER_DROP
        self.layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(DROPOUT)

    @property
    def bias_table(self) -> Tensor:
        """The table [buckets, heads] of the relative position bias, which all layers share."""
        return self.layers[0].self_attn.relative_attention_bias.weight  # type: ignore[union-attr, return-value]

    def positioned(self, x: Tensor) -> Tensor:
        """Input of the first layer: tokens plus what a wide convolution makes of their neighbourhood."""
        around = self._around(x.transpose(1, 2))[..., :-1]  # the even kernel gives one output too many
        return self.layer_norm(x + F.gelu(around).transpose(1, 2))

    def _around(self, x: Tensor) -> Tensor:
        """The convolution; on a CPU always in float32, because oneDNN's grouped one in bfloat16 is wrong with AMX."""
        conv: nn.Conv1d = self.pos_conv[0]  # type: ignore[assignment]
        if x.device.type != "cpu" or not (torch.is_autocast_enabled("cpu") or conv.weight.dtype == torch.bfloat16):
            return self.pos_conv(x)
        with torch.autocast("cpu", enabled=False):
            bias = None if conv.bias is None else conv.bias.float()
            around = F.conv1d(x.float(), conv.weight.float(), bias, padding=conv.padding, groups=conv.groups)
        return around.to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(self.positioned(self.dropout(x)))
        return self.layers(x, relative_bias(self.bias_table, x.shape[1]))
