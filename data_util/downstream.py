"""The clip-wise tasks that the models are fine-tuned on: one table, and a reader of each official layout.

    esc50       audio/*.wav, meta/esc50.csv
    tau2020     audio/*.wav, evaluation_setup/fold1_{train,evaluate}.csv
    fsd50k      FSD50K.{dev,eval}_audio/*.wav, FSD50K.ground_truth/{dev,eval,vocabulary}.csv
    openmic     audio/XXX/*.ogg, openmic-2018.npz, class-map.json, partitions/split01_{train,test}.csv

This module does not import torch: the command line reads its table.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_util.object_arrays import read_npz
from errors import UserError, reading, wrong_path

TAU_SCENES = (
    "airport", "bus", "metro", "metro_station", "park",
    "public_square", "shopping_mall", "street_pedestrian", "street_traffic", "tram",
)  # fmt: skip
OPENMIC_THRESHOLD = 0.5  # of the annotators' probability, above which an instrument counts as present


@dataclass(frozen=True)
class ClipList:
    """The clips of a split.

    Attributes:
        paths: [N] audio files.
        targets: float32 [N, C], 0 or 1; a class index per clip is one-hot here.
        known: bool [N, C], which of the targets are known; None: all.
        groups: [N] what scores are told apart by as well (the recording device), or empty.
    """

    paths: Sequence[Path]
    targets: np.ndarray
    known: np.ndarray | None = None
    groups: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class TaskData:
    """The splits of a task with the names of its classes, in the order of the targets.

    Attributes:
        validation: scored during the training; for a task without one, the test clips.
        test: scored once at the end with the best checkpoint; None: the test clips are those of `validation`, and so
            must not choose a checkpoint.
    """

    classes: tuple[str, ...]
    train: ClipList
    validation: ClipList
    test: ClipList | None = None


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Attributes:
        title: full name.
        read: (folder, fold) -> its data.
        loss: cross_entropy, bce or masked_bce, see `helpers.clip_losses`.
        metric: the figure that counts.
        seconds: length of a training clip; longer files are cut at random, shorter ones padded with zeros.
        whole_clips: evaluation hears files that are longer than this as a whole, one by one.
        folds: number of official folds.
        group: what `ClipList.groups` names.
        defaults: of options that differ between the tasks, as published for MobileNets.
    """

    title: str
    read: Callable[[Path, int], TaskData]
    loss: str
    metric: str
    seconds: float
    whole_clips: bool = False
    folds: int = 1
    group: str = ""
    defaults: dict[str, float | int] = field(default_factory=dict)


# ---- small tools ----------------------------------------------------------------------------------------------


