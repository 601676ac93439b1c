"""Output files: whole or not at all, nothing foreign destroyed, opened by readers that did not write them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from errors import UserError
from helpers.classes import ClassName
from helpers.events import decode_events
from helpers.outputs import OutputFolder, TrueEvents, format_table, read_true_events, seconds

CLASSES = [ClassName("Speech", "/m/09x0r"), ClassName('Tab\there, "quoted"', "")]


def some_events(n: int = 3):
    scores = np.full((2, 10 * n), 0.01, np.float32)
    for i in range(n):
        scores[i % 2, 10 * i + 2 : 10 * i + 7] = 0.6 + i / 10 % 0.3
    return decode_events(scores, CLASSES, 0.5, duration=0.4 * n)


def test_times_are_rounded_down():
    assert [seconds(t) for t in (0, 0.04, 0.28, 9.9999, 3599.9600000000005, 1.0005)] == [
        "0.000", "0.040", "0.280", "9.999", "3599.960", "1.000",
    ]  # fmt: skip


def test_the_table_for_the_screen():
    lines = format_table(some_events(), limit=2).splitlines()
    assert len(lines) == 4 and "Speech" in lines[1] and lines[-1].strip() == "... and 1 more"
    assert format_table(some_events().select(np.zeros(0, int))).strip() == "no events"


def test_own_files_are_replaced_and_foreign_ones_kept(tmp_path):
    OutputFolder(tmp_path / "out").write_text("a.tsv", "first")
    path = OutputFolder(tmp_path / "out").write_text("a.tsv", "second")  # a second run of the program
    assert path.read_text() == "second"
    path.write_text("corrected by hand")
    with pytest.raises(UserError, match=r"a\.tsv.*--overwrite"):
        OutputFolder(tmp_path / "out").write_text("a.tsv", "third")
    assert path.read_text() == "corrected by hand"
    OutputFolder(tmp_path / "out", overwrite=True).write_text("a.tsv", "fourth")
    assert path.read_text() == "fourth"


def test_a_failed_write_leaves_the_old_file(tmp_path):
    folder = OutputFolder(tmp_path)
    folder.write_text("a.tsv", "whole")

    def fail(path):
        path.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        folder.write("a.tsv", fail)
    assert (tmp_path / "a.tsv").read_text() == "whole"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".efficientsed.jsonl", "a.tsv"]


def test_a_ledger_cut_by_a_killed_run_does_no_harm(tmp_path):
    OutputFolder(tmp_path).write_text("a.tsv", "one")
    with (tmp_path / ".efficientsed.jsonl").open("a") as ledger:
        ledger.write('{"name": "b.ts')
    OutputFolder(tmp_path).write_text("a.tsv", "two")
    assert (tmp_path / "a.tsv").read_text() == "two"  # known as its own in spite of the half line
    (tmp_path / "b.tsv").write_text("foreign")
    with pytest.raises(UserError, match=r"b\.tsv"):  # of which the half line tells nothing
        OutputFolder(tmp_path).write_text("b.tsv", "three")
    assert (tmp_path / "b.tsv").read_text() == "foreign"


def test_no_way_out_of_the_folder(tmp_path):
    with pytest.raises(UserError, match="out of the folder"):
        OutputFolder(tmp_path / "out").write_text("../evil.tsv", "")


DCASE = "filename\tonset\toffset\tevent_label\nx/a.wav\t0.5\t1.5\tSpeech\nb.wav\t0\t1\tDog\na.wav\t2\t3\t/m/0bt9lr\n"
GOOGLE = (
    "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
    "abc_efghij__30000\t0.5\t1.5\t/m/09x0r\nabc_efghij__90000\t7\t8\t/m/09x0r\nabc_efghi-k_30000\t2\t3\t/m/0bt9lr\n"
)
NAMES = {"/m/09x0r": "Speech", "/m/0bt9lr": "Dog"}


def true_of(path, name, **others):
    """The true events of the audio of that name."""
    return read_true_events(path, {name: f"/elsewhere/{name}", **others}).get(name)


def test_true_events_in_dcase_form(tmp_path):
    (tmp_path / "t.tsv").write_text(DCASE)
    true = true_of(tmp_path / "t.tsv", "b.flac").named(NAMES)
    assert (true.onset, true.offset, true.label) == ([0.0], [1.0], ["Dog"])
    assert true_of(tmp_path / "t.tsv", "a.flac").named(NAMES).label == ["Dog"]  # and not those of x/a.wav
    assert read_true_events(tmp_path / "t.tsv", {"a.wav": "/data/y/a.wav", "x/a.wav": "/data/x/a.wav"}) == {
        "a.wav": TrueEvents([2.0], [3.0], ["/m/0bt9lr"]),
        "x/a.wav": TrueEvents([0.5], [1.5], ["Speech"]),
    }
    assert true_of(tmp_path / "t.tsv", "c.wav") is None


def test_names_without_folders_and_ending_count_where_one_audio_has_them(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("filename\tonset\toffset\tevent_label\na\t1\t2\t Speech \na.wav\t3\t4\tDog\n")
    assert true_of(path, "x/a.wav").label == ["Speech", "Dog"]
    with pytest.raises(UserError, match=r"true events '.*t.tsv': file 'a.wav' may be 'x/a.wav' or 'y/a.wav'; give its"):
        read_true_events(path, {"x/a.wav": "/data/x/a.wav", "y/a.wav": "/data/y/a.wav"})
    path.write_text("filename\tonset\toffset\tevent_label\nx/a.wav\t1\t2\tA\ny/a.wav\t3\t4\tB\n")
    assert read_true_events(path, {"a.wav": "/data/y/a.wav"})["a.wav"].label == ["B"]  # where the file is decides
    with pytest.raises(UserError, match=r"clip 'a.wav' may be 'x/a.wav' or 'y/a.wav'"):
        true_of(path, "a.wav")


def test_a_table_without_file_names_is_about_one_audio(tmp_path):
    (tmp_path / "t.tsv").write_text("onset\toffset\tlabel\n1\t2\tA\n")
    assert true_of(tmp_path / "t.tsv", "any.wav").label == ["A"]
    with pytest.raises(UserError, match="lack a column filename, which says what is of which of 2 files"):
        true_of(tmp_path / "t.tsv", "any.wav", other="other.wav")


@pytest.mark.parametrize("name", ["Yabc_efghi-k.mp3", "abc_efghi-k.wav", "Yabc_efghi-k_30000.wav", "abc_efghi-k"])
def test_true_events_in_audioset_form(tmp_path, name):
    (tmp_path / "t.tsv").write_text(GOOGLE)
    true = true_of(tmp_path / "t.tsv", name).named(NAMES)
    assert (true.onset, true.label) == ([2.0], ["Dog"])


def test_takes_of_one_recording_are_not_mixed_up(tmp_path):
    (tmp_path / "t.tsv").write_text("filename\tonset\toffset\tevent_label\nrec_1.wav\t0\t1\tA\nrec_2.wav\t0\t1\tB\n")
    assert true_of(tmp_path / "t.tsv", "rec_2.wav").label == ["B"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\tb\n1\t2\n", "lack a column for onset, offset, label"), ("onset\toffset\tlabel\n1\tx\tA\n", "line 2")],
)
def test_bad_annotations(tmp_path, text, message):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_true_events(tmp_path / "t.tsv", {"a.wav": "a.wav"})
    with pytest.raises(UserError, match=r"cannot read the true events .*got a path that does not exist"):
        read_true_events(tmp_path / "none.tsv", {"a.wav": "a.wav"})


def test_a_run_killed_between_rename_and_ledger_is_no_foreign_file(tmp_path, monkeypatch):
    """Whatever a kill -9 interrupts, the next run may replace what this program wrote, and nothing else."""
    OutputFolder(tmp_path).write_text("a.tsv", "one")

    def killed(*_):
        raise SystemExit

    for moment in ("helpers.outputs.os.replace", "helpers.outputs.OutputFolder._note"):
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            patch.setattr(moment, killed)
            OutputFolder(tmp_path).write_text("a.tsv", "two")
        assert (tmp_path / "a.tsv").read_text() == "one"
        OutputFolder(tmp_path).check("a.tsv")
    OutputFolder(tmp_path).write_text("a.tsv", "two")
    OutputFolder(tmp_path).write_text("a.tsv", "three")
    (tmp_path / "a.tsv").write_text("my own")
    with pytest.raises(UserError, match="was not written by this program"):
        OutputFolder(tmp_path).check("a.tsv")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="other systems have no such names")
def test_a_pipe_in_the_place_of_an_output_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tsv")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not a regular file"):
            OutputFolder(tmp_path, overwrite=overwrite).write_text("a.tsv", "text")
