"""Augmentations along time: circular shifts of waveforms and mels, and time masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from helpers.augment.batch import Draw

MIN_MASK_SHARE = 0.05  # the shortest time mask, as a share of the clip
SPEC_LEVEL = 0.9  # of SpecAugment's masks: a logarithm of 0 after the front end's (x + 4.5) / 5, as published


def rescale(steps: Tensor, length: int, new_length: int) -> Tensor:
    """Convert positions or distances on an axis of `length` steps to one of `new_length`, rounded to even."""
    return (steps.double() * new_length / length).round().long()


def roll(x: Tensor, steps: Tensor) -> Tensor:
    """Roll the last axis of x [B, ..., n] circularly by its own number of steps [B] per clip.

    Equal to `torch.roll(x[i], steps[i], -1)` for each clip i, in one gather.
    """
    n = x.shape[-1]
    source = (torch.arange(n)[None] - steps[:, None]) % n  # [B, n]
    source = source.to(x.device, non_blocking=True).view(len(x), *[1] * (x.dim() - 2), n)
    return x.gather(-1, source.expand_as(x))


@dataclass(frozen=True)
class Shift(Draw):
    """Circular shift along time of signals and frame-wise targets; what is later than the end comes first.

    Args:
        steps: int64 [B], to the right when positive, in steps of the axis that was drawn for.
        length: number of steps of that axis; other axes are shifted by the nearest proportional number.
    """

    steps: Tensor
    length: int

    def signal(self, x: Tensor) -> Tensor:
        return roll(x, rescale(self.steps, self.length, x.shape[-1]))

    def frames(self, y: Tensor) -> Tensor:
        return self.signal(y)


@dataclass(frozen=True)
class TimeMask(Draw):
    """Set a stretch of time to one level in the mel, and to 0 in the labels and in the pseudo labels.

    Args:
        start: int64 [B], first masked frame.
        width: int64 [B], number of masked frames.
        length: number of frames of the clip; other axes are masked proportionally.
        level: of the mel where it is masked.
    """

    start: Tensor
    width: Tensor
    length: int
    level: float = 0.0

    def signal(self, x: Tensor) -> Tensor:
        masked = stretch(self.start, self.width, self.length, x.shape[-1]).to(x.device, non_blocking=True)
        return x.masked_fill(masked.view(len(x), *[1] * (x.dim() - 2), -1), self.level)

    def frames(self, y: Tensor) -> Tensor:
        return replace(self, level=0.0).signal(y)


def stretch(start: Tensor, width: Tensor, length: int, new_length: int) -> Tensor:
    """Say which of `new_length` steps lie in a stretch (int64 [B]) of an axis of `length` steps; [B, new_length]."""
    first = rescale(start, length, new_length)[:, None]
    end = rescale(start + width, length, new_length)[:, None]
    steps = torch.arange(new_length)[None]
    return (steps >= first) & (steps < end)


def draw_frame_shift(n_clips: int, n_frames: int, spread: float, generator: torch.Generator) -> Shift:
    """Draw one shift per clip from a normal distribution, cut to whole mel frames.

    Args:
        n_clips: B.
        n_frames: mel frames of a clip.
        spread: standard deviation as a share of the clip, in [0, 1]; .125 of 10 s is 1.25 s.
        generator: CPU generator.
    """
    steps = torch.randn(n_clips, generator=generator, dtype=torch.float64) * int(n_frames * spread)
    return Shift(steps.long(), n_frames)  # long() cuts towards 0, as int() does


def draw_roll(n_clips: int, n_samples: int, max_shift: int, generator: torch.Generator) -> Shift:
    """Draw one shift per waveform of n_samples, uniform over -max_shift ... max_shift samples."""
    return Shift(torch.randint(-max_shift, max_shift + 1, (n_clips,), generator=generator), n_samples)


def draw_time_mask(
    n_clips: int, n_frames: int, max_share: float, generator: torch.Generator, *, per_clip: bool = False
) -> TimeMask:
    """Draw one time mask for the batch, or one per clip.

    Args:
        n_clips: B.
        n_frames: label frames of a clip.
        max_share: upper bound of the masked share of a clip, in (.05, 1]. The width is uniform over
            int(n_frames * .05) ... int(n_frames * max_share) - 1 frames.
        generator: CPU generator.
        per_clip: an own mask for each clip.
    """
    shape = (n_clips if per_clip else 1,)
    narrowest = int(n_frames * MIN_MASK_SHARE)
    width = torch.randint(narrowest, max(int(n_frames * max_share), narrowest + 1), shape, generator=generator)
    start = (torch.rand(shape, generator=generator, dtype=torch.float64) * (n_frames - width + 1)).long()
    return TimeMask(start.expand(n_clips), width.expand(n_clips), n_frames)


def draw_spec_stretch(n_clips: int, length: int, longest: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw start and width, int64 [B], of a stretch of less than `longest` steps per clip, on an axis of `length`."""
    u = torch.rand(2, n_clips, generator=generator, dtype=torch.float64)
    width = (u[0] * min(longest, length)).long()
    return (u[1] * (length - width + 1)).long(), width


def draw_spec_time_mask(n_clips: int, n_frames: int, longest: int, generator: torch.Generator) -> TimeMask:
    """Draw SpecAugment's time mask for each clip.

    Args:
        n_clips: B.
        n_frames: mel frames of a clip.
        longest: the width is uniform over 0 ... longest - 1 mel frames.
        generator: CPU generator.

    Source: Park et al., "SpecAugment: A Simple Data Augmentation Method for Automatic Speech Recognition",
    Interspeech 2019.
    """
    return TimeMask(*draw_spec_stretch(n_clips, n_frames, longest, generator), n_frames, SPEC_LEVEL)
