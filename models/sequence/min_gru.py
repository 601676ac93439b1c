"""minGRU: a recurrent layer whose gate and candidate depend on the input alone, so that a scan replaces the loop.

Source: Feng et al., "Were RNNs All We Needed?", 2024, section 3 and appendix B (the log-space scan).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Frames per chunk of the scan. Within a chunk the logarithm of the state reaches at most a few thousands, so that
# float32 resolves it; one clip of 10 s is one chunk.
CHUNK_FRAMES = 256


def log_candidate(hidden: Tensor) -> Tensor:
    """Logarithm of the positive candidate state: hidden + 0.5 from 0 on, sigmoid(hidden) below 0."""
    return torch.where(hidden >= 0, (F.relu(hidden) + 0.5).log(), -F.softplus(-hidden))


def min_gru_scan(hidden: Tensor, gate: Tensor, chunk: int = CHUNK_FRAMES) -> Tensor:
    """States of h_t = (1 - z_t) h_{t-1} + z_t c_t for all t at once.

    z = sigmoid(gate) and c is the positive candidate made from `hidden` (`log_candidate`). Chunks of frames are
    scanned side by side in log space; then one pass over the chunks hands the state on. This keeps the error
    the same for any length, where a single scan loses a digit each time the length grows tenfold.

    Args:
        hidden: [B, T, D], any range.
        gate: logits [B, T, D].
        chunk: frames per chunk.

    Returns:
        States [B, T, D], positive, float32 whatever the precision of the input.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        n_frames = hidden.shape[1]
        chunk = min(chunk, n_frames)
        padding = (0, 0, 0, -n_frames % chunk)
        hidden, gate = (F.pad(x.float(), padding).unflatten(1, (-1, chunk)) for x in (hidden, gate))
        log_decay = (-F.softplus(gate)).cumsum(dim=2)  # [B, chunks, chunk, D], log of prod (1 - z)
        log_input = log_candidate(hidden) - F.softplus(-gate)
        states = (log_decay + (log_input - log_decay).logcumsumexp(dim=2)).exp()  # from h = 0 in each chunk
        return _hand_on(states, log_decay.exp()).flatten(1, 2)[:, :n_frames]


def _hand_on(states: Tensor, decay: Tensor) -> Tensor:
    """Add to the states of each chunk what is left of the last state of the chunk before; [B, chunks, chunk, D]."""
    if states.shape[1] == 1:
        return states
    chunks = [states[:, 0]]
    for i in range(1, states.shape[1]):
        chunks.append(states[:, i] + decay[:, i] * chunks[-1][:, -1:])
    return torch.stack(chunks, dim=1)


class MinGRU(nn.Module):
    """One direction of a minGRU.

    Args:
        dim: features D in and out.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_hidden_and_gate = nn.Linear(dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        hidden, gate = self.to_hidden_and_gate(x).chunk(2, dim=-1)
        return min_gru_scan(hidden, gate).to(hidden.dtype)


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
