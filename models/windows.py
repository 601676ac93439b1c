"""Embeddings at 25 frames per second for audio of any length, from networks that take at most 10 s."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from models.registry import resample_frames

if TYPE_CHECKING:
    from models.transformers.vit_blocks import TransformerBackbone

MEL_PER_FRAME = 4  # mel frames (100 per second) in one output frame (25 per second)
OVERLAP_FRAMES = 50  # at 25 per second: neighbouring windows share at least 2 s
WINDOWS_PER_PASS = 16  # windows of all clips together that go through the network at once


def windowed_embedding(
    backbone: TransformerBackbone,
    mel: Tensor,
    window_frames: int,
    overlap_frames: int = OVERLAP_FRAMES,
    windows_per_pass: int = WINDOWS_PER_PASS,
) -> Tensor:
    """Embedding [B, T, C] of a mel [B, 1, F, frames], at 25 frames per second of the audio behind it.

    Up to `window_frames` the network sees everything at once; exactly so many give what the published wrapper
    gives for 10 s. Longer mels are cut into windows of that length, evenly spread, and the embeddings of
    overlapping windows are cross-faded. No clip of the batch influences another.

    Args:
        backbone: the network, with `target_frames`, `patch_frames` and `pad_value`.
        mel: what `backbone.mel_forward` gave.
        window_frames: mel frames per window.
        overlap_frames: least overlap of neighbouring windows, in frames at 25 per second.
        windows_per_pass: bounds the memory; the result does not depend on it.
    """
    n_frames = mel.shape[-1]
    n_target = backbone.target_frames(n_frames)
    n_window = backbone.target_frames(window_frames)
    starts = window_starts(n_frames, window_frames, n_window, overlap_frames)
    if len(starts) == 1:
        embedding = _short_embedding(backbone, mel[..., :window_frames], min(n_target, n_window), window_frames)
        return _fitted(embedding, n_target)
    # rows of the big batch: all clips' first windows, then all clips' second windows, ...
    windows = torch.cat([mel[..., start : start + window_frames] for start in starts])
    parts = [resample_frames(backbone(part), n_window) for part in windows.split(windows_per_pass)]
    embeddings = torch.cat(parts).unflatten(0, (len(starts), -1))  # [windows, B, n_window, C]
    return _fitted(_cross_fade(embeddings, [start // MEL_PER_FRAME for start in starts], overlap_frames), n_target)


def window_starts(n_frames: int, window_frames: int, n_window: int, overlap_frames: int) -> list[int]:
    """First mel frame of each window: multiples of four (one output frame), evenly spread from end to end.

    Up to three mel frames at the end (30 ms) may stay outside.
    """
    last = max(0, n_frames - window_frames) // MEL_PER_FRAME  # in output frames
    n_hops = math.ceil(last / (n_window - overlap_frames))
    return [round(i * last / max(1, n_hops)) * MEL_PER_FRAME for i in range(n_hops + 1)]


def _short_embedding(backbone: TransformerBackbone, mel: Tensor, n_target: int, window_frames: int) -> Tensor:
    """Embedding of a mel that fits into one window, in step with the audio: a last, begun patch is completed."""
    patch, n_frames = backbone.patch_frames, mel.shape[-1]
    n_patches = min(math.ceil(n_frames / patch), math.ceil(n_target * MEL_PER_FRAME / patch))
    padded = min(max(n_frames, n_patches * patch), window_frames)
    embedding = backbone(F.pad(mel, (0, padded - n_frames), value=backbone.pad_value))
    n_covered = padded // patch * patch // MEL_PER_FRAME  # output frames that the patches span
    # a full window lacks part of a patch; its embedding is stretched over all of it, as published
    return resample_frames(embedding, max(n_covered, n_target) if padded == window_frames else n_covered)


def _cross_fade(embeddings: Tensor, starts: list[int], overlap_frames: int) -> Tensor:
    """Weighted mean [B, T, C] of windows [windows, B, n_window, C] that begin at the frames `starts`.

    A window's weight rises from its edge over the length of the overlap, so that a frame counts most where the
    network has seen audio on both sides of it.
    """
    _, B, n_window, C = embeddings.shape
    ramp = torch.arange(n_window, device=embeddings.device) + 0.5
    weight = torch.minimum(ramp, ramp.flip(0)).div(max(1, overlap_frames)).clamp_max(1.0).unsqueeze(1)
    n_frames = starts[-1] + n_window
    total = torch.zeros(B, n_frames, C, device=embeddings.device)
    norm = torch.zeros(n_frames, 1, device=embeddings.device)
    for embedding, start in zip(embeddings, starts, strict=True):
        total[:, start : start + n_window] += embedding * weight
        norm[start : start + n_window] += weight
    return (total / norm).to(embeddings.dtype)


def _fitted(embedding: Tensor, n_target: int) -> Tensor:
    """The first `n_target` frames of [B, T, C]; a last one that is only just begun repeats its neighbour."""
    missing = n_target - embedding.shape[1]
    if missing <= 0:
        return embedding[:, :n_target]
    return torch.cat([embedding, embedding[:, -1:].expand(-1, missing, -1)], 1)
