"""minGRU: a recurrent layer whose gate and candidate depend on the input alone, so that a scan replaces the loop.

Source: Feng et al., "Were RNNs All We Needed?", 2024, section 3 and appendix B (the log-space scan).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Frames per chunk of the scan in log space: short enough that the logarithms in a chunk keep their decimals.
LOG_CHUNK_FRAMES = 64


def min_gru_scan(hidden: Tensor, gate: Tensor) -> Tensor:
    """States h_t = (1 - z_t) h_{t-1} + z_t c_t for all t at once, from h = 0.

    z = sigmoid(gate); the candidate c is hidden + 0.5 where hidden is 0 or more, and sigmoid(hidden) elsewhere.

    Args:
        hidden: [B, T, D], any range.
        gate: logits [B, T, D].

    Returns:
        States [B, T, D], positive, float32 whatever the precision of the input.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        # CUDA waits for launches, and the scan in log space has the fewest; elsewhere its logarithms and
        # exponentials cost eight times as much as the products that they replace (benchmarks/scans.py)
        scan = log_space_scan if hidden.is_cuda else product_scan
        return scan(hidden.float(), gate.float())


def log_space_scan(hidden: Tensor, gate: Tensor, chunk: int = LOG_CHUNK_FRAMES) -> Tensor:
    """`min_gru_scan` by sums of logarithms (appendix B.3.1 of the paper), in chunks that hand the state on.

    One chunk for all would lose a decimal each time the sequence grows tenfold, since the logarithm of the
    decay then runs away from 0.
    """
    n_frames = hidden.shape[1]
    hidden, gate = _in_chunks(hidden, chunk), _in_chunks(gate, chunk)  # [B, K, Q, D]
    log_candidate = torch.where(hidden >= 0, (F.relu(hidden) + 0.5).log(), -F.softplus(-hidden))
    log_decay = (-F.softplus(gate)).cumsum(dim=2)  # log of the product of 1 - z since the chunk's start
    log_input = log_candidate - F.softplus(-gate)
    states = (log_decay + (log_input - log_decay).logcumsumexp(dim=2)).exp()
    return _hand_on(states, log_decay.exp(), n_frames)


def product_scan(hidden: Tensor, gate: Tensor) -> Tensor:
    """`min_gru_scan` by products, as one pass over the frames of all chunks at once and one over the chunks.

    With about sqrt(T) chunks of about sqrt(T) frames this takes 2 sqrt(T) steps on large tensors.
    """
    candidate = torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid())
    n_frames = hidden.shape[1]
    chunk = math.isqrt(n_frames - 1) + 1
    decays, inputs = (_in_chunks(x, chunk).unbind(2) for x in ((-gate).sigmoid(), candidate * gate.sigmoid()))
    states, products = [inputs[0]], [decays[0]]  # of [B, K, D], from h = 0 in each chunk
    for decay, added in zip(decays[1:], inputs[1:], strict=True):
        states.append(torch.addcmul(added, decay, states[-1]))
        products.append(decay * products[-1])
    return _hand_on(torch.stack(states, dim=2), torch.stack(products, dim=2), n_frames)


def _in_chunks(x: Tensor, chunk: int) -> Tensor:
    """[B, T, D] -> [B, K, Q, D] with chunks of Q = `chunk` frames, the last one filled up with zeros."""
    return F.pad(x, (0, 0, 0, -x.shape[1] % chunk)).unflatten(1, (-1, chunk))


def _hand_on(states: Tensor, decay: Tensor, n_frames: int) -> Tensor:
    """Hand the last state of each chunk on to the next.

    Args:
        states: [B, K, Q, D], each chunk started from 0.
        decay: [B, K, Q, D], what is left in a frame of the state before its chunk.
        n_frames: frames T without those that fill the last chunk up.

    Returns:
        States [B, T, D].
    """
    start = [torch.zeros_like(states[:, 0, 0])]
    for last, left in zip(states[:, :-1, -1].unbind(1), decay[:, :-1, -1].unbind(1), strict=True):
        start.append(torch.addcmul(last, left, start[-1]))
    return torch.addcmul(states, decay, torch.stack(start, dim=1).unsqueeze(2)).flatten(1, 2)[:, :n_frames]


class MinGRUScan(nn.Module):
    """`min_gru_scan` as a module, so that its work can be counted."""

    def forward(self, hidden: Tensor, gate: Tensor) -> Tensor:
        return min_gru_scan(hidden, gate)

    def macs(self, hidden: Tensor, gate: Tensor) -> int:
        """Multiplications of the recurrence: the decay of each state and its input."""
        return 2 * hidden.numel()


class MinGRU(nn.Module):
    """One direction of a minGRU.

    Args:
        dim: features D in and out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(dim, 2 * dim, bias=False)
        self.scan = MinGRUScan()

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        hidden, gate = self.to_hidden_and_gate(x).chunk(2, dim=-1)
        return self.scan(hidden, gate).to(hidden.dtype)


class BidirectionalMinGRU(nn.Module):
    """A minGRU from either end of the sequence, joined by a linear layer.

    Args:
        dim: features D in and out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.forward_minGRU = MinGRU(dim)
        self.backward_minGRU = MinGRU(dim)
        self.to_out = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        both = (self.forward_minGRU(x), self.backward_minGRU(x.flip(1)).flip(1))
        return self.to_out(torch.cat(both, dim=-1))
