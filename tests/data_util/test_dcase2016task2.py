"""HEAR's packaging of DCASE 2016 task 2: what is generated, what is read, what is refused."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util import synthetic
from data_util.audio import SAMPLE_RATE
from data_util.dcase2016task2 import (
    CROPS_PER_FILE,
    FRAME_SAMPLES,
    Crops,
    CropSampler,
    Pieces,
    frame_labels,
)
from data_util.hear_files import Recording, read_labels, read_split
from data_util.synthetic_layouts import LayoutRequest, make_layout
from errors import UserError


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dcase") / "task"
    make_layout(folder, LayoutRequest("dcase2016task2", train=2, eval=1, seconds=23.0, seed=3))
    return folder


@pytest.fixture
def broken(task: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(task, tmp_path / "task"))


def rewrite(task: Path, change, split: str = "train") -> None:
    """Let `change` edit the events of a split in place."""
    path = task / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# ---- generator ----------------------------------------------------------------------------------------------------


def test_generated_set_has_the_packaging_and_its_labels_are_true(task: Path) -> None:
    info = soundfile.info(task / "16000" / "train" / "train_000.wav")
    assert (info.samplerate, info.channels, info.frames) == (16_000, 1, 23 * 16_000)
    with (task / "labelvocabulary.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["idx", "label"] and [row[0] for row in rows[1:]] == [str(i) for i in range(11)]
    assert json.loads((task / "task_metadata.json").read_text())["sample_duration"] == 23.0
    recordings = read_split(task, "train", read_labels(task))
    assert all(recording.events for recording in recordings)
    for recording in recordings:  # an event stands out from the noise floor before any other begins
        audio, _ = soundfile.read(recording.path)
        floor = np.sqrt(np.median(audio**2))
        onset = round(recording.events[0][0] * SAMPLE_RATE / 1000)
        before, after = audio[max(0, onset - 3200) : onset], audio[onset : onset + 3200]
        assert np.sqrt(np.mean(after**2)) > 5 * floor
        assert np.sqrt(np.mean(before**2)) < 0.3 * np.sqrt(np.mean(after**2))


def test_same_seed_same_bytes_and_another_request_is_refused(task: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--layout", "dcase2016task2", "--train", "2", "--eval", "1", "--seconds", "23"]
    out = ["--out", str(tmp_path / "again")]
    synthetic.main([*arguments, *out, "--seed", "3"])
    files = sorted(p.relative_to(task) for p in task.rglob("*") if p.is_file())
    assert len(files) == 2 + 1 + 1 + 3 + 3

    def digest(folder: Path, name: Path) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    assert all(digest(task, name) == digest(tmp_path / "again", name) for name in files)
    synthetic.main([*arguments, *out, "--seed", "3"])
    assert "as before" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        synthetic.main([*arguments, *out, "--seed", "4"])
    assert stopped.value.code == 2 and "--overwrite" in capsys.readouterr().err
    (tmp_path / "again" / "mine.txt").write_text("stays")
    synthetic.main([*arguments, *out, "--seed", "4", "--overwrite"])
    assert digest(task, Path("train.json")) != digest(tmp_path / "again", Path("train.json"))
    assert (tmp_path / "again" / "mine.txt").is_file() and not list(tmp_path.glob(".*"))


def test_a_forged_manifest_deletes_nothing_outside(tmp_path: Path) -> None:
    out = tmp_path / "set"
    make_layout(out, LayoutRequest("dcase2016task2", train=1, eval=1, seconds=1.0))
    (tmp_path / "mine.txt").write_text("stays")
    manifest = out / "synthetic.json"
    listed = ["..", "../mine.txt", ".", "", str(tmp_path / "mine.txt"), 3]
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "entries": listed}))
    make_layout(out, LayoutRequest("dcase2016task2", train=1, eval=1, seconds=1.0, seed=1), overwrite=True)
    assert (tmp_path / "mine.txt").is_file() and (out / "train.json").is_file()


def test_foreign_folders_and_foreign_options_are_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    layout = ["--layout", "dcase2016task2"]
    for arguments in (
        ["--out", str(tmp_path), *layout, "--overwrite"],
        ["--out", str(tmp_path / "x"), *layout, "--label_noise", "0.1"],
        ["--out", str(tmp_path / "x"), "--seconds", "5"],
        ["--out", str(tmp_path / "x"), "--layout", "dcase2017"],
    ):
        with pytest.raises(SystemExit) as stopped:
            synthetic.main(arguments)
        assert stopped.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


# ---- reading ------------------------------------------------------------------------------------------------------


def test_frame_labels_follow_the_published_rule() -> None:
    """A frame is active if start <= its middle < end + 0.0001 ms."""
    events = [(0.0, 20.0, 0), (20.1, 99.9, 1), (10_000.0, 10_060.0, 0), (59.99, 140.0, 2)]
    recording = Recording(Path("x"), 20 * SAMPLE_RATE, events)
    for first in (0, 1, 3, 249):
        expected = np.zeros((3, 250))
        for start, end, label in events:
            for i in range(250):
                stamp = (first + i + 0.5) * 40.0
                expected[label, i] = max(expected[label, i], start <= stamp < end + 1e-4)
        assert np.array_equal(frame_labels(recording, first, 3), expected)


def test_pieces_cover_each_file_once_and_are_joined_again(task: Path) -> None:
    valid = Pieces(task, "valid")
    assert len(valid) == 3  # 23 s
    samples = [valid[i] for i in range(3)]
    whole, _ = soundfile.read(task / "16000" / "valid" / "valid_000.wav", dtype="float32")
    audio = np.concatenate([s["audio"].numpy() for s in samples])
    assert np.array_equal(audio[: len(whole)], whole) and not audio[len(whole) :].any()
    pieces = {(s["file"], s["first_frame"]): s["target"].numpy() for s in samples}
    joined = valid.join(0, pieces)
    assert joined is not None and joined.shape == (11, 575)
    stamps = (np.arange(575) + 0.5) * 40
    for start, end, label in valid.recordings[0].events:
        assert joined[label, (stamps >= start) & (stamps < end)].all()
    del pieces[(0, 250)]
    assert valid.join(0, pieces) is None


def test_crops_lie_on_the_grid_and_read_no_more_than_they_need(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = soundfile.SoundFile.read

    def counting(self, frames=-1, *args, **kwargs):
        audio = original(self, frames, *args, **kwargs)
        read.append(len(audio))
        return audio

    monkeypatch.setattr(soundfile.SoundFile, "read", counting)
    crops = Crops(task, seed=1)
    read.clear()  # what measuring the files has read
    assert len(crops) == CROPS_PER_FILE * 2
    starts = set()
    for index in range(2 * len(crops)):
        sample = crops[index]
        assert sample["file"] == index % 2 and 0 <= sample["first_frame"] <= 575 - 250
        starts.add(sample["first_frame"])
    assert read == [160_000] * 2 * len(crops) and len(starts) > 30
    whole, _ = soundfile.read(crops.recordings[1].path, dtype="float32")
    first = crops[7]["first_frame"] * FRAME_SAMPLES
    assert np.array_equal(crops[7]["audio"].numpy(), whole[first : first + 160_000])
    assert crops[7]["first_frame"] == Crops(task, seed=1)[7]["first_frame"]
    assert any(crops[i]["first_frame"] != Crops(task, seed=2)[i]["first_frame"] for i in range(5))


def test_every_epoch_draws_new_crops_of_the_same_files() -> None:
    first, second = (CropSampler(24, seed=0).order(epoch) for epoch in (0, 1))
    assert sorted(first) == list(range(24)) and sorted(second) == list(range(24, 48))


def test_short_files_are_padded(tmp_path: Path) -> None:
    make_layout(tmp_path / "t", LayoutRequest("dcase2016task2", train=1, eval=1, seconds=3.0))
    crop, piece = Crops(tmp_path / "t")[0], Pieces(tmp_path / "t", "test")[0]
    assert crop["first_frame"] == 0 and not crop["audio"][48_000:].any() and piece["audio"].shape == (160_000,)


# ---- what is wrong --------------------------------------------------------------------------------------------------

EVENT = {"label": "siren", "start": 100.0, "end": 900.0}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"start": float("nan")}, "numbers of milliseconds"),
        ({"end": "900"}, "numbers of milliseconds"),
        ({"end": 10**400}, "numbers of milliseconds"),
        ({"start": 950.0}, "starts at 950 ms and ends at 900 ms"),
        ({"start": -1}, "starts at -1 ms"),
        ({"label": "sirens"}, "did you mean 'siren'"),
        ({"label": ["siren"]}, "not in labelvocabulary.csv"),
    ],
)
def test_bad_events_are_named(broken: Path, event: dict, message: str) -> None:
    rewrite(broken, lambda content: content["train_001.wav"].insert(0, {**EVENT, **event}))
    with pytest.raises(UserError, match=message) as error:
        Crops(broken)
    assert "train.json, train_001.wav, event 1" in str(error.value)


def edit_labels(task: Path, old: str, new: str) -> None:
    path = task / "labelvocabulary.csv"
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: edit_labels(t, "3,buzzer", "13,buzzer"), "idx must be 0 to 10"),
        (lambda t: edit_labels(t, "3,buzzer", "2,buzzer"), "idx must be 0 to 10"),
        (lambda t: edit_labels(t, "buzzer", "beep"), "a name of its own"),
        (lambda t: edit_labels(t, "idx,label", "number;label"), "columns idx,label"),
        (lambda t: (t / "labelvocabulary.csv").unlink(), "cannot read the labels"),
        (lambda t: (t / "train.json").unlink(), "cannot read the events"),
        (lambda t: (t / "train.json").write_text("{"), "not valid JSON"),
        (lambda t: (t / "train.json").write_text("[]"), "must map file names"),
        (lambda t: (t / "train.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda t: (t / "train.json").write_text('{"a.wav": [1]}'), "1 files of train.json are not in"),
        (lambda t: rewrite(t, lambda c: c.update({"../../x.wav": []})), "1 files of train.json are not in"),
        (lambda t: (t / "16000" / "train" / "train_000.wav").unlink(), "1 files of train.json are not in"),
        (lambda t: shutil.rmtree(t / "16000"), "expected a folder, got a path that does not exist"),
        (
            lambda t: soundfile.write(t / "16000" / "train" / "train_000.wav", np.zeros(99), 44_100),
            "expected 16000 Hz in the folder 16000, got 44100 Hz",
        ),
    ],
)
def test_broken_packaging_is_one_clear_line(broken: Path, damage, message: str) -> None:
    damage(broken)
    with pytest.raises(UserError, match=message) as error:
        Crops(broken)
    assert "\n" not in str(error.value)


def test_a_byte_order_mark_does_no_harm(broken: Path) -> None:
    for name in ("train.json", "labelvocabulary.csv"):
        path = broken / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(Crops(broken).recordings) == 2


def test_what_work_can_go_on_with_is_a_warning_with_a_count(broken: Path, caplog) -> None:
    folder = broken / "16000" / "train"
    soundfile.write(folder / "unlisted.wav", np.zeros(16_000), 16_000)
    (folder / "noise.wav").write_bytes(b"no audio")
    soundfile.write(folder / "empty.wav", np.zeros(0), 16_000)

    def change(content: dict) -> None:
        late = [{**EVENT, "start": 22_000, "end": 99_000}, {**EVENT, "start": 30_000, "end": 31_000}]
        content.update({"noise.wav": [], "empty.wav": [], "train_000.wav": [EVENT, {**EVENT, "start": 800}, *late]})

    rewrite(broken, change)
    with caplog.at_level(logging.WARNING, "efficientsed"):
        crops = Crops(broken)
    text = caplog.text
    for part in ("1 events end after", "1 events begin after", "1 events overlap", "1 files have no entry", "2 files"):
        assert part in text
    assert [r.path.name for r in crops.recordings] == ["train_000.wav", "train_001.wav"]
    assert [(a, b) for a, b, _ in crops.recordings[0].events] == [(100, 900), (800, 900), (22_000, 23_000)]


def test_a_file_that_breaks_later_does_not_end_the_run(broken: Path) -> None:
    valid = Pieces(broken, "valid")
    valid.recordings[0].path.write_bytes(b"gone")
    sample = valid[0]
    assert not sample["valid"] and not sample["audio"].any() and not sample["target"].any()
    report = valid.new_corrupt_report()
    assert report is not None and "valid_000.wav" in report and valid.new_corrupt_report() is None
    assert not valid[1]["valid"] and valid.new_corrupt_report() is None
