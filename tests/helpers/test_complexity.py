"""Counts of parameters, MACs, memory and receptive field against published figures and arithmetic by hand."""

from __future__ import annotations

import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from errors import UserError
from helpers.complexity import Window, analyse, clips_per_second, count, deepspeed_macs, receptive_field
from models import create_model


def analyse_named(name: str):
    backbone, _, sequence = name.partition("+")
    seq_type, _, dim = sequence.partition("-")
    return analyse(lambda: create_model(backbone, seq_model_type=seq_type or None, seq_model_dim=int(dim or 0)))


# Published: parameters, and GMACs by DeepSpeed's profiler
PUBLISHED = {
    "fmn04": (860_318, 0.224),
    "fmn06": (1_615_022, 0.441),
    "fmn10": (3_830_798, 1.055),
    "fmn20": (13_359_254, 3.840),
    "fmn30": (28_574_734, 8.354),
    "fmn10+tf-128": (3_607_214, 1.123),
    "fmn10+tf-256": (5_028_286, 1.496),
    "fmn10+tf-512": (10_229_726, 2.831),
    "fmn10+tf-1024": (30_069_790, 7.860),
    "fmn10+hybrid-128": (3_801_806, 1.172),
    "fmn10+hybrid-256": (5_810_702, 1.691),
    "fmn10+hybrid-512": (13_367_438, 3.615),
    "fmn10+hybrid-1024": (42_636_686, 11.001),
    "fmn10+gru-128": (4_334_990, 0.976),
    "fmn10+gru-256": (6_483_854, 1.005),
    "fmn10+gru-512": (13_140_878, 1.062),
    "fmn10+gru-1024": (35_892_110, 1.177),
    "fmn10+attn-128": (3_343_406, 1.058),
    "fmn10+attn-256": (3_976_382, 1.234),
    "fmn10+attn-512": (6_028_766, 1.782),
    "fmn10+attn-1024": (13_279_262, 3.665),
    "fmn10+tcn-128": (4_198_158, 1.250),
    "fmn10+tcn-256": (7_389_838, 2.069),
    "fmn10+tcn-512": (19_671_438, 5.255),
    "fmn10+tcn-1024": (67_827_598, 17.817),
    "fmn04+tf-104": (912_048, 0.294),
    "fmn04+gru-104": (1_204_670, 0.204),
    "fmn06+tf-160": (1_954_834, 0.612),
    "fmn06+hybrid-160": (2_259_518, 0.688),
    "fmn06+gru-160": (2_557_358, 0.412),
    "fmn20+tf-512": (19_391_462, 5.630),
    "fmn20+hybrid-512": (22_529_174, 6.415),
    "fmn20+gru-512": (24_760_214, 3.739),
    "fmn30+tf-768": (43_078_910, 12.404),
    "fmn30+hybrid-768": (50_144_782, 14.170),
    "fmn30+gru-768": (54_818_446, 8.203),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_equals_published_figures(name: str) -> None:
    """The profiler sees neither recurrent layers nor scans, and it counts frames of the tcn that are cut off."""
    parameters, gmacs = PUBLISHED[name]
    ours = analyse_named(name)
    assert ours.parameters == parameters
    unseen = ours.sequence.macs["recurrence"]
    # each published convolution of dilation d computes 2 d more frames than are kept, with 3 D^2 MACs each
    _, _, dim = name.partition("tcn-")
    cut_off = 2 * 2 * sum(2 * d for d in (1, 2, 4, 8, 16)) * 3 * int(dim or 0) ** 2
    assert round((ours.macs - unseen + cut_off) / 1e9, 3) == pytest.approx(gmacs, abs=1e-9)


def test_recurrent_layers_by_hand() -> None:
    gru = analyse_named("fmn10+gru-256").sequence.macs
    assert gru == {"recurrence": 250 * 2 * (3 * 256 * (960 + 256) + 3 * 256 * (512 + 256))}
    hybrid = analyse_named("fmn10+hybrid-256").sequence.macs
    assert hybrid["recurrence"] == 2 * 2 * 250 * 2 * 256  # layers, directions, frames, decay and input, features
    mamba = analyse_named("fmn10+mamba-256").sequence.macs
    assert mamba["recurrence"] == 2 * 250 * 512 * 64 * 3
    assert mamba["convolution"] == 2 * 250 * (512 + 128) * 3


def test_parts_by_hand() -> None:
    cost = analyse_named("fmn10+tf-256")
    assert cost.heads.macs == {"linear": 250 * 256 * 447 + 256 * 447}
    assert cost.heads.parameters == 2 * 257 * 447
    assert cost.sequence.macs["attention"] == 2 * 2 * 250 * 250 * 256
    assert cost.backbone.parameters == 2_971_664


def test_costs_follow_the_length() -> None:
    short, long = (analyse(lambda: create_model("fmn04"), n_samples=n) for n in (80_000, 160_000))
    assert long.backbone.macs["convolution"] == 2 * short.backbone.macs["convolution"]
    assert 1.9 * short.peak_bytes < long.peak_bytes < 2.1 * short.peak_bytes


def count_toy(build, *shapes: tuple[int, ...]):
    with FakeTensorMode(), torch.no_grad():
        module = build()
        return count([module], module, *(torch.zeros(shape) for shape in shapes))[0]


class Products(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, D]
        x = x @ x.transpose(1, 2) @ x
        return nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])


