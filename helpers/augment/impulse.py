"""Device impulse responses: let a clip sound as if another microphone had recorded it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_util.audio import resample
from data_util.audio_file import AudioFile, DecodeError
from data_util.audio_folders import beneath
from data_util.channels import to_mono
from errors import UserError
from helpers.augment.batch import Draw, clipwise
from helpers.augment.timing import roll


@dataclass(frozen=True)
class ImpulseResponses:
    """A set of impulse responses.

    Args:
        kernels: float32 [K, L], each of energy 1, zero-padded to the longest.
        delays: int64 [K], sample of the largest magnitude, taken as the direct sound.
    """

    kernels: Tensor
    delays: Tensor


@dataclass(frozen=True)
class DeviceResponse(Draw):
    """Convolve each waveform with its impulse response, without delaying its events.

    Args:
        responses: the set to choose from.
        choice: int64 [B], which of them; -1 leaves the clip as it is.

    Source: Morocutti et al., "Device-Robust Acoustic Scene Classification via Impulse Response Augmentation",
    EUSIPCO 2023.
    """

    responses: ImpulseResponses
    choice: Tensor

    def signal(self, x: Tensor) -> Tensor:
        from scipy.fft import next_fast_len

        index = self.choice.clamp(min=0)
        kernels = self.responses.kernels[index].to(x.dtype)
        n_samples = x.shape[-1]
        n_fft = next_fast_len(n_samples + kernels.shape[-1] - 1, real=True)
        # the direct sound goes to sample 0; what precedes it wraps around to negative times
        kernels = roll(torch.nn.functional.pad(kernels, (0, n_fft - kernels.shape[-1])), -self.responses.delays[index])
        spectrum = torch.fft.rfft(x, n_fft) * torch.fft.rfft(kernels.to(x.device, non_blocking=True), n_fft)
        convolved = torch.fft.irfft(spectrum, n_fft)[..., :n_samples]
        return torch.where(clipwise(self.choice >= 0, x), convolved, x)


def draw_device_response(
    n_clips: int, p: float, responses: ImpulseResponses, generator: torch.Generator
) -> DeviceResponse:
    """Draw, for each clip with probability p, one of the impulse responses uniformly."""
    choice = torch.randint(len(responses.kernels), (n_clips,), generator=generator)
    chosen = torch.rand(n_clips, generator=generator) < p
    return DeviceResponse(responses, torch.where(chosen, choice, -1))


def load_impulse_responses(
    folder: str | Path, *, sample_rate: int = 16_000, max_seconds: float = 1.0
) -> ImpulseResponses:
    """Read all impulse responses of a folder (and its subfolders), in the order of their names.

    Args:
        folder: holds audio files of any sample rate; channels are averaged.
        sample_rate: Hz, to which they are resampled.
        max_seconds: what follows later in a response is cut off.

    Raises:
        UserError: no such folder, no such files in it, or a file that cannot be read or is silent.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder of impulse responses at {folder}")
    files = beneath(folder)
    if not files:
        raise UserError(f"no audio file in the folder of impulse responses {folder}")
    responses = [_read_response(f, sample_rate)[: round(max_seconds * sample_rate)] for f in files]
    kernels = np.zeros((len(responses), max(map(len, responses))), np.float32)
    for kernel, response, file in zip(kernels, responses, files, strict=True):
        energy = float(np.square(response, dtype=np.float64).sum())
        if not np.isfinite(energy) or energy == 0:
            raise UserError(f"the impulse response {file} is silent or not finite; remove it")
        kernel[: len(response)] = response / np.sqrt(energy)
    tensor = torch.from_numpy(kernels)
    return ImpulseResponses(tensor, tensor.abs().argmax(1))


def _read_response(file: Path, sample_rate: int) -> np.ndarray:
    """Read one file as mono at the sample rate."""
    try:
        with AudioFile(file) as opened:
            return resample(to_mono(opened.read()), opened.sample_rate, sample_rate)
    except DecodeError as error:
        raise UserError(f"cannot read the impulse response {file}: {error}") from error
