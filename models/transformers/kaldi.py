"""The log-mel filterbank of Kaldi for whole batches, as BEATs and ASiT use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.mel import kaldi_mel_bank

N_MELS = 128
FRAME = 400  # samples: 25 ms
HOP = 160
N_FFT = 512
FMIN, FMAX = 20.0, 8000.0  # Hz
PREEMPHASIS = 0.97
FLOOR = 2.0**-23  # of the mel energies before the logarithm: the machine epsilon of float32


def povey_window() -> Tensor:
    """Kaldi's default window: a symmetric Hann window to the power of 0.85."""
    return torch.hann_window(FRAME, periodic=False).pow(0.85)


def hanning_window() -> Tensor:
    """Symmetric Hann window."""
    return torch.hann_window(FRAME, periodic=False)


class KaldiFbank(nn.Module):
    """Log-mel spectrogram: waveform [B, N] at 16 kHz -> [B, 1, 128, 1 + (N - 400) // 160].

    Frames lie completely inside the clip. Each is freed of its mean, pre-emphasised and windowed on its own.
    No dither, no energy column; equal to `compute-fbank-feats` of Kaldi and to
    `torchaudio.compliance.kaldi.fbank`. Always float32, without gradient; no entries in the state dict. Clips
    shorter than one frame are filled up with zeros.

    Args:
        window: [400], multiplied to each frame.
        mean, scale: the logarithm is normalised to (value - mean) / scale.
        gain: factor on the waveform.
        centre_clip: whether to subtract each clip's mean first.
    """

    window: Tensor
    bank: Tensor

    def __init__(self, window: Tensor, mean: float, scale: float, gain: float = 1.0, centre_clip: bool = False) -> None:
        super().__init__()
        self.mean, self.scale, self.gain, self.centre_clip = mean, scale, gain, centre_clip
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("bank", kaldi_mel_bank(FMIN, FMAX, N_MELS, N_FFT), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel energies of each clip; no clip influences another."""
        with torch.autocast(waveform.device.type, enabled=False):
            x = waveform.float() * self.gain
            if self.centre_clip:
                x = x - x.mean(-1, keepdim=True)
            if x.shape[-1] < FRAME:
                x = F.pad(x, (0, FRAME - x.shape[-1]))
            frames = x.unfold(-1, FRAME, HOP)  # [B, frames, 400]
            frames = frames - frames.mean(-1, keepdim=True)
            before = torch.cat([frames[..., :1], frames[..., :-1]], -1)  # the first sample is its own predecessor
            frames = (frames - PREEMPHASIS * before) * self.window
            spectrum = torch.fft.rfft(frames, N_FFT)
            power = spectrum.real.square() + spectrum.imag.square()  # [B, frames, 257]
            mel = power @ self.bank.T
            return ((mel.clamp_min(FLOOR).log() - self.mean) / self.scale).transpose(1, 2).unsqueeze(1)
