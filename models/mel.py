"""The log-mel front end of the frame-wise MobileNets."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import SAMPLE_RATE

N_FFT = 512
HOP = 160  # samples: 100 mel frames per second
WINDOW = 400  # samples, centred in the FFT
N_MELS = 128
EVAL_FMIN, EVAL_FMAX = 0.0, 7000.0  # Hz; the range of the published evaluation, whatever the training draws
PREEMPHASIS = 0.97
FLOOR = 1e-7  # of the mel energies before the logarithm
MIN_SAMPLES = 400  # shorter audio is zero-padded: the reflection at the edges needs 257 samples


def hz_to_mel(hz: float) -> float:
    """Mel of a frequency in Hz on the Kaldi scale, 1127 ln(1 + f / 700)."""
    return 1127.0 * math.log(1.0 + hz / 700.0)


def kaldi_mel_bank(
    fmin: float, fmax: float, n_mels: int = N_MELS, n_fft: int = N_FFT, sample_rate: int = SAMPLE_RATE
) -> Tensor:
    """Triangular mel filters [n_mels, n_fft // 2 + 1], equally spaced and with straight slopes in mel.

    The bin at half the sample rate has weight 0, peaks are 1, areas are not normalised. The arithmetic is done
    in float32 in the order of Kaldi's own, because single cells of the spectrogram depend on the last bit.
    """
    low, high = hz_to_mel(fmin), hz_to_mel(fmax)
    step = (high - low) / (n_mels + 1)
    edges = low + torch.arange(n_mels + 2) * step
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = torch.arange(n_fft // 2) * (sample_rate / n_fft)
    mel = 1127.0 * torch.log(1.0 + bins / 700.0)
    bank = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp_min(0.0)
    return F.pad(bank, (0, 1))


class LogMel(nn.Module):
    """Log-mel spectrogram: waveform [B, N] at 16 kHz -> [B, 1, 128, frames], 100 frames per second.

    Pre-emphasis, power spectrogram (512 points, 10 ms hop, symmetric Hann window of 25 ms, reflected edges),
    Kaldi mel filters, logarithm, fixed normalisation. Always float32, without gradient. 160,000 samples give
    exactly 1000 frames.
    """

    window: Tensor
    bank: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW, periodic=False), persistent=False)
        self.register_buffer("bank", kaldi_mel_bank(EVAL_FMIN, EVAL_FMAX), persistent=False)

    @torch.no_grad()
    def forward(self, waveform: Tensor, fmin: float = EVAL_FMIN, fmax: float = EVAL_FMAX) -> Tensor:
        """Spectrogram of `waveform`; `fmin` and `fmax` (Hz) move the filters as the training augmentation does."""
        with torch.autocast(waveform.device.type, enabled=False):
            x = waveform.float()
            if x.shape[-1] < MIN_SAMPLES:
                x = F.pad(x, (0, MIN_SAMPLES - x.shape[-1]))
            x = x[:, 1:] - PREEMPHASIS * x[:, :-1]
            spectrum = torch.stft(
                x, N_FFT, HOP, WINDOW, self.window, center=True, pad_mode="reflect", return_complex=True
            )
            power = spectrum.real.square() + spectrum.imag.square()  # [B, 257, frames]
            mel = torch.matmul(self._bank(fmin, fmax), power)
            return ((mel.clamp_min(FLOOR).log() + 4.5) / 5.0).unsqueeze(1)

    def _bank(self, fmin: float, fmax: float) -> Tensor:
        if (fmin, fmax) == (EVAL_FMIN, EVAL_FMAX):
            return self.bank
        return kaldi_mel_bank(fmin, fmax).to(self.bank.device)
