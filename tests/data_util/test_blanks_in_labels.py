"""Blanks around labels (also no-break spaces and tabs in quotes) are no part of them, in every reader."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import soundfile

from data_util.downstream import read_task
from data_util.hear_files import read_labels, read_split
from data_util.label_files import read_mids, read_segments, read_strong_tsv, read_weak_csv
from data_util.labels import load_vocabulary
from data_util.own_data import read_own_data
from data_util.synthetic_layouts import LayoutRequest, make_layout
from errors import UserError
from helpers.classes import class_names, select_classes
from helpers.outputs import read_true_events
from helpers.psds_io import read_ground_truth
from helpers.psds_scores import open_scores

DOG, CAT = "/m/0bt9lr", "/m/01yrx"
PADDED = ["dog", " dog", "dog ", "\u00a0dog\u2003 "]
RAVEN = "Selection\tBegin Time (s)\tEnd Time (s)\tAnnotation\n"


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for i in range(len(PADDED)):
        soundfile.write(folder / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 16_000), 8_000)
    return folder


def by_table(audio: Path, separator: str) -> Path:
    path = audio.parent / "events.csv"
    lines = [separator.join((f"{i}.wav", "0.5", "1", label)) for i, label in enumerate(PADDED)]
    path.write_text("\n".join([separator.join(("filename", "onset", "offset", "label")), *lines]) + "\n")
    return path


def by_file(audio: Path, ending: str, text: str) -> None:
    for i, label in enumerate(PADDED):
        (audio / f"{i}{ending}").write_text(text.format(label))


@pytest.mark.parametrize("way", ["csv", "tsv", "audacity", "raven", "quoted raven", "folders"])
def test_own_annotations(audio: Path, way: str) -> None:
    events = by_table(audio, "," if way == "csv" else "\t") if way in ("csv", "tsv") else None
    if way == "audacity":
        by_file(audio, ".txt", "0.5\t1.0\t{}\n")
    elif "raven" in way:
        by_file(audio, ".selections.txt", RAVEN + ('1\t0.5\t1.0\t"{}"\n' if "quoted" in way else "1\t0.5\t1.0\t{}\n"))
    elif way == "folders":
        for i, label in enumerate(PADDED):
            (audio / label).mkdir()
            shutil.move(audio / f"{i}.wav", audio / label / f"{i}.wav")
    data = read_own_data(audio, events)
    assert data.labels == ("dog",) and [len(r.events) for r in data.recordings] == [1] * len(PADDED)
    assert not any("spelling" in note for note in data.notes)


def test_audioset(tmp_path: Path) -> None:
    strong, weak = load_vocabulary("strong"), load_vocabulary("weak")
    rows = [
        f"abcdefghij{i}_0\t0.5\t1.5\t{label}" for i, label in enumerate((DOG, f" {DOG}", f"{CAT} ", f"{DOG}\u00a0"))
    ]
    path = tmp_path / "strong.tsv"
    path.write_text("\n".join(["segment_id\tstart_time_seconds\tend_time_seconds\tlabel", *rows]) + "\n")
    events = read_strong_tsv(path, strong)
    assert [strong.mids[c] for c in events.class_index] == [DOG, DOG, CAT, DOG]
    assert read_mids(path) == {DOG, CAT}
    assert read_segments(path, strong).mids == [(DOG,), (DOG,), (CAT,), (DOG,)]
    assert read_ground_truth(path)["Yabcdefghij1"] == [(0.5, 1.5, strong.names[strong.mids.index(DOG)])]
    (tmp_path / "weak.csv").write_text(f'# x\nabcdefghij0, 0.0, 10.0, " {DOG} , {CAT} "\n')
    assert read_weak_csv(tmp_path / "weak.csv", weak).mids == [(DOG, CAT)]
    path.write_text(path.read_text().replace(DOG, "no such"))
    with pytest.raises(UserError, match="label 'no such' is not one of the 447 classes"):
        read_strong_tsv(path, strong)


def test_class_lists(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("index,name,mid\n 1 , dog , /m/1\n0,cat\u00a0,/m/0 \n")
    vocabulary = load_vocabulary(tmp_path / "classes.csv")
    assert (vocabulary.names, vocabulary.mids) == (("cat", "dog"), ("/m/0", "/m/1"))


def test_ground_truth_true_events_and_scores(tmp_path: Path) -> None:
    path = tmp_path / "truth.tsv"
    path.write_text("filename\tonset\toffset \tevent_label\na.wav\t0\t1\t dog \na.wav\t2\t3\tdog\u00a0\nb.wav\t\t\t \n")
    assert read_ground_truth(path) == {"a.wav": [(0.0, 1.0, "dog"), (2.0, 3.0, "dog")], "b.wav": []}
    path.write_text("filename\tonset\toffset\tevent_label\na.wav\t0\t1\t dog \n")
    assert read_true_events(path, {"a.wav": "a.wav"})["a.wav"].label == ["dog"]
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "a.tsv").write_text("onset\toffset\t dog\tcat \n0\t0.04\t0.5\t0.5\n")
    source = open_scores(tmp_path / "scores")
    assert source.class_names == ["dog", "cat"] and next(source.read(["a"])).scores.shape == (1, 2, 1)
    with h5py.File(tmp_path / "scores.h5", "w") as file:
        file["filenames"], file["labels"] = [b"a"], [b" dog", b"cat "]
        file["scores"] = np.zeros((1, 2, 3), np.float16)
    assert open_scores(tmp_path / "scores.h5").class_names == ["dog", "cat"]


def pad(path: Path, words: list[str]) -> None:
    """Put blanks around these words of a file, where they stand alone in a cell or a string."""
    text, n = re.subn(rf"(?<=[,\"\t\n])({'|'.join(map(re.escape, words))})(?=[,\"\t\r\n])", r" \1  ", path.read_text())
    assert n
    path.write_text(text)


def test_hear(tmp_path: Path) -> None:
    task = tmp_path / "task"
    make_layout(task, LayoutRequest("dcase2016task2", train=2, eval=1, seconds=23.0, seed=3))
    labels = read_labels(task)
    before = [recording.events for recording in read_split(task, "train", labels)]
    pad(task / "labelvocabulary.csv", labels)
    pad(task / "train.json", labels)
    assert read_labels(task) == labels and any(before)
    assert [recording.events for recording in read_split(task, "train", labels)] == before
    content = json.loads((task / "train.json").read_text())
    next(iter(content.values()))[0]["label"] = " nothing "
    (task / "train.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="label ' nothing ' is not in"):
        read_split(task, "train", labels)


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("esc50", ["meta/esc50.csv"]),
        ("tau2020", ["evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_evaluate.csv"]),
        ("fsd50k", ["FSD50K.ground_truth/dev.csv", "FSD50K.ground_truth/vocabulary.csv"]),
        ("openmic", ["class-map.json"]),
    ],
)
def test_clip_wise_tasks(tmp_path: Path, name: str, tables: list[str]) -> None:
    folder = tmp_path / name
    make_layout(folder, LayoutRequest(name, train=20, eval=10, seconds=0.2))
    before = read_task(name, folder, 1)
    for table in tables:
        pad(folder / table, list(before.classes))
    after = read_task(name, folder, 1)
    assert after.classes == before.classes
    np.testing.assert_array_equal(after.train.targets, before.train.targets)
    assert before.train.targets.any()


def test_words_for_classes() -> None:
    classes = class_names(["Dog", "Cat", "Bark"])
    for words in (["Dog"], [" Dog "], ["\u00a0Dog"]):
        assert select_classes(classes, words, None).tolist() == [0, 2]
    for words in (["=Dog"], [" =Dog "], ["= Dog"], [f" {DOG} "]):
        assert select_classes(classes, words, None).tolist() == [0]
        assert select_classes(classes, None, words).tolist() == [1, 2]
