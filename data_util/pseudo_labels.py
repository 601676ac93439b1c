"""Pseudo labels: frame-wise teacher logits of whole data sets, read clip by clip.

Two layouts, told apart by their entries; `open_pseudo_labels` opens either:

- dense, as published: `filenames` (bytes [N]) and `strong_logits` (float16 [N, 447, 250], 40 ms frames), 223 KB a
  clip;
- compact: `filenames` and `packed_logits` (vlen uint8 [N], see `data_util.logit_codec`), a few KB a clip.

    python -m data_util.pseudo_labels compact IN OUT     makes the second out of the first
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from tqdm import tqdm

import locks
import signals
from atomic import replacing
from data_util.clip_index import ClipIndex
from data_util.hdf5_dataset import LazyHdf5, entry, open_hdf5, read_names, refuse_entry
from data_util.hdf5_output import check_written, create_hdf5
from data_util.labels import CLIP_FRAMES
from data_util.logit_codec import decode_logits, encode_logits
from data_util.processes import map_in_processes
from errors import UserError, exit_on_user_error
from printable import printable

N_CLASSES = 447
_log = logging.getLogger(__name__)
NAMES, DENSE, PACKED = "filenames", "strong_logits", "packed_logits"
_CHUNK = 64  # clips that a worker packs at a time
_ROWS_PER_CHUNK = 64  # of the compact file, whose rows are 16 bytes that point to the packed ones


class PseudoLabels(Protocol):
    """Reader of teacher logits; can be pickled, and opens its file in each process by itself."""

    def __len__(self) -> int: ...

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Row of each clip (`Y<ytid>`), int64; -1 where the file has none."""
        ...

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float16 [n_classes, n_frames]."""
        ...


class _NamedRows(LazyHdf5):
    """Rows of an HDF5 file that are found by the name of their clip."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        with open_hdf5(self.path) as file:
            self._index = ClipIndex(self._check(file))
        if (again := self._index.repeated()).size:
            _log.warning("%s: %d rows repeat a clip, such as %s; the first counts", path, len(again), again[0])

    def _check(self, file: h5py.File) -> list[str]:
        """Refuse a malformed file; returns the names of its rows."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._index)

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Row of each clip (`Y<ytid>`), int64 [n]; -1 where the file has none.

        A file may list clips as `Y<ytid>` or as `<ytid>`, with or without folder and `.mp3`.
        """
        return self._index.rows_of(clip_ids)


class DensePseudoLabels(_NamedRows):
    """Reader of the published layout."""

    def __init__(self, path: str | Path, n_classes: int = N_CLASSES, n_frames: int = CLIP_FRAMES) -> None:
        """Check the file and read its names.

        Args:
            path: HDF5 with `filenames` and `strong_logits`.
            n_classes, n_frames: shape of the logits of a clip.

        Raises:
            UserError: no such file, a missing entry, or a wrong type or shape; says what is expected and found.
        """
        self.shape = (n_classes, n_frames)
        super().__init__(path)

    def _check(self, file: h5py.File) -> list[str]:
        n_classes, n_frames = self.shape
        text = f"float16 [N, {n_classes}, {n_frames}], logits of {n_classes} classes per 40 ms"
        logits = entry(file, DENSE, text)
        if logits.dtype != np.float16 or logits.ndim != 3 or logits.shape[1:] != self.shape:
            refuse_entry(file, logits, text)
        return _names_of_rows(file, len(logits))

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float16 [n_classes, n_frames]."""
        return self.entry(DENSE)[row]


class CompactPseudoLabels(_NamedRows):
    """Reader of the compact layout."""

    def __init__(self, path: str | Path, n_classes: int = N_CLASSES, n_frames: int = CLIP_FRAMES) -> None:
        """As `DensePseudoLabels`, with `packed_logits`."""
        self.shape = (n_classes, n_frames)
        super().__init__(path)

    def _check(self, file: h5py.File) -> list[str]:
        n_classes, n_frames = self.shape
        text = f"vlen uint8 [N], packed logits of {n_classes} classes x {n_frames} frames"
        packed = entry(file, PACKED, text)
        if packed.ndim != 1 or h5py.check_vlen_dtype(packed.dtype) != np.uint8:
            refuse_entry(file, packed, text)
        held = _packed_shape(packed)
        if held != list(self.shape):
            raise UserError(f"{file.filename}: entry {PACKED!r} holds clips of shape {held}, expected {text}")
        return _names_of_rows(file, len(packed))

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float16 [n_classes, n_frames]."""
        return decode_logits(self.entry(PACKED)[row], *self.shape)


