"""Strong and weak clips in one loader."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.data import DataLoader

from data_util.audioset import AudioSetStrong, AudioSetWeak
from data_util.mixed import MixedDataset, MixedSampler
from data_util.samplers import BalancedSampler, ShuffleSampler, strong_weights, weak_weights


def make(data_dir, **ranks):
    dataset = MixedDataset(AudioSetStrong(data_dir), AudioSetWeak(data_dir))
    strong = BalancedSampler(strong_weights(dataset.strong.events), 8, seed=1, **ranks)
    weak = BalancedSampler(weak_weights(dataset.weak.targets()), 8, seed=2, **ranks)
    return dataset, MixedSampler(strong, weak, len(dataset.strong))


def test_every_batch_is_half_strong_and_half_weak(data_dir):
    dataset, sampler = make(data_dir)
    assert len(dataset) == 24
    batches = list(DataLoader(dataset, batch_size=4, sampler=sampler, num_workers=1))
    assert len(batches) == 4 and len(sampler) == 16
    for batch in batches:
        assert batch["has_strong"].tolist() == [True, False] * 2
        assert batch["has_weak"].tolist() == [False, True] * 2
        assert batch["audio"].shape == (4, 160_000) and batch["strong"].shape == (4, 447, 250)
        for i, index in enumerate(batch["index"].tolist()):
            assert (index < 12) == bool(batch["has_strong"][i])
            source = dataset.strong[index] if index < 12 else dataset.weak[index - 12]
            label = "strong" if index < 12 else "weak"
            assert torch.equal(batch[label][i], source[label]) and batch["clip_id"][i] == source["clip_id"]
            assert batch["weak" if index < 12 else "strong"][i].abs().max() == 0


def test_ranks_epochs_and_resuming(data_dir):
    _, whole = make(data_dir)
    shares = [list(make(data_dir, rank=rank, world_size=2)[1]) for rank in range(2)]
    order = list(whole)
    assert shares[0][::2] == order[::4] and shares[1][1::2] == order[3::4]
    whole.set_epoch(1)
    second = list(whole)
    assert second != order
    _, resumed = make(data_dir)
    for part in (resumed.strong, resumed.weak):
        part.epoch, part.position = 1, 3
    assert list(resumed) == second[6:]


def test_the_shorter_set_ends_the_epoch():
    sampler = MixedSampler(ShuffleSampler(3), ShuffleSampler(100), 3)
    drawn = np.array(list(sampler))
    assert len(drawn) == len(sampler) == 6
    assert sorted(drawn[::2]) == [0, 1, 2] and (drawn[1::2] >= 3).all()
