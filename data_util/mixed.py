"""Strongly and weakly labelled clips in one loader, half of each batch from either."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from data_util.audioset import AudioSetStrong, AudioSetWeak
from data_util.labels import CLIP_FRAMES
from data_util.samplers import EpochSampler


class MixedDataset(Dataset):
    """The clips of a strong set, then those of a weak set, as samples of one form.

    A sample has the entries of both sets (see `data_util.audioset`), with zeros for the labels that its clip does not
    have, and `has_strong` and `has_weak` (bool) to tell. `index` counts through both sets.
    """

    def __init__(self, strong: AudioSetStrong, weak: AudioSetWeak) -> None:
        self.strong, self.weak = strong, weak

    def __len__(self) -> int:
        return len(self.strong) + len(self.weak)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        if index < len(self.strong):
            weak = torch.zeros(len(self.weak.vocabulary))
            return {**self.strong[index], "weak": weak, "has_strong": True, "has_weak": False}
        shape = (len(self.strong.vocabulary), CLIP_FRAMES)
        sample = {**self.weak[index - len(self.strong)], "strong": torch.zeros(shape, dtype=torch.uint8)}
        if self.strong.pseudo_labels is not None:
            sample |= {"pseudo_logits": torch.zeros(shape, dtype=torch.float16), "has_pseudo": False}
        sample["index"] += len(self.strong)
        return {**sample, "has_strong": False, "has_weak": True}

    def new_corrupt_report(self) -> str | None:
        """The reports of both sets in one line; None: nothing new."""
        reports = [report for part in (self.strong, self.weak) if (report := part.new_corrupt_report())]
        return "; ".join(reports) or None


class MixedSampler(Sampler[int]):
    """Draws in turn from a sampler of the strong set and one of the weak set, until the shorter ends.

    Batches of even size so hold as many strong as weak clips. Both samplers share their draws among the ranks and
    follow `set_epoch`, as `data_util.samplers.EpochSampler` says; to resume, set the epoch and position of each.
    """

    def __init__(self, strong: EpochSampler, weak: EpochSampler, n_strong: int) -> None:
        """Args: a sampler of each set; the size of the strong set, which is where the weak indices begin."""
        self.strong, self.weak, self.n_strong = strong, weak, n_strong

    def __len__(self) -> int:
        return 2 * min(len(self.strong), len(self.weak))

    def __iter__(self) -> Iterator[int]:
        pairs = zip(self.strong, self.weak, strict=False)
        return chain.from_iterable((strong, weak + self.n_strong) for strong, weak in pairs)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to draw."""
        self.strong.set_epoch(epoch)
        self.weak.set_epoch(epoch)
