"""Equality of the five audio transformers with the published ones, at full size: one model in memory at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models import create_model
from models.registry import resample_frames
from models.sed_model import SEDModel
from models.transformers.beats_blocks import relative_bias
from tests.equality import assert_different_outputs
from tests.golden_recipe import fill, fill_value, wave

GOLDEN = Path(__file__).parents[1] / "golden"
NUMBERS = json.loads((GOLDEN / "transformers.json").read_text())
CONSTANTS = ("norm_stats", "to_spec", "mel_transform")  # entries that the recipe leaves at their true values
BOOSTED = ("pos_embed", "cls_token", "dist_token")  # set to half their normal draw, so that the outputs depend on them

pytestmark = pytest.mark.slow


@dataclass
class Run:
    """A filled model and what it gives for 10 s."""

    name: str
    model: SEDModel
    mel: Tensor
    stages: dict[str, Tensor]
    embedding: Tensor
    strong: Tensor
    weak: Tensor

    @property
    def numbers(self) -> dict:
        return NUMBERS[self.name]


def heads(model: SEDModel, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """What the published wrapper makes of an embedding: 250 frames whatever the length, then the heads."""
    frames = resample_frames(embedding, 250)
    return model.strong_head(frames), model.weak_head(frames)


def network(model: SEDModel, name: str):
    """The part with `tokens`, and its layers."""
    backbone = model.model
    if name == "BEATs":
        return backbone.beats, backbone.beats.encoder.layers
    part = {
        "ATST-F": lambda: backbone.atst,
        "fpasst": lambda: backbone.fpasst,
        "M2D": lambda: backbone.m2d.backbone,
        "ASIT": lambda: backbone.asit,
    }[name]()
    return part, part.blocks


@torch.no_grad()
def stages_of(model: SEDModel, name: str, mel: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Intermediate values under the names of the golden files; `outputs` are those of layers 0 and 5."""
    part, _ = network(model, name)
    stages = dict(outputs)
    if name == "BEATs":
        stages["patch"] = part.patch_embedding(mel.transpose(2, 3)).flatten(2).transpose(1, 2)
        stages["proj"] = part.tokens(mel)
        stages["x0"] = part.encoder.positioned(stages["proj"])
        stages["bias"] = relative_bias(part.encoder.bias_table, stages["proj"].shape[1])
        return stages
    stages["x0"] = part.tokens(mel)
    if name == "ATST-F":
        stages["patch"] = part.patch_embed(mel)
    elif name == "fpasst":
        stages["stem"] = part.stem(mel)
    elif name == "ASIT":
        stages["positions"], stages["positions_1s"] = part.positions(998), part.positions(98)
    return stages


@torch.no_grad()
def run_10s(model: SEDModel, name: str) -> Run:
    _, layers = network(model, name)
    outputs: dict[str, Tensor] = {}
    hooks = [
        layers[i].register_forward_hook(lambda _m, _a, out, key=key: outputs.__setitem__(key, out))
        for i, key in ((0, "x1"), (5, "x6"))
    ]
    mel = model.mel_forward(wave(1))
    embedding = model.model(mel)
    for hook in hooks:
        hook.remove()
    strong, weak = heads(model, embedding)
    return Run(name, model, mel, stages_of(model, name, mel, outputs), embedding, strong, weak)


@pytest.fixture(scope="module", params=list(NUMBERS))
def golden(request) -> Run:
    model = create_model(request.param)
    return run_10s(fill(model, skip=CONSTANTS), request.param)


def check(tensor: Tensor, expected: dict, tolerance: float = 1e-4) -> None:
    """Compare a tensor with its published shape, mean, standard deviation and single values."""
    if "shape" in expected:
        assert list(tensor.shape) == expected["shape"]
    values = tensor.detach().double()
    for key, value in (("mean", values.mean()), ("std", values.std(correction=0))):
        if key in expected:
            assert float(value) == pytest.approx(expected[key], abs=tolerance)
    for index, value in expected["points"]:
        full = (0,) * (values.ndim - len(index)) + tuple(index)
        assert float(values[full]) == pytest.approx(value, abs=tolerance), index


def check_arrays(run: Run, suffix: str, mel_tolerance: float = 1e-4) -> None:
    """Compare all arrays of a golden file with a run."""
    arrays = np.load(GOLDEN / f"{run.name}.npz")
    sliced = {
        "mel": run.mel[0, 0, ::4, ::20],
        "embedding": run.embedding[0, ::8, ::8],
        "strong": run.strong[0, ::8, ::5],
        "weak": run.weak[0],
    }
    sliced |= {f"stage_{key}": value[0, ::8, ::8] for key, value in run.stages.items() if value.ndim == 3}
    expected = {k.removesuffix(suffix): v for k, v in arrays.items() if k.endswith("_realfront") == bool(suffix)}
    for key, values in expected.items():
        tolerance = mel_tolerance if key == "mel" else 1e-4
        np.testing.assert_allclose(sliced[key].detach(), values, atol=tolerance, rtol=0, err_msg=key)


