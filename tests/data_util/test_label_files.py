"""Strong label files as published, against a plain row-by-row reader."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
import pytest

from data_util.label_files import read_segments, read_strong_tsv
from data_util.labels import load_vocabulary
from errors import UserError

HEADER = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
DOG, CAT = "/m/0bt9lr", "/m/01yrx"
IDS = ["--abc_DEF-1_30000", "_a_b_c_d_e__0", "plainID1234_120000"]


def write(tmp_path, text, newline="\n"):
    path = tmp_path / "labels.tsv"
    path.write_bytes(text.replace("\n", newline).encode())
    return path


def read_row_by_row(path, vocabulary):
    clips = defaultdict(list)
    with path.open(newline="") as handle:
        for row in csv.DictReader(handle, delimiter="\t"):
            clip = clips["Y" + "_".join(row["segment_id"].split("_")[:-1])]
            if row["label"] in vocabulary.mids:
                name = vocabulary.names[vocabulary.mids.index(row["label"])]
                clip.append((float(row["start_time_seconds"]), float(row["end_time_seconds"]), name))
    return clips


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_equals_a_row_by_row_reader(tmp_path, newline):
    vocabulary = load_vocabulary("strong")
    rng = np.random.default_rng(0)
    mids = [*vocabulary.mids[:50], *vocabulary.ignored_mids]
    rows = []
    for k in range(300):  # events of one class lie apart, so nothing is merged
        onset = 0.03 * k
        rows.append(f"{IDS[k % 3]}\t{onset:.3f}\t{onset + 0.02:.3f}\t{mids[rng.integers(len(mids))]}\n")
    path = write(tmp_path, HEADER + "".join(rows), newline)
    events = read_strong_tsv(path, vocabulary)
    expected = read_row_by_row(path, vocabulary)
    found = events.as_lists(vocabulary.names)
    assert sorted(found) == events.clip_ids.tolist() == sorted(expected)
    for clip, rows_of_clip in expected.items():
        assert sorted(found[clip]) == sorted(rows_of_clip)


def test_ids_with_underscores_and_leading_dashes(tmp_path):
    path = write(tmp_path, HEADER + "".join(f"{i}\t0\t1\t{DOG}\n" for i in IDS))
    found = read_strong_tsv(path, load_vocabulary("strong")).clip_ids.tolist()
    assert found == sorted(["Y--abc_DEF-1", "Y_a_b_c_d_e_", "YplainID1234"])


def test_quotes_blank_lines_and_column_order(tmp_path):
    text = f'label\tsegment_id\tstart_time_seconds\tend_time_seconds\n\n{DOG}\t"{IDS[0]}"\t0.5\t1\n\n'
    events = read_strong_tsv(write(tmp_path, text, "\r\n"), load_vocabulary("strong"))
    assert events.as_lists(load_vocabulary("strong").names) == {"Y--abc_DEF-1": [(0.5, 1.0, "Dog")]}


def test_overlapping_events_are_merged(tmp_path):
    rows = [(0, 2, DOG), (1, 3, CAT), (1.5, 4, DOG), (4, 5, DOG), (6, 7, DOG)]
    path = write(tmp_path, HEADER + "".join(f"{IDS[0]}\t{a}\t{b}\t{mid}\n" for a, b, mid in rows))
    lists = read_strong_tsv(path, load_vocabulary("strong")).as_lists(load_vocabulary("strong").names)
    assert lists["Y--abc_DEF-1"] == [(1.0, 3.0, "Cat"), (0.0, 5.0, "Dog"), (6.0, 7.0, "Dog")]


def test_a_clip_with_evaluation_only_classes_stays_without_events(tmp_path):
    vocabulary = load_vocabulary("strong")
    path = write(tmp_path, f"{HEADER}{IDS[0]}\t0\t1\t{min(vocabulary.ignored_mids)}\n")
    assert read_strong_tsv(path, vocabulary).as_lists(vocabulary.names) == {"Y--abc_DEF-1": []}


def test_only_the_first_segment_of_a_video_counts(tmp_path, caplog):
    path = write(tmp_path, f"{HEADER}plainID1234_90000\t0\t1\t{DOG}\nplainID1234_1000\t2\t3\t{CAT}\n")
    events = read_strong_tsv(path, load_vocabulary("strong"))
    assert events.as_lists(load_vocabulary("strong").names) == {"YplainID1234": [(2.0, 3.0, "Cat")]}
    assert "1 further segments of a video are left out" in caplog.text


def test_header_only(tmp_path):
    assert len(read_strong_tsv(write(tmp_path, HEADER), load_vocabulary("strong"))) == 0


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (f"{IDS[0]}\t0\t1\t/m/nosuch", ["line 3", "/m/nosuch", "447"]),
        (f"{IDS[0]}\t-0.5\t1\t{DOG}", ["line 3", "start_time_seconds", "-0.5"]),
        (f"{IDS[0]}\tnan\t1\t{DOG}", ["line 3", "nan"]),
        (f"{IDS[0]}\t0\t\t{DOG}", ["line 3", "end_time_seconds"]),
        (f"{IDS[0]}\tzero\t1\t{DOG}", ["line 3", "'zero'"]),
        (f"{IDS[0]}\t0\tinf\t{DOG}", ["line 3", "inf"]),
        (f"{IDS[0]}\t2\t1\t{DOG}", ["line 3", "before the start"]),
        (f"{IDS[0]}\t0\t1\t", ["line 3", "label", "empty"]),
        (f"\t0\t1\t{DOG}", ["line 3", "segment_id", "empty"]),
    ],
)
def test_bad_rows_name_file_line_and_value(tmp_path, row, words):
    path = write(tmp_path, f"{HEADER}{IDS[1]}\t0\t1\t{DOG}\n{row}\n{IDS[2]}\t0\t1\t{DOG}\n")
    with pytest.raises(UserError) as caught:
        read_strong_tsv(path, load_vocabulary("strong"))
    assert "labels.tsv" in str(caught.value) and "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"filename\tonset\toffset\n", b"\xff\xfe\x00\x01\x9f\n\x80", b"a,b\n"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "labels.tsv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"labels\.tsv"):
        read_strong_tsv(path, load_vocabulary("strong"))


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.tsv"):
        read_strong_tsv(tmp_path / "nowhere.tsv", load_vocabulary("strong"))


def test_the_classes_of_each_clip_are_those_of_its_rows(tmp_path, capsys, monkeypatch):
    vocabulary = load_vocabulary("strong")
    rng = np.random.default_rng(0)
    rows = [(f"clip{rng.integers(40):07d}_30000", vocabulary.mids[rng.integers(12)]) for _ in range(400)]
    table = tmp_path / "strong.tsv"
    lines = [f"{segment}\t0\t1\t{mid}\n" for segment, mid in rows]
    table.write_text("segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n" + "".join(lines))
    labels = read_segments(table, vocabulary)
    assert labels.clip_ids == sorted({f"Y{segment[:-6]}" for segment, _ in rows})
    for clip, mids in zip(labels.clip_ids, labels.mids, strict=True):
        expected = {mid for segment, mid in rows if f"Y{segment[:-6]}" == clip}
        assert set(mids) == expected and len(mids) == len(expected)
        assert list(mids) == sorted(mids, key=vocabulary.mids.index)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("data_util.tables.PATIENCE", 0.0)
    read_segments(table, vocabulary)
    assert f"reading {table.name}" in capsys.readouterr().err
