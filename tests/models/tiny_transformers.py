"""Small variants of the five transformers: same structure, two narrow layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from models import registry
from models.transformers.asit import asit
from models.transformers.atst_frame import atst_frame
from models.transformers.beats import beats
from models.transformers.fpasst import fpasst
from models.transformers.m2d import m2d
from models.transformers.vit_blocks import TransformerBackbone

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
