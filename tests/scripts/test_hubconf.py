"""Every registered model and every released checkpoint through torch.hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hubconf
import models.sed_model
from models import SEDModel, backbone_names, cards, create_model
from tests.equality import assert_equal_outputs
from tests.golden_recipe import calibrated_model, wave

REPOSITORY = str(Path(__file__).resolve().parents[2])


def test_entry_points_are_all_models_and_nothing_else() -> None:
    listed = {name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")}
    assert listed == {*backbone_names(), *cards()}  # torch.hub.list has the same rule
    assert "EUSIPCO" in getattr(hubconf, "fmn10+tf-256_strong").__doc__


def test_loads_a_backbone_with_a_sequence_model() -> None:
    model = torch.hub.load(REPOSITORY, "fmn04", source="local", seq_model_type="gru", seq_model_dim=32)
    assert isinstance(model, SEDModel) and not model.training
    assert (model.model_name, model.seq_model_type, model.seq_model_dim) == ("fmn04", "gru", 32)


@pytest.mark.parametrize("name", ["fmn04_weak", "fmn04+tf-104_strong"])
def test_loads_released_weights(name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = cards()[name]
    released = create_model(
        card.backbone,
        seq_model_type=card.seq_model_type,
        seq_model_dim=card.seq_model_dim or 256,
        n_classes_weak=card.weak_classes,
    )
    state = {f"net.{key}": value for key, value in calibrated_model(released).state_dict().items()}
    torch.save(state, tmp_path / "released.pt")
    monkeypatch.setattr(models.sed_model.checkpoints, "fetch", lambda _: tmp_path / "released.pt")
    loaded = torch.hub.load(REPOSITORY, name, source="local")
    mel = released.mel_forward(wave(2, 32_000))
    assert_equal_outputs(loaded, released, mel, mel.flip(0), 0)
    assert loaded.weak_head.out_features == card.weak_classes
