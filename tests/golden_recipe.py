"""The recipe behind the golden numbers: deterministic weights and test waveforms.

A golden file holds what the published implementation returned for these waveforms with these weights. Each
entry of the state dict is drawn from a generator seeded by its own name, so the numbers can be made again
by any implementation that has the same names, and a renamed or reshaped entry shows at once.

These weights alone let the signal die out inside a MobileNet: silence gives the logits of any audio to 1e-5.
A test that compares outputs therefore uses `calibrated_model` or `golden_model`, whose batch norms have the
statistics of the test audio, and shows with `tests.equality` that other audio gives other outputs.
"""

from __future__ import annotations

import functools
import math
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
SAMPLE_RATE = 16_000
# Entries that stay as the model computes them: statistics and filters of front ends, rotary frequencies.
CONSTANTS = ("norm_stats", "to_spec", "mel_transform", "pos_encoding.freqs")
REAL_PARTS = ("wave", "mel", "embedding")  # of each recording, in the golden file of the real weights
Model = TypeVar("Model", bound=nn.Module)


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


def fill(model: Model, skip: Iterable[str] = ("norm_stats",)) -> Model:
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


def calibrated_model(model: Model) -> Model:
    """Fill a detector by the recipe and give its batch norms the statistics of test audio; in evaluation mode.

    The logits then depend on the audio as those of a trained detector do.
    """
    fill(model, CONSTANTS)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(model.mel_forward(wave(3, 32_000)))  # type: ignore[operator]
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


def build(name: str) -> Any:
    """The detector behind a golden file's name: BACKBONE or BACKBONE+SEQUENCE-DIM."""
    from models import create_model

    backbone, _, sequence = name.partition("+")
    seq_type, _, dim = sequence.partition("-")
    return create_model(backbone, seq_model_type=seq_type or None, seq_model_dim=int(dim or 256))


def published_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Published key -> our own; where two share one parameter, the later one of `names` counts."""
    key_map = getattr(model.seq_model, "key_map", ())
    return {key: functools.reduce(lambda own, rule: re.sub(*rule, own), key_map, key) for key in names}  # type: ignore[arg-type, call-overload]


def golden_model(name: str, shapes: dict[str, list[int]] | None = None) -> Any:
    """The detector of `tests/golden/calibrated`: filled by the recipe, with the published batch-norm statistics.

    `shapes` are the published keys and shapes where they differ from ours, as tcn's do.
    """
    model = build(name)
    state = model.state_dict()
    shapes = shapes or {key: list(value.shape) for key, value in state.items()}
    for key, own in published_names(model, shapes).items():
        if state[own].is_floating_point():
            state[own] = torch.from_numpy(np.asarray(fill_value(key, tuple(shapes[key])), np.float32))
    with np.load(GOLDEN / "calibrated" / f"{name}.npz") as golden:
        state |= {k.removeprefix("bn/"): torch.from_numpy(golden[k]) for k in golden.files if k.startswith("bn/")}
    model.load_state_dict(state)
    return model.eval()


@dataclass
class RealWeights:
    """The published clip-wise mn04 in fmn04, two real recordings, and what it gives for them."""

    model: Any
    waves: Tensor  # [2, N]
    mels: np.ndarray  # [2, 16, 50], sliced
    embeddings: np.ndarray  # [2, T, C]


def real_weights() -> RealWeights | None:
    """Real weights and recordings, which are not in the repository; None where they are missing.

    They are looked for in the folder EFFICIENTSED_WEIGHTS and beside it, or in `shared` beside the checkout.
    """
    from models import create_model

    named = os.environ.get("EFFICIENTSED_WEIGHTS")
    places = (
        [Path(named), *list(Path(named).absolute().parents)[:2]]
        if named
        else [parent / "shared" for parent in ROOT.parents]
    )
    files = {"mn04_as_mAP_432.pt": ("", "weights"), "real_mn04_weights_in_fmn04.npz": ("", "golden/calibrated")}
    found = [
        [path for place in places for folder in folders if (path := place / folder / name).is_file()]
        for name, folders in files.items()
    ]
    if not all(found):
        return None
    model = create_model("fmn04", checkpoint=found[0][0])
    with np.load(found[1][0]) as golden:
        parts = [np.stack([golden[f"{name}_{part}"] for name in ("metro", "typing")]) for part in REAL_PARTS]
    return RealWeights(model, torch.from_numpy(parts[0]), *parts[1:])


def reproducible_outputs(jobs: dict[str, dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """What `golden_outputs` gives for each job, computed in a process whose FFT is the same on every x86 CPU.

    MKL's FFT rounds differently with AVX2, AVX-512 and neither. In cells of little energy that is 5e-5 of the mel,
    and the networks make up to 100 times as much of it: more than the tolerance of the golden numbers.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs.items():
            torch.save(job, Path(folder) / f"{name}.job")
        command = [sys.executable, __file__, folder]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MKL_CBWR": "COMPATIBLE"}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return {name: dict(np.load(Path(folder) / f"{name}.npz")) for name in jobs}


@torch.no_grad()
def golden_outputs(job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Mel, embedding and logits of a job: `name` as `build` takes it, `state` to load, `waves` [B, N]."""
    model = build(job["name"])
    model.load_state_dict(job["state"])
    mel = model.mel_forward(job["waves"])
    strong, weak = model(mel)
    silent_strong, silent_weak = model(torch.zeros_like(mel))
    outputs = {
        "mel": mel,
        "embedding": model.embed(mel),
        "strong": strong,
        "weak": weak,
        "silent_embedding": model.embed(torch.zeros_like(mel)),
        "silent_strong": silent_strong,
        "silent_weak": silent_weak,
    }
    return {key: value.numpy() for key, value in outputs.items()}


if __name__ == "__main__":
    for path in Path(sys.argv[1]).glob("*.job"):
        np.savez(path.with_suffix(".npz"), **golden_outputs(torch.load(path, weights_only=True)))  # type: ignore[arg-type]
