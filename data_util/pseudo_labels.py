"""Pseudo labels: frame-wise teacher logits of whole data sets, read clip by clip.

The published file is dense HDF5: `filenames` (bytes [N]) and `strong_logits` (float16 [N, 447, 250], 40 ms frames).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np

from data_util.hdf5_dataset import LazyHdf5, clip_id_of_name, entry, open_hdf5, refuse_entry
from data_util.labels import CLIP_FRAMES

N_CLASSES = 447


class PseudoLabels(Protocol):
    """Reader of teacher logits; can be pickled, and opens its file in each process by itself."""

    def __len__(self) -> int: ...

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Row of each clip (int64), -1 where the file has none."""
        ...

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float16 [n_classes, n_frames]."""
        ...


class DensePseudoLabels(LazyHdf5):
    """Reader of the published layout."""

    def __init__(self, path: str | Path, n_classes: int = N_CLASSES, n_frames: int = CLIP_FRAMES) -> None:
        """Check the file and read its names.

        Args:
            path: HDF5 with `filenames` and `strong_logits`; names with or without the leading `Y` and `.mp3`.
            n_classes, n_frames: shape of the logits of a clip.

        Raises:
            UserError: no such file, a missing entry, or a wrong type or shape; says what is expected and found.
        """
        super().__init__(path)
        with open_hdf5(self.path) as file:
            logits_text = f"float16 [N, {n_classes}, {n_frames}], logits of {n_classes} classes per 40 ms"
            logits = entry(file, "strong_logits", logits_text)
            if logits.dtype != np.float16 or logits.shape[1:] != (n_classes, n_frames) or logits.ndim != 3:
                refuse_entry(file, logits, logits_text)
            names = read_names(file, len(logits))
        self._row_of_name = {name: row for row, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._row_of_name)

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Row of each clip (`Y<ytid>`), int64 [n]; -1 where the file has none."""
        return rows_of_clips(self._row_of_name, clip_ids)

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float16 [n_classes, n_frames]."""
        return self.file["strong_logits"][row]


def read_names(file: h5py.File, n_rows: int) -> list[str]:
    """The names of the rows, without folder and `.mp3`.

    Raises:
        UserError: the entry is missing, no text, or has another number of rows.
    """
    text = f"bytes [{n_rows}], names of the clips"
    names = entry(file, "filenames", text)
    if names.shape != (n_rows,) or (names.dtype.kind != "S" and not h5py.check_string_dtype(names.dtype)):
        refuse_entry(file, names, text)
    return [clip_id_of_name(name.decode("utf-8", "replace")) for name in names[:]]


def rows_of_clips(row_of_name: dict[str, int], clip_ids: Sequence[str]) -> np.ndarray:
    """Look clips up by `Y<ytid>` and, where a file lists bare YouTube ids, by `<ytid>`; int64, -1 = not there."""
    found = (row_of_name.get(clip, row_of_name.get(clip.removeprefix("Y"), -1)) for clip in clip_ids)
    return np.fromiter(found, np.int64, count=len(clip_ids))


def open_pseudo_labels(path: str | Path, n_classes: int = N_CLASSES) -> PseudoLabels:
    """Open a file of teacher logits.

    Raises:
        UserError: as `DensePseudoLabels`.
    """
    return DensePseudoLabels(path, n_classes)
