"""Own recordings: every way to annotate them, every mistake in one line."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.annotation_formats import read_events
from data_util.own_data import merge, read_own_data
from errors import UserError

HEADER = "filename,onset,offset,label"


def write_audio(path: Path, seconds: float = 2.0, rate: int = 8000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (round(seconds * rate), channels))
    soundfile.write(path, noise, rate)
    return path


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.flac", "deep/c.ogg"):
        write_audio(tmp_path / "audio" / name)
    return tmp_path / "audio"


def table(audio: Path, *lines: str, header: str = HEADER, name: str = "events.csv") -> Path:
    path = audio.parent / name
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def events_by_name(audio: Path, *lines: str, **options) -> dict[str, list]:
    data = read_own_data(audio, table(audio, *lines, **options))
    return {recording.name: [tuple(event) for event in recording.events] for recording in data.recordings}


GOOD = [
    (HEADER, "a.wav,0.5,1.0,dog"),
    ("filename\tonset\toffset\tevent_label", "a.wav\t0.5\t1.0\tdog"),
    ("File;Start;End;Label", "a.wav;0,5;1,0;dog"),
    ("label, offset, onset, path", "dog, 1.0, 0.5, a.wav"),
    ('filename,"onset",offset,label', '"a.wav","0.5","1.0","dog"'),
    ("\ufefffilename,onset,offset,label", "a,0.5,1.0,dog\r"),
    ('"filename" ,onset,offset,"label"  ', '"a.wav" ,0.5, "1.0"\t,"dog" '),
    ("filename\tonset\toffset\tlabel\tnote", '"a.wav" \t0.5\t1.0\t"dog"\t"" '),
]


@pytest.mark.parametrize(("header", "line"), GOOD)
def test_tables_of_many_programs(audio: Path, header: str, line: str) -> None:
    assert events_by_name(audio, line, header=header) == {"a.wav": [(0.5, 1.0, "dog")]}


def test_names_may_lack_folder_and_ending(audio: Path) -> None:
    lines = ["c,0,1,x", "deep/c.ogg,1.5,2,x", "deep\\c.ogg,1.2,1.3,y", f"{audio.absolute()}/b.flac,0,1,x"]
    assert events_by_name(audio, *lines) == {
        "b.flac": [(0.0, 1.0, "x")],
        "deep/c.ogg": [(0.0, 1.0, "x"), (1.2, 1.3, "y"), (1.5, 2.0, "x")],
    }


def test_a_recording_in_which_nothing_happens(audio: Path) -> None:
    data = read_own_data(audio, table(audio, "a.wav,0,1,dog", "b.flac,,,"))
    assert [(r.name, len(r.events)) for r in data.recordings] == [("a.wav", 1), ("b.flac", 0)]
    assert any("not in the table" in note and note.endswith(": 1 (deep/c.ogg)") for note in data.notes)


BAD_LINES = [
    ("a.wav,nan,1,dog", "line 3: onset 'nan' is not a time"),
    ("a.wav,0,inf,dog", "line 3: offset 'inf' is not a time"),
    ("a.wav,-1,1,dog", "line 3: onset '-1' is not a time"),
    ("a.wav,0:30,1,dog", "line 3: onset '0:30' is not a time"),
    ("a.wav,1.5,1.0,dog", "line 3: the event ends (1.0) before it begins (1.5)"),
    ("a.wav,0,1,", "line 3: the label of the event is empty"),
    ("a.wav,,1,dog", "line 3: onset '' is not a time"),
    (",0,1,dog", "line 3: the file name is empty"),
    ("../a.wav,0,1,dog", "line 3: file '../a.wav' lies outside"),
    ("/etc/passwd,0,1,dog", "line 3: file '/etc/passwd' lies outside"),
    ("deep/../../x.wav,0,1,dog", "lies outside"),
    ("a.wav,0,1,Dog, barking", "line 3: more cells than the header has columns"),
    ("a.wav,0,5,1,2,dog", "line 3: more cells than the header has columns"),
    ('a.wav,0,1,"dog\nb.flac,0,1,cat"', "line 4: label 'dog\\nb.flac,0,1,cat' holds a line break"),
    ('"a.wav\nb.flac",0,1,cat', "line 4: file name 'a.wav\\nb.flac' holds a line break"),
    ('a.wav,0,1,"dog\nb.flac,0,1,cat', "line 4: unexpected end of data; a stray quote?"),
    ('a.wav,0,1,"dog\nb.flac,0,1,cat," \nb.flac,1,2,cat', "line 4: ',' expected after '\"'; a stray quote?"),
    ('a.wav,0,1,"dog" bark', "line 3: ',' expected after '\"'; a stray quote?"),
    ("a.wav,0,1,do\x07g", "a control character"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_bad_lines_are_named(audio: Path, line: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        read_own_data(audio, table(audio, "a.wav,0,1,dog", line))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_blank_cells_at_the_end_of_a_line_do_no_harm(audio: Path) -> None:
    assert events_by_name(audio, "a.wav,0,1,dog,", "b.flac,0,1,cat,,", ",,,,,") == {
        "a.wav": [(0.0, 1.0, "dog")],
        "b.flac": [(0.0, 1.0, "cat")],
    }


def test_missing_columns_are_named_with_those_found(audio: Path) -> None:
    with pytest.raises(UserError, match=r"no column onset, label: .* found filename, time, offset"):
        read_own_data(audio, table(audio, "a.wav,0,1", header="filename,time,offset"))


def test_unknown_columns_are_noted(audio: Path) -> None:
    data = read_own_data(audio, table(audio, "a.wav,0,1,dog,me,3", header=f"{HEADER},annotator,snr"))
    assert data.notes[0] == "events.csv: columns that are not used: annotator, snr"


def test_other_encodings_are_refused(audio: Path) -> None:
    path = audio.parent / "events.csv"
    path.write_bytes(f"{HEADER}\na.wav,0,1,Vögel\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"not UTF-8"):
        read_own_data(audio, path)


def test_what_can_be_mended_is_mended_and_counted(audio: Path) -> None:
    (audio / "broken.wav").write_bytes(b"RIFF nothing")
    lines = ["a.wav,0.0,1.0,x", "a.wav,0.0,1.0,x", "a.wav,0.5,1.5,x", "a.wav,1.8,9.0,x", "a.wav,5,6,x", "a.wav,1,1,y"]
    data = read_own_data(audio, table(audio, *lines, "gone.wav,0,1,x", "broken.wav,0,1,x", "b.flac,0,1,X"))
    notes = "\n".join(data.notes)
    assert [r.events for r in data.recordings] == [((0.0, 1.5, "x"), (1.8, 2.0, "x")), ((0.0, 1.0, "X"),)]
    for expected in (
        "say the same as another one: 1",
        "overlap or touch another one of their class, merged: 1",
        "end after the end of their file, cut there: 1 (",
        "begin after the end of their file, left out: 1 (",
        "without duration, left out: 1 (",
        "that are missing, left out: 1 (gone.wav)",
        "cannot be read as audio, left out: 1 (broken.wav: ",
        "differ in spelling alone are different classes: X, x",
    ):
        assert expected in notes


def test_times_in_another_unit_are_refused(audio: Path) -> None:
    with pytest.raises(UserError, match=r"2 of 2 events begin after the end of their file.*seconds"):
        read_own_data(audio, table(audio, "a.wav,500,900,x", "b.flac,1000,1500,x"))


def test_nothing_to_work_with(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no audio files"):
        read_own_data(tmp_path / "empty")
    with pytest.raises(UserError, match=r"expected a folder, got a path that does not exist"):
        read_own_data(tmp_path / "none")
    with pytest.raises(UserError, match=r"none of the 1 files of the table"):
        read_own_data(audio, table(audio, "gone.wav,0,1,x"))
    with pytest.raises(UserError, match=r"holds no annotations"):
        read_own_data(audio, table(audio))
    with pytest.raises(UserError, match=r"hold no event"):
        read_own_data(audio, table(audio, "a.wav,,,"))
    with pytest.raises(UserError, match=r"cannot read --events"):
        read_own_data(audio, tmp_path / "no.csv")
    write_audio(tmp_path / "flat" / "a.wav")
    with pytest.raises(UserError, match=r"nothing says what is heard"):
        read_own_data(tmp_path / "flat")


def test_a_name_that_means_two_files(audio: Path) -> None:
    write_audio(audio / "other" / "c.ogg")
    with pytest.raises(UserError, match=r"line 2: file 'c.ogg' may be 'deep/c.ogg' or 'other/c.ogg'"):
        read_own_data(audio, table(audio, "c.ogg,0,1,x"))


def test_splits_and_groups(audio: Path) -> None:
    lines = ["a.wav,0,1,x,train,s1", "b.flac,0,1,x,validation,s2", "deep/c.ogg,0,1,x,EVAL,s2"]
    path = table(audio, *lines, header=f"{HEADER},split,site")
    data = read_own_data(audio, path, "site")
    assert [(r.split, r.group) for r in data.recordings] == [("train", "s1"), ("val", "s2"), ("test", "s2")]
    with pytest.raises(UserError, match=r"--group_column is place: .* filename, onset"):
        read_own_data(audio, path, "place")
    with pytest.raises(UserError, match=r"line 3: split 'test' of a.wav, but 'train' in .*line 2"):
        read_own_data(audio, table(audio, "a.wav,0,1,x,train", "a.wav,1,2,x,test", header=f"{HEADER},split"))
    with pytest.raises(UserError, match=r"split '7' is none of train, val, test"):
        read_own_data(audio, table(audio, "a.wav,0,1,x,7", header=f"{HEADER},split"))


@pytest.mark.parametrize(
    ("names", "n_groups"),
    [
        (["r_chunk1.wav", "r_chunk2.wav", "r-part03.wav", "r.seg 4.wav", "r.wav"], 1),
        (["r_0-10.wav", "r_10-20.wav", "r_20.5s-30.5s.wav"], 1),
        (["file_001.wav", "file_002.wav", "2021-06-01_12.wav", "2021-06-01_13.wav"], 4),
        (["x/r_chunk1.wav", "y/r_chunk1.wav"], 2),
    ],
)
def test_pieces_of_a_recording_belong_together(tmp_path: Path, names: list[str], n_groups: int) -> None:
    for name in names:
        write_audio(tmp_path / "audio" / name)
    data = read_own_data(tmp_path / "audio", table(tmp_path / "audio", *(f"{name},0,1,x" for name in names)))
    assert len({recording.group for recording in data.recordings}) == n_groups


def test_audacity_labels_beside_the_audio(audio: Path) -> None:
    (audio / "a.txt").write_text("0.500000\t1.000000\tdog, big\n\\\t200.0\t4000.0\n1.2\t1.2\tpoint\n")
    (audio / "b.txt").write_text("")
    data = read_own_data(audio)
    assert [(r.name, r.events) for r in data.recordings] == [("a.wav", ((0.5, 1.0, "dog, big"),)), ("b.flac", ())]
    assert "recordings without a label file, left out: 1 (deep/c.ogg)" in data.notes
    (audio / "a.txt").write_text("half past\t1.0\tdog\n")
    with pytest.raises(UserError, match=r"a\.txt, line 1: onset 'half past'"):
        read_own_data(audio)


def test_raven_tables_beside_the_audio(audio: Path) -> None:
    header = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tAnnotation\n"
    views = "".join(f"1\t{view} 1\t1\t0.25\t0.75\t0\t8000\twren\n" for view in ("Waveform", "Spectrogram"))
    (audio / "a.Table.1.selections.txt").write_text(header + views)
    data = read_own_data(audio)
    assert [r.events for r in data.recordings] == [((0.25, 0.75, "wren"),)]


RAVEN = "Selection\tBegin Time (s)\tEnd Time (s)\tAnnotation\n"


def test_quotes_mean_nothing_to_raven(audio: Path) -> None:
    (audio / "a.selections.txt").write_text(f'{RAVEN}1\t0.25\t0.75\t"a\n2\t1\t1.5\t5" b\n')
    assert [r.events for r in read_own_data(audio).recordings] == [((0.25, 0.75, '"a'), (1.0, 1.5, '5" b'))]


@pytest.mark.parametrize(
    ("cell", "label"), [('"dog"', "dog"), ('"a ""b"""', 'a "b"'), ('"a" or "b"', '"a" or "b"'), ('"', '"')]
)
def test_quotes_around_cells_of_raven_are_taken_off(audio: Path, cell: str, label: str) -> None:
    quoted = "\t".join(f'"{name}"' for name in RAVEN.strip().split("\t"))
    for header in (RAVEN.strip(), quoted):
        (audio / "a.selections.txt").write_text(f'{header}\n"1"\t"0.25"\t0.75\t{cell}\n')
        assert [r.events for r in read_own_data(audio).recordings] == [((0.25, 0.75, label),)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\t0\t1\ta\tb", "line 2: more cells than the header has columns; a tab in an annotation"),
        (f"1\t0\t1\t{'x' * 131_073}", "expected a table of text, got: "),
    ],
)
def test_bad_lines_of_raven_are_named(audio: Path, line: str, message: str) -> None:
    (audio / "a.selections.txt").write_text(f"{RAVEN}{line}\n")
    with pytest.raises(UserError, match=message):
        read_own_data(audio)


