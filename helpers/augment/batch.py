"""What an augmentation works on, what every augmentation can do, and how its random numbers are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A batch on its way from the loader to the loss; every transform returns a new one.

    Args:
        x: waveform [B, N], or log-mel [B, 1, F, frames].
        strong: frame labels [B, C, T] in [0, 1].
        pseudo: frame probabilities of a teacher [B, C, T] in [0, 1].
        has_pseudo: bool [B], which clips `pseudo` knows; None: all of them.
        weak: clip labels [B, Cw] in [0, 1].
        weak_pseudo: clip probabilities of a teacher [B, Cw] in [0, 1].
        weak_known: share of each clip [B] in [0, 1] that `weak_pseudo` speaks for; None: all of it. Before any
            mixing it is 0 or 1; a mixture of a known and an unknown clip lies between.

    Raises:
        ValueError: the fields disagree about the number of clips, or pseudo labels come without labels.
    """

    x: Tensor
    strong: Tensor | None = None
    pseudo: Tensor | None = None
    has_pseudo: Tensor | None = None
    weak: Tensor | None = None
    weak_pseudo: Tensor | None = None
    weak_known: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = {f.name: tuple(v.shape) for f in fields(self) if (v := getattr(self, f.name)) is not None}
        if any(shape[0] != self.x.shape[0] for shape in shapes.values()):
            raise ValueError(f"the fields of a batch must have the same number of clips, got shapes {shapes}")
        if self.pseudo is not None and shapes["pseudo"] != shapes.get("strong"):
            raise ValueError(f"pseudo labels must have the shape of the labels, got shapes {shapes}")

    def with_pseudo_filled(self) -> Batch:
        """Give clips without a pseudo label their hard labels in its place.

        This has to come before any mixing: BCE is linear in its target, so a mixture of a clip with and a clip
        without a pseudo label then gets exactly the mixture of their two losses.
        """
        if self.pseudo is None or self.strong is None or self.has_pseudo is None:
            return self
        known = self.has_pseudo.bool()[:, None, None]
        return replace(self, pseudo=torch.where(known, self.pseudo, self.strong), has_pseudo=None)


class Draw:
    """The random numbers of one augmentation for one batch, and what they do to each kind of tensor.

    Drawing and applying are apart so that one draw can reach a student and a teacher whose mels have other frame
    rates and other numbers of bins: everything scales to the tensor at hand. The default is to change nothing.
    """

    def signal(self, x: Tensor) -> Tensor:
        """Transform a waveform [B, N] or a log-mel [B, 1, F, frames]."""
        return x

    def frames(self, y: Tensor) -> Tensor:
        """Transform frame-wise labels or probabilities [B, C, T]; labels and pseudo labels both come here."""
        return y

    def tags(self, y: Tensor) -> Tensor:
        """Transform clip-wise labels [B, Cw]."""
        return y

    def soft_tags(self, y: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Transform clip-wise probabilities [B, Cw] together with the share [B] that a teacher knows."""
        return y, known


@torch.no_grad()
def apply(batch: Batch, draws: Iterable[Draw]) -> Batch:
    """Apply drawn augmentations, in their order, to everything a batch holds.

    Args:
        batch: waveforms or log-mels with their targets.
        draws: what `draw_waveform` or `draw_mel` returned.

    Returns:
        A new batch whose `pseudo` has a target for every clip (`has_pseudo` is None).
    """
    batch = batch.with_pseudo_filled()
    for draw in draws:
        changes: dict[str, Tensor] = {"x": draw.signal(batch.x)}
        for name, transform in (("strong", draw.frames), ("pseudo", draw.frames), ("weak", draw.tags)):
            if (value := getattr(batch, name)) is not None:
                changes[name] = transform(value)
        if batch.weak_pseudo is not None:
            known = batch.weak_known
            known = batch.weak_pseudo.new_ones(len(batch.x)) if known is None else known.to(batch.weak_pseudo)
            changes["weak_pseudo"], changes["weak_known"] = draw.soft_tags(batch.weak_pseudo, known)
        batch = replace(batch, **changes)
    return batch


@torch.no_grad()
def apply_signal(x: Tensor, draws: Iterable[Draw]) -> Tensor:
    """Apply drawn augmentations to a signal alone, for example to the mel of a teacher.

    Args:
        x: waveform [B, N] or log-mel [B, 1, F, frames] of the clips that the draws were made for; F and frames
            may differ from those of the draw.
        draws: what `draw_waveform` or `draw_mel` returned.
    """
    for draw in draws:
        x = draw.signal(x)
    return x


def clipwise(values: Tensor, x: Tensor) -> Tensor:
    """Bring one drawn value per clip [B] to the device of x, and to its type if real, as [B, 1, ..., 1]."""
    if values.is_floating_point():
        values = values.to(x.dtype)  # before the move: MPS has no float64
    return values.to(x.device, non_blocking=True).view(-1, *[1] * (x.dim() - 1))


def draw_coins(n_clips: int, p: float, generator: torch.Generator, *, per_clip: bool) -> Tensor:
    """Toss a coin with probability p per clip, or one for the whole batch; bool [B]."""
    tosses = torch.rand(n_clips if per_clip else 1, generator=generator) < p
    return tosses.expand(n_clips)


def draw_partners(n_clips: int, generator: torch.Generator) -> Tensor:
    """Draw for each clip another clip of the batch, each clip being partner once; int64 [B].

    One random cycle through all clips: uniform over the others, never the clip itself (unless it is alone).
    """
    order = torch.randperm(n_clips, generator=generator)
    partner = torch.empty_like(order)
    partner[order] = order.roll(-1)
    return partner


def draw_beta(n: int, alpha: float, generator: torch.Generator, *, folded: bool) -> Tensor:
    """Draw n values b of Beta(alpha, alpha), or max(b, 1 - b) when folded; float64 [n].

    NumPy draws them, seeded by the generator: torch's own Beta takes no generator.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    values = torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, n))
    return torch.maximum(values, 1 - values) if folded else values
