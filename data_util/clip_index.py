"""Finds clips by name in tables that write names in different ways."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clip_id_of_name(name: str) -> str:
    """Name of an MP3 or a published row -> clip id: folders and the suffix `.mp3` are dropped, nothing else."""
    return name.rpartition("/")[2].removesuffix(".mp3")


class ClipIndex:
    """Rows of a table by clip; it may name clips `Y<ytid>` or `<ytid>`, with or without folder and `.mp3`."""

    def __init__(self, names: Sequence[str], rows: Sequence[int] | None = None) -> None:
        """Args: the names, of which the first counts where they repeat; the row of each (None: its place)."""
        clips = np.array([clip_id_of_name(name) for name in names], np.str_)
        order = np.argsort(clips, kind="stable")
        self._clips = clips[order]
        self._rows = order if rows is None else np.asarray(rows, np.int64)[order]

    def __len__(self) -> int:
        return len(self._clips)

    def repeated(self) -> np.ndarray:
        """Clips that an earlier name stands for already, str."""
        return self._clips[1:][self._clips[1:] == self._clips[:-1]]

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Row of each clip (`Y<ytid>`), int64; -1 where there is none."""
        with_y = self._find(np.array(clip_ids, np.str_))
        return np.where(with_y >= 0, with_y, self._find(np.array([c.removeprefix("Y") for c in clip_ids], np.str_)))

    def _find(self, wanted: np.ndarray) -> np.ndarray:
        if len(self) == 0:
            return np.full(len(wanted), -1, np.int64)
        place = np.searchsorted(self._clips, wanted).clip(max=len(self) - 1)
        return np.where(self._clips[place] == wanted, self._rows[place], -1)
