"""All augmentations of a training run, in the published order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from errors import UserError
from helpers.augment.batch import Batch, Draw, apply
from helpers.augment.impulse import ImpulseResponses, draw_device_response
from helpers.augment.mixing import draw_mixstyle, draw_mixup, draw_wavmix
from helpers.augment.spectrum import draw_filter_augment, draw_freq_mask, draw_freq_warp, draw_gain
from helpers.augment.timing import MIN_MASK_SHARE, draw_frame_shift, draw_roll, draw_spec_time_mask, draw_time_mask

PROBABILITIES = ("dir_p", "wavmix_p", "mixup_p", "mixstyle_p", "freq_mixstyle_p", "filter_augment_p", "freq_warp_p")
SHARES = (*PROBABILITIES, "frame_shift_range", "max_time_mask_size")
ALPHAS = ("wavmix_alpha", "mixup_alpha", "mixstyle_alpha", "freq_mixstyle_alpha")


@dataclass(frozen=True)
class AugmentOptions:
    """What is applied how often; the default is nothing at all.

    Args:
        dir_p: probability that a clip is convolved with an impulse response.
        gain_db: largest change of level per clip, whole decibels; 0 is off.
        roll_seconds: largest circular shift of a waveform, s; 0 is off.
        wavmix_p: probability that a clip's waveform is mixed with another clip's.
        wavmix_alpha: weights are max(b, 1 - b), b ~ Beta(alpha, alpha).
        frame_shift_range: standard deviation of the shift of the mel, as a share of the clip; 0 is off.
        freq_mask_bins: SpecAugment masks fewer mel bins than this per clip; 0 is off.
        time_mask_frames: SpecAugment masks fewer mel frames than this per clip; 0 is off.
        mixup_p: probability that the mels of a batch are mixed.
        mixup_alpha: weights are b ~ Beta(alpha, alpha).
        mixup_folded: weights are max(b, 1 - b) instead.
        mixstyle_p: probability that band statistics of a batch are mixed.
        mixstyle_alpha: weights are max(b, 1 - b), b ~ Beta(alpha, alpha).
        freq_mixstyle_p: probability of Freq-MixStyle, that is of mixstyle with unfolded weights.
        freq_mixstyle_alpha: its weights are b ~ Beta(alpha, alpha).
        max_time_mask_size: upper bound of the masked share of a clip, in (.05, 1]; 0 is off.
        filter_augment_p: probability that a batch is filtered.
        freq_warp_p: probability that the frequency axis of a batch is warped.
        per_clip: draw per clip what is published as one draw per batch (the coins of mixup, mixstyle, filter and
            warp, the band edges, the warped range, the mask).

    Raises:
        UserError: a value out of its range.
    """

    dir_p: float = 0.0
    gain_db: int = 0
    roll_seconds: float = 0.0
    wavmix_p: float = 0.0
    wavmix_alpha: float = 2.0
    frame_shift_range: float = 0.0
    freq_mask_bins: int = 0
    time_mask_frames: int = 0
    mixup_p: float = 0.0
    mixup_alpha: float = 0.2
    mixup_folded: bool = False
    mixstyle_p: float = 0.0
    mixstyle_alpha: float = 0.4
    freq_mixstyle_p: float = 0.0
    freq_mixstyle_alpha: float = 0.3
    max_time_mask_size: float = 0.0
    filter_augment_p: float = 0.0
    freq_warp_p: float = 0.0
    per_clip: bool = False

    def __post_init__(self) -> None:
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name)}: must lie in [0, 1]")
        for name in ALPHAS:
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"--{name} is {getattr(self, name)}: must be positive")
        if 0 < self.max_time_mask_size <= MIN_MASK_SHARE:
            raise UserError(
                f"--max_time_mask_size is {self.max_time_mask_size}: must be 0 (off) or above {MIN_MASK_SHARE}, "
                "the share of a clip that the shortest mask covers"
            )
        for name in ("freq_mask_bins", "time_mask_frames"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} is {getattr(self, name)}: must be 0 (off) or more")
        if self.gain_db < 0 or self.gain_db != int(self.gain_db):
            raise UserError(f"--gain_db is {self.gain_db}: must be a whole number of decibels, 0 (off) or more")
        if not 0 <= self.roll_seconds < float("inf"):
            raise UserError(f"--roll_seconds is {self.roll_seconds}: must be 0 (off) or more")


def draw_waveform(
    options: AugmentOptions,
    n_clips: int,
    n_samples: int,
    generator: torch.Generator,
    *,
    sample_rate: int = 16_000,
    responses: ImpulseResponses | None = None,
) -> list[Draw]:
    """Draw the augmentations of waveforms: impulse responses, gain, roll, wavmix.

    Args:
        options: what to draw; what is off draws nothing from the generator.
        n_clips: B.
        n_samples: N.
        generator: CPU generator, so that every device sees the same draws.
        sample_rate: Hz.
        responses: what `load_impulse_responses` returned, needed when `dir_p` > 0.
    """
    draws: list[Draw] = []
    if options.dir_p > 0:
        if responses is None:
            raise UserError(f"--dir_p is {options.dir_p}: above 0 it needs a folder of impulse responses")
        draws.append(draw_device_response(n_clips, options.dir_p, responses, generator))
    if options.gain_db > 0:
        draws.append(draw_gain(n_clips, int(options.gain_db), generator))
    if options.roll_seconds > 0:
        draws.append(draw_roll(n_clips, n_samples, round(options.roll_seconds * sample_rate), generator))
    if options.wavmix_p > 0:
        draws.append(draw_wavmix(n_clips, options.wavmix_p, generator, alpha=options.wavmix_alpha))
    return draws


def draw_mel(
    options: AugmentOptions,
    mel_shape: tuple[int, ...] | torch.Size,
    n_label_frames: int,
    generator: torch.Generator,
) -> list[Draw]:
    """Draw the augmentations of log-mels: frame shift, SpecAugment, mixup, mixstyle, time mask, filter, frequency warp.

    Args:
        options: what to draw; what is off draws nothing from the generator.
        mel_shape: (B, 1, F, frames).
        n_label_frames: T of the labels; 250 for 10 s.
        generator: CPU generator, so that every device sees the same draws.
    """
    n_clips, _, n_bins, n_frames = mel_shape
    o, per_clip = options, options.per_clip
    mixup = partial(draw_mixup, alpha=o.mixup_alpha, folded=o.mixup_folded, per_clip=per_clip)
    mixstyle = partial(draw_mixstyle, alpha=o.mixstyle_alpha, per_clip=per_clip)
    freq_mixstyle = partial(draw_mixstyle, alpha=o.freq_mixstyle_alpha, folded=False, per_clip=per_clip)
    draws: list[Draw] = []
    if o.frame_shift_range > 0:
        draws.append(draw_frame_shift(n_clips, n_frames, o.frame_shift_range, generator))
    if o.freq_mask_bins > 0:
        draws.append(draw_freq_mask(n_clips, n_bins, o.freq_mask_bins, generator))
    if o.time_mask_frames > 0:
        draws.append(draw_spec_time_mask(n_clips, n_frames, o.time_mask_frames, generator))
    if o.mixup_p > 0:
        draws.append(mixup(n_clips, o.mixup_p, generator))
    if o.mixstyle_p > 0:
        draws.append(mixstyle(n_clips, o.mixstyle_p, generator))
    if o.freq_mixstyle_p > 0:
        draws.append(freq_mixstyle(n_clips, o.freq_mixstyle_p, generator))
    if o.max_time_mask_size > 0:
        draws.append(draw_time_mask(n_clips, n_label_frames, o.max_time_mask_size, generator, per_clip=per_clip))
    if o.filter_augment_p > 0:
        draws.append(draw_filter_augment(n_clips, n_bins, o.filter_augment_p, generator, per_clip=per_clip))
    if o.freq_warp_p > 0:
        draws.append(draw_freq_warp(n_clips, n_bins, o.freq_warp_p, generator, per_clip=per_clip))
    return draws


def augment_waveform(
    batch: Batch,
    options: AugmentOptions,
    generator: torch.Generator,
    *,
    sample_rate: int = 16_000,
    responses: ImpulseResponses | None = None,
) -> Batch:
    """Draw and apply the waveform augmentations to a batch with x [B, N]; arguments as for `draw_waveform`."""
    n_clips, n_samples = batch.x.shape
    return apply(
        batch,
        draw_waveform(options, n_clips, n_samples, generator, sample_rate=sample_rate, responses=responses),
    )


def augment_mel(batch: Batch, options: AugmentOptions, generator: torch.Generator) -> Batch:
    """Draw and apply the mel augmentations to a batch with x [B, 1, F, frames]; arguments as for `draw_mel`."""
    n_label_frames = batch.x.shape[-1] if batch.strong is None else batch.strong.shape[-1]
    return apply(batch, draw_mel(options, batch.x.shape, n_label_frames, generator))
