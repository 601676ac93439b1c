"""Splits and windows of own recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from data_util.own_data import OwnData, Recording, read_own_data
from data_util.own_splits import balance, balance_table, split_recordings
from data_util.own_windows import OwnWindows, cut, read_part, window_seconds
from data_util.synthetic_layouts import LayoutRequest, make_layout
from errors import UserError


def recording(name: str, *labels: str, group: str | None = None, split: str = "", duration: float = 5.0) -> Recording:
    events = tuple((float(i), i + 0.5, label) for i, label in enumerate(labels))
    return Recording(name, Path(name), duration, events, group or name, split)


def data_of(recordings: list[Recording]) -> OwnData:
    return OwnData(recordings, tuple(sorted({e[2] for r in recordings for e in r.events})))


# ---- splits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_groups_stay_together_and_every_split_has_every_class(seed: int) -> None:
    rng = np.random.default_rng(seed)
    odds = {"common": 0.8, "usual": 0.4, "rare": 0.06}
    recordings = []
    for i in range(90):
        labels = [label for label, p in odds.items() if rng.random() < p]
        recordings.append(recording(f"r{i:02d}", *labels, group=f"g{i // 2}"))
    recordings += [recording(f"only{i}", "rare", group=f"h{i}") for i in range(3)]
    splits = split_recordings(data_of(recordings), seed=seed)
    assert sorted(r.name for part in splits.values() for r in part) == sorted(r.name for r in recordings)
    groups = [{r.group for r in part} for part in splits.values()]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    for label in odds:
        n = {name: sum(any(e[2] == label for e in r.events) for r in part) for name, part in splits.items()}
        assert all(n.values()), (label, n)
        if label != "rare":
            assert abs(n["train"] / sum(n.values()) - 0.6) < 0.1, (label, n)
    np.testing.assert_allclose([len(part) / 93 for part in splits.values()], [0.6, 0.2, 0.2], atol=0.08)


def test_a_draw_depends_on_its_seed_alone() -> None:
    recordings = [recording(f"r{i}", "xy"[i % 2]) for i in range(30)]
    names = [[r.name for r in split_recordings(data_of(recordings), seed=s)["test"]] for s in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_a_class_with_one_recording_is_trained_and_noted() -> None:
    data = data_of([recording(f"r{i}", "x") for i in range(9)] + [recording("one", "y")])
    splits = split_recordings(data)
    assert "one" in [r.name for r in splits["train"]]
    assert data.notes == ["classes that occur in one recording train, and cannot be tuned or tested: 1 (y)"]


def test_a_class_with_two_recordings_is_trained_and_tuned_and_noted() -> None:
    data = data_of([recording(f"r{i}", "x") for i in range(9)] + [recording(f"two{i}", "y") for i in range(2)])
    splits = split_recordings(data)
    assert [sum(r.name.startswith("two") for r in part) for part in splits.values()] == [1, 1, 0]
    assert data.notes == ["classes without a test recording, are not scored: 1 (y)"]


def test_given_splits_are_kept() -> None:
    recordings = [recording(f"{s}{i}", "x", split=s) for s in ("train", "val", "test") for i in range(3)]
    splits = split_recordings(data_of(recordings))
    assert {name: [r.name for r in part] for name, part in splits.items()} == {
        s: [f"{s}{i}" for i in range(3)] for s in ("train", "val", "test")
    }
    data = data_of([r for r in recordings if r.split != "val"])
    splits = split_recordings(data)
    assert len(splits["test"]) == 3 and len(splits["train"]) == 2 and len(splits["val"]) == 1
    assert any("given for validation" in note for note in data.notes)
    with pytest.raises(UserError, match="such as free, have none"):
        split_recordings(data_of([*recordings, recording("free", "x")]))


def test_few_recordings() -> None:
    assert [len(p) for p in split_recordings(data_of([recording("a", "x"), recording("b", "x")])).values()] == [1, 1, 0]
    with pytest.raises(UserError, match="one recording is not enough"):
        split_recordings(data_of([recording("a", "x")]))
    with pytest.raises(UserError, match="hold no event; more recordings"):
        split_recordings(data_of([recording("a", "x"), recording("b")]))
    pieces = data_of([recording(f"a_chunk{i}", "x", group="a") for i in range(4)])
    assert all(split_recordings(pieces).values())
    assert any("figures will be too good" in note for note in pieces.notes)


def test_the_balance_counts_recordings_and_events() -> None:
    data = data_of([recording("a", "x", "x", "y"), recording("b", "x"), recording("c", "y", "x")])
    rows = balance(data, {"train": data.recordings[:2], "val": data.recordings[2:], "test": []})
    assert rows[0] == {"label": "x", "recordings": 3, "events": 4, "seconds": 2.0, "train": 3, "val": 1, "test": 0}
    assert [line.split()[0] for line in balance_table(rows).splitlines()] == ["label", "x", "y"]


# ---- windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("longest", "seconds"), [(0.3, 1.0), (4.0, 4.0), (4.2, 5.0), (10.0, 10.0), (3600.0, 10.0)])
def test_windows_are_as_long_as_the_longest_recording_up_to_ten_seconds(longest: float, seconds: float) -> None:
    assert window_seconds([recording("a", duration=0.2), recording("b", duration=longest)]) == seconds


@pytest.mark.parametrize("duration", [0.5, 9.9, 10.0, 10.1, 10.3, 34.0, 60.0])
@pytest.mark.parametrize("hop", [5.0, 10.0])
def test_windows_cover_a_recording(duration: float, hop: float) -> None:
    events = ((0.1, 0.3, "x"), (0.3 * duration, 0.9 * duration, "y"))
    windows = cut([Recording("a", Path("a"), duration, events, "a")], 10.0, hop)
    assert [w.start for w in windows] == [i * hop for i in range(len(windows))]
    assert len({w.clip_id for w in windows}) == len(windows)
    end = windows[-1].start + windows[-1].duration
    assert duration - 0.2 - 1e-9 <= end <= duration + 1e-9
    times = np.arange(0, end - 0.02, 0.01) + 0.005
    for label, onset, offset in (("x", *events[0][:2]), ("y", *events[1][:2])):
        for w in windows:
            inside = times[(times > w.start) & (times < w.start + w.duration)]
            expected = (inside > onset) & (inside < offset)
            found = np.zeros(len(inside), bool)
            for a, b, name in w.events:
                found |= (name == label) & (inside - w.start > a) & (inside - w.start < b)
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("rate", "channels", "suffix"), [(16_000, 1, "wav"), (44_100, 2, "flac"), (8000, 1, "ogg")])
def test_a_part_is_read_where_it_is(tmp_path: Path, rate: int, channels: int, suffix: str) -> None:
    """A tone between 3 s and 4 s, read from 2 s on, sounds between 1 s and 2 s."""
    t = np.arange(6 * rate) / rate
    tone = 0.5 * np.sin(2 * np.pi * 440 * t) * ((t >= 3) & (t < 4))
    soundfile.write(tmp_path / f"a.{suffix}", np.repeat(tone[:, None], channels, 1), rate)
    audio = read_part(tmp_path / f"a.{suffix}", 2.0, 3.0)
    assert audio.dtype == np.float32 and abs(len(audio) - 48_000) <= 1
    level = np.sqrt(np.mean(audio[: 30 * 1600].reshape(30, 1600) ** 2, axis=1))  # per 0.1 s
    loud = np.flatnonzero(level > 0.1)
    assert loud[0] == 10 and loud[-1] == 19


def test_samples_are_padded_and_agree_with_the_events(tmp_path: Path) -> None:
    make_layout(tmp_path / "own", LayoutRequest("own", train=8, eval=1, seconds=3.0))
    data = read_own_data(tmp_path / "own" / "audio", tmp_path / "own" / "events.csv")
    seconds = window_seconds(data.recordings)
    windows = OwnWindows(data.recordings, data.labels, seconds, hop=seconds)
    batch = torch.utils.data.default_collate([windows[i] for i in range(len(windows))])
    assert batch["audio"].shape == (len(windows), round(16_000 * seconds)) and batch["audio"].dtype == torch.float32
    assert batch["strong"].shape == (len(windows), 3, round(25 * seconds)) and batch["valid"].all()
    for i, window in enumerate(windows.windows):
        assert not batch["audio"][i, round(16_000 * window.duration) + 1 :].any()
        active = torch.zeros(3)
        for onset, offset, label in window.events:
            active[data.labels.index(label)] += offset - onset
        np.testing.assert_allclose(batch["strong"][i].sum(1) / 25, active, atol=0.08 * max(1, len(window.events)))
    assert windows.ground_truth().keys() == windows.durations().keys() == set(batch["clip_id"])


def test_what_cannot_be_decoded_is_silence_and_reported_once(tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"nothing")
    windows = OwnWindows([Recording("bad.wav", tmp_path / "bad.wav", 2.0, ((0.0, 1.0, "x"),), "bad")], ["x"], 2.0, 2.0)
    sample = windows[0]
    assert not sample["valid"] and not sample["audio"].any() and not sample["strong"].any()
    assert windows.new_corrupt_report() == "1 windows cannot be decoded and are left out: bad.wav"
    assert windows.new_corrupt_report() is None


def test_rare_classes_and_events_come_more_often_where_windows_differ_much() -> None:
    even = OwnWindows([recording(f"{i}", "xy"[i % 2]) for i in range(10)], ["x", "y"], 5.0, 5.0)
    assert even.sampling_weights() is None
    uneven = [recording(f"x{i}", "x") for i in range(16)] + [recording("y", "y")]
    silent = [recording(f"e{i}") for i in range(40)]
    weights = OwnWindows([*uneven, *silent], ["x", "y"], 5.0, 5.0).sampling_weights()
    assert weights is not None
    np.testing.assert_allclose(weights[16] / weights[0], 4.0)
    np.testing.assert_allclose(weights[17:].sum(), 0.25 * weights[:17].sum())


def test_the_same_request_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        make_layout(tmp_path / name, LayoutRequest("own", train=6, eval=2, seconds=2.0, seed=3))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 6 + 2 + 2 + 1
    ogg = {p for p in files if p.suffix == ".ogg"}  # their streams have a random serial number
    for path in set(files) - ogg:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
    for path in ogg:
        np.testing.assert_array_equal(*(soundfile.read(tmp_path / name / path)[0] for name in "ab"))
