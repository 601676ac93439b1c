"""Sampling weights against loops over frames; order and shares of the samplers on one and several ranks."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from data_util.labels import Events, encode_events, merge_events
from data_util.samplers import BalancedSampler, EvalSampler, ShuffleSampler, strong_weights, weak_weights


def random_events(seed, n_clips=30, n_classes=6):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, n_clips)
    onset = rng.uniform(0, 9, counts.sum()).round(3)
    offset = np.minimum(onset + rng.uniform(0.01, 4, len(onset)).round(3), 10)
    clips = np.array([f"Y{i:011d}" for i in range(n_clips)])
    events = Events(clips, np.cumsum([0, *counts]), onset, offset, rng.integers(0, n_classes, len(onset)))
    return merge_events(events, n_classes)


@pytest.mark.parametrize("seed", range(3))
def test_strong_weights_equal_the_formula_on_dense_targets(seed):
    events = random_events(seed)
    counts = np.array([encode_events(*events.of(i), n_classes=6).sum(1, float) for i in range(len(events))])
    expected = np.zeros(len(events))
    for i in range(len(events)):
        for c in range(6):
            expected[i] += counts[i, c] * 1000 / (30 + counts[:, c].sum())
    np.testing.assert_allclose(strong_weights(events), expected, rtol=1e-12)


def test_weak_weights_equal_the_formula():
    targets = (np.random.default_rng(0).random((50, 527)) < 0.02).astype(np.uint8)
    expected = [sum(1000 / (100 + targets[:, c].sum()) for c in np.flatnonzero(row)) for row in targets]
    np.testing.assert_allclose(weak_weights(np.packbits(targets, axis=1)), expected, rtol=1e-12)


def test_weak_weights_of_many_clips_need_little_memory():
    """Unpacked and as float64 these labels would take 840 MB."""
    targets = np.random.default_rng(0).integers(0, 256, (200_000, 66), np.uint8)
    tracemalloc.start()
    weights = weak_weights(targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(weights) == 200_000 and peak < 50e6


def test_weights_from_labels_favour_the_rare_class_as_far_as_the_formula_goes():
    """2,000 clips against 20: drawn in proportion to 2000 / 2100 and 20 / 120, not alike; strong frames likewise."""
    targets = np.zeros((2020, 527), np.uint8)
    targets[:2000, 0] = 1
    targets[2000:, 1] = 1
    drawn = BalancedSampler(weak_weights(np.packbits(targets, axis=1)), 40_000).order(0)
    expected = (20 / 120) / (20 / 120 + 2000 / 2100)
    assert abs((drawn >= 2000).mean() - expected) < 0.01 < 10 / 2020 + expected
    clips = np.array([f"Y{i:04d}" for i in range(2020)])
    classes = np.repeat([0, 1], [2000, 20])
    events = Events(clips, np.arange(2021), np.zeros(2020), np.full(2020, 4.0), classes)
    drawn = BalancedSampler(strong_weights(events), 40_000).order(0)
    assert abs((drawn >= 2000).mean() - 0.5) < 0.01  # with 100 frames a clip the offset of 30 hardly counts


def test_balanced_sampling_really_balances():
    """A class 100 times rarer than another must be drawn about as often; without replacement it could not be."""
    targets = np.zeros((2020, 527), np.uint8)
    targets[:2000, 0] = 1
    targets[2000:, 1] = 1
    weights = np.where(targets[:, 0], 1 / 2000, 1 / 20)
    drawn = BalancedSampler(weights, 4000).order(0)
    assert abs((drawn >= 2000).mean() - 0.5) < 0.05
    assert np.bincount(drawn[drawn >= 2000] - 2000).min() > 50  # the 20 rare clips come again and again


def test_drawn_frequencies_follow_the_weights_and_zero_means_never():
    weights = np.array([0.0, 1.0, 3.0, 0.0, 6.0, 0.0])
    drawn = np.bincount(BalancedSampler(weights, 100_000, seed=5).order(3), minlength=6)
    np.testing.assert_allclose(drawn / 100_000, weights / 10, atol=0.01)
    assert drawn[[0, 3, 5]].sum() == 0


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [np.nan, 1.0], [np.inf, 1.0], []])
def test_unusable_weights(weights):
    with pytest.raises(ValueError, match="weights"):
        BalancedSampler(np.array(weights), 10)


def make(kind, **ranks):
    weights = np.arange(1.0, 24.0)
    if kind == "balanced":
        return BalancedSampler(weights, 22, seed=7, **ranks)
    return ShuffleSampler(23, 22, seed=7, **ranks)


@pytest.mark.parametrize("kind", ["balanced", "shuffle"])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_one_order(kind, world_size):
    whole = list(make(kind))
    shares = [list(make(kind, rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert len({len(share) for share in shares}) == 1
    assert len(make(kind, rank=0, world_size=world_size)) == len(shares[0]) == -(-22 // world_size)
    together = [share[i] for i in range(len(shares[0])) for share in shares]
    assert together[:22] == whole


@pytest.mark.parametrize("kind", ["balanced", "shuffle"])
def test_order_depends_on_seed_and_epoch_alone(kind):
    sampler, again = make(kind), make(kind)
    first = list(sampler)
    assert list(sampler) == first == list(again)
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    sampler.seed = 8
    assert list(sampler) != first


@pytest.mark.parametrize("kind", ["balanced", "shuffle"])
def test_resuming_in_the_middle_of_an_epoch(kind):
    uninterrupted = make(kind, rank=1, world_size=2)
    uninterrupted.set_epoch(4)
    expected = list(uninterrupted)
    resumed = make(kind, rank=1, world_size=2)
    resumed.epoch, resumed.position = 4, 6
    resumed.set_epoch(4)  # as a trainer does at the start of the resumed epoch
    assert list(resumed) == expected[6:]
    assert list(resumed) == expected
    resumed.set_epoch(5)
    uninterrupted.set_epoch(5)
    assert list(resumed) == list(uninterrupted)


def test_shuffling_draws_each_clip_once_per_round():
    assert sorted(ShuffleSampler(50).order(2).tolist()) == list(range(50))
    assert np.bincount(ShuffleSampler(10, 25).order(0), minlength=10).tolist().count(3) == 5


@pytest.mark.parametrize("n_clips", [0, 1, 7, 8])
@pytest.mark.parametrize("world_size", [1, 3])
def test_evaluation_neither_loses_nor_repeats_clips(n_clips, world_size):
    samplers = [EvalSampler(n_clips, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(i for sampler in samplers for i in sampler) == list(range(n_clips))
    assert [len(sampler) for sampler in samplers] == [len(list(sampler)) for sampler in samplers]


def draw_on_rank(rank, world_size, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world_size)
    (folder / f"{rank}.json").write_text(json.dumps([list(make("balanced")), list(EvalSampler(5))]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_come_from_torch_distributed(tmp_path):
    multiprocessing.start_processes(draw_on_rank, args=(2, tmp_path), nprocs=2, start_method="fork")
    for rank in range(2):
        drawn, evaluated = json.loads((tmp_path / f"{rank}.json").read_text())
        assert drawn == list(make("balanced", rank=rank, world_size=2)) and evaluated == list(range(rank, 5, 2))
