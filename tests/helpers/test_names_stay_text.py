"""Labels and names of files from strangers, in all that people read: nothing in them drives a terminal or a table."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from data_util.own_splits import balance_table
from helpers.cells import html_text, markdown_text
from helpers.classes import ClassName
from helpers.detection import Detection
from helpers.event_files import FORMATS, Contents, write_events
from helpers.events import decode_events
from helpers.outputs import OutputFolder
from helpers.results import _tag_table
from json_text import json_text
from printable import PrintableFormatter, is_obeyed

EVIL = "=1+1\x1b[2J\x85\u202eevil\u2028ü日\u200d\x7f"
SHOWN = "\\x1b[2J"


def obeyed(text: str) -> set[str]:
    return {character for character in text if is_obeyed(character)} - set("\n\r\t")


@pytest.fixture
def contents() -> Contents:
    classes = [ClassName(EVIL, "")]
    scores = np.full((1, 50), 0.9, np.float32)
    tables = {"0.5": decode_events(scores, classes, 0.5, duration=2.0)}
    return Contents(f"{EVIL}.wav", Detection("x.wav", 2.0, classes, tables, np.array([0.9])), [(classes[0], 0.9)])


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"parquet"}))
def test_every_format_of_events(name: str, contents: Contents, tmp_path: Path) -> None:
    (path,) = write_events(OutputFolder(tmp_path), name, "x", contents)
    text = path.read_bytes().decode()
    assert not obeyed(text) and "ü日" in text
    if path.suffix in (".json", ".jsonl"):
        assert "\\u202e" in text and "\\u0085" in text
        assert EVIL in str(
            json.loads(text) if path.suffix == ".json" else json.loads(text.splitlines()[0])["label"]
        ) or (repr(EVIL) in str(json.loads(text)))
    else:
        assert SHOWN in text
    if path.suffix == ".csv":
        assert text.splitlines()[1].startswith("'=1+1")


def test_json_is_equal_after_reading() -> None:
    value = {EVIL: [EVIL, "\ud800 \U000e0041 🎉", 1.5, None]}
    text = json_text(value, indent=1)
    assert json.loads(text) == value and not obeyed(text) and "ü日\u200d" in text and "🎉" in text
    text.encode("utf-8")  # halves of characters, too
    assert json_text("Türglocke") == '"Türglocke"'


def test_tags_and_tables_for_the_screen() -> None:
    table = _tag_table([(ClassName(EVIL, "m\tid"), 0.5)])
    assert not obeyed(table) and [line.count("\t") for line in table.splitlines()] == [2, 2]
    screen = balance_table([{"label": "a\nb" + EVIL, "events": 3}], width=200)
    assert not obeyed(screen) and screen.count("\n") == 1 and SHOWN in screen


def test_markup_is_text() -> None:
    assert markdown_text("a|b <i> [l](x) `c`\nd") == "a\\|b \\<i\\> \\[l\\](x) \\`c\\` d"
    assert html_text("<b>\u202e'") == "&lt;b&gt;\\u202e&#x27;"
    assert markdown_text("Dog bark_1") == html_text("Dog bark_1") == "Dog bark_1"


def test_lines_of_a_log() -> None:
    def line(message: str, *args: object) -> str:
        return PrintableFormatter().format(logging.LogRecord("x", 20, "", 0, message, args, None))

    assert line("note: %s (%d of %.1f)", f"a\nb{EVIL}", 2, 3.5).count("\n") == 0
    assert line("%s cannot be read: %s", Path("a\nb"), ValueError("\x1b")) == "a\\nb cannot be read: \\x1b"
    assert line("%s", "a table\n  of lines\x1b") == "a table\n  of lines\\x1b"
    assert line("plain ü %-6s|", "a") == "plain ü a     |"
    assert line("100 %") == "100 %"


def test_the_table_of_a_validation_and_of_packing(tmp_path: Path) -> None:
    from data_util.pack import REPORT_COLUMNS, _write_report

    _write_report(tmp_path / "report.csv", [tuple("=1+1\x1b" for _ in REPORT_COLUMNS)])  # type: ignore[list-item]
    with (tmp_path / "report.csv").open(newline="") as file:
        assert set(list(csv.reader(file))[1]) == {"'=1+1\\x1b"}
