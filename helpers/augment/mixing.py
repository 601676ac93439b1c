"""Augmentations that combine each clip with another clip of the batch: wavmix, mixup, mixstyle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.augment.batch import Draw, clipwise, draw_beta, draw_coins, draw_partners


@dataclass(frozen=True)
class Mixup(Draw):
    """Weighted sums of each clip and its partner, signals and targets alike.

    Args:
        partner: int64 [B], the other clip.
        weight: [B] in [0, 1], the share of the clip itself; 1 leaves it as it is.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """

    partner: Tensor
    weight: Tensor

    def _blend(self, values: Tensor) -> Tensor:
        weight = clipwise(self.weight, values)
        return weight * values + (1 - weight) * values[self.partner.to(values.device)]

    def signal(self, x: Tensor) -> Tensor:
        return self._blend(x)

    def frames(self, y: Tensor) -> Tensor:
        return self._blend(y).clamp(0, 1)  # rounding may leave [0, 1], where BCE is not defined

    def tags(self, y: Tensor) -> Tensor:
        return self._blend(y).clamp(0, 1)

    def soft_tags(self, y: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        share = self._blend(known)
        sums = self._blend(known[:, None] * y)
        return (sums / share.clamp(min=torch.finfo(y.dtype).tiny)[:, None]).clamp(0, 1), share.clamp(0, 1)


@dataclass(frozen=True)
class Wavmix(Mixup):
    """Mixup of waveforms without their means, so that an offset of one recording does not reach the mixture."""

    def signal(self, x: Tensor) -> Tensor:
        mixed = self._blend(x)
        mixed = mixed - mixed.mean(-1, keepdim=True)  # takes out the means of both: the mean is linear
        return torch.where(clipwise(self.weight < 1, x), mixed, x)


@dataclass(frozen=True)
class Mixstyle(Draw):
    """Give each mel band the mean and spread over time of a mixture of two clips; targets stay.

    Args:
        partner: int64 [B], the other clip.
        weight: [B] in [0, 1], the share of the clip's own statistics; 1 leaves the clip as it is.

    Source: Zhou et al., "Domain Generalization with MixStyle", ICLR 2021, with the statistics per frequency band
    of Kim et al., "Domain Generalization with Relaxed Instance Frequency-wise Normalization for Multi-device
    Acoustic Scene Classification", Interspeech 2022.
    """

    partner: Tensor
    weight: Tensor
    EPS = 1e-6

    def signal(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(1, 3), keepdim=True)  # [B, 1, F, 1]
        std = (x.var(dim=(1, 3), keepdim=True) + self.EPS).sqrt()
        mix = Mixup(self.partner, self.weight)
        styled = (x - mean) / std * mix.signal(std) + mix.signal(mean)
        return torch.where(clipwise(self.weight < 1, x), styled, x)


def _draw_mix(
    n_clips: int, p: float, alpha: float, generator: torch.Generator, *, folded: bool, per_clip: bool
) -> tuple[Tensor, Tensor]:
    """Draw partners and weights for the clips that a coin picks; weight 1 for the others."""
    chosen = draw_coins(n_clips, p, generator, per_clip=per_clip)
    partner = draw_partners(n_clips, generator)
    weight = draw_beta(n_clips, alpha, generator, folded=folded)
    return partner, torch.where(chosen, weight, 1.0)


def draw_wavmix(n_clips: int, p: float, generator: torch.Generator, *, alpha: float = 2.0) -> Wavmix:
    """Draw wavmix: each clip with probability p keeps max(b, 1 - b) of itself, b ~ Beta(alpha, alpha).

    The partner is another clip of the batch. A partner drawn uniformly from the data set, as published, would undo
    the class balance that a sampler gave the batch.
    """
    return Wavmix(*_draw_mix(n_clips, p, alpha, generator, folded=True, per_clip=True))


def draw_mixup(
    n_clips: int,
    p: float,
    generator: torch.Generator,
    *,
    alpha: float = 0.2,
    folded: bool = False,
    per_clip: bool = False,
) -> Mixup:
    """Draw mixup of log-mels with weights b ~ Beta(alpha, alpha) per clip.

    Args:
        n_clips: B.
        p: probability in [0, 1] that the batch (with `per_clip`: a clip) is mixed.
        generator: CPU generator.
        alpha: both parameters of the Beta distribution, > 0.
        folded: use max(b, 1 - b), so that the clip itself dominates (weak stage).
        per_clip: one coin per clip.
    """
    return Mixup(*_draw_mix(n_clips, p, alpha, generator, folded=folded, per_clip=per_clip))


def draw_mixstyle(
    n_clips: int,
    p: float,
    generator: torch.Generator,
    *,
    alpha: float = 0.4,
    folded: bool = True,
    per_clip: bool = False,
) -> Mixstyle:
    """Draw mixstyle; arguments as for `draw_mixup`.

    Folded is the published mixstyle of the strong stage. Unfolded is Freq-MixStyle as it is used for device
    generalisation, where the partner's spectrum may take over completely (Schmid et al., "CP-JKU Submission to
    DCASE22: Distilling Knowledge for Low-Complexity Convolutional Neural Networks from a Patchout Audio
    Transformer", 2022, section on Freq-MixStyle).
    """
    return Mixstyle(*_draw_mix(n_clips, p, alpha, generator, folded=folded, per_clip=per_clip))
