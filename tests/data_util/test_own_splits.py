"""Splits of data with classes of one recording, without counterexamples, with background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.own_data import OwnData, Recording, read_own_data
from data_util.own_splits import SPLITS, split_recordings, without_counterexamples
from errors import UserError


def recording(name: str, *labels: str, split: str = "", duration: float = 10.0) -> Recording:
    return Recording(
        name, Path(name), duration, tuple((float(i), i + 0.5, label) for i, label in enumerate(labels)), name, split
    )


def data_of(recordings: list[Recording], clip_labels: bool = False) -> OwnData:
    return OwnData(recordings, tuple(sorted({e[2] for r in recordings for e in r.events})), clip_labels)


def sizes(splits: dict[str, list[Recording]]) -> list[int]:
    return [len(splits[name]) for name in SPLITS]


def classes_of(recordings: list[Recording]) -> set[str]:
    return {label for r in recordings for *_, label in r.events}


# ---- classes of one recording ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("n_rare", "expected"),
    [(0, [18, 6, 6]), (10, [18, 6, 6]), (20, [20, 5, 5]), (25, None), (28, [28, 1, 1]), (30, [28, 1, 1])],
)
def test_a_common_class_and_a_class_of_its_own_in_some_recordings(
    n_rare: int, expected: list[int] | None, seed: int
) -> None:
    data = data_of([recording(f"r{i:02d}", "wind", *([f"sp{i:02d}"] if i < n_rare else [])) for i in range(30)])
    splits = split_recordings(data, val_share=0.2, test_share=0.2, seed=seed)
    assert all("wind" in classes_of(part) for part in splits.values())
    rare = {f"sp{i:02d}" for i in range(n_rare)}
    learnt = rare & classes_of(splits["train"])
    if expected:
        assert sizes(splits) == expected
    assert len(learnt) == min(n_rare, 28)  # two recordings are needed elsewhere
    notes = "\n".join(data.notes)
    if n_rare:
        assert f"train, and cannot be tuned or tested: {len(learnt)} ({', '.join(sorted(learnt))})" in notes
    assert ("cannot be learnt: 2 (" in notes) == (n_rare == 30)
    assert ("few recordings to tune and test on" in notes) == (n_rare >= 25)


def test_twenty_classes_of_one_recording_in_twelve_recordings() -> None:
    data = data_of([recording(f"r{i:02d}", *(f"c{c:02d}" for c in range(20) if c % 12 == i)) for i in range(12)])
    splits = split_recordings(data)
    assert sizes(splits) == [10, 1, 1] and all(classes_of(part) for part in splits.values())
    assert len(classes_of(splits["train"])) == 18  # recordings with the fewest such classes are given away
    assert any("cannot be learnt: 2 (" in note for note in data.notes)
    assert any("cannot be tuned or tested: 18 (" in note for note in data.notes)


def test_the_more_recordings_with_classes_of_their_own_the_more_are_tuned_and_tested_on() -> None:
    data = data_of([recording(f"r{i:03d}", f"remark {i}") for i in range(200)])
    assert sizes(split_recordings(data)) == [180, 10, 10]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 7, 12])
def test_class_folders_with_one_clip_each(n: int) -> None:
    data = data_of([recording(f"{i}/a.wav", f"class {i}") for i in range(n)], clip_labels=True)
    assert all(sizes(split_recordings(data))[: min(n, 3)])


def test_given_splits_tell_the_same_about_classes_of_one_recording() -> None:
    recordings = [recording(f"{s}{i}", "x", split=s) for s in SPLITS for i in range(2)]
    recordings += [recording("a", "x", "lone", split="train"), recording("b", "x", "unlearnt", split="test")]
    data = data_of(recordings)
    split_recordings(data)
    assert data.notes == [
        "classes that occur in one recording train, and cannot be tuned or tested: 1 (lone)",
        "classes without a train recording, cannot be learnt: 1 (unlearnt)",
    ]


# ---- counterexamples ------------------------------------------------------------------------------------------


def clips(tmp_path: Path, **folders: int) -> Path:
    for folder, n in folders.items():
        for i in range(n):
            path = tmp_path / "clips" / folder / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.random.default_rng(i).normal(0, 0.1, 8000), 8000)
    return tmp_path / "clips"


def test_one_class_that_always_sounds_is_warned_of(tmp_path: Path) -> None:
    splits = split_recordings(read_own_data(clips(tmp_path, dog=6)))
    (warning,) = without_counterexamples(splits)
    assert warning.startswith("active all the time in all recordings: dog. A detector that always says yes would")
    assert "--background DIR" in warning


def test_a_split_without_counterexamples_is_warned_of() -> None:
    full = [Recording(f"r{i}", Path(f"r{i}"), 10.0, ((0.0, 10.0, "xy"[i % 2]),), f"r{i}") for i in range(4)]
    splits = {"train": full, "val": full[:2], "test": full[1:2]}
    (warning,) = without_counterexamples(splits)
    assert warning.startswith("active all the time in all test recordings: y.")
    half = Recording("half", Path("half"), 10.0, ((0.0, 9.0, "y"),), "half")
    assert without_counterexamples({**splits, "test": [*full[1:2], half]}) == []


@pytest.mark.parametrize("name", ["background", "Noise", "negatives", "negative"])
def test_a_folder_of_background_holds_counterexamples(tmp_path: Path, name: str) -> None:
    data = read_own_data(clips(tmp_path, **{"dog": 6, name: 3}))
    assert data.labels == ("dog",) and data.clip_labels
    assert [r.name for r in data.recordings if not r.events] == [f"{name}/{i}.wav" for i in range(3)]
    assert any(note.startswith("background: recordings in which nothing happens: 3 (") for note in data.notes)
    splits = split_recordings(data)
    assert all(any(not r.events for r in part) for part in splits.values())
    assert without_counterexamples(splits) == []


@pytest.mark.parametrize("place", ["beside", "clips/other"])
def test_the_option_names_a_folder_of_background(tmp_path: Path, place: str) -> None:
    audio = clips(tmp_path, dog=3, cat=3)
    (tmp_path / place).mkdir()
    (audio / "dog/0.wav").rename(tmp_path / place / "x.wav")
    data = read_own_data(audio, background=tmp_path / place)
    assert data.labels == ("cat", "dog") and len(data.recordings) == 6
    (quiet,) = [r for r in data.recordings if not r.events]
    assert quiet.name == ("../beside/x.wav" if place == "beside" else "other/x.wav") and quiet.path.is_file()
    (tmp_path / "empty").mkdir()
    for folder, message in (
        ("none", "expected a folder, got a path that does not exist"),
        ("empty", "it holds no audio files"),
    ):
        with pytest.raises(UserError, match=f"--background is .*{folder}: {message}"):
            read_own_data(audio, background=tmp_path / folder)


def test_a_table_says_more_than_the_name_of_a_folder(tmp_path: Path) -> None:
    audio = clips(tmp_path, noise=3, other=2)
    table = tmp_path / "events.csv"
    table.write_text("filename,onset,offset,label\nnoise/0.wav,0,0.5,dog\nother/0.wav,0,0.5,dog\n")
    data = read_own_data(audio, table)
    assert {r.name: len(r.events) for r in data.recordings} == {
        "noise/0.wav": 1, "noise/1.wav": 0, "noise/2.wav": 0, "other/0.wav": 1
    }  # fmt: skip


def test_background_is_dealt_out_over_given_splits() -> None:
    recordings = [recording(f"{s}{i}", "x", split=s) for s, n in zip(SPLITS, (6, 2, 2), strict=True) for i in range(n)]
    splits = split_recordings(data_of([*recordings, *(recording(f"quiet{i}") for i in range(10))]))
    assert sizes(splits) == [12, 4, 4]
    assert {r.name for r in splits["test"] if r.events} == {"test0", "test1"}


# ---- classes that vanish --------------------------------------------------------------------------------------


def test_classes_that_are_left_out_are_named_with_the_reason(tmp_path: Path) -> None:
    audio = clips(tmp_path, a=2)
    (audio / "a/broken.wav").write_bytes(b"RIFF nothing")
    table = tmp_path / "events.csv"
    rows = ["0.wav,0,0.5,kept", "1.wav,0.2,0.2,kept", "1.wav,0.1,0.1,point", "0.wav,0.3,0.3,point", "0.wav,0,1,kept"]
    rows += ["1.wav,5,6,late", "0.wav,0.1,0.1,late", "broken.wav,0,1,unread", "gone.wav,0,1,missing"]
    table.write_text("filename,onset,offset,label\n" + "\n".join(rows) + "\n")
    data = read_own_data(audio, table)
    assert data.labels == ("kept",)
    assert [note for note in data.notes if note.startswith("classes")] == [
        "classes of missing files alone, left out: 1 (missing)",
        "classes whose events all begin after the end of their file or have no duration, left out: late: 2 events",
        "classes whose events all have no duration, left out: point: 2 events",
        "classes whose events all are in files that cannot be read, left out: unread: 1 events",
    ]
    table.write_text("filename,onset,offset,label\n0.wav,0.2,0.2,point\n1.wav,0.2,0.2,point\n")
    with pytest.raises(
        UserError, match="hold no event; classes whose events all have no duration, left out: point: 2 events"
    ):
        read_own_data(audio, table)