def _packed_shape(packed: h5py.Dataset) -> list[int]:
    """The attribute `shape` of packed logits; empty where it is none."""
    try:
        shape = np.asarray(packed.attrs.get("shape", ()))
    except (OSError, RuntimeError, TypeError, ValueError):  # as many as there are types that NumPy has not
        return []
    return shape.tolist()[:8] if shape.ndim == 1 and shape.dtype.kind in "iu" else []  # of a stranger, for a message


def _names_of_rows(file: h5py.File, n_rows: int) -> list[str]:
    text = f"bytes [{n_rows}], names of the clips"
    names = entry(file, NAMES, text)
    if names.shape != (n_rows,):
        refuse_entry(file, names, text)
    return read_names(file, names, text)


def read_logits(source: PseudoLabels, row: int) -> np.ndarray | None:
    """Logits of a row, float16 [n_classes, n_frames]; None where they are damaged or not numbers."""
    try:
        logits = source.read(row)
    except (ValueError, OSError, RuntimeError):
        return None
    return None if holds_nan(logits) else logits


def holds_nan(logits: np.ndarray) -> bool:
    """Whether any of some float16 logits is not a number, or +inf, with which no loss is finite; -inf is a probability
    of 0. Ten times as fast as `np.isnan` on this type.
    """
    if logits.size == 0:
        return False
    # As integers, +inf and the NaNs are the largest of their sign: the exponent is all ones.
    return bool(logits.view(np.int16).max() >= 0x7C00 or logits.view(np.uint16).max() > 0xFC00)


def open_pseudo_labels(path: str | Path, n_classes: int = N_CLASSES) -> PseudoLabels:
    """Open a file of teacher logits, dense or compact.

    Raises:
        UserError: as `DensePseudoLabels`.
    """
    with open_hdf5(Path(path)) as file:
        layout = CompactPseudoLabels if PACKED in file else DensePseudoLabels
    return layout(path, n_classes)


class LogitsWriter:
    """Rows of teacher logits on their way into an open file; the names follow when the block ends well.

    Attributes:
        names: of the rows so far.
    """

    def __init__(self, file: h5py.File, shape: Sequence[int], *, compact: bool) -> None:
        """Args: the file; shape [n_classes, n_frames] of a clip; whether rows come packed by `encode_logits`."""
        self._file, self.names = file, list[bytes]()
        if compact:
            kind, chunks = h5py.vlen_dtype(np.uint8), (_ROWS_PER_CHUNK,)
            self._rows = file.create_dataset(PACKED, (0,), kind, maxshape=(None,), chunks=chunks)
            self._rows.attrs["shape"] = tuple(shape)
        else:  # training reads clips one by one
            sizes: dict[str, Any] = {"maxshape": (None, *shape), "chunks": (1, *shape)}
            self._rows = file.create_dataset(DENSE, (0, *shape), np.float16, **sizes)

    def __enter__(self) -> LogitsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file[NAMES] = np.array(self.names, np.bytes_)

    def write(self, names: Sequence[bytes], rows: Sequence[np.ndarray] | np.ndarray) -> None:
        """Append rows: float16 [n_classes, n_frames] each, or uint8 [n] of packed ones."""
        first = len(self.names)
        self.names += names
        self._rows.resize(len(self.names), axis=0)
        for place, row in enumerate(rows, start=first):
            self._rows[place] = row
            check_written(self._file)


