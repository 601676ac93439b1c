"""The events of many recordings in one table, in the order of the run, whatever finished first and was killed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from errors import UserError
from helpers.audio_reader import Audio
from helpers.detector import Detector
from helpers.event_files import CSV_COLUMNS, Contents, records
from helpers.joined import COUNTS_FILE, EVENTS_FILE, JoinedEvents
from helpers.outputs import OutputFolder
from tests.tone_model import ToneModel, tones

EVENTS = {
    "a": [(0.2, 0.8, "Siren"), (1.0, 1.6, "Siren"), (1.0, 1.4, "Sine wave")],
    "b": [],
    "c": [(0.4, 1.0, "Beep, bleep")],
}


@pytest.fixture(scope="module")
def contents() -> dict[str, Contents]:
    detector = Detector(ToneModel(), detection_thresholds=[0.2, 0.5])
    audios = {stem: Audio(tones(2, events), name=f"{stem}.wav") for stem, events in EVENTS.items()}
    return {stem: Contents(f"day 1/{stem}.wav", detector.detect(audio), []) for stem, audio in audios.items()}


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def collect(folder: Path, contents: dict[str, Contents], order: str, settings: str = "s", stems: str = "abc") -> Any:
    joined = JoinedEvents(OutputFolder(folder), settings)
    for stem in order:
        joined.add(stem, contents[stem])
    joined.write(list(stems), "0.5")
    return joined


def test_the_order_is_that_of_the_run(contents: dict[str, Contents], tmp_path: Path) -> None:
    collect(tmp_path / "1", contents, "cab")
    collect(tmp_path / "2", contents, "bca")
    assert (tmp_path / "1" / EVENTS_FILE).read_bytes() == (tmp_path / "2" / EVENTS_FILE).read_bytes()
    expected = [[str(v) for v in record.values()] for stem in "abc" for record in records(contents[stem])]
    assert table(tmp_path / "1" / EVENTS_FILE) == [list(CSV_COLUMNS), *expected] and len(expected) == 8
    collect(tmp_path / "2", contents, "", stems="ca")
    assert [row[0] for row in table(tmp_path / "2" / EVENTS_FILE)[1:]] == ["day 1/c.wav"] * 2 + ["day 1/a.wav"] * 6


def test_counts_per_class_and_recording(contents: dict[str, Contents], tmp_path: Path) -> None:
    collect(tmp_path, contents, "abc")
    assert table(tmp_path / COUNTS_FILE) == [
        ["filename", "channel", "events", "Siren", "Beep, bleep", "Sine wave"],
        ["day 1/a.wav", "mix", "3", "2", "0", "1"],
        ["day 1/b.wav", "mix", "0", "0", "0", "0"],
        ["day 1/c.wav", "mix", "1", "0", "1", "0"],
    ]


def test_a_killed_run_leaves_what_it_had(contents: dict[str, Contents], tmp_path: Path) -> None:
    killed = JoinedEvents(OutputFolder(tmp_path), "s")
    for stem in "ba":
        killed.add(stem, contents[stem])
    with (tmp_path / ".efficientsed-events.jsonl").open("a") as file:
        file.write('{"settings": "s", "stem": "c", "eve')
    resumed = JoinedEvents(OutputFolder(tmp_path), "s")
    assert ["a" in resumed, "b" in resumed, "c" in resumed] == [True, True, False]
    resumed.add("c", contents["c"])
    resumed.write("abc", "0.5")
    collect(tmp_path / "whole", contents, "abc")
    assert (tmp_path / EVENTS_FILE).read_bytes() == (tmp_path / "whole" / EVENTS_FILE).read_bytes()
    assert "c" in JoinedEvents(OutputFolder(tmp_path), "s") and "c" not in JoinedEvents(OutputFolder(tmp_path), "t")


def test_runs_over_the_same_recordings_do_not_pile_up(contents: dict[str, Contents], tmp_path: Path) -> None:
    sizes = []
    for _ in range(3):
        collect(tmp_path, contents, "cba")
        sizes.append(len((tmp_path / ".efficientsed-events.jsonl").read_bytes().split()))
    assert sizes[0] == sizes[1] == sizes[2]
    collect(tmp_path, contents, "a", settings="t", stems="a")
    assert len(table(tmp_path / EVENTS_FILE)) == 7 and "b" in JoinedEvents(OutputFolder(tmp_path), "s")


def test_foreign_tables_are_kept(contents: dict[str, Contents], tmp_path: Path) -> None:
    (tmp_path / EVENTS_FILE).write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        JoinedEvents(OutputFolder(tmp_path), "s").check()


def test_nothing_is_written_through_a_link(contents: dict[str, Contents], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".efficientsed-events.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic link"):
        JoinedEvents(OutputFolder(tmp_path / "out"), "s").add("a", contents["a"])
    assert (tmp_path / "mine").read_text() == "mine"


def test_names_are_never_formulas_of_a_spreadsheet(contents: dict[str, Contents], tmp_path: Path) -> None:
    collect(tmp_path, {"a": Contents("=1+1.wav", contents["a"].detection, [])}, "a", stems="a")
    for name in (EVENTS_FILE, COUNTS_FILE):
        rows = table(tmp_path / name)
        assert len(rows) > 1 and {row[0] for row in rows[1:]} == {"'=1+1.wav"}
