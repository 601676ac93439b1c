"""ASiT: the local-global audio spectrogram transformer.

Atito et al., "ASiT: Local-Global Audio Spectrogram vIsion Transformer for Event Classification", IEEE/ACM TASLP
2024; frame-wise as in Schmid et al., ICASSP 2025.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.registry import register_backbone
from models.transformers.kaldi import FLOOR, N_MELS, KaldiFbank, hanning_window
from models.transformers.vit_blocks import (
    N_HEADS,
    N_LAYERS,
    NORM_EPS,
    WIDTH,
    PatchConv,
    TransformerBackbone,
    check_mel,
    initialise_vit,
    vit_depths,
    vit_layers,
)

PATCH = 16
GRID = (8, 37)  # shape in which the positions of 128 mel bins x 592 frames are stored
GRID_FRAMES = GRID[1] * PATCH
MEL_MEAN = -4.2677393
MEL_STD = 4.5689974


class ASiT(nn.Module):
    """Network [B, 1, 128, frames] -> [B, 1 + 8 * (frames // 16), dim]: a class token, then 8 tokens per 160 ms.

    Args:
        depth, dim, n_heads: layers, width, attention heads.
    """

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID[0] * GRID[1], dim))
        self.patch_embed = PatchConv(1, dim, (PATCH, PATCH), stride=PATCH)
        self.blocks = vit_layers(depth, dim, n_heads)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise_vit(self)

    def positions(self, n_frames: int) -> Tensor:
        """Positions [1, 1 + tokens, dim] for a mel of `n_frames` frames.

        The stored grid is stretched to (time patches, bands) as if its 8 rows were time and its 37 columns were
        frequency. That reads like a transposition, but the released weights were trained so.
        """
        if n_frames == GRID_FRAMES:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, GRID).permute(0, 3, 1, 2)  # [1, dim, 8, 37]
        size = (n_frames // PATCH, N_MELS // PATCH)
        grid = F.interpolate(grid.float(), size=size, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], 1)

    def tokens(self, mel: Tensor) -> Tensor:
        """Input of the first layer: class token and patches (time slow, frequency fast) with their positions."""
        x = self.patch_embed(mel.transpose(2, 3))  # [B, dim, frames / 16, 8]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x], 1)
        return x + self.positions(mel.shape[-1])

    def forward(self, mel: Tensor) -> Tensor:
        return self.norm(self.blocks(self.tokens(mel)))


class ASiTBackbone(TransformerBackbone):
    """Kaldi filterbank and ASiT; 160,000 samples -> [B, 497, 768].

    The class token stays in front of the sequence and is resampled with it, as in the published wrapper.
    """

    window_frames = 998
    edge_samples = 240
    patch_frames = PATCH
    pad_value = (math.log(FLOOR) - MEL_MEAN) / (2 * MEL_STD)  # silence
    depth_patterns = vit_depths("asit", r"cls_token|pos_embed|patch_embed")
    key_map = ((r"^model\.(?!asit\.)", "model.asit."),)

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.mel = KaldiFbank(hanning_window(), MEL_MEAN, 2 * MEL_STD, centre_clip=True)
        self.asit = ASiT(depth, dim, n_heads)
        self.embed_dim = dim

    def mel_forward(self, waveform: Tensor) -> Tensor:
        return self.mel(waveform)

    def forward(self, mel: Tensor) -> Tensor:
        check_mel(mel, N_MELS)
        return self.asit(mel)


@register_backbone("ASIT")
def asit(depth: int = N_LAYERS, dim: int = WIDTH, n_heads: int = N_HEADS) -> ASiTBackbone:
    """ASiT, 85.5 million parameters."""
    return ASiTBackbone(depth, dim, n_heads)
