"""A detector whose answers are known: it hears a class where the audio has energy in the class's band."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

SAMPLES_PER_FRAME = 640
TONES = {"Sine wave": 500, "Beep, bleep": 1500, "Siren": 3000, "Dial tone": 6000}  # Hz, multiples of 25


class ToneModel(nn.Module):
    """The interface of `models.SEDModel`, with one band of 200 Hz per class and no memory from frame to frame."""

    frame_rate = 25.0
    labels = tuple(TONES)

    def mel_forward(self, waveform: Tensor) -> Tensor:
        """Waveform [B, N] -> level of each band in each frame [B, 1, C, T]."""
        n_frames = waveform.shape[1] // SAMPLES_PER_FRAME
        frames = waveform[:, : n_frames * SAMPLES_PER_FRAME].reshape(len(waveform), n_frames, -1)
        spectrum = torch.fft.rfft(frames * torch.hann_window(SAMPLES_PER_FRAME)).abs()  # bins of 25 Hz
        bands = [spectrum[..., hz // 25 - 4 : hz // 25 + 5].amax(-1) for hz in TONES.values()]
        return torch.stack(bands, 1)[:, None]

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Logits: above 0 where the tone's amplitude is above 0.1 over most of a frame."""
        strong = mel[:, 0] / 4 - 4
        return strong, strong.amax(-1)


def tones(seconds: float, events: list[tuple[float, float, str]], rate: int = 16_000) -> np.ndarray:
    """Audio float32 [n] with one tone of amplitude 0.25 for each (onset, offset, label) over faint noise."""
    time = np.arange(round(seconds * rate)) / rate
    audio = 1e-4 * np.random.default_rng(0).standard_normal(len(time))
    for onset, offset, label in events:
        inside = (time >= onset) & (time < offset)
        audio[inside] += 0.25 * np.sin(2 * np.pi * TONES[label] * time[inside])
    return audio.astype(np.float32)
