"""Parallel scans of minGRU and Mamba-2 against the recurrences that define them, frame by frame in float64."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.sequence import mamba
from models.sequence.mamba import Mamba2, head_dim, ssd_scan
from models.sequence.min_gru import BidirectionalMinGRU, MinGRU, log_space_scan, min_gru_scan, product_scan

SCANS = [product_scan, log_space_scan]


def min_gru_steps(hidden: Tensor, gate: Tensor) -> Tensor:
    hidden, z = hidden.double(), gate.double().sigmoid()
    candidate = torch.where(hidden >= 0, hidden + 0.5, hidden.sigmoid())
    state, states = torch.zeros_like(hidden[:, 0]), []
    for t in range(hidden.shape[1]):
        state = (1 - z[:, t]) * state + z[:, t] * candidate[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


def ssd_steps(x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    x, log_decay, b, c = (v.double() for v in (x, log_decay, b, c))
    state, outputs = x.new_zeros(*x[:, 0].shape, b.shape[-1]), []  # [B, H, P, N]
    for t in range(x.shape[1]):
        added = torch.einsum("bhp,bn->bhpn", x[:, t], b[:, t])
        state = log_decay[:, t].exp()[:, :, None, None] * state + added
        outputs.append(torch.einsum("bhpn,bn->bhp", state, c[:, t]))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("n_frames", [1, 2, 63, 64, 65, 250])
def test_min_gru_scan_equals_steps(scan, n_frames: int) -> None:
    torch.manual_seed(n_frames)
    hidden, gate = 3 * torch.randn(2, 2, n_frames, 32)
    torch.testing.assert_close(scan(hidden, gate).double(), min_gru_steps(hidden, gate), atol=1e-4, rtol=0)


@pytest.mark.parametrize("scan", SCANS)
def test_min_gru_scan_of_a_long_sequence(scan) -> None:
    torch.manual_seed(0)
    hidden, gate = 3 * torch.randn(2, 1, 25_000, 4)
    torch.testing.assert_close(scan(hidden, gate).double(), min_gru_steps(hidden, gate), atol=0, rtol=1e-3)


def test_one_chunk_for_a_long_sequence_would_be_worse() -> None:
    torch.manual_seed(0)
    hidden, gate = 3 * torch.randn(2, 1, 25_000, 4)
    truth = min_gru_steps(hidden, gate)
    error, one_chunk = ((scan.double() / truth - 1).abs().max() for scan in (
        log_space_scan(hidden, gate), log_space_scan(hidden, gate, chunk=25_000)
    ))  # fmt: skip
    assert one_chunk > 30 * error


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("gate_level", [-100.0, 0.0, 100.0])
def test_min_gru_scan_survives_saturated_gates(scan, gate_level: float) -> None:
    hidden = torch.linspace(-100, 100, 300).reshape(1, 100, 3).requires_grad_()
    gate = torch.full_like(hidden, gate_level).requires_grad_()
    states = scan(hidden, gate)
    states.sum().backward()
    expected = min_gru_steps(hidden, gate).float()
    torch.testing.assert_close(states, expected, atol=1e-4, rtol=5e-4)
    assert hidden.grad.isfinite().all() and gate.grad.isfinite().all()


@pytest.mark.parametrize("scan", SCANS)
def test_min_gru_gradients_equal_those_of_the_steps(scan) -> None:
    torch.manual_seed(0)
    inputs = [torch.randn(2, 150, 8).requires_grad_() for _ in range(2)]
    weights = torch.randn(2, 150, 8)
    ours = torch.autograd.grad((scan(*inputs) * weights).sum(), inputs)
    truth = torch.autograd.grad((min_gru_steps(*inputs) * weights).sum(), inputs)
    torch.testing.assert_close(ours, truth, atol=1e-4, rtol=1e-4)


def test_min_gru_scans_in_float32_under_autocast() -> None:
    torch.manual_seed(0)
    hidden, gate = torch.randn(2, 2, 250, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        states = min_gru_scan(hidden, gate)
    torch.testing.assert_close(states.double(), min_gru_steps(hidden, gate), atol=1e-4, rtol=0)


def test_bidirectional_min_gru_stays_near_float32_under_autocast() -> None:
    torch.manual_seed(0)
    model, x = BidirectionalMinGRU(32), torch.randn(2, 2500, 32)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(x)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.03, rtol=0)


def test_backward_direction_reads_from_the_end() -> None:
    torch.manual_seed(0)
    model, x = BidirectionalMinGRU(8), torch.randn(1, 30, 8)
    one_way = MinGRU(8)
    one_way.load_state_dict(model.backward_minGRU.state_dict())
    both = torch.cat((model.forward_minGRU(x), one_way(x.flip(1)).flip(1)), dim=-1)
    torch.testing.assert_close(model(x), both @ model.to_out.weight.T)


@pytest.mark.parametrize("n_frames", [1, 31, 32, 33, 250])
def test_ssd_scan_equals_steps(n_frames: int) -> None:
    torch.manual_seed(n_frames)
    x = torch.randn(2, n_frames, 3, 8)
    log_decay = -torch.rand(2, n_frames, 3)
    b, c = 0.3 * torch.randn(2, 2, n_frames, 16)
    truth = ssd_steps(x, log_decay, b, c)
    torch.testing.assert_close(ssd_scan(x, log_decay, b, c).double(), truth, atol=1e-4, rtol=0)


def test_ssd_scan_hands_the_state_on_where_little_decays() -> None:
    torch.manual_seed(0)
    x = 0.1 * torch.randn(1, 2500, 2, 4)
    log_decay = torch.full((1, 2500, 2), -1e-3)
    b, c = 0.3 * torch.randn(2, 1, 2500, 8)
    truth = ssd_steps(x, log_decay, b, c)
    assert truth.abs().max() > 1  # the state remembers about a thousand frames
    torch.testing.assert_close(ssd_scan(x, log_decay, b, c).double(), truth, atol=1e-4, rtol=0)


@pytest.mark.parametrize("level", [0.0, -1.0, -60.0])
def test_ssd_gradients_equal_those_of_the_steps(level: float) -> None:
    torch.manual_seed(0)
    shapes = [(1, 70, 2, 4), (1, 70, 2), (1, 70, 6), (1, 70, 6)]
    inputs = [torch.randn(shape) for shape in shapes]
    inputs[1] = torch.full(shapes[1], level)
    inputs = [v.requires_grad_() for v in inputs]
    weights = torch.randn(shapes[0])
    ours = torch.autograd.grad((ssd_scan(*inputs) * weights).sum(), inputs)
    truth = torch.autograd.grad((ssd_steps(*inputs) * weights).sum(), inputs)
    torch.testing.assert_close(ours, truth, atol=1e-3, rtol=1e-4)


def mamba_block_steps(block: Mamba2, u: Tensor) -> Tensor:
    """The whole block from its definition, in float64, one frame after the other."""
    p = {name: value.detach().double() for name, value in block.named_parameters()}
    d_inner, n_heads, n = block.d_inner, len(block.D), mamba.D_STATE
    z, xbc, dt = (u.double() @ p["in_proj.weight"].T).split([d_inner, d_inner + 2 * n, n_heads], dim=-1)
    xbc = F.conv1d(F.pad(xbc.transpose(1, 2), (2, 0)), p["conv1d.weight"], p["conv1d.bias"], groups=d_inner + 2 * n)
    x, b, c = F.silu(xbc.transpose(1, 2)).split([d_inner, n, n], dim=-1)
    dt = F.softplus(dt + p["dt_bias"])
    x = x.unflatten(-1, (n_heads, -1))
    y = ssd_steps(x * dt[..., None], dt * -p["A_log"].exp(), b, c) + p["D"][:, None] * x
    return (y.flatten(-2) * F.silu(z)) @ p["out_proj.weight"].T


@pytest.mark.parametrize("dim", [104, 128, 256])
def test_mamba_block_equals_its_definition(dim: int) -> None:
    torch.manual_seed(0)
    block, u = Mamba2(dim), torch.randn(2, 100, dim)
    with torch.no_grad():
        torch.testing.assert_close(block(u).double(), mamba_block_steps(block, u), atol=1e-4, rtol=0)


def test_mamba_ignores_autocast() -> None:
    torch.manual_seed(0)
    block, u = Mamba2(64), torch.randn(1, 60, 64)
    with torch.no_grad():
        expected = block(u)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(block(u), expected)


def test_mamba_head_sizes() -> None:
    sizes = {dim: head_dim(dim) for dim in (104, 128, 160, 256, 512, 768, 1024)}
    assert sizes == {104: 26, 128: 32, 160: 64, 256: 64, 512: 64, 768: 64, 1024: 64}


def test_mamba_calls_the_kernel_of_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the kernel's signature gives what our own scan gives."""

    def kernel(x, dt, A, B, C, chunk_size, D=None, z=None, dt_bias=None, dt_softplus=False):
        assert dt_softplus and z is None and D is None and B.shape[2] == C.shape[2] == 1
        assert all(v.dtype == torch.float32 and v.is_contiguous() for v in (x, dt, B, C))
        dt = F.softplus(dt + dt_bias)
        return ssd_steps(x * dt[..., None], dt * A, B[:, :, 0], C[:, :, 0]).float()

    names = ["mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton", "mamba_ssm.ops.triton.ssd_combined"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[names[-1]].mamba_chunk_scan_combined = kernel
    mamba.cuda_kernel.cache_clear()
    try:
        assert mamba.cuda_kernel() is kernel
        block, u = Mamba2(64), torch.randn(2, 40, 64)
        with torch.no_grad():
            ours = block(u)
            monkeypatch.setattr(Tensor, "is_cuda", True)
            torch.testing.assert_close(block(u), ours, atol=1e-5, rtol=1e-4)
    finally:
        mamba.cuda_kernel.cache_clear()


def test_without_mamba_ssm_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    mamba.cuda_kernel.cache_clear()
    assert mamba.cuda_kernel() is None
    mamba.cuda_kernel.cache_clear()
