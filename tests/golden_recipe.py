"""The recipe behind the golden numbers: deterministic weights and test waveforms.

A golden file holds what the published implementation returned for these waveforms with these weights. Each
entry of the state dict is drawn from a generator seeded by its own name, so the numbers can be made again
by any implementation that has the same names, and a renamed or reshaped entry shows at once.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

SAMPLE_RATE = 16_000


def fill_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values of the state-dict entry `key`, float32."""
    z = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if key.endswith("running_var"):
        return 0.5 + np.abs(z)
    if len(shape) <= 1:
        is_scale = key.endswith(("weight", "gamma")) and "bias" not in key
        return np.float32(0.1) * z + np.float32(is_scale)
    return z * np.float32(1.0 / math.sqrt(np.prod(shape[1:])))


def filled_state(state: dict[str, Tensor], skip: Iterable[str] = ("norm_stats",)) -> dict[str, Tensor]:
    """A copy of a state dict with every floating-point entry replaced by its recipe values.

    Entries with one of `skip` in their name are kept.
    """
    return {
        key: value.clone()
        if not value.is_floating_point() or any(part in key for part in skip)
        else torch.from_numpy(np.asarray(fill_value(key, tuple(value.shape)), np.float32))
        for key, value in state.items()
    }


def fill(model: nn.Module, skip: Iterable[str] = ("norm_stats",)) -> nn.Module:
    """Fill a model's weights by the recipe, in place, and put it in evaluation mode."""
    model.load_state_dict(filled_state(model.state_dict(), skip))
    return model.eval()


def wave(batch: int = 2, n_samples: int = 160_000) -> Tensor:
    """Test waveforms [batch, n_samples]: noise, a slow chirp and a 3 kHz tone in the first 0.3 s of each second."""
    t = np.arange(n_samples) / SAMPLE_RATE
    rows = [
        0.1 * np.random.RandomState(1234 + i).standard_normal(n_samples)
        + 0.3 * np.sin(2 * np.pi * (200 + 150 * i) * t * (1 + 0.1 * t))
        + 0.2 * np.sin(2 * np.pi * 3000 * t) * (t % 1 < 0.3)
        for i in range(batch)
    ]
    return torch.from_numpy(np.stack(rows).astype(np.float32))
