"""A file of frame logits in the place of a teacher network: the same targets without its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data_util.pseudo_labels import PseudoLabels
from errors import UserError

_TRIES = 100


class WithTeacherFrames(Dataset):
    """A data set whose samples also hold `teacher_logits` (float16 [C, T]) of every clip.

    A clip that the file does not know gives its turn to one that it knows, of the same part of the data set: without
    labels per frame there would be nothing to learn from it.

    Attributes:
        unknown: number of clips that the file does not know.
    """

    def __init__(self, dataset: Any, store: PseudoLabels, parts: Sequence[Sequence[str]]) -> None:
        """Look up all clips.

        Args:
            dataset: samples have `clip_id`.
            store: reader of frame logits.
            parts: clip ids of the data set in the order of its indices, in parts that stand in for themselves.

        Raises:
            UserError: none of the clips of a part is known.
        """
        self.dataset, self.store = dataset, store
        self._known: list[np.ndarray] = []  # indices of the known clips of each part
        self._ends = np.cumsum([len(clip_ids) for clip_ids in parts])
        self.unknown = 0
        for clip_ids, end in zip(parts, self._ends, strict=True):
            known = np.flatnonzero(store.rows_of(clip_ids) >= 0)
            if len(known) == 0:
                raise UserError(
                    f"--teacher_pseudo_labels knows none of {len(clip_ids)} clips such as {clip_ids[0]}; use a live "
                    "teacher, or leave them out (--online_distillation_strong_ratio 1: strong clips alone)"
                )
            self._known.append(known + end - len(clip_ids))
            self.unknown += len(clip_ids) - len(known)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        known = self._known[int(np.searchsorted(self._ends, index, side="right"))]
        place = int(np.searchsorted(known, index))
        if place == len(known) or known[place] != index:
            place = int(index)  # any, but always the same one for the same clip
        for k in range(min(len(known), _TRIES)):  # a stand-in for a corrupt clip may itself be unknown
            sample = self.dataset[int(known[(place + k) % len(known)])]
            row = int(self.store.rows_of([sample["clip_id"]])[0])
            if row >= 0:
                return {**sample, "teacher_logits": torch.from_numpy(self.store.read(row))}
        raise UserError("the clips that --teacher_pseudo_labels knows cannot be decoded")

    def new_corrupt_report(self) -> str | None:
        """That of the data set."""
        return self.dataset.new_corrupt_report()