def test_state_dict_and_parameter_counts(golden: Run) -> None:
    model, numbers = golden.model, golden.numbers
    assert len(model.state_dict()) == numbers["entries"]
    assert len(list(model.parameters())) == numbers["parameter_tensors"]
    assert sum(p.numel() for p in model.parameters()) == numbers["parameters"]
    assert sum(p.numel() for p in model.model.parameters()) == numbers["backbone_parameters"]


def test_arrays(golden: Run) -> None:
    check_arrays(golden, "_realfront" if golden.name == "ATST-F" else "")


def test_single_values(golden: Run) -> None:
    # 2e-5 tells ATST-F's epsilon of 1e-6 in the norms from 1e-5, which moves its outputs by 5e-5
    check(golden.mel, golden.numbers["mel"])
    check(golden.embedding, golden.numbers["embedding"], 2e-5)
    check(golden.strong, golden.numbers["strong"], 2e-5)
    check(golden.weak, golden.numbers["weak"], 2e-5)


@torch.no_grad()
def test_other_audio_gives_other_outputs(golden: Run) -> None:
    """By 1,000 times the tolerance of the comparisons above: they would not pass for another clip or silence."""
    model, ours = golden.model, (golden.embedding, golden.strong, golden.weak)
    for mel in (model.mel_forward(wave(2)[1:]), torch.zeros_like(golden.mel)):
        embedding = model.model(mel)
        assert_different_outputs(ours, (embedding, *heads(model, embedding)), 1e-4)


def test_stages(golden: Run) -> None:
    for key, expected in golden.numbers["stages"].items():
        check(golden.stages[key], expected)


def test_detector_gives_the_published_logits_for_10s(golden: Run) -> None:
    """The windows for other lengths leave clips of exactly 10 s as they were published."""
    with torch.no_grad():
        frames = golden.model.model.embed(golden.mel)
    torch.testing.assert_close(frames, resample_frames(golden.embedding, 250), atol=1e-5, rtol=0)


def test_other_lengths(golden: Run) -> None:
    model = golden.model
    for n_samples, expected in golden.numbers["lengths"].items():
        with torch.no_grad():
            mel = model.mel_forward(wave(1, int(n_samples)))
            embedding = model.model(mel)
            strong, weak = heads(model, embedding)
        assert embedding.shape[1] == expected["tokens"]
        if "mel" in expected:
            check(mel, {"mean": expected["mel"][0], "std": expected["mel"][1], "points": []})
        check(embedding, {"mean": expected["embedding"][0], "std": expected["embedding"][1], "points": []})
        mean, std = expected["strong"]
        check(strong, {"mean": mean, "std": std, "points": expected["strong_points"]})
        check(weak, {"points": expected.get("weak_points", [])})


@pytest.mark.parametrize("golden", [n for n in NUMBERS if "boosted" in NUMBERS[n]], indirect=True, scope="module")
def test_boosted_positions(golden: Run) -> None:
    """Large tokens and positions, on which the outputs depend much more than on the recipe's small ones."""
    model = golden.model
    own = model.state_dict()
    keys = [key for key in own if any(part in key for part in BOOSTED)]
    saved = {key: own[key].clone() for key in keys}
    for key in keys:
        shape = tuple(own[key].shape)
        fan = np.float32(1 / np.sqrt(np.prod(shape[1:])))
        own[key].copy_(torch.from_numpy(fill_value(key, shape) / fan * np.float32(0.5)))
    with torch.no_grad():
        embedding = model.model(golden.mel)
        strong, _ = heads(model, embedding)
    for key in keys:
        own[key].copy_(saved[key])
    check(embedding, golden.numbers["boosted"]["embedding"])
    check(strong, golden.numbers["boosted"]["strong"])


@pytest.mark.parametrize("golden", ["ATST-F"], indirect=True, scope="module")
def test_atst_with_front_end_from_the_file(golden: Run) -> None:
    """Window and filters that a file holds replace the computed ones: here they are noise."""
    own = golden.model.state_dict()
    keys = [key for key in own if "mel_transform" in key]
    saved = {key: own[key].clone() for key in keys}
    for key in keys:
        own[key].copy_(torch.from_numpy(fill_value(key, tuple(own[key].shape))))
    literal = run_10s(golden.model, golden.name)
    for key in keys:
        own[key].copy_(saved[key])
    # filters of both signs nearly cancel energies, so the logarithm magnifies rounding
    check_arrays(literal, "", mel_tolerance=1e-3)
