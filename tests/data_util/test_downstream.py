"""The generated layouts are read exactly, by comparison with pandas and NumPy; audio, cuts and damaged files."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
import torch

from data_util import synthetic
from data_util.downstream import TASKS, TAU_SCENES, ClipList, read_task
from data_util.downstream_clips import EpochCuts, TaskClips
from data_util.object_arrays import read_npz
from errors import UserError

Folder = Callable[[str], Path]


def names(clips: ClipList) -> list[str]:
    return [path.name for path in clips.paths]


@pytest.mark.parametrize("fold", [1, 2, 5])
def test_esc50(clipwise_dir: Folder, fold: int) -> None:
    folder = clipwise_dir("esc50")
    table = pd.read_csv(folder / "meta/esc50.csv")
    data = read_task("esc50", folder, fold)
    assert list(data.classes) == [table[table.target == i].category.iloc[0] for i in range(10)]
    assert data.test is None
    for clips, rows in ((data.validation, table[table.fold == fold]), (data.train, table[table.fold != fold])):
        assert names(clips) == rows.filename.tolist() and len(clips)
        assert clips.targets.argmax(1).tolist() == rows.target.tolist()
        assert (clips.targets.sum(1) == 1).all()


def test_tau2020(clipwise_dir: Folder) -> None:
    folder = clipwise_dir("tau2020")
    meta = pd.read_csv(folder / "meta.csv", sep="\t").set_index("filename")
    data = read_task("tau2020", folder, 1)
    assert data.classes == TAU_SCENES
    for clips, part in ((data.train, "train"), (data.validation, "evaluate")):
        listed = pd.read_csv(folder / f"evaluation_setup/fold1_{part}.csv", sep="\t")
        assert [f"audio/{name}" for name in names(clips)] == listed.filename.tolist()
        assert [TAU_SCENES[i] for i in clips.targets.argmax(1)] == listed.scene_label.tolist()
        assert list(clips.groups) == meta.loc[listed.filename].source_label.tolist()
    assert set(data.validation.groups) > set(data.train.groups)  # devices that only the evaluation has


def test_fsd50k(clipwise_dir: Folder) -> None:
    folder = clipwise_dir("fsd50k")
    truth = folder / "FSD50K.ground_truth"
    dev, evaluation = pd.read_csv(truth / "dev.csv"), pd.read_csv(truth / "eval.csv")
    data = read_task("fsd50k", folder, 1)
    assert list(data.classes) == pd.read_csv(truth / "vocabulary.csv", header=None)[1].tolist()
    assert data.test is not None
    parts = (
        (data.train, dev[dev.split == "train"]),
        (data.validation, dev[dev.split == "val"]),
        (data.test, evaluation),
    )
    for clips, rows in parts:
        assert names(clips) == [f"{name}.wav" for name in rows.fname] and len(clips)
        for target, labels in zip(clips.targets, rows.labels, strict=True):
            assert {data.classes[i] for i in np.flatnonzero(target)} == set(labels.split(","))


def test_openmic(clipwise_dir: Folder) -> None:
    folder = clipwise_dir("openmic")
    arrays = np.load(folder / "openmic-2018.npz", allow_pickle=True)  # our own file
    assert arrays["sample_key"].dtype == object  # as it is published
    row_of = {key: i for i, key in enumerate(arrays["sample_key"])}
    data = read_task("openmic", folder, 1)
    assert list(data.classes) == list(json.loads((folder / "class-map.json").read_text()))
    for clips, part in ((data.train, "train"), (data.validation, "test")):
        keys = (folder / f"partitions/split01_{part}.csv").read_text().split()
        assert [path.stem for path in clips.paths] == keys
        assert all(path.parent.name == path.name[:3] and path.is_file() for path in clips.paths)
        rows = [row_of[key] for key in keys]
        assert clips.known is not None
        np.testing.assert_array_equal(clips.known, arrays["Y_mask"][rows])
        np.testing.assert_array_equal(clips.targets, arrays["Y_true"][rows] > 0.5)


def test_same_request_same_bytes(tmp_path: Path) -> None:
    for task in TASKS:
        for name in ("one", "two"):
            sizes = ["--train=2", "--eval=1", "--seconds=1", "--seed=3"]
            synthetic.main([f"--layout={task}", f"--out={tmp_path / task / name}", *sizes])
        one, two = (sorted(p for p in (tmp_path / task / n).rglob("*") if p.is_file()) for n in ("one", "two"))
        assert [p.relative_to(tmp_path / task / "one") for p in one] == [
            p.relative_to(tmp_path / task / "two") for p in two
        ]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True) if a.suffix != ".ogg")
        assert {soundfile.info(p).samplerate for p in one if p.suffix in (".wav", ".ogg")} == {44_100}


# ---- audio ----------------------------------------------------------------------------------------------------


def test_audio_is_that_of_the_file(clipwise_dir: Folder) -> None:
    data = read_task("openmic", clipwise_dir("openmic"), 1)
    sample = TaskClips(data.train, 3.0)[1]
    audio, rate = soundfile.read(data.train.paths[1], dtype="float32")
    expected = soxr.resample(audio, rate, 16_000)
    assert sample["audio"].shape == (48_000,)
    np.testing.assert_array_equal(sample["audio"][: len(expected)], expected)
    assert (sample["audio"][len(expected) :] == 0).all()  # padded
    assert sample["valid"] and sample["known"].dtype == torch.float32


def test_training_cuts_depend_on_seed_epoch_and_clip_alone(clipwise_dir: Folder) -> None:
    data = read_task("esc50", clipwise_dir("esc50"), 1)
    whole = TaskClips(data.train, 0.5, whole=True)[3]["audio"]
    assert len(whole) == 32_000
    clips = TaskClips(data.train, 0.5, seed=0)
    cuts = [clips[3 + epoch * len(clips)]["audio"] for epoch in range(4)]
    starts = [int((whole.unfold(0, 64, 1) == cut[:64]).all(1).nonzero()[0]) for cut in cuts]
    assert all(torch.equal(cut, whole[start : start + 8000]) for cut, start in zip(cuts, starts, strict=True))
    assert len(set(starts)) == 4  # another part of the file in each epoch
    assert torch.equal(cuts[2], TaskClips(data.train, 0.5, seed=0)[3 + 2 * len(clips)]["audio"])
    assert not torch.equal(cuts[2], TaskClips(data.train, 0.5, seed=1)[3 + 2 * len(clips)]["audio"])
    assert torch.equal(TaskClips(data.train, 0.5)[3]["audio"], whole[:8000])  # evaluation: always the start


def test_numbers_of_an_epoch() -> None:
    sampler = EpochCuts(5, seed=1)
    sampler.set_epoch(3)
    numbers = list(sampler)
    assert sorted(numbers) == [15, 16, 17, 18, 19]
    sampler.position = 2
    assert list(sampler) == numbers[2:]  # as a resumed run goes on


def test_files_that_cannot_be_decoded(clipwise_dir: Folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clipwise_dir("tau2020"), tmp_path / "tau"))
    data = read_task("tau2020", folder, 1)
    data.train.paths[4].write_bytes(b"no audio")
    scored, trained = TaskClips(data.train, 2.0), TaskClips(data.train, 2.0, seed=0)
    silent, other = scored[4], trained[4]
    assert not silent["valid"] and silent["audio"].shape == (32_000,) and not silent["audio"].any()
    assert other["valid"] and other["index"] != 4 and other["audio"].any()
    assert data.train.paths[4].name in (scored.new_corrupt_report() or "")


# ---- damage ---------------------------------------------------------------------------------------------------


def remove_column(path: Path, column: str, delimiter: str = ",") -> None:
    pd.read_csv(path, sep=delimiter).drop(columns=column).to_csv(path, sep=delimiter, index=False)


def rewrite(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


DAMAGE: list[tuple[str, Callable[[Path], object], list[str]]] = [
    (
        "esc50",
        lambda d: (d / "meta/esc50.csv").unlink(),
        ["expected a file", "does not exist", "esc50.csv", "--data_dir"],
    ),
    ("esc50", lambda d: remove_column(d / "meta/esc50.csv", "fold"), ["esc50.csv", "no column fold", "filename"]),
    ("esc50", lambda d: rewrite(d / "meta/esc50.csv", ",1,0,", ",1,zero,"), ["target", "'zero'", "whole number"]),
    ("esc50", lambda d: rewrite(d / "meta/esc50.csv", ",1,0,", ",1,99,"), ["class indices", "white_noise: 99"]),
    ("esc50", lambda d: (d / "audio/2-100010-A-0.wav").unlink(), ["1 of 50 files", "2-100010-A-0.wav"]),
    ("esc50", lambda d: shutil.rmtree(d / "audio"), ["50 of 50 files"]),
    ("esc50", lambda d: (d / "meta/esc50.csv").write_bytes(b"\xff\xfe\x00"), ["esc50.csv", "cannot be read"]),
    ("esc50", lambda d: (d / "meta/esc50.csv").write_text("filename,fold,target,category\nx.wav,1\n"), ["line 2"]),
    ("esc50", lambda d: (d / "meta/esc50.csv").write_text("filename,fold,target,category\n"), ["lists nothing"]),
    ("tau2020", lambda d: (d / "evaluation_setup/fold1_train.csv").unlink(), ["fold1_train.csv"]),
    (
        "tau2020",
        lambda d: rewrite(d / "evaluation_setup/fold1_train.csv", "\tairport", "\tairfield"),
        ["unknown scene 'airfield'", "airport"],
    ),
    ("fsd50k", lambda d: remove_column(d / "FSD50K.ground_truth/dev.csv", "split"), ["dev.csv", "split"]),
    ("fsd50k", lambda d: rewrite(d / "FSD50K.ground_truth/eval.csv", "Hiss", "Hizz"), ["'Hizz'", "vocabulary.csv"]),
    ("fsd50k", lambda d: shutil.rmtree(d / "FSD50K.eval_audio"), ["14 of 14 files", "eval.csv"]),
    ("openmic", lambda d: (d / "class-map.json").write_text("[]"), ["class-map.json"]),
    ("openmic", lambda d: (d / "openmic-2018.npz").write_bytes(b"PK"), ["openmic-2018.npz"]),
    ("openmic", lambda d: (d / "partitions/split01_test.csv").write_text("000_1\n"), ["1 clips are not in", "'000_1'"]),
]


@pytest.mark.parametrize(("task", "damage", "words"), DAMAGE)
def test_damage_is_one_line(
    clipwise_dir: Folder, tmp_path: Path, task: str, damage: Callable[[Path], object], words: list[str]
) -> None:
    folder = Path(shutil.copytree(clipwise_dir(task), tmp_path / task, copy_function=os.link))
    for path in folder.rglob("*"):  # tables are rewritten in place: they need copies of their own
        if path.suffix in (".csv", ".json", ".npz"):
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
    damage(folder)
    with pytest.raises(UserError) as error:
        read_task(task, folder, 1)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


class Evil:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (os.mkdir, ("evil",))


def test_object_arrays_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.npz"
    np.savez(path, keys=np.array(["x", Evil()], object), ints=np.array([1, 2], object), plain=np.array(["a", "bc"]))
    for name in ("keys", "ints", "absent"):
        with pytest.raises(UserError, match=name) as error:
            read_npz(path, [name])
        assert "\n" not in str(error.value)
    assert not (tmp_path / "evil").exists()
    assert read_npz(path, ["plain"])["plain"].tolist() == ["a", "bc"]
    with pytest.raises(UserError, match="expected a file, got a path that does not exist"):
        read_npz(tmp_path / "b.npz", ["keys"])


def test_names_never_leave_the_folder(clipwise_dir: Folder, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clipwise_dir("esc50"), tmp_path / "esc"))
    path = folder / "meta/esc50.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    rows[1][0] = "../../" + rows[1][0]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert all(p.parent == folder / "audio" for p in read_task("esc50", folder, 2).train.paths)
