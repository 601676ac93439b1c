"""Files in the layouts of the released transformers load, with and without heads, and own files load again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from errors import UserError
from models import checkpoints, create_model
from models.sed_model import SEDModel
from tests.golden_recipe import filled_state
from tests.models.tiny_transformers import ABSENT, CONSTANTS, NAMES, RELEASED, State, make_tiny, released

HEADS = ("strong_head.", "weak_head.")


@pytest.fixture(autouse=True)
def _tiny_models(monkeypatch) -> None:
    make_tiny(monkeypatch)


def save(state: State, folder: Path) -> Path:
    path = folder / "weights.pt"
    torch.save(state, path)
    return path


def assert_loaded(model: SEDModel, state: State) -> None:
    """Every entry of `state` stands in the model; of entries that share one tensor, the last."""
    own = model.state_dict()
    aliases = [key for key in state if "relative_attention_bias" in key]
    for key, value in state.items():
        expected = state[aliases[-1]] if key in aliases else value
        assert torch.equal(own[key], expected), key


@pytest.mark.parametrize("name", NAMES)
def test_released_file(name: str, tmp_path: Path) -> None:
    own, file = released(name)
    model = create_model(name, checkpoint=save(file, tmp_path))
    assert_loaded(model, own)


@pytest.mark.parametrize("name", NAMES)
def test_file_without_heads(name: str, tmp_path: Path) -> None:
    """The self-supervised stage: heads stay fresh, and the report says so."""
    own, file = released(name)
    file = {key: value for key, value in file.items() if not key.startswith(HEADS)}
    model = create_model(name)
    fresh = model.strong_head.weight.clone()
    report = checkpoints.load_weights(model, save(file, tmp_path))
    assert_loaded(model, {key: value for key, value in own.items() if not key.startswith(HEADS)})
    assert torch.equal(model.strong_head.weight, fresh)
    assert {"strong_head.weight", "strong_head.bias", "weak_head.weight", "weak_head.bias"} <= set(report.initialised)


@pytest.mark.parametrize("name", NAMES)
def test_weak_file_and_eleven_classes(name: str, tmp_path: Path) -> None:
    """Heads are taken one by one, where their number of classes fits."""
    own, file = released(name, n_classes_weak=527)
    path = save(file, tmp_path)
    same = create_model(name, n_classes_weak=527, checkpoint=path)
    assert_loaded(same, own)
    model = create_model(name, n_classes_strong=11)
    report = checkpoints.load_weights(model, path)
    assert_loaded(model, {key: value for key, value in own.items() if not key.startswith(HEADS)})
    assert "447 classes in the file, 11 in the model" in str(report)
    assert "527 classes in the file, 11 in the model" in str(report)


@pytest.mark.parametrize("name", NAMES)
def test_sequence_model_on_top(name: str, tmp_path: Path) -> None:
    """On a file without one, sequence model and heads start fresh; its own file brings both."""
    own, file = released(name)
    model = create_model(name, seq_model_type="gru", seq_model_dim=8, checkpoint=save(file, tmp_path))
    assert_loaded(model, {key: value for key, value in own.items() if not key.startswith(HEADS)})
    own = filled_state(model.state_dict(), CONSTANTS)
    pattern, replacement = RELEASED[name]
    file = {re.sub(pattern, replacement, key): value for key, value in own.items() if ABSENT not in key}
    again = create_model(name, seq_model_type="gru", seq_model_dim=8, checkpoint=save(file, tmp_path))
    assert_loaded(again, own)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["", "model.", "net."])
def test_own_file(name: str, prefix: str, tmp_path: Path) -> None:
    """A state dict with our own keys, bare or as a training saves it, brings its front end along."""
    own = filled_state(create_model(name).state_dict(), ("norm_stats",))
    model = create_model(name, checkpoint=save({prefix + key: value for key, value in own.items()}, tmp_path))
    assert_loaded(model, own)


@pytest.mark.parametrize("name", NAMES)
def test_missing_and_unexpected_entries_are_named(name: str, tmp_path: Path) -> None:
    _, file = released(name)
    key = next(key for key in file if key.endswith("1.fc1.weight") or key.endswith("1.mlp.fc1.weight"))
    without = {k: v for k, v in file.items() if k != key}
    with pytest.raises(UserError, match=r"missing: model\..*1\.(mlp\.)?fc1\.weight"):
        create_model(name, checkpoint=save(without, tmp_path))
    with pytest.raises(UserError, match=r"unexpected: .*surprise"):
        create_model(name, checkpoint=save({**file, "model.surprise": torch.zeros(1)}, tmp_path))


@pytest.mark.parametrize("prefix", ["model.model.", "model.beats."])
def test_older_spelling_of_weight_norm(prefix: str, tmp_path: Path) -> None:
    own, file = released("BEATs")
    conv = "encoder.pos_conv.0."
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        file[f"{prefix}{conv}{old}"] = file.pop(f"model.model.{conv}parametrizations.weight.{new}")
    model = create_model("BEATs", checkpoint=save(file, tmp_path))
    assert_loaded(model, own)
    weight = model.model.beats.encoder.pos_conv[0].weight
    g = own[f"model.beats.{conv}parametrizations.weight.original0"]
    v = own[f"model.beats.{conv}parametrizations.weight.original1"]
    torch.testing.assert_close(weight, g * v / v.square().sum((0, 1), keepdim=True).sqrt())


def test_m2d_writes_what_the_published_code_demands() -> None:
    """The constants of its front end are part of a saved file."""
    keys = create_model("M2D").state_dict()
    shapes = {"mel_basis": (80, 201), "stft.wsin": (201, 1, 400), "stft.wcos": (201, 1, 400)}
    shapes["stft.window_mask"] = (1, 400, 1)
    for key, shape in shapes.items():
        assert keys[f"model.m2d.to_spec.{key}"].shape == shape
