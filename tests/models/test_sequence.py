"""What holds for every sequence model: dimensions, parameter counts, causality, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from errors import UserError
from models.registry import build_sequence_model, sequence_model_names
from models.sequence.stack import RMSNorm

TYPES = ("attn", "gru", "hybrid", "mamba", "tcn", "tf")
DIMS = (104, 128, 160, 256, 512, 768, 1024)
EMBED_DIM = 960  # of fmn10


def test_the_six_types_are_registered() -> None:
    assert set(TYPES) <= set(sequence_model_names())


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("name", TYPES)
def test_every_published_dimension_runs(name: str, dim: int) -> None:
    model = build_sequence_model(name, 40, dim).eval()
    with torch.no_grad():
        features = model(torch.randn(1, 7, 40))
    assert features.shape == (1, 7, 2 * dim if name == "gru" else dim)
    assert features.shape[-1] == model.out_dim
    assert features.isfinite().all()


@pytest.mark.parametrize("name", TYPES)
def test_equal_dimensions_need_no_projection(name: str) -> None:
    model = build_sequence_model(name, 128, 128)
    assert not any(key in ("0.weight", "0.bias") for key in model.state_dict())
    assert model(torch.randn(2, 5, 128)).shape == (2, 5, model.out_dim)


# Published counts of fmn10 with strong and weak heads of 447 classes, less the backbone's 2,971,664 and both heads'
PUBLISHED = {
    "tf": {128: 3_607_214, 256: 5_028_286, 512: 10_229_726, 1024: 30_069_790},
    "attn": {128: 3_343_406, 256: 3_976_382, 512: 6_028_766, 1024: 13_279_262},
    "gru": {128: 4_334_990, 256: 6_483_854, 512: 13_140_878, 1024: 35_892_110},
    "tcn": {128: 4_198_158, 256: 7_389_838, 512: 19_671_438, 1024: 67_827_598},
    "hybrid": {128: 3_801_806, 256: 5_810_702, 512: 13_367_438, 1024: 42_636_686},
    "mamba": {256: 4_310_206},
}


@pytest.mark.parametrize(("name", "dim"), [(name, dim) for name in PUBLISHED for dim in PUBLISHED[name]])
def test_parameter_counts(name: str, dim: int) -> None:
    with torch.device("meta"):
        model = build_sequence_model(name, EMBED_DIM, dim)
        heads = [nn.Linear(model.out_dim, 447) for _ in range(2)]
    total = sum(p.numel() for part in (model, *heads) for p in part.parameters())
    assert total + 2_971_664 == PUBLISHED[name][dim]


@pytest.mark.parametrize("name", ["attn", "hybrid", "tf", "mamba"])
def test_wrong_dimension_is_refused_with_the_allowed_ones(name: str) -> None:
    with pytest.raises(UserError, match=rf"100 .*'{name}'.*multiple of 8.*96 or 104"):
        build_sequence_model(name, EMBED_DIM, 100)


@pytest.mark.parametrize("name", TYPES)
def test_zero_dimension_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="seq_model_dim 0 "):
        build_sequence_model(name, EMBED_DIM, 0)


@pytest.mark.parametrize("name", TYPES)
def test_only_causal_models_keep_the_past_when_the_future_changes(name: str) -> None:
    torch.manual_seed(0)
    model = build_sequence_model(name, 24, 32).eval()
    frames = torch.randn(1, 90, 24)
    changed = frames.clone()
    changed[:, 60:] += 1.0
    with torch.no_grad():
        before, after = model(frames), model(changed)
    past = (before[:, :60] - after[:, :60]).abs().max()
    assert (before[:, 60:] - after[:, 60:]).abs().max() > 1e-3
    assert model.causal == (name in ("mamba", "tcn"))
    assert past < 1e-6 if model.causal else past > 1e-5


@pytest.mark.parametrize("name", TYPES)
def test_autocast_changes_little(name: str) -> None:
    torch.manual_seed(0)
    model = build_sequence_model(name, 24, 64).eval()
    frames = torch.randn(2, 50, 24)
    with torch.no_grad():
        expected = model(frames)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(frames).float()
    assert (half - expected).abs().max() < 0.05 * expected.std()


@pytest.mark.parametrize("name", TYPES)
def test_order_of_frames_matters(name: str) -> None:
    torch.manual_seed(0)
    model = build_sequence_model(name, 24, 32).eval()
    for parameter in model.parameters():
        parameter.data.mul_(3)  # attention starts out nearly uniform
    frames = torch.randn(1, 20, 24)
    with torch.no_grad():
        difference = model(frames.flip(1)).flip(1) - model(frames)
    assert difference.abs().max() > 1e-4


@pytest.mark.cuda
@pytest.mark.parametrize("name", TYPES)
def test_gpu_equals_cpu(name: str) -> None:
    torch.manual_seed(0)
    model = build_sequence_model(name, 24, 64).eval()
    frames = torch.randn(2, 250, 24)
    with torch.no_grad():
        expected = model(frames)
        torch.testing.assert_close(model.cuda()(frames.cuda()).cpu(), expected, atol=1e-3, rtol=0)


def test_rms_norm() -> None:
    norm = RMSNorm(16)
    nn.init.normal_(norm.gamma)
    x = torch.randn(3, 5, 16)
    expected = torch.nn.functional.rms_norm(x, (16,), norm.gamma, eps=1e-30)
    torch.testing.assert_close(norm(x), expected)
    assert norm(torch.zeros(1, 16)).eq(0).all()
    assert norm(x.bfloat16()).dtype == torch.bfloat16
