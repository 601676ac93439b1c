"""A teacher's clip-wise logits for AudioSet Weak: the published array and its table of names.

Published are an npy file with logits [clips, 527] and a pickle with a dict {YouTube id -> row}. A pickle can run any
code, so the one here is read by an unpickler that knows no classes and no functions; what is safe to pass on is a CSV
file (columns `name`, `row`) made from it once:

    python -m data_util.weak_teacher fname_to_index.pkl fname_to_index.csv
"""

from __future__ import annotations

import argparse
import csv
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import Dataset

from atomic import replacing
from data_util.clip_index import ClipIndex
from errors import UserError, exit_on_user_error, reading
from printable import printable

N_WEAK_CLASSES = 527
COLUMNS = ["name", "row"]


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, strings and numbers; anything that would have to be imported is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it wants to import {module}.{name}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def read_names(path: str | Path) -> dict[str, int]:
    """Row of each name, from a CSV file or the published pickle.

    Raises:
        UserError: no such file, or it holds anything but names and rows.
    """
    path = Path(path)
    with reading(path, "the table of names"):
        rows = _read_csv(path) if path.suffix == ".csv" else _read_pickle(path)
    for name, row in rows.items():
        if not (isinstance(name, str) and isinstance(row, int) and row >= 0):
            raise UserError(f"{path}: the entry {name!r}: {row!r} is not a name with a row number")
    return rows


def _read_csv(path: Path) -> dict[str, int]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise UserError(f"{path}: columns are {reader.fieldnames}, expected {COLUMNS}")
        try:
            return {line["name"]: int(line["row"]) for line in reader}
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}") from None


def _read_pickle(path: Path) -> dict[str, int]:
    try:
        with path.open("rb") as file:
            content = _PlainUnpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # damaged pickles raise about anything
        raise UserError(f"{path} is refused as a table of names: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a table of names, found a {type(content).__name__}")
    return content


class WeakTeacher:
    """Clip logits of a teacher by clip id.

    Args:
        predictions: npy file, float [rows, 527]; mapped into memory, not read as a whole.
        names: CSV or pickle, see the module; with or without `Y` and `.mp3`.

    Raises:
        UserError: an unusable file, or rows beyond the end of the array.
    """

    def __init__(self, predictions: str | Path, names: str | Path, n_classes: int = N_WEAK_CLASSES) -> None:
        try:
            self._logits = np.load(predictions, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{predictions} cannot be read as an npy array: {' '.join(str(error).split())}") from None
        shape, kind = self._logits.shape, self._logits.dtype.kind
        if len(shape) != 2 or shape[1] != n_classes or kind != "f":
            found = f"{self._logits.dtype} {list(shape)}"
            raise UserError(f"{predictions} holds {found}, expected logits, float [clips, {n_classes}]")
        table = read_names(names)
        if table and max(table.values()) >= len(self._logits):
            raise UserError(f"{names} names row {max(table.values())}, {predictions} has {len(self._logits)} rows")
        self._index = ClipIndex(list(table), list(table.values()))

    def __len__(self) -> int:
        return len(self._index)

    def rows_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Row of each clip (`Y<ytid>`), int64; -1 where the table has none."""
        return self._index.rows_of(clip_ids)

    def read(self, row: int) -> np.ndarray:
        """Logits of a row, float32 [n_classes]."""
        return np.asarray(self._logits[row], np.float32)


class WithWeakTeacher(Dataset):
    """A data set whose samples also hold `weak_logits` (float32 [527]) and `weak_known` (bool) of a teacher.

    Looked up by `clip_id`: a clip that stands in for a corrupt one brings its own logits. Unknown clips, and logits
    that are no numbers, come as 0 with `weak_known` False.
    """

    def __init__(self, dataset: Any, teacher: WeakTeacher, clip_ids: Sequence[str]) -> None:
        """Args: the data set, the teacher, and the clips that it should know (those of the weak set)."""
        self.dataset, self.teacher = dataset, teacher
        self.unknown_clips = int((teacher.rows_of(clip_ids) < 0).sum())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.dataset[index]
        row = int(self.teacher.rows_of([sample["clip_id"]])[0])
        logits = self.teacher.read(row) if row >= 0 else None
        known = logits is not None and bool(np.isfinite(logits).all())
        n_classes = self.teacher._logits.shape[1]
        values = torch.from_numpy(logits.copy()) if known and logits is not None else torch.zeros(n_classes)
        return {**sample, "weak_logits": values, "weak_known": known}

    def new_corrupt_report(self) -> str | None:
        """That of the data set."""
        return self.dataset.new_corrupt_report()


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    parser = argparse.ArgumentParser(
        prog="python -m data_util.weak_teacher", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("names", type=Path, help="the published pickle")
    parser.add_argument("out", type=Path, help="CSV to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of this name")
    args = parser.parse_args(argv)
    if args.out.suffix != ".csv":
        raise UserError(f"{args.out}: the output must end in .csv")
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} is there already; add --overwrite to replace it")
    table = read_names(args.names)
    with replacing(args.out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(sorted(table.items()))
    print(f"{printable(str(args.out))}: {len(table):,} names")


if __name__ == "__main__":
    main()
