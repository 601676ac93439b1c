"""`mamba`: Mamba-2, a state space model computed by matrix products over chunks of frames. It is causal.

Source: Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State
Space Duality", ICML 2024; section 6 gives the chunked algorithm, section 7 the block. Names of parameters are those
of the mamba-ssm package, whose kernels take over on CUDA when it is installed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import register_sequence_model
from models.sequence.stack import N_BLOCKS, ResidualSequential, SequenceModel, Stack, check_dim, projection

D_STATE = 64  # N, numbers of state per feature
D_CONV = 3  # frames of the convolution before the state space model
EXPAND = 2  # features inside the block per feature outside
HEAD_DIM, SMALL_HEAD_DIM, SMALL_HEADS_UP_TO = 64, 32, 128  # at most 64 features per head, 32 up to D = 128
CHUNK_FRAMES = 32  # frames per chunk of the scan: the fastest on CPUs
KERNEL_CHUNK_FRAMES = 64  # the same of mamba-ssm's kernels


def head_dim(dim: int) -> int:
    """Features P per head for D = `dim`: the largest divisor of 2 D up to 64 (up to 32 for D <= 128)."""
    limit = SMALL_HEAD_DIM if dim <= SMALL_HEADS_UP_TO else HEAD_DIM
    return next(size for size in range(limit, 0, -1) if EXPAND * dim % size == 0)


def ssd_scan(x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor, chunk: int = CHUNK_FRAMES) -> Tensor:
    """Outputs y_t = c_t h_t of h_t = exp(log_decay_t) h_{t-1} + x_t b_t^T, for all t at once.

    Within a chunk, the outputs are a masked matrix product as in attention; between chunks, a state is handed on.

    Args:
        x: inputs [B, T, H, P], already scaled by the step size.
        log_decay: [B, T, H], at most 0.
        b: input vectors [B, T, N], shared by all heads.
        c: output vectors [B, T, N], shared by all heads.
        chunk: frames per chunk; a shorter sequence is one chunk.

    Returns:
        y [B, T, H, P].
    """
    n_frames = x.shape[1]
    chunk = min(chunk, n_frames)
    padding = -n_frames % chunk  # frames of no input and no decay
    x = F.pad(x, (0, 0, 0, 0, 0, padding)).unflatten(1, (-1, chunk)).transpose(2, 3)  # [B, K, H, Q, P]
    log_decay = F.pad(log_decay, (0, 0, 0, padding)).unflatten(1, (-1, chunk)).transpose(2, 3)  # [B, K, H, Q]
    b, c = (F.pad(v, (0, 0, 0, padding)).unflatten(1, (-1, chunk)) for v in (b, c))  # [B, K, Q, N]
    decayed = log_decay.cumsum(dim=-1)  # log of the decay from a chunk's start to the end of each frame

    y = _within_chunks(x, decayed, b, c)
    if x.shape[1] > 1:
        to_end = (decayed[..., -1:] - decayed).exp().unsqueeze(-1)  # [B, K, H, Q, 1]
        states = (x * to_end).transpose(-1, -2) @ b.unsqueeze(2)  # [B, K, H, P, N], from h = 0 in each chunk
        before = _states_before(states, decayed[..., -1].exp())
        y = y + (c.unsqueeze(2) @ before.transpose(-1, -2)) * decayed.exp().unsqueeze(-1)
    return y.transpose(2, 3).flatten(1, 2)[:, :n_frames]


def _within_chunks(x: Tensor, decayed: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """What each frame's output owes to the inputs of its own chunk, [B, K, H, Q, P]."""
    chunk = x.shape[-2]
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    weights = decayed.unsqueeze(-1) - decayed.unsqueeze(-2)  # [B, K, H, Q, Q], row: output, column: input
    weights = weights.masked_fill_(future, -math.inf).exp_() * (c @ b.transpose(-1, -2)).unsqueeze(2)
    return weights @ x


def _states_before(states: Tensor, decay: Tensor) -> Tensor:
    """States at the start of each chunk, [B, K, H, P, N], from what each chunk adds and its decay [B, K, H]."""
    before = [torch.zeros_like(states[:, 0])]
    for added, factor in zip(states[:, :-1].unbind(1), decay[:, :-1].unbind(1), strict=True):
        before.append(factor[..., None, None] * before[-1] + added)
    return torch.stack(before, dim=1)