def test_what_inference_writes_can_be_read_back(audio: Path) -> None:
    """Corrected detections are the usual way to more annotations."""
    from helpers.classes import ClassName
    from helpers.detection import Detection
    from helpers.event_files import Contents, write_events
    from helpers.events import decode_events
    from helpers.outputs import OutputFolder

    scores = np.zeros((1, 50), np.float32)
    scores[0, 10:20] = 0.9
    classes = [ClassName("dog, big", "")]
    events = decode_events(scores, classes)
    contents = Contents("a.wav", Detection("a.wav", 2.0, classes, {"0.5": events}, np.zeros(0)), [])
    for form in ("audacity", "raven"):
        (path,) = write_events(OutputFolder(audio), form, "a", contents)
        data = read_own_data(audio)
        assert [r.events for r in data.recordings] == [((0.4, 0.8, "dog, big"),)]
        path.unlink()
    both = [Contents(name, replace(contents.detection), []) for name in ("a.wav", "deep/c.ogg")]
    tables = [write_events(OutputFolder(audio.parent), "raven", f"{i}", c)[0].read_text() for i, c in enumerate(both)]
    combined = audio.parent / "combined.txt"
    combined.write_text(tables[0] + tables[1].split("\n", 1)[1])
    assert [(r.name, r.events) for r in read_own_data(audio, combined).recordings] == [
        (name, ((0.4, 0.8, "dog, big"),)) for name in ("a.wav", "deep/c.ogg")
    ]
    (audio / "a.wav").rename(audio / "deep" / "\u00e4 b+c#1&2.wav")
    contents = Contents("deep/\u00e4 b+c#1&2.wav", contents.detection, [])
    (path,) = write_events(OutputFolder(audio), "label_studio", "a", contents)
    (task,) = json.loads(path.read_text())
    with pytest.raises(UserError, match="nobody has annotated"):  # predictions are not annotations
        read_own_data(audio, path)
    task["annotations"] = [{"result": task["predictions"][0]["result"], "was_cancelled": False}]
    path.write_text(json.dumps([task]))
    assert [(r.name, r.events) for r in read_own_data(audio, path).recordings] == [
        (contents.filename, ((0.4, 0.8, "dog, big"),))
    ]
    (audio / contents.filename).rename(audio / "a.wav")
    contents = Contents("a.wav", contents.detection, [])
    (path,) = write_events(OutputFolder(audio), "tsv", "a", contents)
    assert [r.events for r in read_own_data(audio, path).recordings] == [((0.4, 0.8, "dog, big"),)]


