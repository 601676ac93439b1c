"""Augmentations of training batches: vectorised, on the device of the batch, from an explicit random generator.

Each augmentation is a `draw_...` function that returns a `Draw`: plain tensors with the random numbers, and methods
that apply them to signals, frame labels and clip labels of any device. `apply` sends one batch through a list of
draws; labels and pseudo labels always take the same way.
"""

from helpers.augment.batch import Batch, Draw, apply, apply_signal
from helpers.augment.impulse import ImpulseResponses, draw_device_response, load_impulse_responses
from helpers.augment.mixing import draw_mixstyle, draw_mixup, draw_wavmix
from helpers.augment.pipeline import (
    AugmentOptions,
    augment_mel,
    augment_waveform,
    draw_mel,
    draw_waveform,
)
from helpers.augment.spectrum import (
    draw_filter_augment,
    draw_freq_mask,
    draw_freq_warp,
    draw_gain,
    draw_mel_range,
)
from helpers.augment.timing import draw_frame_shift, draw_roll, draw_spec_time_mask, draw_time_mask

__all__ = [
    "AugmentOptions",
    "Batch",
    "Draw",
    "ImpulseResponses",
    "apply",
    "apply_signal",
    "augment_mel",
    "augment_waveform",
    "draw_device_response",
    "draw_filter_augment",
    "draw_frame_shift",
    "draw_freq_mask",
    "draw_freq_warp",
    "draw_gain",
    "draw_mel",
    "draw_mel_range",
    "draw_mixstyle",
    "draw_mixup",
    "draw_roll",
    "draw_spec_time_mask",
    "draw_time_mask",
    "draw_waveform",
    "draw_wavmix",
    "load_impulse_responses",
]
