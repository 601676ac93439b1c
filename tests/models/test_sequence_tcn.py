"""The temporal convolutional network: published numbers under its own key names, weight norm, receptive field."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models import create_model
from models.sequence.tcn import CausalConv1d, tcn
from tests.golden_recipe import fill_value, wave

GOLDEN = Path(__file__).parents[1] / "golden"


def test_golden_numbers() -> None:
    model = create_model("fmn10", seq_model_type="tcn", seq_model_dim=128)
    keys = json.loads((GOLDEN / "fmn10+tcn-128.keys.json").read_text())
    state = model.state_dict()
    for key, shape in keys.items():
        own = key
        for pattern, replacement in model.seq_model.key_map:
            own = re.sub(pattern, replacement, own)
        if state[own].is_floating_point():
            state[own] = torch.from_numpy(np.asarray(fill_value(key, tuple(shape)), np.float32))
    model.load_state_dict(state)
    golden = np.load(GOLDEN / "fmn10+tcn-128.npz")
    with torch.no_grad():
        strong, weak = model.eval()(model.mel_forward(wave()))
    np.testing.assert_allclose(strong[:, ::8, ::5], golden["strong"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(weak, golden["weak"], atol=1e-4, rtol=0)


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
