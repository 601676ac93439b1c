"""Vocabularies, merging and the label grid, against slow references written independently."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from data_util.labels import (
    CLIP_FRAMES,
    Events,
    active_frames,
    encode_events,
    load_vocabulary,
    merge_events,
    unpack_weak_target,
)
from errors import UserError


def make_events(per_clip: list[list[tuple[float, float, int]]]) -> Events:
    rows = [event for clip in per_clip for event in clip]
    columns = list(zip(*rows, strict=True)) if rows else [[], [], []]
    return Events(
        np.array([f"Yclip{i:07d}" for i in range(len(per_clip))]),
        np.cumsum([0, *map(len, per_clip)]),
        np.array(columns[0], float),
        np.array(columns[1], float),
        np.array(columns[2], np.int64),
    )


def random_events(rng: np.random.Generator, n_clips: int = 40, n_classes: int = 5) -> Events:
    clips = []
    for _ in range(n_clips):
        onset = rng.integers(0, 9_800, rng.integers(0, 12)) / 1000
        length = rng.integers(0, 3_000, len(onset)) / 1000
        clips.append([(a, min(a + d, 10.0), int(rng.integers(n_classes))) for a, d in zip(onset, length, strict=True)])
    return make_events(clips)


def merge_slowly(events: list[tuple[float, float, int]]) -> set[tuple[float, float, int]]:
    merged = set()
    for c in {event[2] for event in events}:
        current: list[float] | None = None
        for onset, offset, _ in sorted(event for event in events if event[2] == c):
            if current is not None and onset <= current[1]:
                current[1] = max(current[1], offset)
                continue
            if current is not None:
                merged.add((current[0], current[1], c))
            current = [onset, offset]
        if current is not None:
            merged.add((current[0], current[1], c))
    return merged


def encode_slowly(events: list[tuple[float, float, int]], n_classes: int) -> np.ndarray:
    """Exact: times are whole milliseconds, so the frame borders are compared as fractions."""
    target = np.zeros((n_classes, CLIP_FRAMES))
    for onset, offset, c in events:
        first = math.floor(Fraction(round(onset * 1000), 40))
        stop = math.ceil(Fraction(round(offset * 1000), 40))
        for frame in range(max(first, 0), min(stop, CLIP_FRAMES)):
            target[c, frame] = 1
    return target


def test_strong_vocabulary_has_the_published_counts():
    strong = load_vocabulary("strong")
    in_eval_only = len(strong.ignored_mids)
    assert len(strong) == len(set(strong.mids)) == 447
    assert len(strong.eval_indices) == 407
    assert len(strong.eval_indices) + in_eval_only == 416
    assert list(strong.names) == sorted(strong.names)
    assert strong.index_by_mid["/m/012n7d"] == strong.names.index("Ambulance (siren)")
    assert not strong.ignored_mids & set(strong.mids)


def test_weak_vocabulary():
    weak = load_vocabulary("weak")
    assert len(weak) == 527
    assert weak.names[0] == "Speech" and weak.mids[0] == "/m/09x0r"


def test_own_class_list(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text('name\n"Dog, barking"\nCat\n')
    own = load_vocabulary(path)
    assert own.names == ("Dog, barking", "Cat") == own.mids
    assert own.in_eval == (True, True)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("index,name\n0,a\n2,b\n", "0 to 1"),
        ("index,name\n0,a\nx,b\n", "'x'"),
        ("mid\n/m/1\n", "column `name`"),
        ("", "column `name`"),
    ],
)
def test_bad_class_list(tmp_path, text, words):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        load_vocabulary(path)


def test_missing_class_list(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_vocabulary(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("seed", range(5))
def test_merge_equals_slow_merge(seed):
    events = random_events(np.random.default_rng(seed))
    merged = merge_events(events, 5)
    assert merged.n_events < events.n_events
    for clip in range(len(events)):
        before = list(zip(*(column.tolist() for column in events.of(clip)), strict=True))
        after = list(zip(*(column.tolist() for column in merged.of(clip)), strict=True))
        assert set(after) == merge_slowly(before) and len(after) == len(set(after))


def test_touching_events_merge_and_nested_ones_vanish():
    merged = merge_events(make_events([[(1.0, 2.0, 0), (2.0, 2.5, 0), (1.1, 1.2, 0), (2.501, 3.0, 0)]]), 1)
    assert merged.onset.tolist() == [1.0, 2.501]
    assert merged.offset.tolist() == [2.5, 3.0]


@pytest.mark.parametrize("seed", range(3))
def test_encoding_equals_exact_arithmetic(seed):
    events = random_events(np.random.default_rng(seed + 10))
    for clip in range(len(events)):
        columns = events.of(clip)
        expected = encode_slowly(list(zip(*columns, strict=True)), 5)
        np.testing.assert_array_equal(encode_events(*columns, n_classes=5), expected)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_frame_borders_never_spill(dtype):
    """An event from border k to border k + 1 is exactly frame k, whatever 0.04 * k rounds to."""
    borders = np.arange(CLIP_FRAMES + 1)
    for seconds in (borders * dtype(0.04), (borders / 25).astype(dtype), borders * dtype(1 / 25)):
        for k in range(CLIP_FRAMES):
            column = np.flatnonzero(encode_events(seconds[k : k + 1], seconds[k + 1 : k + 2], np.array([0]), 1))
            assert column.tolist() == [k]


def test_a_millisecond_beyond_a_border_counts():
    target = encode_events(np.array([0.999]), np.array([1.041]), np.array([0]), 1)
    assert np.flatnonzero(target).tolist() == [24, 25, 26]


def test_events_beyond_the_clip_are_clipped():
    target = encode_events(np.array([9.9, 11.0]), np.array([12.0, 12.0]), np.array([0, 1]), 2)
    assert target.sum(axis=1).tolist() == [3, 0]


@pytest.mark.parametrize("seed", range(3))
def test_active_frames_equal_the_sum_of_the_targets(seed):
    events = merge_events(random_events(np.random.default_rng(seed + 20)), 5)
    counts = np.zeros((len(events), 5))
    clip, class_index, frames = active_frames(events)
    counts[clip, class_index] = frames
    expected = [encode_events(*events.of(i), n_classes=5).sum(axis=1) for i in range(len(events))]
    np.testing.assert_array_equal(counts, expected)


def test_select_and_as_lists():
    events = make_events([[(0, 1, 0)], [], [(2, 3, 1), (4, 5, 0)]])
    chosen = events.select(np.array([2, 1]))
    assert chosen.as_lists(["a", "b"]) == {
        "Yclip0000002": [(2.0, 3.0, "b"), (4.0, 5.0, "a")],
        "Yclip0000001": [],
    }


def test_no_events_at_all():
    empty = merge_events(make_events([[], []]), 3)
    assert empty.n_events == 0 and empty.starts.tolist() == [0, 0, 0]
    assert encode_events(*empty.of(0), n_classes=3).sum() == 0
    assert all(len(column) == 0 for column in active_frames(empty))


def test_unpack_weak_target_is_most_significant_bit_first():
    target = np.random.default_rng(0).random((3, 527)) < 0.1
    packed = np.zeros((3, 66), np.uint8)
    for i, c in zip(*np.nonzero(target), strict=True):
        packed[i, c // 8] |= 128 >> (c % 8)
    np.testing.assert_array_equal(unpack_weak_target(packed, 527), target)
