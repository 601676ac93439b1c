"""What the audio transformers share: the base class of their backbones, ViT layers, a stack of layers."""

from __future__ import annotations

import math
import re
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from models.registry import CLIP_SECONDS, FRAME_RATE, SAMPLE_RATE, Backbone
from models.windows import windowed_embedding

N_LAYERS = 12
WIDTH = 768
N_HEADS = 12
NORM_EPS = 1e-6  # of every layer norm of the ViTs (BEATs has 1e-5)
HOP = 160  # samples between two mel frames of every front end: 100 per second
SAMPLES_PER_FRAME = int(SAMPLE_RATE / FRAME_RATE)  # 640
WINDOW_OUTPUT_FRAMES = int(CLIP_SECONDS * FRAME_RATE)  # 250: what the published networks were trained to give


class TransformerBackbone(Backbone):
    """Base class of the transformers, which take at most 10 s at once and have frame rates of their own.

    `embed` turns what they give into 25 frames per second for audio of any length.
    """

    n_depths = N_LAYERS
    window_frames: int  # mel frames of 10 s
    # samples of audio behind a mel of n frames, less n hops: what the front end's framing adds at the edges
    edge_samples: ClassVar[int]
    # frames of the mel that one patch covers; a last patch that lacks frames is completed with pad_value
    patch_frames: ClassVar[int]
    pad_value: ClassVar[float]
    # state-dict entries that a file may lack: constants of the front end
    optional_keys: ClassVar[tuple[str, ...]] = ()
    # (pattern on a parameter's name) -> why it has no influence on the output, hence never a gradient
    unused_parameters: ClassVar[dict[str, str]] = {}

    def target_frames(self, n_mel_frames: int) -> int:
        """Frames at 25 per second that the audio behind `n_mel_frames` has, the last one counted if it is begun."""
        n_samples = n_mel_frames * HOP + self.edge_samples
        return max(1, math.ceil(n_samples / SAMPLES_PER_FRAME))

    def embed(self, mel: Tensor) -> Tensor:
        """Embedding [B, T, embed_dim] of a mel of any length, at 25 frames per second of the audio behind it."""
        return windowed_embedding(self, mel, self.window_frames)

    def set_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Keep only each layer's input for the backward pass and compute the rest again: less memory, more time."""
        for module in self.modules():
            if isinstance(module, LayerStack):
                module.gradient_checkpointing = enabled

    def is_unused(self, parameter_name: str) -> bool:
        """Whether a parameter (named as in the backbone) is listed as having no influence on the output."""
        return any(re.search(pattern, parameter_name) for pattern in self.unused_parameters)


def check_mel(mel: Tensor, n_mels: int) -> None:
    """Raise ValueError unless `mel` is [B, 1, n_mels, frames]."""
    if mel.ndim != 4 or mel.shape[1:3] != (1, n_mels):
        raise ValueError(f"expected a mel spectrogram [B, 1, {n_mels}, frames], got {tuple(mel.shape)}")


def vit_depths(prefix: str, stem: str) -> tuple[tuple[str, int | None], ...]:
    """Depth groups of a ViT: layer i has depth i, what comes before layer 0 has depth 0, the last norm the highest.

    Args:
        prefix: name of the network in the backbone, as a regular expression.
        stem: regular expression on the names that belong to the stem.
    """
    return (
        (rf"^{prefix}\.blocks\.(\d+)\.", None),
        (rf"^{prefix}\.norm\w*\.", N_LAYERS - 1),
        (rf"^{prefix}\.(?:{stem})", 0),
    )


def buffers(**tensors: Tensor) -> nn.Module:
    """A module that only holds these tensors as entries of the state dict."""
    holder = nn.Module()
    for name, tensor in tensors.items():
        holder.register_buffer(name, tensor)
    return holder


class LayerStack(nn.ModuleList):
    """Layers that run one after another; all take and return [B, T, D].

    `layer_drop` is the probability with which training skips a layer; `gradient_checkpointing` trades time for
    memory in training.
    """

    gradient_checkpointing = False
    layer_drop = 0.0

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Run all layers on `x`; `context` goes to each of them unchanged."""
        for layer in self:
            if self.training and self.layer_drop > 0 and torch.rand(()).item() <= self.layer_drop:
                continue
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(layer, x, *context, use_reentrant=False)
            else:
                x = layer(x, *context)
        return x


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, no mask and no relative positions."""

    def __init__(self, dim: int, n_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"width {dim} is not divisible by {n_heads} heads")
        self.n_heads = n_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, D / heads]
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(B, T, D))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer layer without dropout (Dosovitskiy et al., ICLR 2021, section 3.1)."""

    def __init__(self, dim: int, n_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, n_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def vit_layers(n_layers: int, dim: int, n_heads: int, qkv_bias: bool = True) -> LayerStack:
    """A stack of `Block`s."""
    return LayerStack(Block(dim, n_heads, qkv_bias) for _ in range(n_layers))


class PatchConv(nn.Module):
    """A convolution that cuts its input into patches and projects each to `dim` features."""

    def __init__(self, channels: int, dim: int, kernel: tuple[int, int], **options: object) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, kernel, **options)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def initialise_vit(network: nn.Module) -> None:
    """Initialise tokens, positions and linear layers with N(0, 0.02), biases with 0; convolutions keep their own."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, parameter in network.named_parameters(recurse=False):
        if name.endswith(("_token", "_embed")):
            nn.init.normal_(parameter, std=0.02)
