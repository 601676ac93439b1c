"""Mixed backward pass of depthwise convolutions: gradients of bfloat16 accuracy, nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from helpers.half_precision import MixedDepthwiseConv2d, avoid_slow_gradients
from models import create_model


@pytest.mark.parametrize(("kernel", "stride"), [(3, (2, 1)), (5, 1), (5, (2, 2))])
def test_gradients_equal_float32_within_bfloat16(kernel: int, stride: int | tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    mixed = nn.Sequential(copy.deepcopy(plain))
    assert avoid_slow_gradients(mixed) == 1 and isinstance(mixed[0], MixedDepthwiseConv2d)
    x = torch.randn(2, 8, 12, 20, requires_grad=True)
    y = plain(x)
    g = torch.randn_like(y)
    expected = torch.autograd.grad(y, (x, plain.weight), g)
    assert torch.equal(mixed(x), y)  # float32 outside of autocast
    with torch.autocast("cpu", torch.bfloat16):
        half = mixed(x)
    assert half.dtype == torch.bfloat16
    found = torch.autograd.grad(half, (x, mixed[0].weight), g.bfloat16())
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()


def test_fast_ones_and_names_stay() -> None:
    model = create_model("fmn10")
    names = list(model.state_dict())
    n = avoid_slow_gradients(model)
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert n == sum(max(m.stride) > 1 or max(m.kernel_size) > 3 for m in depthwise) and 0 < n < len(depthwise)
    assert list(model.state_dict()) == names
