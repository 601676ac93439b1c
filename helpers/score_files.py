"""Frame scores as files, written block by block so that hours of audio fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from helpers.classes import ClassName
from helpers.events import FRAME_RATE


class ScoreFile(Protocol):
    """Takes the scores of one audio in blocks."""

    def __init__(self, path: Path, classes: Sequence[ClassName]) -> None: ...

    def add(self, scores: np.ndarray) -> None:
        """Take the next frames [C, t]."""

    def close(self, duration: float) -> None:
        """End the file of an audio of so many seconds."""


class ScoreTSV:
    """One row per frame: onset, offset, then a column per class, as `sed_scores_eval.io.read_sed_scores` reads it."""

    def __init__(self, path: Path, classes: Sequence[ClassName]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")
        names = (" ".join(name.label.split()) for name in classes)
        self._file.write("\t".join(("onset", "offset", *names)) + "\n")
        self._n_frames = 0
        self._last: np.ndarray | None = None  # held back until it is known where it ends

    def add(self, scores: np.ndarray) -> None:
        """Take the next frames [C, t]."""
        for frame in scores.T:
            if self._last is not None:
                self._write((self._n_frames) / FRAME_RATE)
            self._last = frame
            self._n_frames += 1

    def close(self, duration: float) -> None:
        """End the file of an audio of so many seconds."""
        if self._last is not None:
            self._write(duration)
        self._file.close()

    def _write(self, offset: float) -> None:
        onset = (self._n_frames - 1) / FRAME_RATE
        values = "\t".join(f"{score:.6g}" for score in self._last)  # type: ignore[union-attr]
        self._file.write(f"{onset:.9g}\t{offset:.9g}\t{values}\n")


class ScoreHDF5:
    """Arrays `scores` float16 [T, C] (compressed), `timestamps` [T + 1] s, `labels` [C], `mids` [C]."""

    def __init__(self, path: Path, classes: Sequence[ClassName]) -> None:
        import h5py

        from data_util.hdf5_output import Hdf5Output

        self._file = Hdf5Output(path)
        n = len(classes)
        shape = {"shape": (0, n), "maxshape": (None, n), "chunks": (250, n)}
        self._scores = self._file.create_dataset("scores", dtype="f2", compression="gzip", compression_opts=1, **shape)
        text = h5py.string_dtype()
        self._file.create_dataset("labels", data=[name.label for name in classes], dtype=text)
        self._file.create_dataset("mids", data=[name.mid for name in classes], dtype=text)
        self._file.attrs["frame_rate"] = FRAME_RATE

    def add(self, scores: np.ndarray) -> None:
        """Take the next frames [C, t]."""
        n = len(self._scores)
        self._scores.resize(n + scores.shape[1], axis=0)
        self._scores[n:] = scores.T
        self._file.check()

    def close(self, duration: float) -> None:
        """End the file of an audio of so many seconds."""
        timestamps = np.append(np.arange(len(self._scores)) / FRAME_RATE, duration)
        self._file.create_dataset("timestamps", data=timestamps)
        self._file.attrs["duration"] = duration
        self._file.close()


SCORE_FORMATS: dict[str, tuple[str, Callable[[Path, Sequence[ClassName]], ScoreFile]]] = {
    # A folder of its own: sed_scores_eval reads all scores of a folder that holds nothing else.
    "scores_tsv": ("scores/{}.tsv", ScoreTSV),
    "scores_hdf5": ("{}.scores.h5", ScoreHDF5),
}
