"""Annotations of other programs: every format, beside the recordings and as one file, against readers of others."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.annotation_formats import FORMATS, read_beside, read_events
from data_util.own_data import OwnData, read_own_data
from errors import UserError

N = 4
NAMES = [f"r{i:02d}" for i in range(N)]
RAVEN = ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"]
SECONDS = 6.0


def events(i: int) -> list[tuple[float, float, str]]:
    return [
        (round(0.5 + 0.1 * i, 3), round(1.5 + 0.1 * i, 3), "beep"),
        (round(3 + 0.1 * i, 3), round(4 + 0.1 * i, 3), "hiss"),
    ]


EXPECTED = {f"{name}.wav": events(i) for i, name in enumerate(NAMES)}
PER_FILE = [(i, *event) for i in range(N) for event in events(i)]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    folder = tmp_path / "audio"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        soundfile.write(folder / f"{name}.wav", np.random.default_rng(i).normal(0, 0.1, int(SECONDS * 8000)), 8000)
    return folder


def found(data: OwnData) -> dict[str, list[tuple[float, float, str]]]:
    return {r.name: [(round(a, 6), round(b, 6), label) for a, b, label in r.events] for r in data.recordings}


def lines(rows: list, separator: str = "\t") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def beside(audio: Path, ending: str, text: Callable[[int], str]) -> OwnData:
    for i, name in enumerate(NAMES):
        (audio / f"{name}{ending}").write_text(text(i), encoding="utf-8")
    return read_own_data(audio)


def as_one(audio: Path, name: str, text: str, **options) -> OwnData:
    path = audio.parent / name
    path.write_text(text, encoding="utf-8")
    return read_own_data(audio, path, **options)


def raven(i: int, extra=("Annotation",), views=("Spectrogram 1",), channels=(1,), cells=lambda label: [label]) -> str:
    rows = [
        [k, view, channel, f"{a:.6f}", f"{b:.6f}", 500.0, 3000.0, *cells(label)]
        for k, (a, b, label) in enumerate(events(i), start=1)
        for view in views
        for channel in channels
    ]
    return lines([[*RAVEN, *extra], *rows])


def sequence(*, running: bool, offsets: bool = True, folder: str = "", column: str = "Begin File") -> list[list]:
    """A table of many files, whose begin times run on over all of them or start over in each."""
    rows: list[list] = [[*RAVEN, column, *(["File Offset (s)"] if offsets else []), "Annotation"]]
    for k, (i, a, b, label) in enumerate(PER_FILE, start=1):
        shift = SECONDS * i if running else 0.0
        times = [f"{shift + a:.6f}", f"{shift + b:.6f}"]
        offset = [f"{a:.6f}"] if offsets else []
        rows.append([k, "Spectrogram 1", 1, *times, 500.0, 3000.0, f"{folder}{NAMES[i]}.wav", *offset, label])
    return rows


AUDACITY = {
    "plain": lambda i: lines([(f"{a:.6f}", f"{b:.6f}", label) for a, b, label in events(i)]),
    "frequencies": lambda i: "".join(f"{a:.6f}\t{b:.6f}\t{label}\n\\\t1000.0\t2000.0\n" for a, b, label in events(i)),
    "decimal comma": lambda i: AUDACITY["plain"](i).replace(".", ","),
    "frequencies and decimal comma": lambda i: AUDACITY["frequencies"](i).replace(".", ","),
    "BirdNET's score": lambda i: lines([(a, b, label, 0.91) for a, b, label in events(i)]),
}


@pytest.mark.parametrize("variant", AUDACITY)
def test_audacity(audio: Path, variant: str) -> None:
    data = beside(audio, ".txt", AUDACITY[variant])
    assert found(data) == EXPECTED and not data.notes


def test_a_label_of_audacity_without_a_name_is_refused(audio: Path) -> None:
    with pytest.raises(UserError, match=r"r00\.txt, line 3: the label of the event is empty"):
        beside(audio, ".txt", lambda i: AUDACITY["plain"](i) + "5.0\t5.0\t\n")


RAVENS = {
    "plain": raven,
    "views and channels": lambda i: raven(i, views=("Waveform 1", "Spectrogram 1"), channels=(1, 2)),
    "decimal comma": lambda i: raven(i).replace(".", ","),
    "Call Type": lambda i: raven(i, extra=("Call Type",)),
    "Common Name": lambda i: raven(i, extra=("Common Name",)),
    "Species": lambda i: raven(i, extra=("Species",)),
    "label": lambda i: raven(i, extra=("label",)),
    "empty Annotation": lambda i: raven(i, extra=("Annotation", "Call Type"), cells=lambda label: ["", label]),
    "commas": lambda i: raven(i).replace("\t", ","),
    "other name, with offsets": lambda i: raven(
        i, extra=("Annotation", "Begin Path", "File Offset (s)"), cells=lambda label: [label, "y.wav", 0.5]
    ),
}


@pytest.mark.parametrize("variant", RAVENS)
def test_raven(audio: Path, variant: str) -> None:
    data = beside(audio, ".Table.1.selections.txt", RAVENS[variant])
    assert found(data) == EXPECTED
    other = ["label files that name another recording than the one beside which they are: 4 (" + ", ".join(
        f"{name}.Table.1.selections.txt" for name in NAMES[:3]
    ) + ", ...)"]  # fmt: skip
    assert data.notes == (other if "other" in variant else [])


def test_lines_of_one_view_that_say_the_same_are_duplicates_all_the_same(audio: Path) -> None:
    data = beside(audio, ".selections.txt", lambda i: raven(i, views=("Spectrogram 1", "Spectrogram 1")))
    assert found(data) == EXPECTED and data.notes == [f"lines that say the same as another one: {2 * N}"]


@pytest.mark.parametrize("header", ["\t".join(RAVEN), "\t".join([*RAVEN, "Annotation"])])
def test_an_empty_table_of_raven_says_that_nothing_happens(audio: Path, header: str) -> None:
    data = beside(audio, ".Table.1.selections.txt", lambda i: raven(i) if i < N - 1 else header + "\n")
    assert found(data) == {**EXPECTED, "r03.wav": []} and not data.notes


def test_a_box_without_a_label_is_refused(audio: Path) -> None:
    with pytest.raises(UserError, match=r"r02.*, line 3: the label of the event is empty"):
        beside(
            audio, ".Table.2.selections.txt",
            lambda i: raven(i, cells=lambda label: ["" if i == 2 and label == "hiss" else label]),
        )  # fmt: skip


def test_a_column_of_labels_that_nobody_knows_is_named(audio: Path) -> None:
    with pytest.raises(UserError, match=r"no column label: .* found Selection.*, Sound; name .*--label_column"):
        beside(audio, ".selections.txt", lambda i: raven(i, extra=("Sound",)))
    assert found(read_own_data(audio, label_column="sound")) == EXPECTED
    with pytest.raises(UserError, match=r"--label_column is Note: .*r00.* has the columns Selection"):
        read_own_data(audio, label_column="Note")


def test_of_several_columns_of_labels_the_user_chooses(audio: Path) -> None:
    data = beside(
        audio, ".selections.txt",
        lambda i: raven(i, extra=("Call Type", "Species"), cells=lambda label: [label, f"a {label}"]),
    )  # fmt: skip
    assert found(data) == EXPECTED
    assert data.notes == ["labels are from the column Call Type; choose another one with --label_column: 1 (Species)"]
    chosen = read_own_data(audio, label_column="Species")
    assert chosen.labels == ("a beep", "a hiss") and not chosen.notes


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("column", ["Begin File", "Begin Path"])
@pytest.mark.parametrize("whole", [True, False])
def test_raven_sequence(audio: Path, running: bool, column: str, whole: bool) -> None:
    """One table beside the first recording, or the same beside each; and as --events."""
    rows = sequence(running=running, column=column, folder="D:\\field work\\2021\\" if column == "Begin Path" else "")
    for name in NAMES if whole else NAMES[:1]:
        (audio / f"{name}.Table.1.selections.txt").write_text(lines(rows))
    data = read_own_data(audio)
    assert found(data) == EXPECTED
    assert not [note for note in data.notes if "say the same" not in note]
    combined = as_one(audio, "all.txt", lines(rows))
    assert found(combined) == EXPECTED and not combined.notes


def test_two_files_in_one_table_and_a_table_for_each_other(audio: Path) -> None:
    (audio / "r00.Table.1.selections.txt").write_text(lines(sequence(running=False)[:5]))
    for i, name in enumerate(NAMES[2:], start=2):
        (audio / f"{name}.Table.1.selections.txt").write_text(raven(i))
    assert found(read_own_data(audio)) == EXPECTED


def test_begin_times_that_run_on_without_offsets_are_refused(audio: Path) -> None:
    with pytest.raises(UserError, match=r"all\.txt, line 9: the table is about 4 files.*File Offset \(s\)"):
        as_one(audio, "all.txt", lines(sequence(running=True, offsets=False)))
    assert found(as_one(audio, "all.txt", lines(sequence(running=False, offsets=False)))) == EXPECTED


def test_files_of_a_sequence_that_are_missing_are_counted(audio: Path) -> None:
    (audio / "r02.wav").unlink()
    data = as_one(audio, "all.txt", lines(sequence(running=True)))
    assert found(data) == {name: e for name, e in EXPECTED.items() if name != "r02.wav"}
    assert data.notes == ["files of the table that are missing, left out: 1 (r02.wav)"]


def test_a_table_means_the_recordings_of_its_own_folder_first(audio: Path) -> None:
    for site in ("site1", "site2"):
        (audio / site).mkdir()
        for name in NAMES[:2]:
            (audio / site / f"{name}.wav").write_bytes((audio / f"{name}.wav").read_bytes())
    (audio / "site2" / "r00.selections.txt").write_text(lines(sequence(running=True)[:5]))
    assert found(read_own_data(audio)) == {f"site2/{name}.wav": EXPECTED[f"{name}.wav"] for name in NAMES[:2]}


def test_raven_by_crowsetta(audio: Path) -> None:
    crowsetta = pytest.importorskip("crowsetta")
    (audio / "r01.selections.txt").write_text(raven(1))
    boxes = crowsetta.formats.bbox.raven.Raven.from_file(audio / "r01.selections.txt", annot_col="Annotation").to_bbox()
    rows = read_beside(audio / "r01.selections.txt", "r01.wav")[1:]
    assert [(r.onset, r.offset, r.label) for r in rows] == [(b.onset, b.offset, b.label) for b in boxes] == events(1)


BIRDNET_TABLE = ("Common Name", "Species Code", "Confidence", "Begin Path", "File Offset (s)")


def test_birdnet(audio: Path) -> None:
    """Its CSV and its selection table, for all recordings and beside each, with names of another machine."""
    header = ["Start (s)", "End (s)", "Scientific name", "Common name", "Confidence", "File"]
    rows = [[a, b, f"Avis {label}", label, 0.9, f"/home/x/calls/{NAMES[i]}.wav"] for i, a, b, label in PER_FILE]
    data = as_one(audio, "results.csv", lines([header, *rows], ","))
    assert found(data) == EXPECTED
    scientific = as_one(audio, "results.csv", lines([header, *rows], ","), label_column="Scientific name")
    assert scientific.labels == ("Avis beep", "Avis hiss")
    text = raven(0, extra=BIRDNET_TABLE, cells=lambda label: [label, label[:4], 0.9, "C:\\x\\r00.wav", 0])
    table = text.replace("\t0\n", "\t0.5\n", 1)
    assert found(as_one(audio, "one.txt", table.replace("\t0\n", "\t3.0\n"))) == {"r00.wav": EXPECTED["r00.wav"]}
    nothing = [[1, "Spectrogram 1", 1, 0, 3.0, 150, 15000, "nocall", "nocall", 1.0, "/x/r03.wav", 0]]
    for i, name in enumerate(NAMES):
        text = lines([header, *[row for row in rows if f"{name}.wav" in row[-1]]], ",")
        if i == 3:
            text = lines([[*RAVEN, *BIRDNET_TABLE], *nothing])
        (audio / f"{name}.BirdNET.{'results.csv' if i < 3 else 'selection.table.txt'}").write_text(text)
    assert found(read_own_data(audio)) == {**EXPECTED, "r03.wav": []}


TABLES = {
    "decimal commas between tabs": lambda: lines(
        [("filename", "onset", "offset", "label")]
        + [(f"{NAMES[i]}.wav", *(f"{t:.3f}".replace(".", ",") for t in (a, b)), label) for i, a, b, label in PER_FILE]
    ),
    "a line for Excel": lambda: "sep=;\n" + TABLES["decimal commas between tabs"]().replace("\t", ";"),
}


@pytest.mark.parametrize("variant", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables(audio: Path, variant: str, encoding: str) -> None:
    path = audio.parent / "events.tsv"
    path.write_text(TABLES[variant](), encoding=encoding)
    assert found(read_own_data(audio, path)) == EXPECTED


HEADER = ("filename", "onset", "offset", "label")
OWN: dict[str, tuple[Callable[[], str], dict | str]] = {
    "spellings": (lambda: own(lambda k, label: (label, label.title(), label + " ")[k % 3]), "Beep, Hiss, beep, hiss"),
    "a comma in quotes": (lambda: own(lambda k, label: f'"{label},loud"'), "beep,loud hiss,loud"),
    "a class in one recording": (lambda: own() + "r03.wav,5.0,5.5,rare\n", "beep hiss rare"),
    "points": (lambda: own(point="beep"), "without duration, left out: 4"),
    "a class for each event": (lambda: own(lambda k, label: f"c{k}"), " ".join(f"c{k}" for k in range(2 * N))),
}


def own(name: Callable[[int, str], str] = lambda k, label: label, point: str = "") -> str:
    rows = [
        (f"{NAMES[i]}.wav", a, a if label == point else b, name(k, label))
        for k, (i, a, b, label) in enumerate(PER_FILE)
    ]
    return lines([HEADER, *rows], ",")


@pytest.mark.parametrize("variant", OWN)
def test_odd_tables(audio: Path, variant: str) -> None:
    """What is in them is read, and what is doubtful is told."""
    text, expected = OWN[variant]
    data = as_one(audio, "events.csv", text())
    assert expected in " ".join(data.labels) or any(expected in note for note in data.notes)
    assert len(data.recordings) == N


def test_a_table_with_points_alone_or_clock_times_is_refused(audio: Path) -> None:
    with pytest.raises(UserError, match="hold no event"):
        as_one(audio, "events.csv", lines([HEADER, *((f"{NAMES[i]}.wav", a, a, x) for i, a, _, x in PER_FILE)], ","))
    with pytest.raises(UserError, match=r"line 2: onset '00:00:00.50' is not a time in seconds"):
        as_one(audio, "events.csv", lines([HEADER, ("r00.wav", "00:00:00.50", "00:00:01.50", "x")], ","))


def test_points_and_commas_in_one_number_are_refused(audio: Path) -> None:
    with pytest.raises(UserError, match=r"line 2: onset '1.000,5' is not a time"):
        as_one(audio, "events.tsv", "filename\tonset\toffset\tlabel\nr00.wav\t1.000,5\t2\tx\n")


def write_textgrid(path: Path, tiers: dict[str, list[tuple]], points: dict[str, list[tuple]], form: str) -> None:
    from praatio import textgrid
    from praatio.utilities.constants import Interval, Point

    grid = textgrid.Textgrid()
    for name, rows in tiers.items():
        grid.addTier(textgrid.IntervalTier(name, [Interval(*row) for row in rows], 0, SECONDS))
    for name, rows in points.items():
        grid.addTier(textgrid.PointTier(name, [Point(*row) for row in rows], 0, SECONDS))
    grid.save(str(path), form, includeBlankSpaces=True)


@pytest.mark.parametrize("form", ["long_textgrid", "short_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-be", "utf-16"])
def test_praat_as_written_by_praatio(audio: Path, form: str, encoding: str) -> None:
    pytest.importorskip("praatio")
    for i, name in enumerate(NAMES):
        path = audio / f"{name}.TextGrid"
        tiers = {"kind": [(0.1, 0.2, 'a "loud" \u00e9')], "sounds": events(i)}
        write_textgrid(path, tiers, {"peaks": [(2.5, "top")]}, form)
        text = path.read_text(encoding="utf-8")
        path.write_bytes((("\ufeff" if encoding == "utf-16-be" else "") + text).encode(encoding))
    data = read_own_data(audio)
    more = {name: [(0.1, 0.2, 'a "loud" \u00e9'), *rows] for name, rows in EXPECTED.items()}
    assert found(data) == more
    assert (
        len(data.notes) == 2 and data.notes[0] == "classes whose events all have no duration, left out: top: 4 events"
    )
    assert data.notes[1].startswith("events without duration, left out: 4")
    assert found(read_own_data(audio, label_column="Sounds")) == EXPECTED
    assert found(read_own_data(audio, audio / "r01.TextGrid", label_column="sounds")) == {"r01.wav": events(1)}
    with pytest.raises(UserError, match=r"--label_column is x: .*TextGrid has the tiers kind, sounds, peaks"):
        read_own_data(audio, label_column="x")


def test_praat_by_pympi(audio: Path) -> None:
    """Another reader and another writer of the same format."""
    praat = pytest.importorskip("pympi.Praat")
    grid = praat.TextGrid(xmax=SECONDS)
    tier = grid.add_tier("sounds")
    for a, b, label in events(2):
        tier.add_interval(a, b, label)
    path = audio / "r02.TextGrid"
    grid.to_file(str(path), codec="utf-8", mode="normal")
    expected = [
        row for t in praat.TextGrid(str(path), codec="utf-8").get_tiers() for row in t.get_intervals() if row[2]
    ]
    assert [(r.onset, r.offset, r.label) for r in read_beside(path, "r02.wav")[1:]] == sorted(expected) == events(2)


GRID = '"ooTextFile"\n"TextGrid"\n0 6 <exists>\n1\n"IntervalTier" "a" 0 6\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GRID + '1\n0 6 "x', "expected a text in quotes, "),
        (GRID + '2\n0 6 "x"\n', "expected a number, the file ends"),
        (GRID + "x\n", "expected a number, the file ends"),
        (GRID + "1.5\n", "expected a count, got '1.5'"),
        (GRID + '1\n6 0 "x"\n', "tier 'a', interval 1: the event ends \\(0\\) before it begins \\(6\\)"),
        (GRID.replace("IntervalTier", "Formant"), "tier 1 has the class 'Formant'"),
        (GRID.replace("<exists>", "<absent>").replace('1\n"IntervalTier" "a" 0 6\n', ""), "expected a number"),
    ],
)
def test_textgrids_with_faults_are_one_line(audio: Path, text: str, message: str) -> None:
    (audio / "r00.TextGrid").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_own_data(audio)
    assert "\n" not in str(error.value)


def write_elan(path: Path, tiers: dict[str, list[tuple]], media: str = "", dependent: dict | None = None) -> None:
    from pympi.Elan import Eaf

    eaf = Eaf(author="test")
    if media:
        eaf.add_linked_file(media, mimetype="audio/x-wav")
    eaf.remove_tier("default")
    eaf.add_linguistic_type("association", constraints="Symbolic_Association", timealignable=False)
    for name, rows in tiers.items():
        eaf.add_tier(name)
        for a, b, label in rows:
            eaf.add_annotation(name, round(a * 1000), round(b * 1000), label)
    for name, (parent, label) in (dependent or {}).items():
        eaf.add_tier(name, ling="association", parent=parent)
        for a, b, _ in tiers[parent]:
            eaf.add_ref_annotation(name, parent, round((a + b) * 500), label)
    eaf.to_file(str(path))


def test_elan_as_written_by_pympi(audio: Path) -> None:
    pytest.importorskip("pympi")
    for i, name in enumerate(NAMES):
        tiers = {"sounds": events(i), "rain": [(5.0, 5.5, "")]}
        write_elan(audio / f"{name}.eaf", tiers, dependent={"who": ("sounds", "wren")})
    data = read_own_data(audio)
    assert found(data) == {name: [*rows, (5.0, 5.5, "rain")] for name, rows in EXPECTED.items()}
    assert data.notes == ["tiers that depend on others are left out; choose one with --label_column: 1 (who)"]
    assert found(read_own_data(audio, label_column="sounds")) == EXPECTED
    who = read_own_data(audio, label_column="who")
    assert found(who) == {name: [(a, b, "wren") for a, b, _ in rows] for name, rows in EXPECTED.items()}


def test_elan_names_its_recording(audio: Path) -> None:
    pytest.importorskip("pympi")
    write_elan(audio.parent / "session 3.eaf", {"sounds": events(2)}, media="file:///C:/field%20work/r02.wav")
    assert found(read_own_data(audio, audio.parent / "session 3.eaf")) == {"r02.wav": events(2)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("<ANNOTATION_DOCUMENT", '<!DOCTYPE x [<!ENTITY a "b">]>\n<ANNOTATION_DOCUMENT'),
            "entities",
        ),
        (lambda t: t[: len(t) // 2], "not an annotation document of ELAN"),
        (lambda t: t.replace("<HEADER", '<HEADER TIME_UNITS="PAL-frames"'), "counts time in PAL-frames"),
        (lambda t: t.replace('TIME_VALUE="500"', f'TIME_VALUE="{"9" * 5000}"'), "annotation a\\d: it has no time"),
        (lambda t: t.replace('TIME_VALUE="500"', 'TIME_VALUE="-500"'), "onset '-0.500' is not a time"),
        (lambda t: t.replace('TIME_VALUE="500"', ""), "annotation a\\d: it has no time of its own"),
        (lambda t: t.replace(">beep<", "><"), "annotation a\\d: the label of the event is empty"),
    ],
)
def test_documents_of_elan_with_faults_are_one_line(audio: Path, change: Callable, message: str) -> None:
    pytest.importorskip("pympi")
    path = audio / "r00.eaf"
    write_elan(path, {"sounds": events(0)})
    before = path.read_text()
    path.write_text(change(before))
    assert path.read_text() != before
    with pytest.raises(UserError, match=message) as error:
        read_own_data(audio)
    assert "\n" not in str(error.value)


def studio(url: str, rows: list[tuple], **more) -> dict:
    """A task as Label Studio exports it."""
    result = [
        {
            "original_length": SECONDS, "value": {"start": a, "end": b, "channel": 0, "labels": [label]}, "id": f"x{k}",
            "from_name": "label", "to_name": "audio", "type": "labels", "origin": "manual",
        }
        for k, (a, b, label) in enumerate(rows)
    ]  # fmt: skip
    task = {"id": 7, "data": {"audio": url}, "annotations": [{"id": 1, "was_cancelled": False, "result": result}]}
    return {**task, "predictions": [], **more}


URLS = (
    "/data/upload/3/0a1b2c3d-{}",
    "/data/local-files/?d=field%20work/{}",
    "https://example.org/a/{}?x=1",
    "s3://bucket/calls/{}",
)


def test_label_studio(audio: Path) -> None:
    tasks = [studio(URLS[i].format(f"{name}.wav"), events(i)) for i, name in enumerate(NAMES)]
    cancelled = {"was_cancelled": True, "result": studio("", [(0, 6, "wrong")])["annotations"][0]["result"]}
    tasks[0]["annotations"].append(cancelled)
    tasks[1]["predictions"] = [{"result": studio("", [(0, 6, "wrong")])["annotations"][0]["result"]}]
    choice = {"from_name": "weather", "to_name": "audio", "type": "choices", "value": {"choices": ["rain"]}}
    tasks[2]["annotations"][0]["result"].append(choice)
    tasks[3]["annotations"][0]["result"] = []
    data = as_one(audio, "export.json", json.dumps(tasks))
    assert found(data) == {**EXPECTED, "r03.wav": []}
    assert data.notes == ["results of Label Studio that are not regions with labels, left out: 1 (weather)"]
    tasks[3]["annotations"] = []
    data = as_one(audio, "export.json", json.dumps(tasks))
    assert [r.name for r in data.recordings] == ["r00.wav", "r01.wav", "r02.wav"]
    assert any("nobody has annotated (predictions alone do not count), left out: 1 (r03.wav)" in n for n in data.notes)
    with pytest.raises(UserError, match="only tasks that nobody has annotated"):
        as_one(audio, "export.json", json.dumps(tasks[3:]))
    with pytest.raises(UserError, match=r"--label_column is x: .*export.json has labels from label"):
        as_one(audio, "export.json", json.dumps(tasks), label_column="x")


def test_label_studio_in_its_short_form(audio: Path) -> None:
    def minimal(i: int) -> dict:
        regions = [{"start": a, "end": b, "channel": 0, "labels": [label]} for a, b, label in events(i)]
        return {"audio": URLS[i].format(f"{NAMES[i]}.wav"), "id": i, "label": regions, "annotator": 1, "lead_time": 2.5}

    tasks = [minimal(i) for i in range(N)]
    tasks[1]["label"][0]["labels"].append("loud")
    expected = {**EXPECTED, "r01.wav": [events(1)[0], (*events(1)[0][:2], "loud"), events(1)[1]]}
    assert found(as_one(audio, "min.json", json.dumps(tasks))) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "task 1: not as Label Studio exports it"),
        ('{"filename": "a", "events": {}}', "task 1: names no audio file"),
        (json.dumps(studio("r00.wav", [])).replace('"result": []', '"result": 5'), "task 7: not as Label Studio"),
        (json.dumps(studio("r00.wav", [(float("nan"), 1, "x")])), "task 7: onset 'nan' is not a time"),
        (json.dumps(studio("r00.wav", [("1", 2, "x")])), "task 7: onset \"'1'\" is not a time"),
        (json.dumps(studio("r00.wav", [(1, 2, " ")])), "task 7: the label of the event is empty"),
        (json.dumps(studio("r00.wav", [(1, 2, "x")])).replace('["x"]', '"xy"'), "task 7: not as Label Studio"),
        (json.dumps(studio("r00.wav", [(1, 2, "\ud800")])), "control character"),
        (json.dumps(studio("r00.wav", [(1, 2e9, "x")])), "task 7: offset '2000000000.0' is not a time"),
        (json.dumps(studio("r00\0.wav", [(1, 2, "x")])), "control character"),
    ],
)
def test_json_that_is_no_export_is_one_line(audio: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        as_one(audio, "export.json", content)
    assert "\n" not in str(error.value)


def test_of_several_label_files_one_is_used_and_the_user_is_told(audio: Path) -> None:
    (audio / "r00.BirdNET.selection.table.txt").write_text(raven(1))
    data = beside(audio, ".txt", AUDACITY["plain"])
    assert found(data) == EXPECTED
    assert data.notes == ["recordings with several label files, of which one is used: 1 (r00.txt)"]


def test_a_label_column_needs_label_files(audio: Path) -> None:
    (audio / "dog").mkdir()
    (audio / "r00.wav").rename(audio / "dog" / "r00.wav")
    with pytest.raises(UserError, match="--label_column is x: expected label files beside the recordings"):
        read_own_data(audio, label_column="x")


def test_lines_are_counted_with_the_line_for_excel(audio: Path) -> None:
    with pytest.raises(UserError, match=r"line 3: onset 'x' is not a time"):
        as_one(audio, "events.csv", "sep=;\nfilename;onset;offset;label\nr00.wav;x;2;y\n")


def test_audacity_has_no_label_column_and_odd_characters_are_no_lines(audio: Path) -> None:
    (audio / "r00.txt").write_bytes("0,5\t1,0\ta\u2028b\r\n\\\t1,0\t2,0\r\n".encode())
    assert found(read_own_data(audio)) == {"r00.wav": [(0.5, 1.0, "a\u2028b")]}
    with pytest.raises(UserError, match=r"--label_column is x: .*r00\.txt has no names for its columns"):
        read_own_data(audio, label_column="x")


TOO_LATE = {
    "events.csv": "filename,onset,offset,label\nr00.wav,0,{},x\n",
    "all.txt": "Begin Time (s)\tEnd Time (s)\tBegin File\tAnnotation\n0\t{}\tr00.wav\tx\n",
    "r00.txt": "0\t{}\tx\n",
    "r00.TextGrid": '"ooTextFile"\n"TextGrid"\n0 6 <exists>\n1\n"IntervalTier" "a" 0 6\n1 0 {} "x"',
}


@pytest.mark.parametrize("name", TOO_LATE)
@pytest.mark.parametrize("time", ["1000000001", "1e300", "5e9"])
def test_times_beyond_all_recordings_are_refused_everywhere(audio: Path, name: str, time: str) -> None:
    with pytest.raises(UserError, match=f"offset '{time}' is not a time in seconds"):
        as_one(audio, name, TOO_LATE[name].format(time))
    data = as_one(audio, name, TOO_LATE[name].format(3))
    assert found(data) == {"r00.wav": [(0.0, 3.0, "x")]}


@pytest.mark.parametrize("name", ["r00.TextGrid", "r00.txt", "export.json"])
def test_a_group_column_needs_columns(audio: Path, name: str) -> None:
    text = {"r00.TextGrid": GRID + '1 0 6 "x"', "r00.txt": "0\t1\tx\n", "export.json": "[]"}[name]
    (audio.parent / name).write_text(text)
    with pytest.raises(UserError, match=r"--group_column is site: .* is not a table"):
        read_own_data(audio, audio.parent / name, "site")


def test_a_group_column_of_raven(audio: Path) -> None:
    rows = sequence(running=True)
    rows = [[*rows[0], "Site"], *([*row, f"s{k % 2}"] for k, row in enumerate(rows[1:]))]
    with pytest.raises(UserError, match="a file belongs to one group"):
        as_one(audio, "all.txt", lines(rows), group_column="Site")
    rows = [rows[0], *([*row[:-1], f"s{row[0] > 4}"] for row in rows[1:])]
    data = as_one(audio, "all.txt", lines(rows), group_column="Site")
    assert [r.group for r in data.recordings] == ["sFalse", "sFalse", "sTrue", "sTrue"]


def test_every_format_is_documented() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text()
    for form in FORMATS:
        assert form.name in docs
        for ending in form.endings:
            assert f"`NAME{ending}`" in docs, ending


def test_an_empty_file_of_events_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.txt").write_text("")
    with pytest.raises(UserError, match=r"no column|no annotations"):
        read_events(tmp_path / "events.txt")


CROSSING = [
    ["Selection", "Begin Time (s)", "End Time (s)", "Begin File", "File Offset (s)", "Annotation"],
    [1, 1.0, 2.0, "r00.wav", 1.0, "beep"],
    [2, 5.0, 7.5, "r00.wav", 5.0, "hiss"],  # the last second of r00, and 1.5 s of r01
    [3, 8.0, 9.0, "r01.wav", 2.0001, "beep"],
    [4, 11.0, 19.0, "r01.wav", 5.0, "hum"],  # the last second of r01, all of r02, the first of r03
    [5, 13.0, 14.0, "r02.wav", 1.0, "beep"],
    [6, 20.0, 21.0, "r03.wav", 2.0, "beep"],
]
SPLIT = {
    "r00.wav": [(1.0, 2.0, "beep"), (5.0, 6.0, "hiss")],
    "r01.wav": [(0.0, 1.5, "hiss"), (2.0, 3.0, "beep"), (5.0, 6.0, "hum")],
    "r02.wav": [(0.0, 6.0, "hum"), (1.0, 2.0, "beep")],
    "r03.wav": [(0.0, 1.0, "hum"), (2.0, 3.0, "beep")],
}


def near(data: OwnData) -> dict[str, list[tuple[float, float, str]]]:
    return {name: [(round(a, 3), round(b, 3), label) for a, b, label in events] for name, events in found(data).items()}


@pytest.mark.parametrize("order", ["by time", "by file", "backwards"])
def test_a_selection_of_raven_over_the_border_of_two_files_is_an_event_in_each(audio: Path, order: str) -> None:
    header, *rows = CROSSING
    key = {"by time": lambda r: r[1], "by file": lambda r: (r[3], r[4]), "backwards": lambda r: -r[1]}[order]
    data = as_one(audio, "all.txt", lines([header, *sorted(rows, key=key)]))
    assert near(data) == SPLIT and not data.notes


def test_times_of_each_file_cross_no_border(audio: Path) -> None:
    rows = [
        [n, offset, offset + end - begin, name, offset, label] for n, begin, end, name, offset, label in CROSSING[1:]
    ]
    data = as_one(audio, "all.txt", lines([CROSSING[0], *rows]))
    assert near(data)["r01.wav"] == [(2.0, 3.0, "beep"), (5.0, 6.0, "hum")]
    assert any("cut there: 2" in note for note in data.notes)


def test_sequences_that_were_joined_into_one_table_do_not_run_into_each_other(audio: Path) -> None:
    """r00 and r01 are one sequence, r02 and r03 another: both begin at 0, and at 6 s begins r01 or r03."""
    rows = [
        [1, 1.0, 2.0, "r00.wav", 1.0, "beep"],
        [2, 5.0, 7.5, "r00.wav", 5.0, "hiss"],
        [3, 8.0, 9.0, "r01.wav", 2.0, "beep"],
        [1, 5.0, 8.0, "r02.wav", 5.0, "hum"],
        [2, 9.0, 10.0, "r03.wav", 3.0, "beep"],
    ]
    assert near(as_one(audio, "all.txt", lines([CROSSING[0], *rows]))) == {
        "r00.wav": [(1.0, 2.0, "beep"), (5.0, 6.0, "hiss")],
        "r01.wav": [(0.0, 1.5, "hiss"), (2.0, 3.0, "beep")],
        "r02.wav": [(5.0, 6.0, "hum")],
        "r03.wav": [(0.0, 2.0, "hum"), (3.0, 4.0, "beep")],
    }


@pytest.mark.parametrize("separator", [",", "\t"])
def test_label_studio_as_a_table(audio: Path, separator: str) -> None:
    def cells(i: int) -> list[object]:
        regions = [{"start": a, "end": b, "channel": 0, "labels": [label]} for a, b, label in events(i)]
        url = URLS[i].format(f"{NAMES[i]}.wav")
        return [url, i, json.dumps(regions) if i else "", 1, i + 10, "2024-05-01", "2024-05-01", 2.5]

    def export(*rows: list[object]) -> str:
        text = io.StringIO(newline="")
        header = ["audio", "id", "label", "annotator", "annotation_id", "created_at", "updated_at", "lead_time"]
        csv.writer(text, delimiter=separator).writerows([header, *rows])
        return text.getvalue()

    data = as_one(audio, "export.csv", export(*(cells(i) for i in range(N))))
    assert found(data) == {**EXPECTED, "r00.wav": []} and not data.notes
    broken = cells(1)
    broken[2] = str(broken[2])[:-1]
    with pytest.raises(
        UserError, match=r"export.csv, line 3: a cell begins as a list and is no JSON; export .* as JSON"
    ):
        as_one(audio, "export.csv", export(cells(2), broken))
