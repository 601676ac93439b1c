"""Tagging scores equal definitions written out with loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from helpers.tagging_scores import TaggingScores


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean over positives of the precision at their rank (no ties)."""
    order = labels[np.argsort(-scores)]
    return float(np.mean([order[: k + 1].mean() for k in np.flatnonzero(order)]))


def auroc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of pairs of a positive and a negative that are in the right order; ties count half."""
    pairs = np.sign(scores[labels == 1][:, None] - scores[labels == 0][None])
    return float((pairs / 2 + 0.5).mean())


def test_figures_equal_their_definitions() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 9, (60, 12)).astype(np.float32), (rng.random((60, 12)) < 0.2).astype(int)
    labels[:, 3] = 0  # no positives
    metric = TaggingScores()
    for part in np.array_split(np.arange(60), 7):
        metric.update(torch.from_numpy(logits[part]), torch.from_numpy(labels[part]))
    found = metric.compute()
    classes = [c for c in range(12) if c != 3]
    expected = {c: average_precision(logits[:, c], labels[:, c]) for c in classes}
    assert found["ap_per_class"] == pytest.approx(expected, abs=1e-6)
    assert found["mAP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    mean = np.mean([auroc(logits[:, c], labels[:, c]) for c in classes])
    assert found["auroc"] == pytest.approx(mean, abs=1e-6)
    assert found["d_prime"] == pytest.approx(math.sqrt(2) * norm.ppf(mean), abs=1e-5)


def test_perfect_and_absent_labels_stay_finite_or_nan() -> None:
    metric = TaggingScores()
    labels = torch.tensor([[1, 0], [0, 1]])
    metric.update(labels * 40.0 - 20, labels)
    assert metric.compute()["mAP"] == 1 and math.isfinite(metric.compute()["d_prime"])
    metric.reset()
    metric.update(torch.zeros(2, 2), torch.zeros(2, 2))
    assert math.isnan(metric.compute()["mAP"])


def test_unknown_labels_count_neither_way() -> None:
    """Each class is scored on the clips whose label is known; what the others say makes no difference."""
    rng = torch.Generator().manual_seed(0)
    logits, known = torch.randn(60, 3, generator=rng), torch.rand(60, 3, generator=rng) < 0.6
    targets = (torch.rand(60, 3, generator=rng) < 0.4).long()
    scores = TaggingScores()
    scores.update(logits, targets, known)
    figures = scores.compute()
    for c in range(3):
        rows = known[:, c]
        expected = average_precision(logits[rows, c].numpy(), targets[rows, c].numpy())
        assert figures["ap_per_class"][c] == pytest.approx(expected, abs=1e-6)
        assert expected != pytest.approx(average_precision(logits[:, c].numpy(), targets[:, c].numpy()), abs=1e-3)
    scores.reset()
    scores.update(logits, torch.where(known, targets, 1 - targets), known)
    assert scores.compute() == figures
