"""M2D: masked modelling duo, the encoder of M2D-CLAP fine-tuned on AudioSet.

Niizumi et al., "Masked Modeling Duo: Towards a Universal Audio Pre-training Framework", IEEE/ACM TASLP 2024;
frame-wise as in Schmid et al., ICASSP 2025.
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
    PatchConv,
    TransformerBackbone,
    buffers,
    check_mel,
    initialise_vit,
    vit_depths,
    vit_layers,
)

N_FFT = 400  # also the length of the window
N_MELS = 80
FMIN, FMAX = 50.0, 8000.0  # Hz
MEL_MEAN, MEL_STD = -7.1, 4.2
EPSILON = 2.0**-23  # added to the mel energies before the logarithm
PATCH = 16
BANDS = N_MELS // PATCH  # 5 patches above each other
CHUNK = 1001  # frames that have positions: 10 s
TIME_PATCHES = CHUNK // PATCH  # 62


def slaney_mel_bank() -> Tensor:
    """Triangular filters [80, 201] on the Slaney mel scale, slopes linear in Hz, areas normalised (as in librosa)."""

    def to_mel(hz: float) -> float:
        return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    mels = torch.linspace(to_mel(FMIN), to_mel(FMAX), N_MELS + 2, dtype=torch.float64)
    hz = torch.where(mels < 15, mels * 200 / 3, 1000 * torch.exp((mels - 15) * math.log(6.4) / 27))
    left, centre, right = hz[:-2, None], hz[1:-1, None], hz[2:, None]
    bins = torch.arange(N_FFT // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / N_FFT
    bank = torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_min(0)
    return (bank * 2 / (right - left)).float()


def fourier_kernels() -> tuple[Tensor, Tensor]:
    """Windowed sine and cosine kernels, each [201, 1, 400]: the Fourier transform written as a convolution."""
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    taps = torch.arange(N_FFT, dtype=torch.float64)
    angle = torch.outer(torch.arange(N_FFT // 2 + 1, dtype=torch.float64), taps) * (2 * math.pi / N_FFT)
    return (angle.sin() * window).unsqueeze(1).float(), (angle.cos() * window).unsqueeze(1).float()


class M2DMel(nn.Module):
    """Log-mel spectrogram: waveform [B, N] at 16 kHz -> [B, 1, 80, 1 + N // 160].

    Power spectrogram (400 points, periodic Hann window, reflected edges), Slaney mel filters, logarithm, fixed
    normalisation; no pre-emphasis. Always float32, without gradient. The published front end is a convolution
    with kernels kept in the state dict; this one takes a Fourier transform, which is faster and as exact, and
    carries the kernels (`stft.wsin`, `stft.wcos`) only so that files can be exchanged in both directions.
    """

    mel_basis: Tensor

    def __init__(self) -> None:
        super().__init__()
        wsin, wcos = fourier_kernels()
        self.register_buffer("mel_basis", slaney_mel_bank())
        self.stft = buffers(wsin=wsin, wcos=wcos, window_mask=torch.hann_window(N_FFT).view(1, -1, 1))

    @torch.no_grad()
    def forward(self, waveform: Tensor) -> Tensor:
        """Normalised log-mel energies of each clip; clips shorter than 25 ms are filled up with zeros."""
        with torch.autocast(waveform.device.type, enabled=False):
            x = waveform.float()
            if x.shape[-1] < N_FFT:
                x = F.pad(x, (0, N_FFT - x.shape[-1]))
            window = self.stft.window_mask.flatten()  # type: ignore[union-attr, operator]
            spectrum = torch.stft(x, N_FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()  # [B, 201, frames]
            mel = torch.matmul(self.mel_basis, power)
            return ((mel + EPSILON).log() - MEL_MEAN).div(MEL_STD).unsqueeze(1)


class M2DEncoder(nn.Module):
    """Network [B, 1, 80, frames <= 1001] -> [B, frames // 16, 5 * dim].

    Args:
        depth, dim, n_heads: layers, width, attention heads.
    """

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + BANDS * TIME_PATCHES, dim))
        self.norm_stats = nn.Parameter(torch.tensor([MEL_MEAN, MEL_STD]), requires_grad=False)
        self.patch_embed = PatchConv(1, dim, (PATCH, PATCH), stride=PATCH)
        self.blocks = vit_layers(depth, dim, n_heads)
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        initialise_vit(self)
        nn.init.normal_(self.cls_token, std=1e-6)

    def tokens(self, mel: Tensor) -> Tensor:
        """Input of the first layer: class token and patches (frequency slow, time fast) with their positions."""
        x = self.patch_embed(mel)  # [B, dim, 5, T]
        positions = self.pos_embed[:, 1:].unflatten(1, (BANDS, TIME_PATCHES))[:, :, : x.shape[-1]]
        x = x.flatten(2).transpose(1, 2) + positions.flatten(1, 2)
        cls_token = self.cls_token + self.pos_embed[:, :1]
        return torch.cat([cls_token.expand(x.shape[0], -1, -1), x], 1)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.tokens(mel)))[:, 1:]
        x = x.unflatten(1, (BANDS, -1))  # [B, 5, T, dim]
        return x.transpose(1, 2).flatten(2)


class M2D(nn.Module):
    """Front end `to_spec` and network `backbone` under the names of the published files."""

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.to_spec = M2DMel()
        self.backbone = M2DEncoder(depth, dim, n_heads)

    def forward(self, mel: Tensor) -> Tensor:
        """Embedding of a mel of any length: chunks of 1001 frames that do not see each other, the last completed."""
        n_frames = mel.shape[-1]
        mel = F.pad(mel, (0, -(n_frames % CHUNK) % PATCH))
        chunks = mel[..., : math.ceil(n_frames / CHUNK) * CHUNK].split(CHUNK, -1)
        return torch.cat([self.backbone(chunk) for chunk in chunks], 1)


class M2DBackbone(TransformerBackbone):
    """Log-mel front end and M2D; 160,000 samples -> [B, 62, 3840]: the five bands of a time patch in one vector."""

    window_frames = CHUNK
    edge_samples = -HOP
    patch_frames = PATCH
    pad_value = 0.0  # about the mean of a normalised mel; the network pads with it as well
    optional_keys = tuple(
        f"model.m2d.to_spec.{name}" for name in ("mel_basis", "stft.wsin", "stft.wcos", "stft.window_mask")
    )
    unused_parameters: ClassVar[dict[str, str]] = {
        r"^m2d\.backbone\.norm_stats$": "statistics of the mel, written into the front end as constants"
    }
    depth_patterns = vit_depths(r"m2d\.backbone", r"cls_token|pos_embed|patch_embed|norm_stats")
    key_map = ((r"^model\.(?!m2d\.)", "model.m2d."),)

    def __init__(self, depth: int, dim: int, n_heads: int) -> None:
        super().__init__()
        self.m2d = M2D(depth, dim, n_heads)
        self.embed_dim = BANDS * dim

    def mel_forward(self, waveform: Tensor) -> Tensor:
        return self.m2d.to_spec(waveform)

    def forward(self, mel: Tensor) -> Tensor:
        check_mel(mel, N_MELS)
        return self.m2d(mel)


@register_backbone("M2D")
def m2d(depth: int = N_LAYERS, dim: int = WIDTH, n_heads: int = N_HEADS) -> M2DBackbone:
    """M2D, 85.5 million parameters."""
    return M2DBackbone(depth, dim, n_heads)