def compact(source: Path, out: Path, *, overwrite: bool = False, workers: int | None = None) -> list[int]:
    """Write the compact form of a dense file, without the clips whose logits cannot be read or are not finite.

    Args:
        source: dense HDF5; its shape of a clip may be any.
        out: the compact HDF5.
        overwrite: replace a file of this name.
        workers: processes; None = one per core.

    Returns:
        Rows of the dense file that the compact one holds, in its order.

    Raises:
        UserError: an unusable source, or an output that is there already.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already; add --overwrite to replace it")
    names, shape = _dense_names(source)
    chunks = [range(k, min(k + _CHUNK, len(names))) for k in range(0, len(names), _CHUNK)]
    bar = tqdm(total=len(names), desc=printable(f"packing {source}"), unit="clip")
    left_out: list[int] = []
    with bar, locks.held(out), replacing(out) as temporary, create_hdf5(temporary) as file:
        with LogitsWriter(file, shape, compact=True) as writer:
            packed = map_in_processes(partial(_pack_rows, source), chunks, workers, partial(_refuse_crash, source))
            for chunk, rows in zip(chunks, packed, strict=True):
                left_out += [row for row, data in zip(chunk, rows, strict=True) if not data]
                good = [names[row] for row, data in zip(chunk, rows, strict=True) if data]
                writer.write(good, [np.frombuffer(data, np.uint8) for data in rows if data])
                bar.update(len(chunk))
        if not writer.names:
            raise UserError(f"{source} holds no clip with finite logits")
    if left_out:
        shown = ", ".join(names[row].decode("utf-8", "replace") for row in left_out)
        _log.warning("%d clips are left out, their logits cannot be read or are not finite: %s", len(left_out), shown)
    return sorted(set(range(len(names))).difference(left_out))


def _dense_names(source: Path) -> tuple[list[bytes], tuple[int, ...]]:
    """Names of the rows of a dense file as they stand, and the shape of a clip."""
    text = "float16 [N, classes, frames]"
    with open_hdf5(source) as file:
        logits = entry(file, DENSE, text)
        if logits.ndim != 3:
            refuse_entry(file, logits, text)
        shape = logits.shape[1:]
    if len(DensePseudoLabels(source, *shape)) == 0:
        raise UserError(f"{source} holds no clips")
    with open_hdf5(source) as file:
        return file[NAMES][:].tolist(), shape


def _pack_rows(source: Path, rows: range) -> list[bytes]:
    """Packed logits of some rows; no bytes for those that cannot be read or are not finite."""
    packed = []
    with open_hdf5(source) as file:
        for row in rows:
            try:
                packed.append(encode_logits(file[DENSE][row]))
            except (ValueError, OSError):
                packed.append(b"")
    return packed


def _refuse_crash(source: Path, rows: range) -> list[bytes]:
    raise UserError(f"{source}, rows {rows.start} to {rows.stop - 1}: the process that packed them died")


@dataclass(frozen=True)
class CompactError:
    """What packing costs, on a sample of clips.

    Attributes:
        logit: mean absolute error of the logits where the teacher's probability exceeds 1 %.
        probability: largest error of a probability.
        loss: relative change of the distillation loss of a student that agrees with the teacher.
    """

    logit: float
    probability: float
    loss: float


def compact_error(
    dense: PseudoLabels, packed: PseudoLabels, kept: Sequence[int] | None = None, n_clips: int = 100
) -> CompactError:
    """Compare two files on clips drawn evenly; `kept` is what `compact` returned (None: all rows of the dense one)."""
    kept = range(len(dense)) if kept is None else kept
    rows = np.unique(np.linspace(0, len(packed) - 1, min(n_clips, len(packed))).round().astype(int)).tolist()
    logit, probability, losses = [], 0.0, np.zeros(2)
    for row in rows:
        x, y = dense.read(kept[row]).astype(np.float64), packed.read(row).astype(np.float64)
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-y))
        logit.append(np.abs(x - y)[p > 0.01])
        probability = max(probability, float(np.abs(p - q).max()))
        losses += [(np.logaddexp(0, x) - target * x).mean() for target in (p, q)]
    errors = np.concatenate(logit)
    return CompactError(float(errors.mean()) if len(errors) else 0.0, probability, float(losses[1] / losses[0] - 1))


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    description = "Turn a dense file of teacher logits into a compact one."
    parser = argparse.ArgumentParser(prog="python -m data_util.pseudo_labels", description=description)
    parser.add_argument("command", choices=["compact"])
    parser.add_argument("source", type=Path, metavar="IN", help="HDF5 with filenames and strong_logits")
    parser.add_argument("out", type=Path, metavar="OUT", help="compact HDF5")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of this name")
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    with signals.telling(lambda: f"{args.out} is not written; run the same command again"):
        kept = compact(args.source, args.out, overwrite=args.overwrite, workers=args.workers)
    with open_hdf5(args.source) as file:
        shape = file[DENSE].shape[1:]
    error = compact_error(DensePseudoLabels(args.source, *shape), CompactPseudoLabels(args.out, *shape), kept)
    size = args.out.stat().st_size
    name = printable(str(args.out))
    print(f"{name}: {len(kept):,} clips, {size / 1e6:.1f} MB, {size / len(kept) / 1000:.2f} KB per clip")
    print(f"error: {error.logit:.3f} in logits above 1 % (mean), {error.probability:.4f} in probability (largest),")
    print(f"{error.loss:+.2%} in the distillation loss of a student that agrees with the teacher")


if __name__ == "__main__":
    main()
