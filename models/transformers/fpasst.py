"""fPaSST: the patchout spectrogram transformer with frame-wise output.

Schmid et al., "Effective Pre-Training of Audio Transformers for Sound Event Detection", ICASSP 2025; the
clip-wise original is PaSST (Koutini et al., Interspeech 2022).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.mel import EVAL_FMAX, EVAL_FMIN, FLOOR, N_MELS, WINDOW, LogMel
from models.registry import register_backbone
from models.transformers.vit_blocks import (
    N_HEADS,
    N_LAYERS,
    NORM_EPS,
    WIDTH,
    WINDOW_OUTPUT_FRAMES,
    PatchConv,
    TransformerBackbone,
    check_mel,
    initialise_vit,
    vit_depths,
    vit_layers,
)

STEM_CHANNELS = (16, 32, 64)
FOLD = 4  # channels of the stem that are laid out along the frequency axis: (64, 32) -> (16, 128)


class FPaSSTMel(LogMel):
    """The front end of the frame-wise MobileNets but for a periodic Hann window."""

    def __init__(self) -> None:
        super().__init__()
        self.window = torch.hann_window(WINDOW, periodic=True)


class FPaSST(nn.Module):
    """Network [B, 1, 128, frames] -> [B, ceil(frames / 4), dim], at most 250 tokens.

    Args:
        depth, dim, n_heads: layers, width, attention heads.
    """

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.new_pos_embed = nn.Parameter(torch.zeros(1, 2, dim))  # of the two tokens above
        self.freq_new_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.time_new_pos_embed = nn.Parameter(torch.zeros(1, dim, 1, WINDOW_OUTPUT_FRAMES))
        a, b, c = STEM_CHANNELS
        self.conv_in_1 = nn.Conv2d(1, a, 3, stride=2, padding=1)
        self.conv_in_2 = nn.Conv2d(a, b, 3, stride=1, padding=1)
        self.conv_in_3 = nn.Conv2d(b, c, 3, stride=2, padding=1)
        self.patch_embed = PatchConv(c // FOLD, dim, (N_MELS, 2), padding=(0, 1))
        self.blocks = vit_layers(depth, dim, n_heads)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise_vit(self)

    def stem(self, mel: Tensor) -> Tensor:
        """Features [B, 16, 128, frames / 4]: three convolutions, then four channels side by side in frequency."""
        x = F.gelu(self.conv_in_1(mel))
        x = F.gelu(self.conv_in_2(x))
        x = F.gelu(self.conv_in_3(x))  # [B, 64, 32, T]
        return x.reshape(x.shape[0], x.shape[1] // FOLD, x.shape[2] * FOLD, x.shape[3])

    def tokens(self, mel: Tensor) -> Tensor:
        """Input of the first layer [B, 2 + T, dim]: two tokens of the whole clip, then one per frame."""
        x = self.patch_embed(self.stem(mel))[..., 1:]  # [B, dim, 1, T]; the first step sees only padding and frame 0
        x = x[..., :WINDOW_OUTPUT_FRAMES]
        x = x + self._time_positions(x.shape[-1]) + self.freq_new_pos_embed
        x = x.squeeze(2).transpose(1, 2)
        clip_tokens = torch.cat([self.cls_token, self.dist_token], 1) + self.new_pos_embed
        return torch.cat([clip_tokens.expand(x.shape[0], -1, -1).to(x.dtype), x], 1)

    def _time_positions(self, n_frames: int) -> Tensor:
        """Positions of `n_frames` frames; training puts short clips anywhere in the 10 s."""
        room = WINDOW_OUTPUT_FRAMES - n_frames
        start = int(torch.randint(room + 1, ())) if self.training and room else 0
        return self.time_new_pos_embed[..., start : start + n_frames]

    def forward(self, mel: Tensor) -> Tensor:
        return self.norm(self.blocks(self.tokens(mel)))[:, 2:]


class FPaSSTBackbone(TransformerBackbone):
    """Log-mel front end and fPaSST; 160,000 samples -> [B, 250, 768]."""

    window_frames = 1000
    edge_samples = 0
    patch_frames = 4
    pad_value = (math.log(FLOOR) + 4.5) / 5.0  # silence
    has_mel_range = True
    depth_patterns = vit_depths("fpasst", r"\w+_token|\w*pos_embed|conv_in_\d|patch_embed")
    key_map = ((r"^model\.(?!fpasst\.)", "model.fpasst."),)

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.mel = FPaSSTMel()
        self.fpasst = FPaSST(depth, dim, n_heads)
        self.embed_dim = dim

    def mel_forward(self, waveform: Tensor, fmin: float = EVAL_FMIN, fmax: float = EVAL_FMAX) -> Tensor:
        return self.mel(waveform, fmin, fmax)

    def forward(self, mel: Tensor) -> Tensor:
        check_mel(mel, N_MELS)
        return self.fpasst(mel)


@register_backbone("fpasst")
def fpasst(depth: int = N_LAYERS, dim: int = WIDTH, n_heads: int = N_HEADS) -> FPaSSTBackbone:
    """fPaSST, 88.4 million parameters."""
    return FPaSSTBackbone(depth, dim, n_heads)
