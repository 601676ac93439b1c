"""Published clip-wise logits: names are found in any spelling, pickles cannot run code."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from data_util import weak_teacher
from data_util.weak_teacher import WeakTeacher, WithWeakTeacher, read_names
from errors import UserError

TABLE = {"abc": 2, "-_m.p3": 0, "Ydef": 1}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """An npy file of three rows, and the pickle that names them."""
    logits = np.random.default_rng(0).normal(size=(3, 527)).astype(np.float32)
    logits[1, 5] = np.nan
    np.save(tmp_path / "logits.npy", logits)
    (tmp_path / "names.pkl").write_bytes(pickle.dumps(TABLE))
    return tmp_path / "logits.npy", tmp_path / "names.pkl"


def test_rows_are_found_whatever_the_spelling(files: tuple[Path, Path]) -> None:
    teacher = WeakTeacher(*files)
    assert teacher.rows_of(["Yabc", "Y-_m.p3", "Ydef", "Yxyz", "def"]).tolist() == [2, 0, 1, -1, -1]
    np.testing.assert_array_equal(teacher.read(2), np.load(files[0])[2])


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "harm"), "w"))

    for content in ({"a": Attack()}, {"a": np.int64(3)}, [1], {1: 2}, {"a": -1}, {"a": "b"}):
        (tmp_path / "names.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"names\.pkl") as error:
            read_names(tmp_path / "names.pkl")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()
    (tmp_path / "names.pkl").write_bytes(pickle.dumps(TABLE)[:-4])
    with pytest.raises(UserError, match="refused"):
        read_names(tmp_path / "names.pkl")


def test_safe_form(files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "names.csv"
    weak_teacher.main([str(files[1]), str(out)])
    assert read_names(out) == TABLE
    with out.open(newline="") as file:
        assert next(csv.reader(file)) == ["name", "row"]
    with pytest.raises(SystemExit):
        weak_teacher.main([str(files[1]), str(out)])


def test_unsuitable_arrays_are_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    for array in (np.zeros((3, 447), np.float32), np.zeros((3, 527), np.int32), np.zeros((2, 527), np.float32)):
        np.save(tmp_path / "wrong.npy", array)
        with pytest.raises(UserError, match=r"wrong\.npy"):
            WeakTeacher(tmp_path / "wrong.npy", files[1])
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    with pytest.raises(UserError, match=r"objects\.npy"):
        WeakTeacher(tmp_path / "objects.npy", files[1])


def test_samples_bring_their_own_logits(files: tuple[Path, Path]) -> None:
    class Clips(Dataset):
        clip_ids = ("Yabc", "Yxyz", "Ydef")

        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {"clip_id": self.clip_ids[index]}

    clips = WithWeakTeacher(Clips(), WeakTeacher(*files), Clips.clip_ids)
    assert clips.unknown_clips == 1
    assert [clips[i]["weak_known"] for i in range(3)] == [True, False, False]  # the last one holds a NaN
    assert torch.equal(clips[0]["weak_logits"], torch.from_numpy(np.load(files[0])[2]))
    assert not clips[1]["weak_logits"].any()
