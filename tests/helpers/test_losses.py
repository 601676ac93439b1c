"""Losses against numbers by hand, PyTorch's own functions in float64, and the published formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

from errors import UserError
from helpers.augment import Batch, apply
from helpers.augment.mixing import Mixup
from helpers.losses import (
    OnlineWeights,
    StrongBranch,
    WeakBranch,
    online_loss,
    soft_targets,
    strong_loss,
    weak_distillation,
    weak_loss,
)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def logits_of(*shape: int) -> Tensor:
    return (3 * torch.randn(*shape, dtype=torch.float64)).requires_grad_()


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(17)


def test_strong_loss_by_hand() -> None:
    """z = 0 and z = ln 3, that is probabilities 1/2 and 3/4."""
    logits = torch.tensor([[[0.0, math.log(3)]]])
    got = strong_loss(logits, torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.5]]]), distillation_weight=0.9)
    hard = (math.log(2) + math.log(4)) / 2
    soft = (math.log(2) - 0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)) / 2
    assert got["strong_supervised_loss"].item() == pytest.approx(hard, rel=1e-6)
    assert got["strong_distillation_loss"].item() == pytest.approx(soft, rel=1e-6)
    assert got["loss"].item() == pytest.approx(0.9 * soft + 0.1 * hard, rel=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_strong_loss_and_gradient_equal_torch(weight: float) -> None:
    logits, strong, pseudo = logits_of(3, 4, 5), rand(3, 4, 5).round(), rand(3, 4, 5)
    loss = strong_loss(logits, strong, pseudo, distillation_weight=weight)["loss"]
    probabilities = torch.sigmoid(logits)
    expected = weight * binary_cross_entropy(probabilities, pseudo)
    expected = expected + (1 - weight) * binary_cross_entropy(probabilities, strong)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(loss, logits)
    by_hand = (probabilities - weight * pseudo - (1 - weight) * strong) / logits.numel()
    torch.testing.assert_close(gradient, by_hand.detach(), rtol=1e-10, atol=1e-15)
    assert torch.autograd.gradcheck(
        lambda z: strong_loss(z, strong, pseudo, distillation_weight=weight)["loss"], logits
    )


def test_clips_without_pseudo_labels_learn_from_their_labels() -> None:
    logits, strong, pseudo = logits_of(4, 3, 5), rand(4, 3, 5).round(), rand(4, 3, 5)
    known = torch.tensor([True, False, True, False])
    loss = strong_loss(logits, strong, pseudo, known, distillation_weight=0.9)["loss"]
    clips = []
    for i in range(4):
        hard = binary_cross_entropy_with_logits(logits[i], strong[i])
        soft = binary_cross_entropy_with_logits(logits[i], pseudo[i])
        clips.append(0.9 * soft + 0.1 * hard if known[i] else hard)
    torch.testing.assert_close(loss, torch.stack(clips).mean())


def test_strong_loss_of_a_mixture_is_the_mixture_of_losses() -> None:
    """Mixing targets first and taking the loss of the mixture is the published per-clip sum, for unknown clips too."""
    logits, strong, pseudo = logits_of(3, 2, 5), rand(3, 2, 5).round(), rand(3, 2, 5)
    known, partner = torch.tensor([True, False, False]), torch.tensor([1, 2, 0])
    share = torch.tensor([0.6, 0.7, 0.8], dtype=torch.float64)
    batch = apply(Batch(torch.zeros(3, 1, 4, 8), strong, pseudo, known), [Mixup(partner, share)])
    assert batch.strong is not None
    loss = strong_loss(logits, batch.strong, batch.pseudo, batch.has_pseudo, distillation_weight=0.9)["loss"]
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for j, weight in ((i, share[i]), (int(partner[i]), 1 - share[i])):
            hard = binary_cross_entropy_with_logits(logits[i], strong[j])
            soft = binary_cross_entropy_with_logits(logits[i], pseudo[j]) if known[j] else hard
            expected = expected + weight * (0.9 * soft + 0.1 * hard) / 3
    torch.testing.assert_close(loss, expected)


def test_half_precision_logits_are_reduced_in_float32() -> None:
    logits = torch.full((2, 3, 50), 9.0, dtype=torch.bfloat16)
    loss = strong_loss(logits, torch.zeros(2, 3, 50))["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log1p(math.exp(9)), rel=1e-6)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[[1e4, -1e4]]], requires_grad=True)
    loss = strong_loss(logits, torch.tensor([[[0.0, 1.0]]]))["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(1e4)
    assert logits.grad is not None and logits.grad.isfinite().all()


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan")])
def test_weights_outside_of_0_to_1_are_refused(weight: float) -> None:
    z = torch.zeros(1, 1, 1)
    with pytest.raises(UserError, match="distillation_loss_weight"):
        strong_loss(z, z, z, distillation_weight=weight)
    with pytest.raises(UserError, match="weak_distillation_loss_weight"):
        weak_loss(z[0], z[0], z[0], distillation_weight=weight)


def test_distillation_without_a_teacher_is_refused() -> None:
    z = torch.zeros(1, 1, 1)
    with pytest.raises(UserError, match="pseudo"):
        strong_loss(z, z, distillation_weight=0.5)
    with pytest.raises(UserError, match="teacher"):
        weak_loss(z[0], z[0], distillation_weight=0.5)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_weak_loss_of_mixed_clips_equals_the_published_formula(weight: float) -> None:
    """Published: (1 - w) BCE(z, y~) + w mean_i [l k_i BCE(z_i, t_i) + (1 - l) k_p BCE(z_i, t_p)], k = known."""
    logits, weak, teacher = logits_of(4, 6), rand(4, 6).round(), rand(4, 6)
    known = torch.tensor([True, False, True, False])
    partner, share = torch.tensor([1, 0, 3, 1]), rand(4)
    batch = Batch(torch.zeros(4, 8), weak=weak, weak_pseudo=teacher, weak_known=known)
    batch = apply(batch, [Mixup(partner, share)])
    assert batch.weak is not None
    got = weak_loss(logits, batch.weak, batch.weak_pseudo, batch.weak_known, distillation_weight=weight)["loss"]
    soft = torch.zeros((), dtype=torch.float64)
    for i in range(4):
        for j, part in ((i, share[i]), (int(partner[i]), 1 - share[i])):
            if known[j]:
                soft = soft + part * binary_cross_entropy_with_logits(logits[i], teacher[j]) / 4
    mixed = share[:, None] * weak + (1 - share[:, None]) * weak[partner]
    expected = (1 - weight) * binary_cross_entropy_with_logits(logits, mixed) + weight * soft
    torch.testing.assert_close(got, expected)
    assert torch.autograd.gradcheck(
        lambda z: weak_loss(z, weak, teacher, known, distillation_weight=weight)["loss"], logits
    )


def test_unknown_clips_count_in_the_mean() -> None:
    logits, teacher = logits_of(2, 3), rand(2, 3)
    alone = binary_cross_entropy_with_logits(logits[0], teacher[0])
    torch.testing.assert_close(weak_distillation(logits, teacher, torch.tensor([True, False])), alone / 2)


def test_temperature_softens_the_teacher() -> None:
    targets = soft_targets(torch.tensor([math.log(9), 0.0], dtype=torch.float16, requires_grad=True), temperature=2.0)
    torch.testing.assert_close(targets, torch.tensor([0.75, 0.5]), rtol=1e-3, atol=0)
    assert targets.dtype == torch.float32 and not targets.requires_grad


def online_branches() -> tuple[StrongBranch, WeakBranch]:
    strong = StrongBranch(
        logits_of(3, 4, 5), rand(3, 4, 5).round(), rand(3, 4, 5), torch.tensor([True, False, True]), rand(3, 4, 5)
    )
    weak = WeakBranch(
        logits_of(2, 4, 5), logits_of(2, 7), rand(2, 7).round(), rand(2, 7), torch.tensor([True, False]), rand(2, 4, 5)
    )
    return strong, weak


def expected_terms(strong: StrongBranch, weak: WeakBranch) -> dict[str, Tensor]:
    bce: Any = binary_cross_entropy_with_logits
    assert strong.strong is not None and strong.pseudo is not None and weak.frame_logits is not None
    pseudo = torch.stack([strong.pseudo[0], strong.strong[1], strong.pseudo[2]])
    return {
        "weak_supervised": bce(weak.clip_logits, weak.weak),
        "weak_distillation": bce(weak.clip_logits[0], weak.weak_pseudo[0]) / 2,  # type: ignore[index]
        "strong_supervised": bce(strong.logits, strong.strong),
        "strong_distillation": bce(strong.logits, pseudo),
        "online": 0.3 * bce(strong.logits, strong.teacher) + 0.7 * bce(weak.frame_logits, weak.teacher),
    }


OFF = {"strong_supervised": 0.0, "online": 0.0}


@pytest.mark.parametrize(
    "weights",
    [
        *({**OFF, name: 0.7} for name in OnlineWeights.__dataclass_fields__ if name != "strong_ratio"),
        {"weak_supervised": 0.2, "weak_distillation": 0.3, "strong_distillation": 0.4},
    ],
)
def test_online_terms_alone_and_together(weights: dict[str, float]) -> None:
    strong, weak = online_branches()
    options = OnlineWeights(**weights, strong_ratio=0.3)
    got = online_loss(options, strong, weak)
    terms = expected_terms(strong, weak)
    expected = sum(getattr(options, name) * term for name, term in terms.items())
    torch.testing.assert_close(got["loss"], torch.as_tensor(expected))
    used = {name for name, weight in options.of_terms().items() if weight > 0}
    assert set(got) == used | {"loss"}
    got["loss"].backward()  # reaches exactly the logits that the terms are about
    about_strong = any(name.startswith("strong") for name in used)
    assert (strong.logits.grad is not None) == about_strong


def test_online_loss_needs_only_what_its_weights_ask_for() -> None:
    strong, weak = online_branches()
    default = OnlineWeights()
    only = StrongBranch(strong.logits, strong.strong, teacher=strong.teacher)
    got = online_loss(default, only, WeakBranch(frame_logits=weak.frame_logits, teacher=weak.teacher))
    assert set(got) == {"loss", "strong_supervised_loss", "strong_online_teacher_loss", "weak_online_teacher_loss"}
    assert "weak_online_teacher_loss" not in online_loss(OnlineWeights(strong_ratio=1.0), only, None)
    with pytest.raises(ValueError, match="weak_online_teacher_loss"):
        online_loss(default, only, None)
    with pytest.raises(ValueError, match="strong_distillation_loss"):
        online_loss(OnlineWeights(strong_distillation=1.0), only, weak)


@pytest.mark.parametrize("bad", [{"online": -1.0}, {"strong_ratio": 1.5}, OFF, {"weak_supervised": float("nan")}])
def test_bad_online_weights_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UserError):
        OnlineWeights(**bad)
