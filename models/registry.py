"""What can be built: backbones and sequence models, each registered by one decorator.

A backbone maps audio to an embedding at (about) 25 frames per second, a sequence model maps that embedding
to features; `models.sed_model` puts heads on top. Released weights stand in the model cards
(`resources/model_cards/*.yaml`, see `models.cards`), keyed by the names registered here, so that listing and
loading cannot disagree.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from errors import UserError

SAMPLE_RATE = 16_000  # Hz, of every model's input
FRAME_RATE = 25.0  # frames per second of every model's output
CLIP_SECONDS = 10.0  # length of an AudioSet clip, which the models were trained on


class Backbone(nn.Module):
    """A network from waveforms to frame embeddings; the base class of all backbones.

    Subclasses set `embed_dim`, `n_depths` and `depth_patterns` and implement `mel_forward` and `forward`.
    """

    embed_dim: int  # C of the embedding
    n_depths: ClassVar[int]  # depth groups for layer-wise learning rates: 0 = stem ... n_depths - 1 = last
    # (regular expression on a parameter's name in the backbone, its depth or None for int(first group)); the first
    # that matches counts
    depth_patterns: ClassVar[tuple[tuple[str, int | None], ...]]
    # (regular expression, replacement) from the keys of released files to our own, see models.checkpoints
    key_map: ClassVar[tuple[tuple[str, str], ...]] = ()
    # whether mel_forward takes `fmin` and `fmax` in Hz, which the training draws per batch
    has_mel_range: ClassVar[bool] = False

    def mel_forward(self, waveform: Tensor) -> Tensor:
        """Spectrogram [B, 1, F, frames] of waveforms [B, N] (16 kHz, -1 ... 1), float32, without gradient."""
        raise NotImplementedError

    def forward(self, mel: Tensor) -> Tensor:
        """Embedding [B, T, embed_dim] of a spectrogram [B, 1, F, frames]."""
        raise NotImplementedError

    def embed(self, mel: Tensor) -> Tensor:
        """Embedding [B, T, embed_dim] at 25 frames per second of audio of any length; `forward` gives it by default."""
        return self(mel)


BackboneBuilder = Callable[[], Backbone]
SequenceBuilder = Callable[[int, int], nn.Module]
_Builder = TypeVar("_Builder", bound=Callable[..., nn.Module])

_backbones: dict[str, BackboneBuilder] = {}
_sequence_models: dict[str, SequenceBuilder] = {}


def _register(table: dict[str, Callable[..., nn.Module]], name: str) -> Callable[[_Builder], _Builder]:
    def decorator(builder: _Builder) -> _Builder:
        if name in table:
            raise ValueError(f"'{name}' is registered twice")
        table[name] = builder
        return builder

    return decorator


def register_backbone(name: str) -> Callable[[_Builder], _Builder]:
    """Decorator: make a function without required arguments, which returns a `Backbone`, known as `name`."""
    return _register(_backbones, name)  # type: ignore[arg-type]


def register_sequence_model(name: str) -> Callable[[_Builder], _Builder]:
    """Decorator: make `builder(in_dim, dim) -> nn.Module` known as `name`.

    The module maps [B, T, in_dim] to [B, T, out_dim] and tells `out_dim` and `causal`.
    """
    return _register(_sequence_models, name)  # type: ignore[arg-type]


def backbone_names() -> list[str]:
    """Names of all backbones in order of registration."""
    return list(_backbones)


def backbones_like(name: str, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Names of those backbones of a family (`fmn10`: all fmn) that have all these entries and no other weights."""
    family = [known for known in _backbones if known.rstrip("0123456789") == name.rstrip("0123456789")]
    with torch.device("meta"):  # shapes alone, without memory or random numbers
        states = {known: _backbones[known]().state_dict() for known in family}
    found = {n: {key: tuple(v.shape) for key, v in state.items()} for n, state in states.items()}
    fits = {n: of.items() >= shapes.items() and not any(map(_is_weight, of.keys() - shapes)) for n, of in found.items()}
    return [name for name, fit in fits.items() if fit]


def _is_weight(key: str) -> bool:
    return key.endswith((".weight", ".bias"))


def sequence_model_names() -> list[str]:
    """Names of all sequence models, sorted."""
    return sorted(_sequence_models)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for an unknown name: it offers the nearest known ones, or all."""
    known = list(known)
    by_lower = {k.lower(): k for k in known}
    near = [by_lower[m] for m in difflib.get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return UserError(f"unknown {kind} '{name}': {hint}")


def build_backbone(name: str) -> Backbone:
    """Build the backbone of that name at its initialisation; raises UserError with the nearest names."""
    if name not in _backbones:
        raise unknown_name("model", name, _backbones)
    return _backbones[name]()


def build_sequence_model(name: str | None, in_dim: int, dim: int) -> nn.Module:
    """Build a sequence model from `in_dim` features with `dim` features inside; None gives the identity."""
    if name is None:
        identity = nn.Identity()
        identity.out_dim, identity.causal = in_dim, True  # type: ignore[assignment]
        return identity
    if name not in _sequence_models:
        raise unknown_name("sequence model", name, sequence_model_names())
    return _sequence_models[name](in_dim, dim)


def resample_frames(embedding: Tensor, n_frames: int) -> Tensor:
    """Resample [B, T, C] to [B, n_frames, C] along time.

    Adaptive average pooling when there are more frames than wanted, linear interpolation between half-pixel
    centres when there are fewer (the wrapper around all published backbones).
    """
    length = embedding.shape[1]
    if length == n_frames:
        return embedding
    x = embedding.transpose(1, 2)
    if length > n_frames:
        x = torch.nn.functional.adaptive_avg_pool1d(x, n_frames)
    else:
        x = torch.nn.functional.interpolate(x, size=n_frames, mode="linear")
    return x.transpose(1, 2)
