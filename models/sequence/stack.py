"""What all sequence models share: projection, residual stacks, normalisation, the check of the dimension.

A sequence model stands between backbone and heads, at `seq_model` of `models.sed_model.SEDModel`. It is an
`nn.Sequential` whose numbering is that of the released checkpoints: projection first, stack after it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from errors import UserError

N_BLOCKS = 2  # blocks of every released sequence model


class SequenceModel(nn.Sequential):
    """Modules in a row that map frames [B, T, in_dim] to frames [B, T, out_dim].

    Args:
        modules: applied in order.
        out_dim: features per output frame.
        causal: whether an output frame depends on no later input frame.
        key_map: (regular expression, replacement) from state-dict keys of released files to our own; keys start
            with `seq_model.`, and where two meet in one, the later value stands.
    """

    def __init__(
        self,
        *modules: nn.Module,
        out_dim: int,
        causal: bool = False,
        key_map: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(*modules)
        self.out_dim = out_dim
        self.causal = causal
        self.key_map = key_map


class ResidualSequential(nn.Sequential):
    """Modules in a row, each with a connection around it: x <- x + module(x)."""

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        for module in self:
            x = x + module(x)
        return x


class Stack(nn.Module):
    """Layers and what normalises their output.

    Args:
        layers: maps [B, T, D] to [B, T, D].
        norm: applied last; None for none.
    """

    def __init__(self, layers: nn.Sequential, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.norm = norm if norm is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D] -> [B, T, D]
        return self.norm(self.layers(x))


class RMSNorm(nn.Module):
    """Scale the last dimension to root mean square 1, then by a learned factor per feature.

    Args:
        dim: size D of the last dimension.

    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019; here with the l2 norm
    bounded below by 1e-12, which keeps silent frames at zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**0.5
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:  # [..., D] -> [..., D]
        # sums of D squares need float32; the result goes on in the precision of the input
        return (F.normalize(x.float(), dim=-1) * (self.gamma * self.scale)).to(x.dtype)


def projection(in_dim: int, dim: int) -> nn.Module:
    """Linear layer from `in_dim` to `dim` features; the identity, without weights, when they are equal."""
    return nn.Identity() if in_dim == dim else nn.Linear(in_dim, dim)


def check_dim(seq_model_type: str, dim: int, multiple_of: int = 1, reason: str = "") -> None:
    """Refuse a dimension that the sequence model cannot have.

    Args:
        seq_model_type: name of the sequence model.
        dim: the dimension asked for.
        multiple_of: allowed are the positive multiples of this number.
        reason: why that is so, for the message.

    Raises:
        UserError: with the value and the allowed ones.
    """
    if dim > 0 and dim % multiple_of == 0:
        return
    if multiple_of == 1:
        raise UserError(f"seq_model_dim {dim} is not possible for '{seq_model_type}': it must be at least 1")
    below = dim // multiple_of * multiple_of
    near = [str(d) for d in (below, below + multiple_of) if d > 0]
    raise UserError(
        f"seq_model_dim {dim} is not possible for '{seq_model_type}': it must be a positive multiple of "
        f"{multiple_of} ({reason}); nearest: {' or '.join(near)}"
    )
