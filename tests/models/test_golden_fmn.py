"""Equality with the published frame-wise MobileNets: golden numbers, key names, parameter counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from models import create_model
from tests.equality import assert_close_outputs, assert_different_outputs
from tests.golden_recipe import GOLDEN, build, golden_model, published_names, real_weights, reproducible_outputs, wave

PUBLISHED = sorted(path.name.removesuffix(".keys.json") for path in GOLDEN.glob("fmn*.keys.json"))
CALIBRATED = sorted(path.stem for path in (GOLDEN / "calibrated").glob("*.npz"))
# Largest difference, in parts of the spread (largest minus smallest) of what is compared. Without MKL, the rounding of
# the FFT in quiet cells shows, which the networks magnify (tests/golden_recipe.py).
TOLERANCE = 1e-4 if torch.backends.mkl.is_available() else 6e-4


def shapes_of(name: str) -> dict[str, list[int]]:
    return json.loads((GOLDEN / f"{name}.keys.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        model = build(name)
    own = {key: list(value.shape) for key, value in model.state_dict().items()}
    shapes = shapes_of(name)
    names = published_names(model, shapes)  # tcn stores each convolution under two names in the published module
    assert {names[key]: shape for key, shape in shapes.items()} == own
    assert all(key == own_name for key, own_name in names.items()) or "tcn" in name


REAL = real_weights()


@pytest.fixture(scope="module")
def outputs(request: pytest.FixtureRequest) -> dict[str, dict[str, np.ndarray]]:
    """Outputs of the calibrated models whose tests were chosen, and of the real weights where they are."""
    chosen = " ".join(item.name for item in request.session.items if item.path == request.path)
    models = {name: golden_model(name, shapes_of(name)) for name in CALIBRATED if f"[{name}]" in chosen}
    jobs = {name: {"name": name, "state": model.state_dict(), "waves": wave()} for name, model in models.items()}
    if REAL:
        jobs["real"] = {"name": "fmn04", "state": REAL.model.state_dict(), "waves": REAL.waves}
    return reproducible_outputs(jobs)


@pytest.mark.parametrize("name", CALIBRATED)
def test_outputs(name: str, outputs: dict[str, dict[str, np.ndarray]]) -> None:
    """The logits are the published ones; those of the two waveforms, and of a zero mel, are far apart."""
    golden, ours = np.load(GOLDEN / "calibrated" / f"{name}.npz"), outputs[name]
    assert_close_outputs(ours["mel"][:, :, ::8, ::20], golden["mel"], 5e-5)
    steps = {"strong": np.s_[:, ::8, ::5], "weak": np.s_[:]}
    for key, step in steps.items():
        tolerance = TOLERANCE * np.ptp(golden[key])
        assert_close_outputs(ours[key][step], golden[key], tolerance)
        if TOLERANCE == 1e-4:
            assert_different_outputs(ours[key][0], ours[key][1], tolerance)
            assert_different_outputs(ours[f"silent_{key}"][step], golden[key], tolerance)


@pytest.mark.skipif(REAL is None, reason="real weights and recordings are not here (EFFICIENTSED_WEIGHTS=FOLDER)")
def test_real_weights(outputs: dict[str, dict[str, np.ndarray]]) -> None:
    """The published weights of mn04 give the published embedding of two recordings."""
    assert REAL
    ours, expected = outputs["real"], REAL.embeddings
    tolerance = TOLERANCE * np.std(expected)  # channels have offsets of their own, so the spread says little
    assert_close_outputs(ours["embedding"], expected, tolerance)
    assert_close_outputs(ours["mel"][:, 0, ::8, ::20], REAL.mels, 2e-4)
    assert_different_outputs(ours["embedding"][0], ours["embedding"][1], tolerance)
    assert_different_outputs(ours["silent_embedding"], ours["embedding"], tolerance)


def test_mel() -> None:
    golden = np.load(GOLDEN / "mel_fmn.npz")["mel"]
    mel = create_model("fmn04").mel_forward(wave())
    assert mel.shape == (2, 1, 128, 1000)
    assert_close_outputs(mel[:, :, ::2, ::5], golden, 2e-4)
    assert_different_outputs(mel[0], mel[1], 2e-4)


def test_mel_of_silence_is_the_floor() -> None:
    mel = create_model("fmn04").mel_forward(torch.zeros(1, 16_000))
    assert_close_outputs(mel, torch.full((1, 1, 128, 100), (np.log(1e-7) + 4.5) / 5), 1e-6)


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