def test_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("dog/1.wav", "dog/2.wav", "cat/1.wav", "stray.wav"):
        write_audio(tmp_path / "clips" / name)
    data = read_own_data(tmp_path / "clips")
    assert data.clip_labels and data.labels == ("cat", "dog")
    assert [r.events for r in data.recordings] == [((0.0, 2.0, label),) for label in ("cat", "dog", "dog")]
    assert data.notes == ["recordings in no class folder, left out: 1 (stray.wav)"]


def test_merging_equals_a_slow_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        events = []
        for _ in range(rng.integers(1, 12)):
            onset = int(rng.integers(0, 30))
            events.append((float(onset), float(onset + rng.integers(1, 6)), "xy"[rng.integers(2)]))
        expected = []
        for label in "xy":  # on a grid of one second: an event covers whole cells, and cells that touch are one event
            cells = {t for onset, offset, name in events if name == label for t in range(int(onset), int(offset))}
            starts = sorted(t for t in cells if t - 1 not in cells)
            expected += [(float(t), float(next(u for u in range(t, 99) if u not in cells)), label) for t in starts]
        assert list(merge(events)) == sorted(expected)


def test_labels_with_commas_and_quotes_survive_csv(audio: Path) -> None:
    path = audio.parent / "events.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([HEADER.split(","), ["a.wav", 0, 1, 'Bark, "loud" \u00e9']])
    assert read_events(path)[0].label == 'Bark, "loud" \u00e9'
