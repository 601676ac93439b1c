"""Wavmix, mixup and mixstyle against loops over clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from helpers.augment import Batch, apply, draw_mixstyle, draw_mixup, draw_wavmix
from helpers.augment.batch import draw_beta, draw_coins, draw_partners
from helpers.augment.mixing import Mixup


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def test_every_clip_is_partner_once_and_never_its_own(generator: torch.Generator) -> None:
    for n_clips in (2, 3, 16):
        for _ in range(20):
            partner = draw_partners(n_clips, generator)
            assert sorted(partner.tolist()) == list(range(n_clips))
            assert (partner != torch.arange(n_clips)).all()
    assert draw_partners(1, generator).tolist() == [0]


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_beta_draws_follow_the_distribution(generator: torch.Generator, alpha: float) -> None:
    plain = draw_beta(20_000, alpha, generator, folded=False).numpy()
    assert stats.kstest(plain, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    folded = draw_beta(20_000, alpha, generator, folded=True).numpy()
    assert folded.min() >= 0.5
    assert stats.kstest(2 * folded - 1, lambda x: 2 * stats.beta(alpha, alpha).cdf((x + 1) / 2) - 1).pvalue > 1e-3


def test_coins(generator: torch.Generator) -> None:
    assert abs(draw_coins(20_000, 0.3, generator, per_clip=True).double().mean() - 0.3) < 0.015
    whole = [draw_coins(4, 0.5, generator, per_clip=False) for _ in range(50)]
    assert all(len(set(coins.tolist())) == 1 for coins in whole)
    assert 10 < sum(bool(coins[0]) for coins in whole) < 40


def test_wavmix_equals_a_loop_over_clips(generator: torch.Generator) -> None:
    n_clips = 8
    draw = draw_wavmix(n_clips, 0.6, generator)
    x = torch.randn(n_clips, 1600, dtype=torch.float64) + torch.arange(n_clips)[:, None]  # with an offset each
    labels = (torch.rand(n_clips, 3, 25) < 0.3).double()
    mixed, mixed_labels = draw.signal(x).numpy(), draw.frames(labels).numpy()
    assert 0 < (draw.weight < 1).sum() < n_clips
    for i in range(n_clips):
        weight, j = float(draw.weight[i]), int(draw.partner[i])
        if weight == 1:
            expected = x[i].numpy()
        else:
            a, b = x[i].numpy(), x[j].numpy()
            expected = weight * (a - np.mean(a)) + (1 - weight) * (b - np.mean(b))
            expected = expected - np.mean(expected)
        np.testing.assert_allclose(mixed[i], expected, atol=1e-12)
        np.testing.assert_allclose(mixed_labels[i], weight * labels[i] + (1 - weight) * labels[j], atol=1e-12)


@pytest.mark.parametrize("per_clip", [False, True])
def test_mixup_equals_a_loop_over_clips(generator: torch.Generator, per_clip: bool) -> None:
    draw = draw_mixup(6, 0.999 if not per_clip else 0.5, generator, per_clip=per_clip)
    mel, tags = torch.randn(6, 1, 8, 40, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)
    labels = (torch.rand(6, 3, 25) < 0.3).double()
    for got, value in ((draw.signal(mel), mel), (draw.tags(tags), tags), (draw.frames(labels), labels)):
        for i in range(6):
            weight = float(draw.weight[i])
            expected = weight * value[i] + (1 - weight) * value[int(draw.partner[i])]
            torch.testing.assert_close(got[i], expected, rtol=0, atol=1e-14)


def test_mixup_folds_only_on_request(generator: torch.Generator) -> None:
    assert draw_mixup(1000, 1.0, generator, folded=True).weight.min() >= 0.5
    assert draw_mixup(1000, 1.0, generator).weight.min() < 0.1


@pytest.mark.parametrize("per_clip", [False, True])
def test_mixstyle_equals_a_loop_over_clips_and_bands(generator: torch.Generator, per_clip: bool) -> None:
    draw = draw_mixstyle(5, 0.999 if not per_clip else 0.6, generator, per_clip=per_clip)
    mel = torch.randn(5, 1, 6, 50, dtype=torch.float64) * torch.arange(1, 7)[:, None]  # own spread per band
    mel += torch.arange(5)[:, None, None, None]  # own level per clip
    got = draw.signal(mel).numpy()
    x = mel.numpy()[:, 0]
    for i in range(5):
        j, weight = int(draw.partner[i]), float(draw.weight[i])
        for band in range(6):
            own, other = x[i, band], x[j, band]
            own_std, other_std = (np.sqrt(np.var(v, ddof=1) + 1e-6) for v in (own, other))
            mean = weight * own.mean() + (1 - weight) * other.mean()
            std = weight * own_std + (1 - weight) * other_std
            np.testing.assert_allclose(got[i, 0, band], (own - own.mean()) / own_std * std + mean, atol=1e-10)
    labels = torch.rand(5, 2, 10)
    assert draw.frames(labels) is labels


def test_unfolded_mixstyle_lets_the_partner_take_over(generator: torch.Generator) -> None:
    assert draw_mixstyle(1000, 1.0, generator).weight.min() >= 0.5
    assert draw_mixstyle(1000, 1.0, generator, folded=False).weight.min() < 0.1


def test_clip_without_pseudo_label_enters_a_mixture_with_its_hard_labels() -> None:
    strong = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    pseudo = torch.tensor([[[0.8, 0.1]], [[0.5, 0.5]]])
    batch = Batch(torch.zeros(2, 1, 4, 8), strong, pseudo, torch.tensor([True, False]))
    mixed = apply(batch, [Mixup(torch.tensor([1, 0]), torch.tensor([0.75, 1.0]))])
    assert mixed.has_pseudo is None and mixed.pseudo is not None and mixed.strong is not None
    torch.testing.assert_close(mixed.pseudo[0], 0.75 * pseudo[0] + 0.25 * strong[1])
    torch.testing.assert_close(mixed.pseudo[1], strong[1])
    torch.testing.assert_close(mixed.strong[0], torch.tensor([[0.75, 0.25]]))


def test_unknown_share_of_clip_teacher_is_mixed() -> None:
    teacher = torch.tensor([[0.9], [0.4], [0.6]])
    batch = Batch(torch.zeros(3, 8), weak_pseudo=teacher, weak_known=torch.tensor([True, False, True]))
    mixed = apply(batch, [Mixup(torch.tensor([1, 2, 0]), torch.tensor([0.75, 0.5, 0.5]))])
    assert mixed.weak_pseudo is not None and mixed.weak_known is not None
    torch.testing.assert_close(mixed.weak_known, torch.tensor([0.75, 0.5, 1.0]))
    torch.testing.assert_close(mixed.weak_pseudo, torch.tensor([[0.9], [0.6], [0.75]]))


def test_batch_refuses_fields_of_different_sizes() -> None:
    with pytest.raises(ValueError, match="same number of clips"):
        Batch(torch.zeros(2, 100), strong=torch.zeros(3, 4, 5))
    with pytest.raises(ValueError, match="shape of the labels"):
        Batch(torch.zeros(2, 100), strong=torch.zeros(2, 4, 5), pseudo=torch.zeros(2, 4, 6))
