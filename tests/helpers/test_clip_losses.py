"""Losses of the clip-wise tasks against plain loops, and what mixing two clips does to them."""

from __future__ import annotations

import math

import pytest
import torch

from helpers.clip_losses import LOSSES, cross_entropy, masked_bce, votes


def batch(n_clips: int = 5, n_classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_clips, n_classes, generator=generator) * 3
    targets = (torch.rand(n_clips, n_classes, generator=generator) < 0.4).float()
    known = (torch.rand(n_clips, n_classes, generator=generator) < 0.6).float()
    return logits, targets, known


def test_soft_cross_entropy_equals_a_loop() -> None:
    logits, _, _ = batch()
    shares = torch.softmax(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), 1)
    expected = 0.0
    for row, share in zip(logits.tolist(), shares.tolist(), strict=True):
        norm = math.log(sum(math.exp(z) for z in row))
        expected += sum(p * (norm - z) for p, z in zip(share, row, strict=True)) / len(logits)
    assert float(cross_entropy(logits, shares)) == pytest.approx(expected, rel=1e-6)
    hard = torch.tensor([0, 3, 1, 1, 2])
    assert float(cross_entropy(logits, torch.eye(4)[hard])) == pytest.approx(
        float(torch.nn.CrossEntropyLoss()(logits, hard)), rel=1e-6
    )


def test_masked_bce_equals_a_loop_over_the_known_labels() -> None:
    logits, targets, known = batch()
    terms = []
    for i in range(len(logits)):
        for c in range(logits.shape[1]):
            if known[i, c]:
                p = 1 / (1 + math.exp(-float(logits[i, c])))
                terms.append(-math.log(p if targets[i, c] else 1 - p))
    assert float(masked_bce(logits, votes(targets, known))) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_unknown_labels_have_no_influence() -> None:
    logits, targets, known = batch()
    logits.requires_grad_()
    other = torch.where(known > 0, targets, 1 - targets)
    assert torch.equal(votes(targets, known), votes(other, known))
    masked_bce(logits, votes(targets, known)).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, known > 0)
    assert float(masked_bce(logits, votes(targets, torch.zeros_like(known)))) == 0


@pytest.mark.parametrize("name", LOSSES)
def test_a_mixed_clip_has_the_mixture_of_the_losses(name: str) -> None:
    logits, targets, known = batch(n_clips=1)
    _, other, _ = batch(n_clips=1, seed=3)
    if name == "masked_bce":
        first, second = votes(targets, known), votes(other, known)  # as many votes each: the means have one divisor
    else:
        first, second = torch.tensor([[0.0, 1, 0, 0]]), torch.tensor([[0.0, 0, 0, 1]])
    mixed = LOSSES[name](logits, 0.7 * first + 0.3 * second)
    expected = 0.7 * LOSSES[name](logits, first) + 0.3 * LOSSES[name](logits, second)
    assert float(mixed) == pytest.approx(float(expected), rel=1e-5)


def test_half_precision_logits_are_widened() -> None:
    logits, targets, known = batch()
    for name, target in (("cross_entropy", torch.eye(4)[[0, 1, 2, 3, 0]]), ("masked_bce", votes(targets, known))):
        assert LOSSES[name](logits.bfloat16(), target).dtype == torch.float32
