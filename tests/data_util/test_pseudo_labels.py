"""Files of teacher logits: names of all kinds, clips without a row, and what is refused."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_util.audioset import AudioSetStrong
from data_util.pseudo_labels import (
    CompactPseudoLabels,
    DensePseudoLabels,
    compact,
    compact_error,
    main,
    open_pseudo_labels,
)
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


def test_a_file_for_other_clips_is_refused(data_dir, tmp_path):
    write(tmp_path / "p.h5", IDS)
    with pytest.raises(UserError, match="none of the 12 clips, such as Y"):
        AudioSetStrong(data_dir, pseudo_labels=tmp_path / "p.h5")


def test_damaged_rows_fall_back(data_dir, tmp_path):
    clips = AudioSetStrong(data_dir).clip_ids
    write(tmp_path / "dense.h5", clips)
    compact(tmp_path / "dense.h5", tmp_path / "small.h5", workers=1)
    with h5py.File(tmp_path / "small.h5", "r+") as file:
        file["packed_logits"][3] = np.arange(50, dtype=np.uint8)
    dataset = AudioSetStrong(data_dir, pseudo_labels=tmp_path / "small.h5")
    assert [dataset[i]["has_pseudo"] for i in (2, 3)] == [True, False]
    assert dataset[3]["pseudo_logits"].abs().max() == 0


def test_rows_that_are_not_numbers_fall_back_and_are_reported_once(data_dir, tmp_path):
    clips = AudioSetStrong(data_dir).clip_ids
    write(tmp_path / "p.h5", clips)
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        file["strong_logits"][1, 5, 7] = np.nan
    dataset = AudioSetStrong(data_dir, pseudo_labels=tmp_path / "p.h5")
    assert dataset.new_corrupt_report() is None
    for _ in range(2):  # a worker tells the main process
        batch = next(iter(DataLoader(dataset, batch_size=3, num_workers=1)))
        assert batch["has_pseudo"].tolist() == [True, False, True]
        assert batch["pseudo_logits"].isfinite().all()
    assert dataset.new_corrupt_report() == f"1 clips have damaged pseudo labels and use their hard labels: {clips[1]}"
    assert dataset.new_corrupt_report() is None


def test_repeated_names_are_reported(data_dir, tmp_path, caplog):
    clips = AudioSetStrong(data_dir).clip_ids
    logits = write(tmp_path / "p.h5", [*clips, clips[4], clips[2]])
    dataset = AudioSetStrong(data_dir, pseudo_labels=tmp_path / "p.h5")
    assert "2 rows repeat a clip" in caplog.text
    np.testing.assert_array_equal(dataset[4]["pseudo_logits"], logits[4])


def test_clips_without_a_row_fall_back_and_are_counted(data_dir, tmp_path, caplog):
    clips = AudioSetStrong(data_dir).clip_ids
    logits = write(tmp_path / "p.h5", [clip[1:] for clip in clips[2:]])
    dataset = AudioSetStrong(data_dir, pseudo_labels=tmp_path / "p.h5")
    assert dataset.without_pseudo == 2 and "2 of 12 clips have no pseudo labels" in caplog.text
    batch = next(iter(DataLoader(dataset, batch_size=4, num_workers=1)))
    assert batch["has_pseudo"].tolist() == [False, False, True, True]
    assert batch["pseudo_logits"].dtype == torch.float16 and batch["pseudo_logits"].shape == (4, 447, 250)
    np.testing.assert_array_equal(batch["pseudo_logits"][2:], logits[:2])
    assert batch["pseudo_logits"][:2].abs().max() == 0


def soft_logits(n, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(-7, 2, (n, 447, 1)) + rng.normal(0, 1, (n, 447, 250))).astype(np.float16)


def test_compact_file_gives_nearly_the_same_probabilities(tmp_path, capsys):
    write(tmp_path / "dense.h5", [f"Y{ytid}.mp3" for ytid in IDS])
    with h5py.File(tmp_path / "dense.h5", "r+") as file:
        file["strong_logits"][:] = soft_logits(5)
    arguments = ["compact", str(tmp_path / "dense.h5"), str(tmp_path / "small.h5")]
    main([*arguments, "--workers", "1"])
    printed = capsys.readouterr().out
    assert "5 clips" in printed and "KB per clip" in printed and "distillation loss" in printed
    dense, small = (open_pseudo_labels(tmp_path / name) for name in ("dense.h5", "small.h5"))
    assert type(small) is CompactPseudoLabels and len(small) == 5
    clips = [f"Y{ytid}" for ytid in IDS]
    assert small.rows_of([*clips, "Yother"]).tolist() == [0, 1, 2, 3, 4, -1]
    small = pickle.loads(pickle.dumps(small))
    for row in range(5):
        p, q = (1 / (1 + np.exp(-reader.read(row).astype(float))) for reader in (dense, small))
        assert np.abs(p - q).max() < 0.011
    error = compact_error(dense, small)
    assert 0 < error.probability < 0.011 and 0 < error.logit < 0.2 and abs(error.loss) < 0.05
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and "--overwrite" in capsys.readouterr().err
    main([*arguments, "--overwrite", "--workers", "2"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dense.h5", "small.h5"]


def test_compact_files_of_another_shape_or_kind_are_refused(tmp_path):
    write(tmp_path / "dense.h5", IDS, shape=(10, 250))
    compact(tmp_path / "dense.h5", tmp_path / "small.h5", workers=1)
    assert open_pseudo_labels(tmp_path / "small.h5", n_classes=10).read(0).shape == (10, 250)
    with pytest.raises(UserError, match=r"shape \[10, 250\], expected .* 447 classes x 250"):
        open_pseudo_labels(tmp_path / "small.h5")
    with pytest.raises(UserError, match="strong_logits"):
        compact(tmp_path / "small.h5", tmp_path / "again.h5")
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file.create_dataset("packed_logits", data=np.zeros((3, 5), np.uint8))
    with pytest.raises(UserError, match="vlen uint8"):
        open_pseudo_labels(tmp_path / "bad.h5")
    write(tmp_path / "flat.h5", IDS, shape=(447,))
    with pytest.raises(UserError, match=r"\[5, 447\]"):
        compact(tmp_path / "flat.h5", tmp_path / "x.h5")


def test_logits_that_are_not_finite_are_left_out_of_the_compact_file(tmp_path, caplog, capsys):
    write(tmp_path / "dense.h5", IDS)
    with h5py.File(tmp_path / "dense.h5", "r+") as file:
        file["strong_logits"][2, 5, 5] = np.inf
    main(["compact", str(tmp_path / "dense.h5"), str(tmp_path / "small.h5"), "--workers", "1"])
    assert IDS[2] in caplog.text and "left out" in caplog.text
    printed = capsys.readouterr().out
    assert "4 clips" in printed and "nan" not in printed and "inf" not in printed
    dense, small = (open_pseudo_labels(tmp_path / name) for name in ("dense.h5", "small.h5"))
    assert small.rows_of([f"Y{ytid}" for ytid in IDS]).tolist() == [0, 1, -1, 2, 3]
    np.testing.assert_allclose(small.read(2), dense.read(3), atol=0.6)


def test_a_file_without_usable_clips_makes_no_compact_one(tmp_path, capsys):
    write(tmp_path / "none.h5", [])
    write(tmp_path / "bad.h5", IDS[:1])
    with h5py.File(tmp_path / "bad.h5", "r+") as file:
        file["strong_logits"][0, 0, 0] = np.nan
    for name, words in (("none.h5", "holds no clips"), ("bad.h5", "no clip with finite logits")):
        with pytest.raises(SystemExit) as stopped:
            main(["compact", str(tmp_path / name), str(tmp_path / "small.h5"), "--workers", "1"])
        assert stopped.value.code == 2 and words in capsys.readouterr().err
        assert not (tmp_path / "small.h5").exists()
