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
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
from tqdm import tqdm

from atomic import replacing
from data_util.hdf5_dataset import LazyHdf5, clip_id_of_name, entry, open_hdf5, refuse_entry
from data_util.labels import CLIP_FRAMES
from data_util.logit_codec import decode_logits, encode_logits
from data_util.processes import worker_pool
from errors import UserError, exit_on_user_error

N_CLASSES = 447
_log = logging.getLogger(__name__)
NAMES, DENSE, PACKED = "filenames", "strong_logits", "packed_logits"
_CHUNK = 64  # clips that a worker packs at a time


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
            names = self._check(file)
        self._names = np.array([clip_id_of_name(name.decode("utf-8", "replace")) for name in names], np.str_)
        self._order = np.argsort(self._names, kind="stable")
        ordered = self._names[self._order]
        if (again := ordered[1:][ordered[1:] == ordered[:-1]]).size:
            _log.warning("%s: %d rows repeat a clip, such as %s; the first counts", path, len(again), again[0])

    def _check(self, file: h5py.File) -> np.ndarray:
        """Refuse a malformed file; returns the names of its rows."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self._names)

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Row of each clip (`Y<ytid>`), int64 [n]; -1 where the file has none.

        A file may list clips as `Y<ytid>` or as `<ytid>`, with or without folder and `.mp3`.
        """
        with_y = self._find(np.array(clip_ids, np.str_))
        bare = self._find(np.array([clip.removeprefix("Y") for clip in clip_ids], np.str_))
        return np.where(with_y >= 0, with_y, bare)

    def _find(self, wanted: np.ndarray) -> np.ndarray:
        if len(self) == 0:
            return np.full(len(wanted), -1, np.int64)
        place = np.searchsorted(self._names, wanted, sorter=self._order).clip(max=len(self) - 1)
        row = self._order[place]
        return np.where(self._names[row] == wanted, row, -1)


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

    def _check(self, file: h5py.File) -> np.ndarray:
        n_classes, n_frames = self.shape
        text = f"float16 [N, {n_classes}, {n_frames}], logits of {n_classes} classes per 40 ms"
        logits = entry(file, DENSE, text)
        if logits.dtype != np.float16 or logits.ndim != 3 or logits.shape[1:] != self.shape:
            refuse_entry(file, logits, text)
        return _read_names(file, len(logits))

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float16 [n_classes, n_frames]."""
        return self.entry(DENSE)[row]


class CompactPseudoLabels(_NamedRows):
    """Reader of the compact layout."""

    def __init__(self, path: str | Path, n_classes: int = N_CLASSES, n_frames: int = CLIP_FRAMES) -> None:
        """As `DensePseudoLabels`, with `packed_logits`."""
        self.shape = (n_classes, n_frames)
        super().__init__(path)

    def _check(self, file: h5py.File) -> np.ndarray:
        n_classes, n_frames = self.shape
        text = f"vlen uint8 [N], packed logits of {n_classes} classes x {n_frames} frames"
        packed = entry(file, PACKED, text)
        if packed.ndim != 1 or h5py.check_vlen_dtype(packed.dtype) != np.uint8:
            refuse_entry(file, packed, text)
        held = tuple(int(n) for n in packed.attrs.get("shape", ()))
        if held != self.shape:
            raise UserError(f"{file.filename}: entry {PACKED!r} holds clips of shape {list(held)}, expected {text}")
        return _read_names(file, len(packed))

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float16 [n_classes, n_frames]."""
        return decode_logits(self.entry(PACKED)[row], *self.shape)


def _read_names(file: h5py.File, n_rows: int) -> np.ndarray:
    text = f"bytes [{n_rows}], names of the clips"
    names = entry(file, NAMES, text)
    if names.shape != (n_rows,) or (names.dtype.kind != "S" and not h5py.check_string_dtype(names.dtype)):
        refuse_entry(file, names, text)
    return names[:]


