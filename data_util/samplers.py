"""Which clips an epoch draws: class-balanced, shuffled, or in order for evaluation; on one or many ranks.

The order depends on the seed and the epoch alone, so every rank knows the whole of it and takes its share. The
training samplers hand each rank the same number of clips; the evaluation sampler hands out each clip exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler

from data_util.labels import Events, active_frames, unpack_weak_target

WEIGHT_SCALE = 1000.0
STRONG_OFFSET = 30.0  # frames
WEAK_OFFSET = 100.0  # clips
N_WEAK_CLASSES = 527
_BLOCK = 4096  # clips whose labels are unpacked at a time: those of two million would take 9 GB


def strong_weights(events: Events) -> np.ndarray:
    """Sampling weight of each clip from its strong labels.

    A frame of class c weighs 1000 / (30 + frames of c in the whole set); a clip weighs the sum over its frames.
    Clips without events weigh 0. Source: the balanced sampling of the published training scripts.

    Returns:
        [n_clips] float64.
    """
    clip, class_index, frames = active_frames(events)
    total = np.bincount(class_index, weights=frames)
    share = frames * WEIGHT_SCALE / (STRONG_OFFSET + total[class_index])
    return np.bincount(clip, weights=share, minlength=len(events))


def weak_weights(targets: np.ndarray) -> np.ndarray:
    """Sampling weight of each clip from its bit-packed clip-level labels, uint8 [n_clips, 66]: as `strong_weights`,
    with clips in place of frames and 100 in place of 30. Classes of far more than 100 clips are drawn equally often,
    those of far fewer in proportion to their clips: these would else fill the epoch with repetitions.

    Returns:
        [n_clips] float64.
    """
    blocks = [targets[k : k + _BLOCK] for k in range(0, len(targets), _BLOCK)]
    total = np.zeros(N_WEAK_CLASSES)
    for block in blocks:
        total += unpack_weak_target(block, N_WEAK_CLASSES).sum(axis=0, dtype=np.int64)
    class_weight = WEIGHT_SCALE / (WEAK_OFFSET + total)
    weights = [unpack_weak_target(block, N_WEAK_CLASSES) @ class_weight for block in blocks]
    return np.concatenate(weights) if weights else np.zeros(0)


def rank_and_world() -> tuple[int, int]:
    """Rank of this process and the number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class EpochSampler(Sampler[int]):
    """Base of the training samplers: an order per epoch, shared among the ranks, resumable in the middle.

    A loader with workers draws ahead of the training step. To resume exactly, set `position` to what the training has
    consumed (steps done in this epoch x batch size of one rank) rather than to what was drawn.

    Attributes:
        epoch: number of the epoch that the next iteration draws; advance it with `set_epoch`.
        position: how many of this rank's clips the next iteration skips; back to 0 after it, and on a new epoch.
    """

    def __init__(self, n_samples: int, seed: int, rank: int | None, world_size: int | None) -> None:
        self.n_samples, self.seed = n_samples, seed
        self.epoch = 0
        self.position = 0
        self._rank, self._world_size = rank, world_size

    def order(self, epoch: int) -> np.ndarray:
        """Indices (int64 [n_samples]) of all ranks in this epoch."""
        raise NotImplementedError

    def ranks(self) -> tuple[int, int]:
        """(rank, world size): as given, or those of torch.distributed at the time of the call."""
        rank, world_size = rank_and_world()
        return (rank, world_size) if self._world_size is None else (self._rank or 0, self._world_size)

    def __len__(self) -> int:
        """Clips of this rank in a whole epoch."""
        return -(-self.n_samples // self.ranks()[1])

    def __iter__(self) -> Iterator[int]:
        rank, world_size = self.ranks()
        order = self.order(self.epoch)
        order = np.resize(order, len(self) * world_size)  # fills up from the start, so that no rank waits for another
        mine = order[rank::world_size][self.position :].tolist()
        self.position = 0
        yield from mine

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to draw; Lightning calls this. Setting the present epoch again keeps the position."""
        if epoch != self.epoch:
            self.epoch, self.position = epoch, 0

    def generator(self, epoch: int) -> np.random.Generator:
        """The random generator of an epoch, the same on every rank."""
        return np.random.default_rng([self.seed, epoch])


class BalancedSampler(EpochSampler):
    """Draws clips with replacement, each with a probability in proportion to its weight.

    Published scripts draw nearly the whole set without replacement, which leaves the balance as it was.
    """

    def __init__(
        self,
        weights: np.ndarray,
        n_samples: int,
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Args: [n_clips] weights >= 0, not all 0; draws per epoch over all ranks; seed; fixed rank (for tests).

        Raises:
            ValueError: weights that are negative, not finite, or all 0.
        """
        super().__init__(n_samples, seed, rank, world_size)
        weights = np.asarray(weights, np.float64)
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
            raise ValueError("sampling weights must be finite, not negative, and not all 0")
        self._cumulative = np.cumsum(weights)

    def order(self, epoch: int) -> np.ndarray:
        """Drawn indices (int64 [n_samples]) of all ranks in this epoch."""
        points = self.generator(epoch).random(self.n_samples) * self._cumulative[-1]
        drawn = np.searchsorted(self._cumulative, points, side="right")
        last = np.searchsorted(self._cumulative, self._cumulative[-1])  # a product may round up to the total
        return np.minimum(drawn, last)


class ShuffleSampler(EpochSampler):
    """Draws `n_samples` clips in random order, without replacement until all clips have come."""

    def __init__(
        self,
        n_clips: int,
        n_samples: int | None = None,
        *,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        """Args: size of the set; draws per epoch over all ranks (None: each clip once); seed; fixed rank (tests)."""
        super().__init__(n_clips if n_samples is None else n_samples, seed, rank, world_size)
        self.n_clips = n_clips

    def order(self, epoch: int) -> np.ndarray:
        """Drawn indices (int64 [n_samples]) of all ranks in this epoch."""
        rng = self.generator(epoch)
        rounds = -(-self.n_samples // max(self.n_clips, 1))
        return np.concatenate([rng.permutation(self.n_clips) for _ in range(rounds)])[: self.n_samples]


class EvalSampler(Sampler[int]):
    """Every clip exactly once over all ranks, in order; ranks may get numbers of clips that differ by one."""

    def __init__(self, n_clips: int, *, rank: int | None = None, world_size: int | None = None) -> None:
        """Args: size of the set; a fixed rank and world size (None: those of torch.distributed)."""
        self.n_clips = n_clips
        self._rank, self._world_size = rank, world_size

    def _share(self) -> range:
        rank, world_size = rank_and_world()
        if self._world_size is not None:
            rank, world_size = self._rank or 0, self._world_size
        return range(rank, self.n_clips, world_size)

    def __iter__(self) -> Iterator[int]:
        return iter(self._share())

    def __len__(self) -> int:
        return len(self._share())
