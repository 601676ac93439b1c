"""The temporal convolutional network: weight norm, receptive field (published numbers: test_golden_fmn.py)."""

from __future__ import annotations

import torch
from torch import nn

from models.sequence.tcn import CausalConv1d, tcn


def test_weight_norm_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    ours = CausalConv1d(6, dilation=4)
    nn.init.normal_(ours.weight_g)
    theirs = nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 6, 3, dilation=4))
    theirs.load_state_dict(
        {
            "bias": ours.bias,
            "parametrizations.weight.original0": ours.weight_g,
            "parametrizations.weight.original1": ours.weight_v,
        }
    )
    x = torch.randn(2, 6, 40)
    torch.testing.assert_close(ours(x), theirs(nn.functional.pad(x, (8, 0))))


def test_receptive_field_is_the_present_frame_and_248_before() -> None:
    torch.manual_seed(0)
    model = tcn(4, 8).eval()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, 0.05, 0.1)  # positive: no ReLU closes a path
    frames = torch.rand(1, 300, 4).requires_grad_()
    model(frames)[0, 299].sum().backward()
    reached = frames.grad.abs().sum((0, 2)).nonzero().squeeze(1)
    assert (reached.min(), reached.max()) == (299 - 248, 299)
