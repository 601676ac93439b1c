"""BEATs: audio pre-training with acoustic tokenizers.

Chen et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023; frame-wise as in Schmid et al.,
ICASSP 2025.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from models.registry import register_backbone
from models.transformers.beats_blocks import BeatsEncoder
from models.transformers.kaldi import FLOOR, N_MELS, KaldiFbank, povey_window
from models.transformers.vit_blocks import N_HEADS, N_LAYERS, WIDTH, TransformerBackbone, check_mel

PATCH = 16
PATCH_DIM = 512
MEL_MEAN = 15.41663
MEL_STD = 6.55582
POS_CONV = "encoder.pos_conv.0"
GAIN = 2.0**15  # the front end expects the range of 16-bit integers


class Beats(nn.Module):
    """Network [B, 1, 128, frames] -> [B, 8 * (frames // 16), dim]: 8 tokens, from low to high, per 160 ms.

    Args:
        depth, dim, n_heads: layers, width, attention heads.
    """

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.post_extract_proj = nn.Linear(PATCH_DIM, dim)
        self.patch_embedding = nn.Conv2d(1, PATCH_DIM, PATCH, stride=PATCH, bias=False)
        self.encoder = BeatsEncoder(depth, dim, n_heads)
        self.layer_norm = nn.LayerNorm(PATCH_DIM)

    def tokens(self, mel: Tensor) -> Tensor:
        """Projected patches [B, T, dim], time slow and frequency fast."""
        x = self.patch_embedding(mel.transpose(2, 3))  # [B, 512, frames / 16, 8]
        return self.post_extract_proj(self.layer_norm(x.flatten(2).transpose(1, 2)))

    def forward(self, mel: Tensor) -> Tensor:
        return self.encoder(self.tokens(mel))


class BeatsBackbone(TransformerBackbone):
    """Kaldi filterbank and BEATs; 160,000 samples -> [B, 496, 768]."""

    window_frames = 998
    edge_samples = 240
    patch_frames = PATCH
    pad_value = (math.log(FLOOR) - MEL_MEAN) / (2 * MEL_STD)  # silence
    depth_patterns = (
        (r"^beats\.encoder\.layers\.(\d+)\.", None),
        (r"^beats\.(?:encoder\.(?:pos_conv|layer_norm)|patch_embedding|post_extract_proj|layer_norm)\.", 0),
    )
    key_map = (
        # older spelling of the weight normalisation
        (rf"^model\.(?:beats\.)?{POS_CONV}\.weight_g$", rf"model.beats.{POS_CONV}.parametrizations.weight.original0"),
        (rf"^model\.(?:beats\.)?{POS_CONV}\.weight_v$", rf"model.beats.{POS_CONV}.parametrizations.weight.original1"),
        (r"^model\.(?!beats\.)", "model.beats."),
    )

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.mel = KaldiFbank(povey_window(), MEL_MEAN, 2 * MEL_STD, gain=GAIN)
        self.beats = Beats(depth, dim, n_heads)
        self.embed_dim = dim

    def mel_forward(self, waveform: Tensor) -> Tensor:
        return self.mel(waveform)

    def forward(self, mel: Tensor) -> Tensor:
        check_mel(mel, N_MELS)
        return self.beats(mel)


@register_backbone("BEATs")
def beats(depth: int = N_LAYERS, dim: int = WIDTH, n_heads: int = N_HEADS) -> BeatsBackbone:
    """BEATs, 90.3 million parameters."""
    return BeatsBackbone(depth, dim, n_heads)