class StateSpaceScan(nn.Module):
    """The state space model between input and output, without parameters of its own."""

    def forward(self, x: Tensor, dt: Tensor, b: Tensor, c: Tensor, decay_rate: Tensor, dt_bias: Tensor) -> Tensor:
        """Outputs [B, T, H, P] of h_t = exp(dt_t decay_rate) h_{t-1} + dt_t x_t b_t^T, y_t = c_t h_t.

        Args:
            x: inputs [B, T, H, P].
            dt: step sizes [B, T, H] before `dt_bias` and softplus.
            b, c: input and output vectors [B, T, N], shared by all heads.
            decay_rate: [H], negative.
            dt_bias: [H].
        """
        kernel = cuda_kernel() if x.is_cuda else None
        if kernel is not None:
            x, dt, b, c = (v.contiguous() for v in (x, dt, b.unsqueeze(2), c.unsqueeze(2)))  # b, c: one group
            return kernel(x, dt, decay_rate, b, c, KERNEL_CHUNK_FRAMES, dt_bias=dt_bias, dt_softplus=True)
        dt = F.softplus(dt + dt_bias)
        return ssd_scan(x * dt.unsqueeze(-1), dt * decay_rate, b, c)

    def macs(self, x: Tensor, dt: Tensor, b: Tensor, *_: Tensor) -> int:
        """Multiplications of the recurrence: for each number of state its decay, its input and its output."""
        return 3 * x.numel() * b.shape[-1]


class CausalDepthwiseConv1d(nn.Conv1d):
    """Convolution of each feature over the present frame and the two before it, [B, T, C] -> [B, T, C].

    Args:
        channels: features C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, D_CONV, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        # two-dimensional with features last, as the frames lie in memory: ten times as fast as conv1d on CPUs
        x = F.pad(x, (0, 0, D_CONV - 1, 0)).transpose(1, 2).unsqueeze(2)  # [B, C, 1, T + 2]
        weight = self.weight.unsqueeze(2).to(x.dtype, memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.conv2d(x, weight, bias, groups=self.groups).squeeze(2).transpose(1, 2)


class Mamba2(nn.Module):
    """The Mamba-2 block with one group of input and output vectors and without gated normalisation.

    Computes in float32 whatever the autocast: products of many decays do not survive half precision.

    Args:
        dim: features D in and out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.d_inner = EXPAND * dim
        self.head_dim = head_dim(dim)
        n_heads = self.d_inner // self.head_dim
        conv_dim = self.d_inner + 2 * D_STATE
        self.in_proj = nn.Linear(dim, self.d_inner + conv_dim + n_heads, bias=False)
        self.conv1d = CausalDepthwiseConv1d(conv_dim)
        self.dt_bias = nn.Parameter(_initial_dt_bias(n_heads))
        self.A_log = nn.Parameter(torch.empty(n_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(n_heads))
        self.out_proj = nn.Linear(self.d_inner, dim, bias=False)
        self.scan = StateSpaceScan()

    def forward(self, u: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        with torch.autocast(u.device.type, enabled=False):
            projected = self.in_proj(u.to(self.in_proj.weight.dtype)).float()
            conv_dim, n_heads = self.conv1d.in_channels, len(self.D)
            z, xbc, dt = projected.split([self.d_inner, conv_dim, n_heads], dim=-1)
            x, b, c = F.silu(self.conv1d(xbc)).split([self.d_inner, D_STATE, D_STATE], dim=-1)
            x = x.unflatten(-1, (n_heads, self.head_dim))  # [B, T, H, P]
            y = self.scan(x, dt, b, c, -self.A_log.float().exp(), self.dt_bias.float())
            y = y + self.D.float().unsqueeze(-1) * x
            gated = y.flatten(-2) * F.silu(z)
            return self.out_proj(gated.to(self.out_proj.weight.dtype)).to(u.dtype)


@functools.cache
def cuda_kernel() -> Callable[..., Tensor] | None:
    """The fused scan of the mamba-ssm package, or None where that is not installed."""
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    except ImportError:
        return None
    return mamba_chunk_scan_combined


def _initial_dt_bias(n_heads: int, shortest: float = 1e-3, longest: float = 0.1, floor: float = 1e-4) -> Tensor:
    """Biases whose softplus, the first step sizes, is spread evenly in logarithm between `shortest` and `longest`."""
    dt = torch.empty(n_heads).uniform_(math.log(shortest), math.log(longest)).exp().clamp(min=floor)
    return dt + (-torch.expm1(-dt)).log()  # inverse of softplus


@register_sequence_model("mamba")
def mamba(in_dim: int, dim: int) -> SequenceModel:
    """Two Mamba-2 blocks: [B, T, in_dim] -> [B, T, dim]; `dim` a multiple of 8."""
    check_dim("mamba", dim, 8, "heads of 16 or more features")
    layers = (nn.Sequential(Mamba2(dim), nn.LayerNorm(dim)) for _ in range(N_BLOCKS))
    stack = Stack(ResidualSequential(*layers))
    return SequenceModel(projection(in_dim, dim), nn.LayerNorm(dim), stack, out_dim=dim, causal=True)
