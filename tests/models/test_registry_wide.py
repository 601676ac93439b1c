"""What every registered model must do, whatever its architecture; a new one is tested here by being registered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models import SEDModel, backbone_names, create_model, sequence_model_names
from tests.equality import assert_equal_outputs
from tests.golden_recipe import calibrated_model, wave
from tests.models.tiny_transformers import NAMES as TRANSFORMERS
from tests.models.tiny_transformers import make_tiny

SMALL = ("fmn01", "fmn02", "fmn04")
BACKBONES = [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in backbone_names()]
SEQUENCE_MODELS = [None, *sequence_model_names()]
SECONDS = (1, 7, 24, 61)
TOLERANCE = (5e-5, 1e-5)  # of frames and clip, in parts of the spread of the logits
SMALLEST_GRADIENT = 1e-5  # norm, for logits of about 1: rounding gives 1e-8
NO_INFLUENCE = "k_proj.bias"  # the softmax takes back what a bias of the keys adds to all scores of a query


def audio(batch_size: int, seconds: float) -> torch.Tensor:
    torch.manual_seed(0)
    return 0.1 * torch.randn(batch_size, int(16_000 * seconds))


def check_gradients(model: SEDModel) -> None:
    """A backward pass reaches every trainable parameter that has any influence, with more than rounding errors.

    In evaluation mode, since some transformers skip layers at random in training.
    """
    strong, weak = model.eval()(model.mel_forward(wave(2, 16_000)))
    assert strong.shape == (2, 447, 25) and weak.shape == (2, 447)
    (strong.square().mean() + weak.square().mean()).backward()
    is_unused = getattr(model.model, "is_unused", lambda name: False)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not (is_unused(name.removeprefix("model.")) or name.endswith(NO_INFLUENCE)):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.norm() > SMALLEST_GRADIENT, name


@torch.no_grad()
def check_evaluation(model: SEDModel) -> None:
    """Finite logits, the same ones each time, and the same ones for a clip alone as among others."""
    mel = model.mel_forward(wave(4, 16_000))

    def alone(mel: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*(model(clip[None]) for clip in mel), strict=True))

    assert_equal_outputs(model, model, mel, mel.roll(1, 0), 0)
    assert_equal_outputs(model, alone, mel, mel.roll(1, 0), TOLERANCE, relative=True)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name: str) -> None:
    model = calibrated_model(create_model(name))
    check_gradients(model)
    check_evaluation(model)


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_every_sequence_model(name: str | None) -> None:
    model = calibrated_model(create_model("fmn04", seq_model_type=name, seq_model_dim=64))
    check_gradients(model)
    check_evaluation(model)


def check_lengths(model: SEDModel) -> None:
    """25 frames per second for audio of odd lengths."""
    for seconds in SECONDS:
        with torch.no_grad():
            strong, weak = model(model.mel_forward(audio(1, seconds)))
        assert strong.shape == (1, 447, 25 * seconds) and weak.shape == (1, 447)
        assert strong.isfinite().all() and weak.isfinite().all()


@pytest.mark.parametrize("name", SEQUENCE_MODELS)
def test_lengths_with_every_sequence_model(name: str | None) -> None:
    check_lengths(create_model("fmn04", seq_model_type=name, seq_model_dim=64))


@pytest.mark.parametrize("name", backbone_names())
def test_lengths_with_every_backbone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(monkeypatch)
    large = name not in (*SMALL, *TRANSFORMERS)
    with torch.device("meta" if large else "cpu"):  # large ones differ from small ones in their widths alone
        model = create_model(name)
    if not large:
        check_lengths(model)
        return
    for seconds in SECONDS:
        assert model.model.fmn(torch.zeros(1, 1, 128, 100 * seconds, device="meta")).shape[2:] == (1, 25 * seconds)


@pytest.mark.parametrize("name", sequence_model_names())
def test_any_sequence_model_goes_on_any_backbone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny(monkeypatch)
    for backbone in ("fmn01", *TRANSFORMERS):
        model = create_model(backbone, seq_model_type=name, seq_model_dim=32)
        with torch.no_grad():
            strong, _ = model(model.mel_forward(audio(1, 1)))
        assert strong.shape == (1, 447, 25) and strong.isfinite().all()