def test_toy_modules_by_hand() -> None:
    def conv() -> nn.Module:
        return nn.Conv2d(6, 9, (3, 5), stride=(2, 1), padding=(1, 2), groups=3)

    def gru() -> nn.Module:
        return nn.GRU(3, 4, batch_first=True)

    assert count_toy(conv, (2, 6, 8, 10)).macs == {"convolution": 2 * 9 * 4 * 10 * (2 * 3 * 5)}
    assert count_toy(lambda: nn.Linear(7, 5), (3, 11, 7)).macs == {"linear": 3 * 11 * 7 * 5}
    assert count_toy(Products, (2, 10, 16)).macs == {"attention": 2 * 2 * (2 * 10 * 10 * 16)}
    assert count_toy(gru, (2, 10, 3)).macs == {"recurrence": 2 * 10 * 3 * 4 * (3 + 4)}


def weights_of(layers: nn.Module) -> int:
    """A recurrent layer multiplies with each of its weights once in every step."""
    return sum(p.numel() for name, p in layers.named_parameters() if "weight" in name)


RECURRENT = {
    "gru": lambda: nn.GRU(3, 4, num_layers=2, batch_first=True, bidirectional=True),
    "lstm": lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True),
    "lstm that projects": lambda: nn.LSTM(3, 6, proj_size=2, num_layers=3, bidirectional=True),
    "plain": lambda: nn.RNN(3, 4),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_multiply_with_each_weight_in_each_frame(name: str) -> None:
    layers = RECURRENT[name]()
    cost = count_toy(RECURRENT[name], (2, 10, 3))
    assert cost.macs == {"recurrence": 2 * 10 * weights_of(layers)} and not cost.unknown
    with FakeTensorMode(), torch.no_grad():
        found = count([fake := RECURRENT[name]()], fake, torch.zeros(2, 10, 3))[1]
    expected = layers(torch.zeros(2, 10, 3))
    assert [t.shape for t in tree_leaves(found)] == [t.shape for t in tree_leaves(expected)]


