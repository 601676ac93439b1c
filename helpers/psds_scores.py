"""Scores of whole evaluation sets as files.

They come as one of

- a folder of `<clip>.tsv` as sed_scores_eval reads and writes them: columns onset, offset, then one per class; in
  folders beneath, the clip is the path;
- one compact HDF5: `filenames` [N], `scores` float16 or float32 [N, C, T], `n_frames` [N] (frames that belong to the
  clip), `labels` [C], attribute `frame_rate`;
- a dense file of pseudo labels (`filenames`, `strong_logits` [N, 447, 250]) of the AudioSet Strong classes.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from atomic import naming, replacing, unfinished
from data_util.audio_folders import beneath
from data_util.clip_names import clip_ids
from data_util.hdf5_dataset import entry, open_hdf5, read_names
from data_util.labels import FRAME_RATE, load_vocabulary
from errors import UserError, reading, wrong_path
from helpers.psds_batches import check_stamps
from helpers.psds_io import refuse_existing

if TYPE_CHECKING:
    import h5py

TIMES = ("onset", "offset")
FRAME_RATES = (1e-3, 1e6)  # per second; others are mistakes
LONGEST_VALUE = 60  # characters of a value in a message


class ScoredClips(NamedTuple):
    """Some clips on one time grid."""

    clip_ids: list[str]
    scores: np.ndarray  # [B, C, T]
    stamps: np.ndarray | None  # frame times [T + 1] in seconds; None: at the frame rate of the source


class ScoreSource(Protocol):
    """Scores of an evaluation set."""

    class_names: list[str]
    clip_ids: list[str]
    frame_rate: float

    def read(self, clip_ids: Sequence[str]) -> Iterator[ScoredClips]:
        """Yields the scores of these clips in batches."""
        ...


def open_scores(path: str | Path) -> ScoreSource:
    """Opens a folder of TSV files or an HDF5 file of scores.

    Raises:
        UserError: there is no such file, or it does not hold scores in a known form.
    """
    path = Path(path)
    if path.is_dir():
        return ScoreFolder(path)
    if path.is_file():
        return ScoreHDF5(path)
    raise UserError(
        f"scores {path}: {wrong_path('file or folder', path)}; scores are a folder of <clip>.tsv or an HDF5 file"
    )


class ScoreFolder:
    """A folder of one TSV file per clip, as sed_scores_eval uses it."""

    frame_rate = FRAME_RATE

    def __init__(self, path: Path) -> None:
        self.path = path
        files = beneath(path, (".tsv",))
        self._files = {file.relative_to(path).as_posix()[: -len(".tsv")]: file for file in files}
        self.clip_ids = sorted(self._files)
        if not self.clip_ids:
            raise UserError(f"scores {path}: no .tsv file in this folder")
        first = self._files[self.clip_ids[0]]
        with reading(first, "the scores"), first.open(encoding="utf-8", newline="") as lines:
            header = [name.strip() for name in next(csv.reader(lines, delimiter="\t"), [])]
        if tuple(header[:2]) != TIMES or len(header) < 3:
            raise UserError(f"{first}: columns {header[:3]}; expected onset, offset and one column per class")
        self.class_names = header[2:]

    def read(self, clip_ids: Sequence[str]) -> Iterator[ScoredClips]:
        """Yields the scores of these clips one by one, as float64 with the times in their files."""
        for clip_id in clip_ids:
            yield self._read(clip_id)

    def _read(self, clip_id: str) -> ScoredClips:
        import pandas as pd

        file = self._files[clip_id]
        try:
            table = pd.read_csv(file, sep="\t", dtype=np.float64)
        except (OSError, ValueError) as error:
            raise UserError(f"{file}: not a table of numbers: {error}") from None
        table.columns = table.columns.str.strip()
        if list(table.columns) != [*TIMES, *self.class_names] or table.empty:
            raise UserError(f"{file}: expected frames with the columns of {self.clip_ids[0]}.tsv")
        onsets, offsets = table["onset"].to_numpy(), table["offset"].to_numpy()
        if (onsets[1:] != offsets[:-1]).any():
            raise UserError(f"{file}: every frame must begin where the one before ends")
        scores = np.ascontiguousarray(table.to_numpy()[:, 2:].T)
        stamps = check_stamps(str(file), np.append(onsets, offsets[-1]), len(table))
        return ScoredClips([clip_id], scores[None], stamps)


def _numbers(file: h5py.File, name: str, n_axes: int, kinds: str, expected: str) -> h5py.Dataset:
    """The entry of this name; UserError unless it is an array of so many axes of numbers of these kinds of NumPy."""
    found = entry(file, name, expected)
    try:
        kind = found.dtype.kind
    except TypeError:  # HDF5 has types that NumPy has not
        kind = ""
    if kind == "" or kind not in kinds or found.ndim != n_axes:
        raise UserError(f"{file.filename}: entry {name!r} must hold {expected}")
    return found


def _text(file: h5py.File, name: str) -> list[str]:
    expected = "text [N]"
    found = entry(file, name, expected)
    try:
        return read_names(file, found, expected)
    except (UserError, TypeError):
        raise UserError(f"{file.filename}: entry {name!r} must hold {expected}") from None


def _frame_rate(file: h5py.File) -> float:
    """The attribute `frame_rate`, or the usual one where there is none; UserError for one that cannot be."""
    if "frame_rate" not in file.attrs:
        return FRAME_RATE
    low, high = FRAME_RATES
    expected = f"a number of frames per second from {low:g} to {high:,.0f}; mend it or remove it ({FRAME_RATE:g})"
    try:
        value = np.asarray(file.attrs["frame_rate"])
    except (OSError, RuntimeError, TypeError, ValueError):  # as many as there are types that NumPy has not
        raise UserError(f"{file.filename}: attribute 'frame_rate' cannot be read; expected {expected}") from None
    if value.dtype.kind in "fiu" and value.size == 1 and low <= value.item() <= high:  # NaN fails, too
        return float(value.item())
    raise UserError(f"{file.filename}: attribute 'frame_rate' is {_short(value)}, expected {expected}")


def _short(value: np.ndarray) -> str:
    """A value from a stranger, for a message."""
    text = " ".join(repr(value.item() if value.ndim == 0 else value.tolist()).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]} ..."


def _lengths(file: h5py.File, n_clips: int, n_frames: int) -> np.ndarray:
    """Frames of each clip [N] that are not padding; UserError unless each is a whole number from 1 to all."""
    if "n_frames" not in file:
        return np.full(n_clips, n_frames)
    values = _numbers(file, "n_frames", 1, "iu", "whole numbers [N]")[:]
    if (bad := (values < 1) | (values > n_frames)).any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{file.filename}: entry 'n_frames' is {values[row]} for clip {row}, expected 1 to {n_frames} frames"
        )
    return values.astype(np.int64)


class ScoreHDF5:
    """A compact HDF5 file of scores, or one of pseudo labels."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_hdf5(path) as file:
            key = next((name for name in ("scores", "strong_logits") if name in file), None)
            if key is None or "filenames" not in file:
                raise UserError(f"{path}: expected `filenames` [N] and `scores` [N, C, T]; found {sorted(file)}")
            scores = _numbers(file, key, 3, "fiu", "numbers [N, C, T]")
            self.key, (n, n_classes, self.n_frames) = key, scores.shape
            if not self.n_frames:
                raise UserError(f"{path}: entry {key!r} holds no frames")
            names = _text(file, "filenames")
            labels = [label.strip() for label in _text(file, "labels")] if "labels" in file else []
            self.lengths = _lengths(file, n, self.n_frames)
            self.frame_rate = _frame_rate(file)
        self.class_names = labels or list(load_vocabulary("strong").names)
        clip_of = clip_ids(names)
        self.clip_ids = [clip_of[name] for name in names]
        self._row = {clip_id: i for i, clip_id in enumerate(self.clip_ids)}
        if len(self.class_names) != n_classes or len(self._row) != n or len(self.lengths) != n:
            raise UserError(f"{path}: {n_classes} score columns for {len(self.class_names)} classes, or repeated clips")

    def read(self, clip_ids: Sequence[str], batch_size: int = 64) -> Iterator[ScoredClips]:
        """Yields the scores of these clips in the order of the file, clips of equal length together."""
        with open_hdf5(self.path) as file:
            values = entry(file, self.key, "numbers [N, C, T]")
            rows = np.sort([self._row[clip_id] for clip_id in clip_ids])
            for i in range(0, len(rows), batch_size):
                part = rows[i : i + batch_size]
                whole = part[-1] - part[0] + 1 == len(part)  # a slice is read much faster than a list of rows
                block = values[part[0] : part[-1] + 1] if whole else values[part]
                for length in np.unique(self.lengths[part]):
                    chosen = self.lengths[part] == length
                    names = [self.clip_ids[row] for row in part[chosen]]
                    yield ScoredClips(names, block[chosen, :, :length], None)


