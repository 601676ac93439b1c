"""The optimised detector: same logits, other weights layout, original untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import create_model
from models.optimize import PASS_BYTES, FastSEDModel, fold_batch_norm, optimize_for_inference
from tests.equality import assert_equal_outputs
from tests.golden_recipe import CONSTANTS, calibrated_model, fill, real_weights, wave

TYPES = (None, "attn", "gru", "hybrid", "mamba", "tcn", "tf")
# Of frames and clip, in parts of the spread of the logits: these random networks magnify rounding about 100-fold.
TOLERANCE = (3e-4, 5e-5)
REAL = real_weights()


def filled_model(seq_model_type: str | None = "tf", model_name: str = "fmn04"):
    return calibrated_model(create_model(model_name, seq_model_type=seq_model_type, seq_model_dim=104))


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    """Of three clips of 10 s; the same clips in another order are another input."""
    return create_model("fmn04").mel_forward(wave(3))


@pytest.mark.parametrize("seq_model_type", TYPES)
def test_equal(seq_model_type: str | None, mel: torch.Tensor) -> None:
    model = filled_model(seq_model_type)
    fast = optimize_for_inference(model)
    assert_equal_outputs(fast, model, mel, mel.roll(1, 0), TOLERANCE, relative=True)


def rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


@pytest.mark.parametrize("seq_model_type", TYPES)
def test_bfloat16_is_near(seq_model_type: str | None, mel: torch.Tensor) -> None:
    model = filled_model(seq_model_type)
    fast = optimize_for_inference(model, bfloat16=True)
    with torch.no_grad():
        ours, expected = fast(mel)[0], model(mel)[0]
    assert ours.dtype == torch.float32
    others = expected.roll(1, 0)  # what other clips give
    assert rms(ours - expected) < 0.5 * rms(others - expected)


@pytest.mark.skipif(REAL is None, reason="real weights and recordings are not here (EFFICIENTSED_WEIGHTS=FOLDER)")
def test_bfloat16_is_near_with_real_weights() -> None:
    """A trained network loses little: random ones, as above, magnify each rounding."""
    assert REAL
    model = REAL.model
    mel = model.mel_forward(REAL.waves)
    fast = optimize_for_inference(model, bfloat16=True)
    with torch.no_grad():
        ours, expected = fast.embed(mel), model.embed(mel)
    assert rms(ours - expected) < 0.02 * float(expected.std())
    assert rms(ours - expected) < 0.25 * rms(expected.flip(0) - expected)


def test_original_stays_as_it_was(mel: torch.Tensor) -> None:
    model = filled_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = optimize_for_inference(model, bfloat16=True)
    fast(mel[:1])
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.requires_grad for name, p in model.named_parameters() if "freqs" not in name)


def test_no_batch_norm_is_left_and_no_gradient_is_kept(mel: torch.Tensor) -> None:
    fast = optimize_for_inference(filled_model())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert not any(output.requires_grad for output in fast(mel[:1]))


def test_batch_norm_is_folded_only_behind_a_convolution() -> None:
    torch.manual_seed(0)
    conv, norms = nn.Conv2d(3, 4, 3), [nn.BatchNorm2d(4), nn.BatchNorm2d(4)]
    for norm in norms:
        for entry in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            nn.init.uniform_(entry, 0.5, 2.0)
    network = nn.Sequential(conv, norms[0], nn.ReLU(), norms[1]).eval()
    x = torch.randn(2, 3, 8, 8)
    expected = network(x)
    fold_batch_norm(network)
    torch.testing.assert_close(network(x), expected)
    assert isinstance(network[1], nn.Identity) and isinstance(network[3], nn.BatchNorm2d)


def test_passes_of_few_clips_give_the_same() -> None:
    fast = optimize_for_inference(filled_model())
    mel = fast.mel_forward(wave(5))
    assert 1 <= PASS_BYTES // mel[0].nbytes < 5  # so the batch is cut

    def one_by_one(mel: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.cat(parts) for parts in zip(*(fast(clip[None]) for clip in mel), strict=True))

    assert_equal_outputs(fast, one_by_one, mel, mel.roll(1, 0), TOLERANCE, relative=True)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_steps_can_be_taken_one_by_one(bfloat16: bool, mel: torch.Tensor) -> None:
    """As streams do: embedding, sequence model, head."""
    fast = optimize_for_inference(filled_model("tcn"), bfloat16=bfloat16)

    def steps(mel: torch.Tensor) -> torch.Tensor:
        embedding = fast.embed(mel)
        assert embedding.dtype == torch.float32
        return fast.strong_head(fast.seq_model(embedding))

    assert_equal_outputs(steps, lambda mel: fast(mel)[0], mel, mel.roll(1, 0), 0)


@pytest.mark.parametrize("n_frames", [100, 2400])
def test_other_lengths(n_frames: int) -> None:
    model = filled_model("hybrid")
    mel = model.mel_forward(wave(2, 160 * n_frames))
    assert_equal_outputs(optimize_for_inference(model), model, mel, mel.flip(0), TOLERANCE, relative=True)


def test_keeps_the_methods_of_the_model() -> None:
    model = filled_model()
    fast = optimize_for_inference(model)
    assert isinstance(fast, FastSEDModel)
    assert fast.labels == model.labels and fast.causal == model.causal and fast.metadata() == model.metadata()
    assert_equal_outputs(fast.mel_forward, model.mel_forward, *wave(2, 16_000)[:, None], 0)


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["ATST-F", "BEATs"])
def test_transformers(model_name: str) -> None:
    model = fill(create_model(model_name), CONSTANTS)
    mel, other = (model.mel_forward(clip[None]) for clip in wave(2, 48_000))
    assert_equal_outputs(optimize_for_inference(model), model, mel, other, 1e-4)
    with torch.no_grad():
        expected = model(mel)[0]
        half = optimize_for_inference(model, bfloat16=True)(mel)[0]
    assert (half - expected).abs().max() < 0.1 * expected.std()