class Loop(nn.Module):
    def __init__(self, cell: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell = cell(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, 3]
        state = None
        for frame in x.unbind(1):
            state = self.cell(frame, state)
        return state[0] if isinstance(state, tuple) else state


@pytest.mark.parametrize("cell", [nn.GRUCell, nn.LSTMCell, nn.RNNCell])
def test_cells_in_a_loop(cell: type[nn.RNNCellBase]) -> None:
    assert count_toy(lambda: Loop(cell), (2, 10, 3)).macs == {"recurrence": 2 * 10 * weights_of(cell(3, 4))}


class LongConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.kernel = nn.Linear(8, 8), nn.Parameter(torch.zeros(10, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, 8]
        spectrum = torch.fft.rfft(self.linear(x), dim=1) * torch.fft.rfft(self.kernel, dim=0)
        return torch.fft.irfft(spectrum, n=x.shape[1], dim=1)


def test_what_nobody_has_counted_is_unknown_and_never_too_small() -> None:
    cost = count_toy(LongConvolution, (2, 10, 8))
    assert cost.total_macs is None and cost.macs == {"linear": 2 * 10 * 8 * 8}
    assert any("fft" in name for name in cost.unknown)
    assert not analyse_named("fmn10+mamba-64").unknown


def test_equals_the_counter_of_torch() -> None:
    model = create_model("fmn04", seq_model_type="tcn", seq_model_dim=32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 128, 1000))
    assert analyse_named("fmn04+tcn-32").macs * 2 == counter.get_total_flops()


def test_peak_memory_by_hand() -> None:
    # input 4 x 100 floats; 4 x 50 hidden; a ReLU's output beside it; 4 x 10 out: the largest moment is the ReLU's
    def build(inplace: bool) -> nn.Module:
        return nn.Sequential(nn.Linear(100, 50), nn.ReLU(inplace), nn.Linear(50, 10))

    assert count_toy(lambda: build(inplace=False), (4, 100)).peak_bytes == 4 * 4 * (100 + 50 + 50)
    assert count_toy(lambda: build(inplace=True), (4, 100)).peak_bytes == 4 * 4 * (100 + 50 + 10)


def test_receptive_fields() -> None:
    assert analyse_named("fmn10").receptive_field == (1267, 163)
    assert analyse_named("fmn04").receptive_field == (1267, 163)
    assert analyse_named("fmn10+tf-256").receptive_field == (1267, None)
    assert analyse_named("fmn10+gru-256").receptive_field == (1267, None)
    assert analyse_named("fmn10+tcn-256").receptive_field == (1267, 163 + 4 * 248)
    assert analyse_named("ATST-F").receptive_field == (None, None)


def test_receptive_field_equals_what_the_gradient_reaches() -> None:
    torch.manual_seed(0)
    settings = [((3, 5), (2, 1), (1, 2)), ((1, 3), (1, 2), (1, 1)), ((5, 3), (2, 2), (2, 3))]
    convs = [nn.Conv2d(1, 1, kernel, stride, dilation=dilation) for kernel, stride, dilation in settings]
    for conv in convs:
        nn.init.uniform_(conv.weight, 0.1, 1.0)
    x = torch.rand(1, 1, 60, 90).requires_grad_()
    nn.Sequential(*convs)(x)[0, 0, 1, 1].backward()
    assert x.grad is not None
    rows, columns = (x.grad[0, 0].sum(axis).nonzero().squeeze(1) for axis in (1, 0))
    reached = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
    assert receptive_field([Window(*setting) for setting in settings]) == reached


def test_deepspeed_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed.profiling.flops_profiler", None)
    with pytest.raises(UserError, match="pip install deepspeed"):
        deepspeed_macs(nn.Identity(), torch.zeros(1))


def test_deepspeed_is_asked_when_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def get_model_profile(model, args, print_profile, detailed, as_string):
        assert not print_profile and not detailed and not as_string
        return 2.0 * args[0].numel(), float(args[0].numel()), 0

    profiler = types.ModuleType("deepspeed.profiling.flops_profiler")
    profiler.get_model_profile = get_model_profile  # type: ignore[attr-defined]
    for name in ("deepspeed", "deepspeed.profiling"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, profiler.__name__, profiler)
    assert deepspeed_macs(nn.Identity(), torch.zeros(3, 4)) == 12


@pytest.mark.skipif(sys.platform != "linux", reason="DeepSpeed is for Linux")
def test_our_count_is_that_of_deepspeed() -> None:
    """In a process of its own: what DeepSpeed says when it is loaded must not be on stdout, where our figures are."""
    script = (
        "import torch; from helpers.complexity import analyse, deepspeed_macs; from models import create_model\n"
        "for name, dim in (('fmn04', 104), ('fmn06', 160)):\n"
        "    make = lambda: create_model(name, seq_model_type='tf', seq_model_dim=dim)\n"
        "    model = make().eval()\n"
        "    mel = model.mel_forward(0.1 * torch.randn(1, 160_000))\n"
        "    print(analyse(make).macs, deepspeed_macs(model, mel))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    ours, theirs = np.array([line.split() for line in run.stdout.splitlines()], dtype=float).T
    np.testing.assert_allclose(ours, theirs, rtol=5e-4)
    assert ours[1] > 2 * ours[0]


def test_throughput_counts_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of passes of 9 (not timed), 4, 1, 2 and 3 s the fastest half counts: 1 and 2 s for 2 x 4 clips."""
    passes, clock = iter([9.0, 4.0, 1.0, 2.0, 3.0]), [100.0]
    monkeypatch.setattr("helpers.complexity.time.perf_counter", lambda: clock[0])

    class Slow(nn.Module):
        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            clock[0] += next(passes)
            return mel

    assert clips_per_second(Slow(), torch.zeros(4, 1), min_seconds=9.5) == pytest.approx(2 * 4 / (1 + 2))
    assert next(passes, None) is None
