"""Augmentations of level and spectrum: gain, filter augmentation, frequency warping and masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.augment.batch import Draw, clipwise, draw_coins
from helpers.augment.timing import SPEC_LEVEL, draw_spec_stretch, rescale, stretch

FILTER_BANDS = (3, 5)  # fewest and most bands of a filter
FILTER_MIN_WIDTH = 6  # mel bins of the narrowest band
FILTER_DB = 6.0  # gains lie within plus and minus this
MAX_FMAX, FMAX_RANGE = 8000, 2000  # Hz, upper end of the mel filters and how far below it a draw may lie
WARP_MIN_SHARE = 0.6  # smallest share of the mel bins that a warp keeps


@dataclass(frozen=True)
class Gain(Draw):
    """Multiply each waveform by a gain in decibels, [B]."""

    db: Tensor

    def signal(self, x: Tensor) -> Tensor:
        return x * clipwise(10 ** (self.db.double() / 20), x)


@dataclass(frozen=True)
class Filter(Draw):
    """Multiply each mel bin by a factor that changes linearly (in dB) between random band edges.

    As published, the factor multiplies the normalised log-mel, not the power spectrum.

    Args:
        db: [B, F], gain of each mel bin; 0 leaves it as it is. Resampled linearly for a mel with other bins.

    Source: Nam et al., "FilterAugment: An Acoustic Environmental Data Augmentation Method", ICASSP 2022,
    linear type.
    """

    db: Tensor

    def signal(self, x: Tensor) -> Tensor:
        db = self.db
        if db.shape[1] != x.shape[2]:
            db = F.interpolate(db[:, None], x.shape[2], mode="linear", align_corners=True)[:, 0]
        factor = (10 ** (db / 20)).to(x.dtype).to(x.device, non_blocking=True)
        return x * factor[:, None, :, None]  # [B, 1, F, frames] x [B, 1, F, 1]


@dataclass(frozen=True)
class FreqWarp(Draw):
    """Stretch a random range of the mel bins over all bins, by cubic interpolation.

    Args:
        first: int64 [B], lowest kept bin.
        height: int64 [B], number of kept bins; all bins leave the clip as it is.
        n_bins: number of mel bins that was drawn for; a mel with other bins is warped proportionally.
    """

    first: Tensor
    height: Tensor
    n_bins: int
    CUBIC = -0.75  # the coefficient of torch's bicubic interpolation

    def signal(self, x: Tensor) -> Tensor:
        n_clips, _, n_bins, n_frames = x.shape
        source, weights = self._taps(n_bins)
        rows = torch.arange(n_clips)[:, None, None] * n_bins + source  # [B, F, 4], rows of x as [B * F, frames]
        rows, weights = rows.to(x.device), weights.to(x.dtype).to(x.device)
        flat = x.reshape(n_clips * n_bins, n_frames)
        taps = (flat[rows[..., k].flatten()] * weights[..., k].reshape(-1, 1) for k in range(4))
        warped = sum(taps, torch.zeros_like(flat)).view_as(x)
        return torch.where(clipwise(self.height < self.n_bins, x), warped, x)

    def _taps(self, n_bins: int) -> tuple[Tensor, Tensor]:
        """Return the four bins that each new bin is made of, and their weights; both [B, n_bins, 4]."""
        height = rescale(self.height, self.n_bins, n_bins).clamp(min=1)[:, None]
        first = rescale(self.first, self.n_bins, n_bins)[:, None]
        first = torch.minimum(first, n_bins - height)
        position = torch.linspace(0, 1, n_bins, dtype=torch.float64)[None] * (height - 1)  # corners aligned
        left = position.floor()
        t = position - left
        offsets = torch.arange(-1, 3)
        bins = (left.long()[..., None] + offsets).clamp(min=0)
        bins = torch.minimum(bins, height[..., None] - 1)  # the edge of the kept range repeats
        distance = (t[..., None] - offsets).abs()
        a = self.CUBIC
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        return first[..., None] + bins, torch.where(distance <= 1, near, far)


@dataclass(frozen=True)
class FreqMask(Draw):
    """Set a range of mel bins to one level.

    Args:
        first: int64 [B], lowest masked bin.
        width: int64 [B], number of masked bins.
        n_bins: number of mel bins that was drawn for; a mel with other bins is masked proportionally.
    """

    first: Tensor
    width: Tensor
    n_bins: int

    def signal(self, x: Tensor) -> Tensor:
        masked = stretch(self.first, self.width, self.n_bins, x.shape[2]).to(x.device, non_blocking=True)
        return x.masked_fill(masked[:, None, :, None], SPEC_LEVEL)


def draw_freq_mask(n_clips: int, n_bins: int, longest: int, generator: torch.Generator) -> FreqMask:
    """Draw SpecAugment's frequency mask for each clip; see `helpers.augment.timing.draw_spec_time_mask`.

    Args:
        n_clips: B.
        n_bins: F.
        longest: the width is uniform over 0 ... longest - 1 mel bins.
        generator: CPU generator.
    """
    return FreqMask(*draw_spec_stretch(n_clips, n_bins, longest, generator), n_bins)


def draw_mel_range(generator: torch.Generator) -> tuple[float, float]:
    """Draw lower and upper end (Hz) of the mel filters for one training batch: 0 ... 9 and 6001 ... 8000."""
    low, below = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    return float(int(low * 10)), float(MAX_FMAX - int(below * FMAX_RANGE))


def draw_gain(n_clips: int, max_db: int, generator: torch.Generator) -> Gain:
    """Draw a whole number of decibels per clip, uniform over -max_db ... max_db - 1."""
    return Gain(torch.randint(-max_db, max_db, (n_clips,), generator=generator))


def draw_filter_augment(
    n_clips: int, n_bins: int, p: float, generator: torch.Generator, *, per_clip: bool = False
) -> Filter:
    """Draw filters of 3 to 5 bands with gains of +-6 dB at their edges.

    Args:
        n_clips: B.
        n_bins: F, at least 30 (five bands of six bins).
        p: probability in [0, 1] that the batch (with `per_clip`: a clip) is filtered.
        generator: CPU generator.
        per_clip: own coins and band edges for each clip; the gains are per clip in any case.

    Raises:
        ValueError: too few mel bins for the narrowest bands.
    """
    chosen = draw_coins(n_clips, p, generator, per_clip=per_clip)
    edges = _draw_edges(n_clips if per_clip else 1, n_bins, generator).expand(n_clips, -1)
    gains = (torch.rand(n_clips, edges.shape[1], generator=generator, dtype=torch.float64) * 2 - 1) * FILTER_DB
    return Filter(_gain_curve(edges, gains, n_bins) * chosen[:, None])


def _draw_edges(n_draws: int, n_bins: int, generator: torch.Generator) -> Tensor:
    """Draw the edges of the bands, from 0 to n_bins, [n_draws, 6]; fewer bands repeat n_bins at the end."""
    fewest, most = FILTER_BANDS
    if n_bins < most * FILTER_MIN_WIDTH:
        raise ValueError(f"{most} bands of {FILTER_MIN_WIDTH} bins do not fit into {n_bins} mel bins")
    n_bands = torch.randint(fewest, most + 1, (n_draws, 1), generator=generator)
    room = n_bins - n_bands * FILTER_MIN_WIDTH + 1
    inner = (torch.rand(n_draws, most - 1, generator=generator, dtype=torch.float64) * room).long()
    number = torch.arange(1, most)
    inner = inner.masked_fill(number >= n_bands, n_bins).sort(1).values + number * FILTER_MIN_WIDTH
    return F.pad(F.pad(inner, (1, 0)), (0, 1), value=n_bins).clamp(max=n_bins)


def _gain_curve(edges: Tensor, gains: Tensor, n_bins: int) -> Tensor:
    """Connect gains [B, K] at band edges [B, K] by lines; band k runs over edges[k] ... edges[k + 1] - 1.

    The first bin of a band has the gain of its lower edge, the last bin that of its upper edge; [B, n_bins].
    """
    bins = torch.arange(n_bins).expand(len(edges), -1)
    band = (bins[..., None] >= edges[:, None, 1:-1]).sum(-1)  # [B, F]
    low, high = edges.gather(1, band), edges.gather(1, band + 1)
    position = (bins - low).double() / (high - low - 1).clamp(min=1)
    return gains.gather(1, band) * (1 - position) + gains.gather(1, band + 1) * position


def draw_freq_warp(
    n_clips: int, n_bins: int, p: float, generator: torch.Generator, *, per_clip: bool = False
) -> FreqWarp:
    """Draw which range of 60 to 100 % of the mel bins is stretched over all of them.

    Args:
        n_clips: B.
        n_bins: F.
        p: probability in [0, 1] that the batch (with `per_clip`: a clip) is warped.
        generator: CPU generator.
        per_clip: an own coin and range for each clip.
    """
    chosen = draw_coins(n_clips, p, generator, per_clip=per_clip)
    u = torch.rand(2, n_clips if per_clip else 1, generator=generator, dtype=torch.float64)
    height = (n_bins * (WARP_MIN_SHARE + (1 - WARP_MIN_SHARE) * u[0])).long()
    first = (u[1] * (n_bins - height + 1)).long()
    return FreqWarp(torch.where(chosen, first, 0), torch.where(chosen, height, n_bins), n_bins)