class ScoreWriter:
    """Writes a compact HDF5 of scores batch by batch; the file appears under its name when all is written.

    Args:
        path: to write; refused if it is there and not `overwrite`. Missing folders are made.
        class_names: names of the C classes.
        frame_rate: frames per second.
        dtype: "float16" halves the size of "float32"; scores that differ by less than its precision then tie.
    """

    def __init__(
        self,
        path: str | Path,
        class_names: Sequence[str],
        *,
        frame_rate: float = FRAME_RATE,
        dtype: str = "float16",
        overwrite: bool = False,
    ) -> None:
        import h5py

        from data_util.hdf5_output import Hdf5Output

        self.path = Path(path)
        refuse_existing(self.path, overwrite)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._until_closed = ExitStack()
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._part = self._until_closed.enter_context(unfinished(part))
        self._until_closed.enter_context(naming(part, self.path))
        with naming(part, self.path):
            self._file: Any = Hdf5Output(self._part)
        n, text = len(class_names), h5py.string_dtype()
        chunks = (1, n, round(10 * frame_rate))
        self._file.create_dataset(
            "scores", (0, n, 0), dtype, maxshape=(None, n, None), chunks=chunks, compression="lzf"
        )
        self._file.create_dataset("filenames", (0,), text, maxshape=(None,))
        self._file.create_dataset("n_frames", (0,), "int32", maxshape=(None,))
        self._file.create_dataset("labels", data=list(class_names), dtype=text)
        self._file.attrs["frame_rate"] = frame_rate

    def add(self, clip_ids: Sequence[str], scores: np.ndarray, n_frames: Sequence[int] | None = None) -> None:
        """Appends clips.

        Args:
            clip_ids: B names.
            scores: [B, C, t].
            n_frames: frames of each clip that are not padding; by default t.
        """
        first, n, length = len(self._file["filenames"]), len(clip_ids), scores.shape[2]
        for name in ("scores", "filenames", "n_frames"):
            self._file[name].resize(first + n, axis=0)
        if length > self._file["scores"].shape[2]:
            self._file["scores"].resize(length, axis=2)
        self._file["scores"][first:, :, :length] = scores
        self._file["filenames"][first:] = list(clip_ids)
        self._file["n_frames"][first:] = [length] * n if n_frames is None else n_frames
        self._file.check()

    def __enter__(self) -> ScoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._until_closed:
            self._file.close()
            if kind is None:
                os.replace(self._part, self.path)


