"""Times that cannot be are refused by every reader of tables."""

from __future__ import annotations

import math

import pytest

from data_util.label_files import read_durations, read_strong_tsv, read_weak_csv
from data_util.labels import load_vocabulary
from data_util.own_annotations import checked_time
from data_util.times import WHAT, parse_seconds
from errors import UserError
from helpers import psds_io
from helpers.outputs import read_true_events

BAD = ["nan", "inf", "-inf", "-1", "1e10", "1e300", "NaN", "soon", ""]
DCASE = "filename\tonset\toffset\tevent_label\na.wav\t{}\t2e8\tDog\n"
STRONG = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\nabcdefghijk_30000\t{}\t2e8\t/m/0bt9lr\n"
READERS = {
    "true events": (DCASE, lambda path: read_true_events(path, {"a.wav": "a.wav"})),
    "true events of AudioSet": (STRONG, lambda path: read_true_events(path, {"abcdefghijk": "abcdefghijk"})),
    "ground truth": (DCASE, psds_io.read_ground_truth),
    "ground truth of AudioSet": (STRONG, psds_io.read_ground_truth),
    "durations for scoring": ("a.wav,{}\n", psds_io.read_durations),
    "durations": ("Yabcdefghijk,{}\n", read_durations),
    "strong labels": (STRONG, lambda path: read_strong_tsv(path, load_vocabulary("strong"))),
    "weak labels": ('abcdefghijk, {}, 2e8, "/m/09x0r"\n', lambda path: read_weak_csv(path, load_vocabulary("weak"))),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_times_that_cannot_be(reader, tmp_path):
    text, read = READERS[reader]
    table = tmp_path / "table.tsv"
    table.write_text(text.format("1.5"))
    assert read(table)  # so that what is refused below is the time
    for time in BAD:
        table.write_text(text.format(time))
        with pytest.raises(UserError, match=r"line \d"):
            read(table)


def test_the_end_of_an_event_too(tmp_path):
    for offset in ("nan", "inf", "1e10", "0.5"):
        (tmp_path / "t.tsv").write_text(f"onset\toffset\tlabel\n1\t{offset}\tDog\n")
        with pytest.raises(UserError, match="line 2"):
            read_true_events(tmp_path / "t.tsv", {"a.wav": "a.wav"})


def test_numbers_are_times_as_well_as_text():
    assert parse_seconds("2.5") == parse_seconds(2.5) == 2.5
    for bad in (None, math.nan, math.inf, -0.1, 1e9 + 1):
        with pytest.raises((ValueError, TypeError)):
            parse_seconds(bad)


def test_times_of_ones_own_recordings_have_the_same_bounds():
    assert checked_time("1,5", "onset", "line 2", decimal_comma=True) == checked_time("1.5", "onset", "line 2") == 1.5
    for text, comma in [*((bad, False) for bad in BAD), ("1,5", False), ("1.000,5", True)]:
        with pytest.raises(UserError) as error:
            checked_time(text, "onset", "line 2", comma)
        assert str(error.value) == f"line 2: onset {text!r} is not {WHAT}"