def read_rows(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The lines of a CSV file with a header as dicts.

    Raises:
        UserError: no such file, no text, a column is missing, a line is short, or no lines at all.
    """
    return _rows(path, columns, delimiter, header=True)


def _rows(path: Path, columns: Sequence[str], delimiter: str, header: bool) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path}: {wrong_path('file', path)}; --data_dir is the folder that holds the official layout")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, None if header else columns, delimiter=delimiter)
            missing = [c for c in columns if c not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "nothing"
                raise UserError(f"{path}: no column {', '.join(missing)}; found {found}")
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as a table: {error}") from None
    for number, row in enumerate(rows, start=2 if header else 1):
        if any(row[c] is None for c in columns):
            raise UserError(f"{path}, line {number}: fewer than {len(columns)} columns")
    if not rows:
        raise UserError(f"{path} lists nothing")
    return [{column: row[column].strip() for column in columns} for row in rows]


def existing(paths: Iterable[Path], listed_in: Path) -> list[Path]:
    """The paths themselves; raises UserError with a count and the first if any of these files is missing."""
    paths = list(paths)
    present = {folder: set(_names(folder)) for folder in {path.parent for path in paths}}
    missing = [path for path in paths if path.name not in present[path.parent]]
    if missing:
        count = f"{len(missing)} of {len(paths)} files"
        raise UserError(f"{count} that {listed_in} names are missing, such as {missing[0]}")
    return paths


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def one_hot(indices: Sequence[int], n_classes: int) -> np.ndarray:
    """Class indices [N] as float32 [N, C]."""
    return np.eye(n_classes, dtype=np.float32)[np.asarray(indices, np.int64)]


def class_indices(pairs: Iterable[tuple[str, int]], path: Path) -> dict[str, int]:
    """Index of each class, in the order of the indices, from (name, index) pairs that may come again.

    Raises:
        UserError: the indices are not 0, 1, ..., each for one name.
    """
    unique = sorted(set(pairs), key=lambda pair: pair[1])
    index_by_name = dict(unique)
    if len(index_by_name) < len(unique) or list(index_by_name.values()) != list(range(len(unique))):
        shown = ", ".join(f"{name}: {index}" for name, index in unique)[:200]
        raise UserError(f"{path}: the class indices are not 0 to {len(unique) - 1}, each for one class: {shown}")
    return index_by_name


def _number(text: str, what: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path}: {what} {text!r} is not a whole number") from None


# ---- readers --------------------------------------------------------------------------------------------------


def read_esc50(folder: Path, fold: int) -> TaskData:
    """ESC-50: one fold is tested, the others are trained on (Piczak, "ESC", ACM Multimedia 2015)."""
    path = folder / "meta" / "esc50.csv"
    rows = read_rows(path, ["filename", "fold", "target", "category"])
    pairs = [(row["category"], _number(row["target"], "target", path)) for row in rows]
    classes = tuple(class_indices(pairs, path))
    folds = np.array([_number(row["fold"], "fold", path) for row in rows])
    files = existing([folder / "audio" / Path(row["filename"]).name for row in rows], path)
    targets = one_hot([target for _, target in pairs], len(classes))

    def clips(chosen: np.ndarray, what: str) -> ClipList:
        if not chosen.any():
            raise UserError(f"{path} has no clips {what} fold {fold}")
        return ClipList([files[i] for i in np.flatnonzero(chosen)], targets[chosen])

    return TaskData(classes, clips(folds != fold, "outside"), clips(folds == fold, "of"))


def read_tau2020(folder: Path, fold: int) -> TaskData:
    """TAU Urban Acoustic Scenes 2020 Mobile: the one official split; scores also by device (DCASE 2020, task 1A)."""
    setup = folder / "evaluation_setup"

    def clips(part: str) -> ClipList:
        path = setup / f"fold{fold}_{part}.csv"
        rows = read_rows(path, ["filename", "scene_label"], "\t")
        if unknown := sorted({row["scene_label"] for row in rows} - set(TAU_SCENES)):
            raise UserError(f"{path}: unknown scene {unknown[0]!r}; known: {', '.join(TAU_SCENES)}")
        files = existing([folder / "audio" / Path(row["filename"]).name for row in rows], path)
        targets = one_hot([TAU_SCENES.index(row["scene_label"]) for row in rows], len(TAU_SCENES))
        return ClipList(files, targets, groups=[file.stem.rpartition("-")[2] for file in files])

    return TaskData(TAU_SCENES, clips("train"), clips("evaluate"))


def read_fsd50k(folder: Path, fold: int) -> TaskData:
    """FSD50K: several labels per clip, official validation split (Fonseca et al., IEEE/ACM TASLP 2022)."""
    truth = folder / "FSD50K.ground_truth"
    path = truth / "vocabulary.csv"
    rows = _rows(path, ["index", "label", "mid"], ",", header=False)
    index_by_name = class_indices([(row["label"], _number(row["index"], "index", path)) for row in rows], path)
    classes = tuple(index_by_name)

    def clips(part: str, split: str | None = None) -> ClipList:
        path = truth / f"{part}.csv"
        rows = read_rows(path, ["fname", "labels", *(["split"] if split else [])])
        rows = [row for row in rows if split is None or row["split"] == split]
        if not rows:
            raise UserError(f"{path} lists no clips of the split {split!r}")
        files = existing([folder / f"FSD50K.{part}_audio" / f"{Path(row['fname']).name}.wav" for row in rows], path)
        targets = np.zeros((len(rows), len(classes)), np.float32)
        for target, row in zip(targets, rows, strict=True):
            for name in map(str.strip, row["labels"].split(",")):
                if name not in index_by_name:
                    raise UserError(f"{path}: clip {row['fname']} has the label {name!r}, not in vocabulary.csv")
                target[index_by_name[name]] = 1
        return ClipList(files, targets)

    return TaskData(classes, clips("dev", "train"), clips("dev", "val"), clips("eval"))


def read_openmic(folder: Path, fold: int) -> TaskData:
    """OpenMIC-2018: 20 instruments, of which only some are known in each clip (Humphrey et al., ISMIR 2018)."""
    path = folder / "class-map.json"
    try:
        with reading(path, "the map from class to index"):
            text = path.read_text(encoding="utf-8")
        pairs = [(str(name).strip(), int(index)) for name, index in json.loads(text).items()]
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} cannot be read as a map from class to index: {' '.join(str(error).split())}") from None
    classes = tuple(class_indices(pairs, path))
    labels = folder / "openmic-2018.npz"
    arrays = read_npz(labels, ("Y_true", "Y_mask", "sample_key"))
    truth, known, keys = arrays["Y_true"], arrays["Y_mask"].astype(bool), [str(key) for key in arrays["sample_key"]]
    if not truth.shape == known.shape == (len(keys), len(classes)):
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
        raise UserError(f"{labels} holds {shapes}; expected [clips, {len(classes)}] twice, and [clips]")
    row_of = {key: row for row, key in enumerate(keys)}

    def clips(part: str) -> ClipList:
        path = folder / "partitions" / f"split{fold:02d}_{part}.csv"
        names = [row["key"] for row in _rows(path, ["key"], ",", header=False)]
        if unknown := [name for name in names if name not in row_of]:
            raise UserError(f"{path}: {len(unknown)} clips are not in {labels.name}, such as {unknown[0]!r}")
        rows = [row_of[name] for name in names]
        files = existing([folder / "audio" / name[:3] / f"{Path(name).name}.ogg" for name in names], path)
        return ClipList(files, (truth[rows] > OPENMIC_THRESHOLD).astype(np.float32), known[rows])

    return TaskData(classes, clips("train"), clips("test"))


TASKS: dict[str, Task] = {
    "esc50": Task(
        "ESC-50", read_esc50, "cross_entropy", "accuracy", 5.0, folds=5, defaults={"batch_size": 128, "max_lr": 6e-5}
    ),
    "tau2020": Task(
        "TAU Urban Acoustic Scenes 2020 Mobile", read_tau2020, "cross_entropy", "accuracy", 10.0,
        group="device", defaults={"batch_size": 64, "max_lr": 8e-4},
    ),
    "fsd50k": Task(
        "FSD50K", read_fsd50k, "bce", "mAP", 10.0, whole_clips=True, defaults={"batch_size": 64, "max_lr": 7e-5}
    ),
    "openmic": Task(
        "OpenMIC-2018", read_openmic, "masked_bce", "mAP", 10.0, defaults={"batch_size": 64, "max_lr": 1e-5}
    ),
}  # fmt: skip


def read_task(name: str, folder: Path, fold: int) -> TaskData:
    """The data of a task in its official layout.

    Args:
        name: a key of `TASKS`.
        folder: that holds the layout.
        fold: 1 ... number of folds; the one that is tested.

    Raises:
        UserError: a missing or malformed file, column, label or audio file.
    """
    if not folder.is_dir():
        raise UserError(f"--data_dir is {folder}: {wrong_path('folder', folder)}")
    return TASKS[name].read(folder, fold)
