"""Files of teacher logits: names of all kinds, clips without a row, and what is refused."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_util.audioset import AudioSetStrong
from data_util.pseudo_labels import DensePseudoLabels, open_pseudo_labels
from errors import UserError

IDS = ["-abc_defghi", "endsInMp3m3", "Ystart12345", "lastIsP123p", "YYdouble123"]


def write(path, names, shape=(447, 250), dtype=np.float16, seed=0, **entries):
    logits = np.random.default_rng(seed).normal(size=(len(names), *shape)).astype(dtype)
    with h5py.File(path, "w") as file:
        if entries.get("with_names", True):
            file.create_dataset("filenames", data=np.array([name.encode() for name in names], "S40"))
        if entries.get("with_logits", True):
            file.create_dataset("strong_logits", data=logits)
    return logits


@pytest.mark.parametrize("form", ["{}", "Y{}", "{}.mp3", "Y{}.mp3", "17/Y{}.mp3"])
def test_every_form_of_name_finds_its_row(tmp_path, form):
    logits = write(tmp_path / "p.h5", [form.format(ytid) for ytid in IDS])
    reader = DensePseudoLabels(tmp_path / "p.h5")
    rows = reader.rows_of([f"Y{ytid}" for ytid in reversed(IDS)] + ["Ynot_in_file", "Y"])
    assert rows.tolist() == [4, 3, 2, 1, 0, -1, -1] and len(reader) == 5
    np.testing.assert_array_equal(reader.read(3), logits[3])
    assert reader.read(3).dtype == np.float16


def test_can_be_pickled_after_reading(tmp_path):
    logits = write(tmp_path / "p.h5", IDS)
    reader = open_pseudo_labels(tmp_path / "p.h5")
    reader.read(0)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(1), logits[1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (447, 249)}, ["float16 [5, 447, 249]", "float16 [N, 447, 250]"]),
        ({"shape": (456, 250)}, ["[5, 456, 250]"]),
        ({"shape": (447,)}, ["[5, 447]"]),
        ({"dtype": np.float32}, ["float32 [5, 447, 250]"]),
        ({"with_names": False}, ["'filenames'", "holds strong_logits"]),
        ({"with_logits": False}, ["'strong_logits'", "holds filenames"]),
    ],
)
def test_other_files_are_refused(tmp_path, changes, words):
    write(tmp_path / "p.h5", IDS, **changes)
    with pytest.raises(UserError) as caught:
        open_pseudo_labels(tmp_path / "p.h5")
    for word in ["p.h5", *words]:
        assert word in str(caught.value)


def test_names_of_another_number_are_refused(tmp_path):
    write(tmp_path / "p.h5", IDS)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file["filenames"]
        file.create_dataset("filenames", data=np.array([b"a", b"b"]))
    with pytest.raises(UserError, match=r"filenames.*S1 \[2\]"):
        open_pseudo_labels(tmp_path / "p.h5")


def test_clips_without_a_row_fall_back_and_are_counted(data_dir, tmp_path):
    clips = AudioSetStrong(data_dir).clip_ids
    logits = write(tmp_path / "p.h5", [clip[1:] for clip in clips[2:]])
    dataset = AudioSetStrong(data_dir, pseudo_labels=tmp_path / "p.h5")
    assert dataset.without_pseudo == 2
    batch = next(iter(DataLoader(dataset, batch_size=4, num_workers=1)))
    assert batch["has_pseudo"].tolist() == [False, False, True, True]
    assert batch["pseudo_logits"].dtype == torch.float16 and batch["pseudo_logits"].shape == (4, 447, 250)
    np.testing.assert_array_equal(batch["pseudo_logits"][2:], logits[:2])
    assert batch["pseudo_logits"][:2].abs().max() == 0
