"""Frame-wise MobileNet: MobileNetV3 that keeps 25 frames per second and squeezes only frequency.

Morocutti et al., "Exploring Performance-Complexity Trade-Offs in Sound Event Detection Models", EUSIPCO 2025;
the clip-wise original is EfficientAT (Schmid et al., ICASSP 2023).
"""

from __future__ import annotations

from torch import Tensor, nn

from models.fmn.blocks import BlockConfig, ConvUnit, InvertedResidual, make_divisible
from models.mel import EVAL_FMAX, EVAL_FMIN, N_MELS, LogMel
from models.registry import Backbone, register_backbone

STEM_CHANNELS = 16
RE, HS = nn.ReLU, nn.Hardswish
BLOCKS = (  # kernel, expanded, out, squeeze, activation, frequency stride, time stride
    BlockConfig(3, 16, 16, False, RE, 1, 1),
    BlockConfig(3, 64, 24, False, RE, 2, 2),
    BlockConfig(3, 72, 24, False, RE, 2, 1),
    BlockConfig(5, 72, 40, True, RE, 1, 1),
    BlockConfig(5, 120, 40, True, RE, 1, 1),
    BlockConfig(5, 120, 40, True, RE, 2, 1),
    BlockConfig(3, 240, 80, False, HS, 1, 1),
    BlockConfig(3, 200, 80, False, HS, 2, 1),
    BlockConfig(3, 184, 80, False, HS, 1, 1),
    BlockConfig(3, 184, 80, False, HS, 1, 1),
    BlockConfig(3, 480, 112, True, HS, 2, 1),
    BlockConfig(3, 672, 112, True, HS, 1, 1),
    BlockConfig(5, 672, 160, True, HS, 1, 1),
    BlockConfig(5, 960, 160, True, HS, 1, 1),
    BlockConfig(5, 960, 160, True, HS, 2, 1),
)


class FrameMobileNet(nn.Module):
    """Convolutional network [B, 1, 128, frames] -> [B, embed_dim, 1, ceil(frames / 4)]."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = make_divisible(STEM_CHANNELS * width)
        features: list[nn.Module] = [ConvUnit(1, channels, 3, (2, 2), activation=HS)]
        for config in BLOCKS:
            features.append(InvertedResidual(channels, config, width))
            channels = make_divisible(config.out * width)
        self.embed_dim = 6 * channels
        features.append(ConvUnit(channels, self.embed_dim, 1, activation=HS))
        self.features = nn.Sequential(*features)
        self.apply(_initialise)

    def forward(self, mel: Tensor) -> Tensor:
        return self.features(mel)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.01)
        nn.init.zeros_(module.bias)


class FrameMobileNetBackbone(Backbone):
    """Log-mel front end and frame-wise MobileNet; 160,000 samples -> [B, 250, embed_dim]."""

    n_depths = 17
    depth_patterns = ((r"fmn\.features\.(\d+)\.", None),)
    key_map = (
        (r"^(?:model\.)?features\.", "model.fmn.features."),  # released frame-wise and clip-wise files
    )
    has_mel_range = True

    def __init__(self, width: float) -> None:
        super().__init__()
        self.mel = LogMel()
        self.fmn = FrameMobileNet(width)
        self.embed_dim = self.fmn.embed_dim

    def mel_forward(self, waveform: Tensor, fmin: float = EVAL_FMIN, fmax: float = EVAL_FMAX) -> Tensor:
        return self.mel(waveform, fmin, fmax)

    def forward(self, mel: Tensor) -> Tensor:
        if mel.ndim != 4 or mel.shape[1:3] != (1, N_MELS):
            raise ValueError(f"expected a mel spectrogram [B, 1, {N_MELS}, frames], got {tuple(mel.shape)}")
        x = self.fmn(mel)  # [B, C, F, T]; F = 1 for 128 mel bins
        return x.squeeze(2).transpose(1, 2)


def _register_widths() -> None:
    # 04 ... 30 are the published frame-wise sizes; the others take weights of the clip-wise family
    for code in ("04", "06", "10", "20", "30", "01", "02", "05", "40"):
        register_backbone(f"fmn{code}")(lambda width=int(code) / 10: FrameMobileNetBackbone(width))


_register_widths()