def save_hdf5(path: str | Path, source: ScoreSource, overwrite: bool = False) -> None:
    """Writes all scores of a source as one compact HDF5, float16.

    Raises:
        UserError: the file is there and not `overwrite`, or the frames of the source are not evenly spaced from 0 s
            (but for the last, which may end early).
    """
    writer: ScoreWriter | None = None
    with ExitStack() as stack:
        for clips in source.read(source.clip_ids):
            if writer is None:
                rate = source.frame_rate
                if clips.stamps is not None and len(clips.stamps) > 2:
                    rate = round(1.0 / float(clips.stamps[1] - clips.stamps[0]), 6)
                writer = stack.enter_context(
                    ScoreWriter(path, source.class_names, frame_rate=rate, overwrite=overwrite)
                )
            n = clips.scores.shape[2]
            if clips.stamps is not None and np.abs(clips.stamps[:-1] - np.arange(n) / rate).max() > 1e-6:
                raise UserError(
                    f"clip {clips.clip_ids[0]}: frames are not {rate} per second from 0 s; keep the TSV files"
                )
            writer.add(clips.clip_ids, clips.scores)


def write_score_tsv(
    folder: str | Path,
    clip_id: str,
    scores: np.ndarray,
    stamps: np.ndarray,
    class_names: Sequence[str],
    overwrite: bool = False,
) -> None:
    """Writes the scores of one clip as sed_scores_eval reads them.

    Args:
        folder: of all clips; made if missing.
        clip_id: name of the clip, or its path below the folder; it must not lead out of it.
        scores: [C, T].
        stamps: frame times [T + 1] in seconds.
        class_names: names of the C classes.

    Raises:
        UserError: the file is there and not `overwrite`, or the name of the clip leads out of the folder.
    """
    folder = Path(folder)
    if "\\" in clip_id or not {"", ".", ".."}.isdisjoint(clip_id.split("/")):
        raise UserError(f"clip {clip_id!r}: its name would lead out of {folder}; rename it")
    path = folder / f"{clip_id}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_existing(path, overwrite)
    with replacing(path) as part, part.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, delimiter="\t", lineterminator="\n")
        writer.writerow([*TIMES, *class_names])
        columns = np.column_stack((stamps[:-1], stamps[1:], scores.T.astype(np.float64)))
        writer.writerows([[repr(value) for value in row] for row in columns.tolist()])
