"""Small variants of the five transformers: same structure, two narrow layers; and files of theirs as released ones."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models import cards, checkpoints, create_model, registry
from models.transformers.asit import asit
from models.transformers.atst_frame import atst_frame
from models.transformers.beats import beats
from models.transformers.fpasst import fpasst
from models.transformers.m2d import m2d
from models.transformers.vit_blocks import TransformerBackbone
from tests.golden_recipe import filled_state

State = dict[str, Tensor]
DIM = 64
BUILDERS: dict[str, Callable[..., TransformerBackbone]] = {
    "BEATs": beats,
    "ATST-F": atst_frame,
    "fpasst": fpasst,
    "M2D": m2d,
    "ASIT": asit,
}
NAMES = list(BUILDERS)


def tiny(name: str) -> Any:
    """A backbone with two layers of 64 features, in evaluation mode."""
    return BUILDERS[name](depth=2, dim=DIM, n_heads=4).eval()


def make_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `create_model` build the small variants under the names of the large ones."""
    for name in NAMES:
        monkeypatch.setitem(registry._backbones, name, lambda name=name: tiny(name))


# our name of a key -> the one in the released file; entries of front ends that released files lack
RELEASED = {
    "BEATs": (r"^model\.beats\.", "model.model."),
    "ATST-F": (r"^$", ""),
    "fpasst": (r"^model\.fpasst\.", "model."),
    "M2D": (r"^model\.m2d\.", "model."),
    "ASIT": (r"^model\.asit\.", "model."),
}
ABSENT = "atst_mel.mel_transform"
CONSTANTS = ("norm_stats", "to_spec", "mel_transform")


def released(name: str, **options: int) -> tuple[State, State]:
    """Weights of a detector by the fill recipe: under our names, and as a released file has them."""
    own = filled_state(create_model(name, **options).state_dict(), CONSTANTS)  # type: ignore[arg-type]
    pattern, replacement = RELEASED[name]
    file = {re.sub(pattern, replacement, key): value for key, value in own.items() if ABSENT not in key}
    assert not any(re.match(pattern, key) for key in file)
    return own, file


def serve_released(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """Let `--pretrained=strong` find small released files of some models, in `folder` in place of `resources/`."""
    make_tiny(monkeypatch)
    monkeypatch.setattr(checkpoints, "fetch", functools.partial(checkpoints.fetch, folder=folder))
    for name in names:
        torch.save(released(name)[1], folder / cards()[f"{name}_strong_1"].file_name)
