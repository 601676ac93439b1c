"""The optimised detector: same logits, other weights layout, original untouched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import create_model
from models.optimize import PASS_BYTES, FastSEDModel, fold_batch_norm, optimize_for_inference
from tests.golden_recipe import fill

TYPES = (None, "attn", "gru", "hybrid", "mamba", "tcn", "tf")


def filled_model(seq_model_type: str | None = "tf", model_name: str = "fmn04"):
    return fill(create_model(model_name, seq_model_type=seq_model_type, seq_model_dim=104))


@pytest.fixture(scope="module")
def mel() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 1, 128, 1000)


@pytest.mark.parametrize("seq_model_type", TYPES)
def test_equal_to_1e_4(seq_model_type: str | None, mel: torch.Tensor) -> None:
    model = filled_model(seq_model_type)
    fast = optimize_for_inference(model)
    with torch.no_grad():
        for ours, expected in zip(fast(mel), model(mel), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("seq_model_type", TYPES)
def test_bfloat16_is_near(seq_model_type: str | None, mel: torch.Tensor) -> None:
    model = filled_model(seq_model_type)
    fast = optimize_for_inference(model, bfloat16=True)
    with torch.no_grad():
        ours, expected = fast(mel)[0], model(mel)[0]
    assert ours.dtype == torch.float32
    assert (ours - expected).abs().max() < 0.1 * expected.std()
    assert (ours - expected).square().mean().sqrt() < 0.02 * expected.std()


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
    torch.manual_seed(0)
    mel = torch.randn(5, 1, 128, 1000)
    assert 1 <= PASS_BYTES // mel[0].nbytes < 5  # so the batch is cut
    alone = torch.cat([fast(clip[None])[0] for clip in mel])
    torch.testing.assert_close(fast(mel)[0], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_steps_can_be_taken_one_by_one(bfloat16: bool, mel: torch.Tensor) -> None:
    """As streams do: embedding, sequence model, head."""
    fast = optimize_for_inference(filled_model("tcn"), bfloat16=bfloat16)
    embedding = fast.embed(mel)
    assert embedding.dtype == torch.float32
    assert torch.equal(fast.strong_head(fast.seq_model(embedding)), fast(mel)[0])


@pytest.mark.parametrize("n_frames", [100, 2400])
def test_other_lengths(n_frames: int) -> None:
    model = filled_model("hybrid")
    mel = torch.randn(2, 1, 128, n_frames)
    torch.testing.assert_close(optimize_for_inference(model)(mel)[0], model(mel)[0], atol=1e-4, rtol=0)


def test_keeps_the_methods_of_the_model() -> None:
    model = filled_model()
    fast = optimize_for_inference(model)
    assert isinstance(fast, FastSEDModel)
    assert fast.labels == model.labels and fast.causal == model.causal and fast.metadata() == model.metadata()
    waveform = torch.randn(1, 16_000)
    assert torch.equal(fast.mel_forward(waveform), model.mel_forward(waveform))


@pytest.mark.slow
@pytest.mark.parametrize("model_name", ["ATST-F", "BEATs"])
def test_transformers(model_name: str) -> None:
    model = create_model(model_name)
    mel = model.mel_forward(0.1 * torch.randn(1, 48_000))
    with torch.no_grad():
        expected = model(mel)[0]
        torch.testing.assert_close(optimize_for_inference(model)(mel)[0], expected, atol=1e-4, rtol=0)
        half = optimize_for_inference(model, bfloat16=True)(mel)[0]
    assert (half - expected).abs().max() < 0.1 * expected.std()
