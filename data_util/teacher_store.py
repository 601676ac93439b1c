"""A file of frame logits in the place of a teacher network: the same targets without its forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data_util.pseudo_labels import PseudoLabels, read_logits
from errors import UserError

_TRIES = 100


class WithTeacherFrames(Dataset):
    """A data set whose samples also hold `teacher_logits` (float16 [C, T]) of every clip.

    A clip that the file does not know, or whose logits are damaged, gives its turn to one with logits, of the same part
    of the data set: without labels per frame there would be nothing to learn from it. `new_corrupt_report` lists the
    damaged ones.

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
        # One byte per row in shared memory: 1 = damaged, 3 = reported; workers write it, the main process reads it.
        self._damage = torch.zeros(len(store), dtype=torch.uint8).share_memory_()
        self._clip_ids = [clip for part in parts for clip in part]
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
            if row < 0:
                continue
            if (logits := read_logits(self.store, row)) is not None:
                return {**sample, "teacher_logits": torch.from_numpy(logits)}
            self._damage[row] |= 1
        raise UserError("the clips that --teacher_pseudo_labels knows cannot be decoded, or their logits are damaged")

    def new_corrupt_report(self) -> str | None:
        """That of the data set, and the clips whose logits turned out to be damaged since the last call."""
        reports = [self.dataset.new_corrupt_report()]
        if (fresh := self._damage == 1).any():
            rows = self.store.rows_of(self._clip_ids)
            names = [c for c, row in zip(self._clip_ids, rows, strict=True) if row >= 0 and fresh[row]]
            reports.append(f"{len(names)} clips have damaged teacher logits and gave way to others: {', '.join(names)}")
            self._damage[fresh] = 3
        return "; ".join(filter(None, reports)) or None
