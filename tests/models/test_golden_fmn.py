"""Equality with the published frame-wise MobileNets: golden numbers, key names, parameter counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from models import create_model
from tests.golden_recipe import fill, wave

GOLDEN = Path(__file__).parents[1] / "golden"
MODELS = sorted(path.name.removesuffix(".keys.json") for path in GOLDEN.glob("fmn*.keys.json"))
# tcn stores each convolution under two names in the published module; tests/models/test_sequence_tcn.py maps them
OTHER_NAMES = {"fmn10+tcn-128"}


def build(name: str):
    backbone, _, sequence = name.partition("+")
    seq_type, _, dim = sequence.partition("-")
    return create_model(backbone, seq_model_type=seq_type or None, seq_model_dim=int(dim or 256))


@pytest.mark.parametrize("name", [m for m in MODELS if m not in OTHER_NAMES])
def test_keys_and_outputs(name: str) -> None:
    model = build(name)
    expected = json.loads((GOLDEN / f"{name}.keys.json").read_text())
    assert {k: list(v.shape) for k, v in model.state_dict().items()} == expected

    golden = np.load(GOLDEN / f"{name}.npz")
    fill(model)
    with torch.no_grad():
        mel = model.mel_forward(wave())
        embedding = model.model(mel)
        strong, weak = model(mel)
    np.testing.assert_allclose(embedding[:, ::8, ::8], golden["embedding"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(strong[:, ::8, ::5], golden["strong"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(weak, golden["weak"], atol=1e-4, rtol=0)
    np.testing.assert_allclose([strong.mean(), strong.std()], golden["strong_mean_std"], atol=1e-4, rtol=0)


def test_mel() -> None:
    golden = np.load(GOLDEN / "mel_fmn.npz")["mel"]
    mel = create_model("fmn04").mel_forward(wave())
    assert mel.shape == (2, 1, 128, 1000)
    np.testing.assert_allclose(mel[:, :, ::2, ::5], golden, atol=2e-4, rtol=0)


PARAMETERS = {  # published: with 447-class strong and weak heads
    "fmn04": 860_318,
    "fmn06": 1_615_022,
    "fmn10": 3_830_798,
    "fmn20": 13_359_254,
    "fmn30": 28_574_734,
    "fmn10+tf-128": 3_607_214,
    "fmn10+tf-256": 5_028_286,
    "fmn10+tf-512": 10_229_726,
    "fmn10+tf-1024": 30_069_790,
    "fmn10+gru-128": 4_334_990,
    "fmn10+gru-256": 6_483_854,
    "fmn10+gru-512": 13_140_878,
    "fmn10+gru-1024": 35_892_110,
    "fmn10+attn-128": 3_343_406,
    "fmn10+attn-256": 3_976_382,
    "fmn10+attn-512": 6_028_766,
    "fmn10+attn-1024": 13_279_262,
    "fmn04+tf-104": 912_048,
    "fmn04+gru-104": 1_204_670,
    "fmn06+tf-160": 1_954_834,
    "fmn06+gru-160": 2_557_358,
    "fmn20+tf-512": 19_391_462,
    "fmn20+gru-512": 24_760_214,
    "fmn30+tf-768": 43_078_910,
    "fmn30+gru-768": 54_818_446,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(("n_samples", "frames"), [(16_000, 25), (48_000, 75), (100_000, 157), (320_000, 500)])
def test_frames_follow_the_audio(n_samples: int, frames: int) -> None:
    model = create_model("fmn04")
    with torch.no_grad():
        strong, _ = model(model.mel_forward(torch.zeros(1, n_samples)))
    assert strong.shape == (1, 447, frames)
