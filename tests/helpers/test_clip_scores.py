"""Accuracy and average precision against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from helpers.clip_scores import SCORES


def test_accuracy_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(5, (60,), generator=generator)
    truth[truth == 4] = 3  # a class that does not occur
    group = torch.randint(3, (60,), generator=generator)
    logits = torch.randn(60, 5, generator=generator) + 2 * torch.eye(5)[truth]
    scores = SCORES["accuracy"]()
    for part in torch.arange(60).split(17):
        scores.update(logits[part], torch.eye(5)[truth[part]], group=group[part])
    figures = scores.compute()
    gathered = SCORES["accuracy"]()
    gathered.update(logits, torch.eye(5)[truth], group=group)
    gathered.rows = torch.cat(list(gathered.rows))  # as torchmetrics leaves it after gathering from several processes
    assert gathered.compute() == figures
    guess = logits.argmax(1)
    assert figures["accuracy"] == pytest.approx(accuracy_score(truth, guess), abs=1e-12)
    assert figures["macro_accuracy"] == pytest.approx(
        np.mean([accuracy_score(truth[truth == c], guess[truth == c]) for c in range(4)]), abs=1e-12
    )
    seen = truth.bincount(minlength=5) > 0
    assert figures["macro_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess), abs=1e-12)
    assert list(figures["accuracy_per_class"]) == seen.nonzero().flatten().tolist()
    assert figures["accuracy_per_group"] == {
        g: pytest.approx(accuracy_score(truth[group == g], guess[group == g])) for g in range(3)
    }


def test_no_clips_give_no_accuracy() -> None:
    figures = SCORES["accuracy"]().compute()
    assert np.isnan(figures["accuracy"]) and figures["accuracy_per_class"] == {}


def test_average_precision_of_known_labels_equals_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    targets = (torch.rand(80, 6, generator=generator) < 0.3).float()
    known = (torch.rand(80, 6, generator=generator) < 0.5).float()
    known[:, 5] *= 1 - targets[:, 5]  # no known positive: left out
    logits = torch.randn(80, 6, generator=generator) + targets
    scores = SCORES["mAP"]()
    for part in torch.arange(80).split(30):
        scores.update(logits[part], targets[part], known=known[part])
    figures = scores.compute()
    expected, areas = {}, []
    for c in range(5):
        rows = known[:, c] > 0
        expected[c] = average_precision_score(targets[rows, c], logits[rows, c])
        areas.append(roc_auc_score(targets[rows, c], logits[rows, c]))
    assert figures["ap_per_class"] == pytest.approx(expected, abs=1e-6)
    assert figures["mAP"] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)
    assert figures["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)
