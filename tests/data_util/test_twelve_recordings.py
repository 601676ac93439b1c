"""Twelve recordings of a beep and a hiss, annotated in every way that people have met: what each way ends in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.own_data import OwnData, read_own_data
from data_util.own_splits import SPLITS, split_recordings, without_counterexamples
from errors import UserError

N = 12
NAMES = [f"r{i:02d}.wav" for i in range(N)]
Event = tuple[str, float, float, str]
RAVEN = ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"]


def events_of(i: int) -> list[Event]:
    onsets = ((round(0.5 + 0.1 * i, 3), "beep"), (round(3 + 0.1 * i, 3), "hiss"))
    return [(NAMES[i], onset, round(onset + 1, 3), label) for onset, label in onsets]


EVENTS = [event for i in range(N) for event in events_of(i)]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twelve") / "audio"
    folder.mkdir()
    for i, name in enumerate(NAMES):
        soundfile.write(folder / name, np.random.default_rng(i).normal(0, 0.1, 6 * 4000), 4000)
    return folder


def copy(recordings: Path, folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).symlink_to(recordings / name)
    return folder


def table(
    rows: list[tuple] = EVENTS, header: str = "filename,onset,offset,label", sep: str = ",", dec: str = ".", eol="\n"
) -> str:
    def cell(value: object) -> str:
        return f"{value:.3f}".replace(".", dec) if isinstance(value, float) else str(value)

    lines = [header.replace(",", sep), *(sep.join(map(cell, row)) for row in rows)]
    return "".join(line + eol for line in lines)


def renamed(name: Callable[[int, str], str]) -> list[Event]:
    return [(file, a, b, name(k, label)) for k, (file, a, b, label) in enumerate(EVENTS)]


def found(data: OwnData) -> list[Event]:
    return [(r.name, round(a, 3), round(b, 3), label) for r in data.recordings for a, b, label in r.events]


def sizes(data: OwnData) -> list[int]:
    splits = split_recordings(data, val_share=0.2, test_share=0.2, seed=0)
    return [len(splits[name]) for name in SPLITS]


SEMICOLONS = table(sep=";", dec=",", eol="\r\n")
BIRDNET = "Start (s),End (s),Common name,Confidence,File"
TABLES: dict[str, bytes] = {
    "plain": table().encode(),
    "byte-order mark and CRLF": table(eol="\r\n").encode("utf-8-sig"),
    "semicolons, decimal commas, byte-order mark, CRLF": SEMICOLONS.encode("utf-8-sig"),
    "tabs and decimal commas": table(sep="\t", dec=",").encode(),
    "UTF-16": table().encode("utf-16"),
    "BirdNET": table([(a, b, label, 0.9, file) for file, a, b, label in EVENTS], BIRDNET).encode(),
    "a line for Excel": f"sep=;\n{SEMICOLONS}".encode(),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_say_the_same(recordings: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "events.csv").write_bytes(TABLES[name])
    data = read_own_data(recordings, tmp_path / "events.csv")
    assert found(data) == EVENTS and data.labels == ("beep", "hiss") and sizes(data) == [7, 3, 2]
    assert data.notes == (["events.csv: columns that are not used: Confidence"] if name == "BirdNET" else [])


SPELLINGS = renamed(lambda k, label: (label, label.title(), f"{label} ")[k % 3])
POINTS = [(file, a, a if label == "beep" else b, label) for file, a, b, label in EVENTS]
DOUBTFUL: dict[str, tuple[str, int, tuple[str, ...], str | None]] = {  # text, events, classes, the note
    "spellings": (
        table(SPELLINGS), 24, ("Beep", "Hiss", "beep", "hiss"),
        "labels that differ in spelling alone are different classes: Beep, Hiss, beep, hiss",
    ),
    "a comma in quotes": (table(renamed(lambda _, label: f'"{label},loud"')), 24, ("beep,loud", "hiss,loud"), None),
    "points": (
        table(POINTS), 12, ("hiss",), "classes whose events all have no duration, left out: beep: 12 events"
    ),
    "a class in one recording": (
        table([*EVENTS, (NAMES[3], 5.0, 5.5, "rare")]), 25, ("beep", "hiss", "rare"),
        "classes that occur in one recording train, and cannot be tuned or tested: 1 (rare)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DOUBTFUL)
def test_tables_in_which_something_is_doubtful(recordings: Path, tmp_path: Path, name: str) -> None:
    text, n_events, classes, note = DOUBTFUL[name]
    (tmp_path / "events.csv").write_text(text)
    data = read_own_data(recordings, tmp_path / "events.csv")
    assert (len(found(data)), data.labels, sizes(data)) == (n_events, classes, [7, 3, 2])
    assert data.notes[:1] == ([note] if note else [])


def test_two_classes_of_its_own_in_each_recording(recordings: Path, tmp_path: Path) -> None:
    """Two recordings are given away; their four classes cannot be learnt."""
    (tmp_path / "events.csv").write_text(table(renamed(lambda k, _: f"c{k}")))
    data = read_own_data(recordings, tmp_path / "events.csv")
    assert len(data.labels) == 24 and sizes(data) == [10, 1, 1]
    assert any("train, and cannot be tuned or tested: 20 (" in note for note in data.notes)
    assert any("cannot be learnt: 4 (" in note for note in data.notes)


CLOCK = [(file, f"00:00:0{a:.2f}", f"00:00:0{b:.2f}", label) for file, a, b, label in EVENTS]
REFUSED: dict[str, tuple[bytes, str]] = {
    "Latin-1": (table(renamed(lambda *_: "brüllen")).encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
    "points alone": (
        table([(file, a, a, label) for file, a, _, label in EVENTS]).encode(),
        "hold no event; classes whose events all have no duration, left out: beep: 12 events, hiss: 12 events",
    ),
    "times of a clock": (table(CLOCK).encode(), "line 2: onset '00:00:00.50' is not a time in seconds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_are_refused(recordings: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "events.csv").write_bytes(REFUSED[name][0])
    with pytest.raises(UserError, match=REFUSED[name][1]):
        read_own_data(recordings, tmp_path / "events.csv")


def tabbed(rows: list[list]) -> str:
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def raven(i: int, extra=("Annotation",), views=("Spectrogram 1",), channels=(1,), cells=lambda label: [label]) -> str:
    rows = [
        [k, view, channel, f"{a:.6f}", f"{b:.6f}", 500.0, 3000.0, *cells(label)]
        for k, (_, a, b, label) in enumerate(events_of(i), start=1)
        for view in views
        for channel in channels
    ]
    return tabbed([[*RAVEN, *extra], *rows])


def audacity(i: int, sep: str = "\n") -> str:
    return "".join(f"{a:.6f}\t{b:.6f}\t{label}{sep}" for _, a, b, label in events_of(i))


BIRDNET_TABLE = ("Common Name", "Species Code", "Confidence", "Begin Path", "File Offset (s)")
BESIDE: dict[str, tuple[str, Callable[[int], str]]] = {
    "Audacity": (".txt", audacity),
    "Audacity, frequencies": (".txt", lambda i: audacity(i, "\n\\\t1000.0\t2000.0\n")),
    "Audacity, decimal commas": (".txt", lambda i: audacity(i).replace(".", ",")),
    "Raven": (".Table.1.selections.txt", raven),
    "Raven, views and channels": (
        ".Table.1.selections.txt", lambda i: raven(i, views=("Waveform 1", "Spectrogram 1"), channels=(1, 2))
    ),
    "Raven, decimal commas": (".Table.1.selections.txt", lambda i: raven(i).replace(".", ",")),
    "Raven, Call Type": (".Table.1.selections.txt", lambda i: raven(i, extra=("Call Type",))),
    "BirdNET, of a file that was renamed": (
        ".selections.txt",
        lambda i: raven(i, extra=BIRDNET_TABLE, cells=lambda label: [label, label[:4], 0.9, "y.wav", 0.5]),
    ),
}  # fmt: skip


def beside(recordings: Path, tmp_path: Path, ending: str, text: Callable[[int], str]) -> Path:
    folder = copy(recordings, tmp_path / "beside", NAMES)
    for i, name in enumerate(NAMES):
        (folder / f"{Path(name).stem}{ending}").write_text(text(i))
    return folder


@pytest.mark.parametrize("name", BESIDE)
def test_label_files_that_say_the_same(recordings: Path, tmp_path: Path, name: str) -> None:
    data = read_own_data(beside(recordings, tmp_path, *BESIDE[name]))
    assert found(data) == EVENTS and sizes(data) == [7, 3, 2]
    told = [note.partition(":")[0] for note in data.notes]
    assert told == (
        [
            "labels are from the column Common Name; choose another one with --label_column",
            "label files that name another recording than the one beside which they are",
        ]
        if "BirdNET" in name
        else []
    )


def test_tables_of_raven_in_which_nothing_was_drawn(recordings: Path, tmp_path: Path) -> None:
    header = "\t".join(RAVEN) + "\n"
    folder = beside(recordings, tmp_path, ".Table.1.selections.txt", lambda i: raven(i) if i < 10 else header)
    data = read_own_data(folder)
    assert found(data) == [event for i in range(10) for event in events_of(i)] and not data.notes
    assert [r.name for r in data.recordings if not r.events] == NAMES[10:]


@pytest.mark.parametrize(
    ("ending", "text", "where"),
    [
        (".txt", lambda i: audacity(i) + "5.0\t5.0\t\n", r"r00\.txt, line 3"),
        (
            ".Table.1.selections.txt",
            lambda i: raven(i, cells=lambda label: [label if i != 10 or label == "beep" else ""]),
            r"r10\.Table\.1\.selections\.txt, line 3",
        ),
    ],
    ids=["Audacity", "Raven"],
)
def test_labels_without_a_name_are_refused(recordings: Path, tmp_path: Path, ending: str, text, where: str) -> None:
    with pytest.raises(UserError, match=f"{where}: the label of the event is empty"):
        read_own_data(beside(recordings, tmp_path, ending, text))


def sequence(running: bool, n: int = N) -> str:
    """One table of Raven about several files, whose begin times run on or start over; offsets count in each file."""
    rows = [
        [k, "Spectrogram 1", 1, 6 * i * running + a, 6 * i * running + b, 500.0, 3000.0, file, a, label]
        for k, (i, file, a, b, label) in enumerate([(i, *e) for i in range(n) for e in events_of(i)], start=1)
    ]
    return tabbed([[*RAVEN, "Begin File", "File Offset (s)", "Annotation"], *rows])


def test_a_sequence_of_raven(recordings: Path, tmp_path: Path) -> None:
    """Beside its first recording, and as a table of its own."""
    folder = copy(recordings, tmp_path / "sequence", NAMES)
    (folder / "r00.Table.1.selections.txt").write_text(sequence(running=True))
    assert found(read_own_data(folder)) == EVENTS
    (tmp_path / "combined.txt").write_text(sequence(running=True))
    assert found(read_own_data(recordings, tmp_path / "combined.txt")) == EVENTS


def test_two_files_in_one_table_of_raven_and_a_table_for_each_other(recordings: Path, tmp_path: Path) -> None:
    folder = beside(recordings, tmp_path, ".Table.1.selections.txt", lambda i: raven(i))
    (folder / "r01.Table.1.selections.txt").unlink()
    (folder / "r00.Table.1.selections.txt").write_text(sequence(running=False, n=2))
    assert found(read_own_data(folder)) == EVENTS


def test_a_sequence_of_two_files(recordings: Path, tmp_path: Path) -> None:
    folder = copy(recordings, tmp_path / "two", NAMES[:2])
    (folder / "r00.Table.1.selections.txt").write_text(sequence(running=True, n=2))
    data = read_own_data(folder)
    assert found(data) == [*events_of(0), *events_of(1)] and not data.notes


CLASS_FOLDERS: dict[str, tuple[tuple[str, ...], tuple[str, ...], list[int]]] = {  # folders, classes, splits
    "two classes": (("beep", "hiss"), ("beep", "hiss"), [8, 2, 2]),
    "one class": (("beep",), ("beep",), [7, 3, 2]),
    "one class and background": (("beep", "background"), ("beep",), [8, 2, 2]),
    "a comma is part of a name": (("beep,hiss", "hiss"), ("beep,hiss", "hiss"), [8, 2, 2]),
}


@pytest.mark.parametrize("name", CLASS_FOLDERS)
def test_a_folder_for_each_class(recordings: Path, tmp_path: Path, name: str) -> None:
    folders, classes, expected = CLASS_FOLDERS[name]
    for j, folder in enumerate(folders):
        copy(recordings, tmp_path / "classes" / folder, NAMES[j :: len(folders)])
    data = read_own_data(tmp_path / "classes")
    assert data.clip_labels and data.labels == classes and sizes(data) == expected
    splits = split_recordings(data, val_share=0.2, test_share=0.2, seed=0)
    warned = [line.partition(".")[0] for line in without_counterexamples(splits)]
    assert warned == (["active all the time in all recordings: beep"] if name == "one class" else [])
    quiet = [r for r in data.recordings if not r.events]
    assert len(quiet) == (6 if "background" in folders else 0)
