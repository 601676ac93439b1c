"""ATST-F: the frame-level audio teacher-student transformer.

Li et al., "Self-Supervised Audio Teacher-Student Transformer for Both Clip-Level and Frame-Level Tasks",
IEEE/ACM TASLP 2024; as in Schmid et al., ICASSP 2025.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import SAMPLE_RATE, register_backbone
from models.transformers.vit_blocks import (
    HOP,
    N_HEADS,
    N_LAYERS,
    NORM_EPS,
    WIDTH,
    WINDOW_OUTPUT_FRAMES,
    TransformerBackbone,
    buffers,
    check_mel,
    initialise_vit,
    vit_depths,
    vit_layers,
)

N_FFT = 1024  # also the length of the window
N_MELS = 64
FMIN, FMAX = 60.0, 7800.0  # Hz
TOP_DB = 80.0  # what is quieter than the loudest cell by more than this is raised to it
DB_RANGE = (-50.0, 80.0)
DB_LOW, DB_SPAN = -79.6482, 130.3324  # normalisation: DB_LOW maps to -1, DB_LOW + DB_SPAN to 1
PATCH_FRAMES = 4


def htk_mel_bank() -> Tensor:
    """Triangular filters [513, 64] on the HTK mel scale, slopes linear in Hz, peaks 1."""

    def to_mel(hz: float) -> float:
        return 2595.0 * math.log10(1.0 + hz / 700.0)

    mels = torch.linspace(to_mel(FMIN), to_mel(FMAX), N_MELS + 2)
    hz = 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    bins = torch.linspace(0, SAMPLE_RATE // 2, N_FFT // 2 + 1)
    width = hz[1:] - hz[:-1]
    distance = hz[None, :] - bins[:, None]  # [513, 66]
    falling, rising = -distance[:, :-2] / width[:-1], distance[:, 2:] / width[1:]
    return torch.minimum(falling, rising).clamp_min(0.0)


class AtstMel(nn.Module):
    """Mel spectrogram in dB: waveform [B, N] at 16 kHz -> [B, 1, 64, 1 + N // 160].

    Power spectrogram (1024 points, periodic Hann window, reflected edges), HTK mel filters, dB with a floor 80 dB
    below the loudest cell, clamped and scaled to about -1 ... 1. Always float32, without gradient.

    Args:
        batch_top_db: take the loudest cell of the whole batch, as the published code does, rather than of each
            clip; then a loud clip changes the quiet ones beside it.
    """

    def __init__(self, batch_top_db: bool = False) -> None:
        super().__init__()
        self.batch_top_db = batch_top_db
        self.mel_transform = nn.Module()
        self.mel_transform.spectrogram = buffers(window=torch.hann_window(N_FFT))
        self.mel_transform.mel_scale = buffers(fb=htk_mel_bank())

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Scaled mel energies; clips up to 32 ms, too short to be reflected, are filled up with zeros."""
        window: Tensor = self.mel_transform.spectrogram.window  # type: ignore[union-attr, assignment]
        bank: Tensor = self.mel_transform.mel_scale.fb  # type: ignore[union-attr, assignment]
        with torch.autocast(waveform.device.type, enabled=False):
            x = waveform.float()
            if x.shape[-1] <= N_FFT // 2:
                x = F.pad(x, (0, N_FFT // 2 + 1 - x.shape[-1]))
            spectrum = torch.stft(x, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()  # [B, 513, frames]
            mel = torch.matmul(power.transpose(1, 2), bank).transpose(1, 2)
            db = 10.0 * mel.clamp_min(1e-10).log10()
            loudest = db.amax() if self.batch_top_db else db.amax((1, 2), keepdim=True)
            db = torch.maximum(db, loudest - TOP_DB).clamp(*DB_RANGE)
            return ((db - DB_LOW) / DB_SPAN * 2.0 - 1.0).unsqueeze(1)


class FramePatches(nn.Module):
    """Linear projection of patches that span all mel bins and four frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(N_MELS * PATCH_FRAMES, dim)

    def forward(self, mel: Tensor) -> Tensor:
        """[B, 1, 64, frames] -> [B, frames // 4, dim]; the patch vector has the mel bin slow and the frame fast."""
        n_patches = mel.shape[-1] // PATCH_FRAMES
        x = mel[:, 0, :, : n_patches * PATCH_FRAMES].unflatten(2, (n_patches, PATCH_FRAMES))
        return self.patch_embed(x.transpose(1, 2).flatten(2))


class AtstFrame(nn.Module):
    """Network [B, 1, 64, frames] -> [B, frames // 4, dim], at most 250 tokens.

    Args:
        depth, dim, n_heads: layers, width, attention heads.
    """

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.mask_embed = nn.Parameter(torch.zeros(1, 1, dim))  # of the masked patches in pre-training
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + WINDOW_OUTPUT_FRAMES, dim))  # row 0: a class token's
        self.patch_embed = FramePatches(dim)
        self.blocks = vit_layers(depth, dim, n_heads, qkv_bias=False)
        self.norm_frame = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise_vit(self)

    def tokens(self, mel: Tensor) -> Tensor:
        """Input of the first layer: patches with their positions."""
        x = self.patch_embed(mel)
        if x.shape[1] > WINDOW_OUTPUT_FRAMES:
            raise ValueError(f"ATST-F has positions for {WINDOW_OUTPUT_FRAMES} tokens (10 s), got {x.shape[1]}")
        return x + self.pos_embed[:, 1 : 1 + x.shape[1]]

    def forward(self, mel: Tensor) -> Tensor:
        return self.norm_frame(self.blocks(self.tokens(mel)))


class AtstFrameBackbone(TransformerBackbone):
    """Mel front end and ATST-F; 160,000 samples -> [B, 250, 768]."""

    window_frames = 1001
    edge_samples = -HOP
    patch_frames = PATCH_FRAMES
    pad_value = (DB_RANGE[0] - DB_LOW) / DB_SPAN * 2 - 1  # silence
    optional_keys = tuple(f"model.atst_mel.mel_transform.{name}" for name in ("spectrogram.window", "mel_scale.fb"))
    unused_parameters: ClassVar[dict[str, str]] = {r"^atst\.mask_embed$": "stands for masked patches in pre-training"}
    depth_patterns = vit_depths("atst", r"mask_embed|pos_embed|patch_embed")

    def __init__(self, depth: int, dim: int, n_heads: int, batch_top_db: bool = False) -> None:
        super().__init__()
        self.atst_mel = AtstMel(batch_top_db)
        self.atst = AtstFrame(depth, dim, n_heads)
        self.embed_dim = dim

    def mel_forward(self, waveform: Tensor) -> Tensor:
        return self.atst_mel(waveform)

    def forward(self, mel: Tensor) -> Tensor:
        check_mel(mel, N_MELS)
        return self.atst(mel)


@register_backbone("ATST-F")
def atst_frame(
    depth: int = N_LAYERS, dim: int = WIDTH, n_heads: int = N_HEADS, batch_top_db: bool = False
) -> AtstFrameBackbone:
    """ATST-F, 85.4 million parameters; `batch_top_db` gives the published coupling of clips in a batch.

    On a detector that is there: `model.model.atst_mel.batch_top_db = True`.
    """
    return AtstFrameBackbone(depth, dim, n_heads, batch_top_db)