def open_pseudo_labels(path: str | Path, n_classes: int = N_CLASSES) -> PseudoLabels:
    """Open a file of teacher logits, dense or compact.

    Raises:
        UserError: as `DensePseudoLabels`.
    """
    with open_hdf5(Path(path)) as file:
        layout = CompactPseudoLabels if PACKED in file else DensePseudoLabels
    return layout(path, n_classes)


def compact(source: Path, out: Path, *, overwrite: bool = False, workers: int | None = None) -> None:
    """Write the compact form of a dense file.

    Args:
        source: dense HDF5; its shape of a clip may be any.
        out: the compact HDF5.
        overwrite: replace a file of this name.
        workers: processes; None = one per core.

    Raises:
        UserError: an unusable source, or an output that is there already.
    """
    if out.exists() and not overwrite:
        raise UserError(f"{out} is there already; add --overwrite to replace it")
    with open_hdf5(source) as file:
        shape = entry(file, DENSE, "float16 [N, classes, frames]").shape
        if len(shape) != 3:
            refuse_entry(file, file[DENSE], "float16 [N, classes, frames]")
    dense = DensePseudoLabels(source, *shape[1:])
    chunks = [range(k, min(k + _CHUNK, len(dense))) for k in range(0, len(dense), _CHUNK)]
    bar = tqdm(total=len(dense), desc=f"packing {source}", unit="clip")
    with replacing(out) as temporary, h5py.File(temporary, "w") as file, worker_pool(workers, len(chunks)) as pool:
        with open_hdf5(source) as names:
            file.create_dataset(NAMES, data=names[NAMES][:])
        packed = file.create_dataset(PACKED, (len(dense),), h5py.vlen_dtype(np.uint8))
        packed.attrs["shape"] = shape[1:]
        for chunk, rows in zip(chunks, pool.map(_pack_rows, [dense] * len(chunks), chunks), strict=True):
            for row, data in zip(chunk, rows, strict=True):
                packed[row] = np.frombuffer(data, np.uint8)
            bar.update(len(chunk))
    bar.close()


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


def compact_error(dense: PseudoLabels, packed: PseudoLabels, n_clips: int = 100) -> CompactError:
    """Compare two files of the same rows on clips drawn evenly."""
    rows = np.unique(np.linspace(0, len(dense) - 1, min(n_clips, len(dense))).round().astype(int)).tolist()
    logit, probability, losses = [], 0.0, np.zeros(2)
    for row in rows:
        x, y = (reader.read(row).astype(np.float64) for reader in (dense, packed))
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(-y))
        logit.append(np.abs(x - y)[p > 0.01])
        probability = max(probability, float(np.abs(p - q).max()))
        losses += [(np.logaddexp(0, x) - target * x).mean() for target in (p, q)]
    errors = np.concatenate(logit)
    return CompactError(float(errors.mean()) if len(errors) else 0.0, probability, float(losses[1] / losses[0] - 1))


def _pack_rows(dense: DensePseudoLabels, rows: range) -> list[bytes]:
    try:
        return [encode_logits(dense.read(row)) for row in rows]
    except ValueError as error:
        raise UserError(f"{dense.path}, rows {rows.start} to {rows.stop - 1}: {error}") from None


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
    compact(args.source, args.out, overwrite=args.overwrite, workers=args.workers)
    with open_hdf5(args.source) as file:
        shape = file[DENSE].shape
    if shape[0] == 0:
        raise UserError(f"{args.source} holds no clips")
    error = compact_error(DensePseudoLabels(args.source, *shape[1:]), CompactPseudoLabels(args.out, *shape[1:]))
    size = args.out.stat().st_size
    print(f"{args.out}: {shape[0]:,} clips, {size / 1e6:.1f} MB, {size / shape[0] / 1000:.2f} KB per clip")
    print(f"error: {error.logit:.3f} in logits above 1 % (mean), {error.probability:.4f} in probability (largest),")
    print(f"{error.loss:+.2%} in the distillation loss of a student that agrees with the teacher")


if __name__ == "__main__":
    main()
