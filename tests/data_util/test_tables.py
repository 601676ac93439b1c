"""Large tables: the quick way gives what the way row by row gives, odd tables too, and long reads have a bar."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_util import label_files, tables
from data_util.label_files import read_strong_tsv
from data_util.labels import load_vocabulary
from data_util.tables import OddLineError
from errors import UserError
from helpers import psds_io

STRONG, WEAK = load_vocabulary("strong"), load_vocabulary("weak")
A, B = WEAK.mids[:2]
# name -> module, reader, header, a good line with its cells in braces
READERS: dict[str, tuple[Any, Callable[[Path], Any], str, list[str]]] = {
    "ground truth": (
        psds_io,
        psds_io.read_ground_truth,
        "filename\tonset\toffset\tevent_label\n",
        ["a.wav\t0.5\t2\tDog", "b.wav\t1e-05\t+3.25\tMale speech, man speaking", "c.wav\t\t\t", "a\t7.125\t8.5\t Dog "],
    ),
    "ground truth in another order": (
        psds_io,
        psds_io.read_ground_truth,
        " event_label\tmore\toffset\tfilename \tonset\n",
        ["Dog\tx\t2\ta.wav\t0.5", "\t\t\tc.wav\t", "Cat\t\t3\tb.wav\t2.5", "Dog\ty\t9.5\ta.wav\t0.1"],
    ),
    "durations with columns": (
        psds_io,
        psds_io.read_durations,
        "duration\tfilename\tmore\n",
        ["10\ta.wav\tx", "0\tb c.wav\t", "1e3\tä.wav\ty", "9.75\ta.wav\tz"],
    ),
    "durations": (psds_io, psds_io.read_durations, "", ["a.wav,10", "b c.wav,0", "d,9.125", "a.wav,3"]),
    "durations with tabs": (psds_io, psds_io.read_durations, "", ["a, b\t10", "c\t9.5"]),
    "lengths": (label_files, label_files.read_durations, "", ["Ya.mp3,10", "Yb,9.5", "Ya,3", "Yc, 4"]),
    "weak labels": (
        label_files,
        lambda path: label_files.read_weak_csv(path, WEAK),
        "# Segments csv\n# YTID, start_seconds, end_seconds, positive_labels\n",
        [f'abc, 30.000, 40.000, "{A},{B}"', f'x-y_z , 0,0.0015,"{B}"', f'abc, 1, 2.0005, "{A}"', f"q, 2, 4, {A}"],
    ),
    "weak labels with tabs": (
        label_files,
        lambda path: label_files.read_weak_csv(path, WEAK),
        "#\tx\n",
        [f"abc\t30.000\t40.000\t{A},{B}", f'x\t 0\t10\t"{B}"'],
    ),
    "weak labels with names": (
        label_files,
        lambda path: label_files.read_weak_csv(path, WEAK),
        "filename,labels\n",
        [f'a.wav,"{A},{B}"', f"b.wav,{A}", f"a.wav,{B}"],
    ),
}
# What may come in the place of a cell, of a separator, of the end of a line.
ODD_CELLS = [
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "1e10",
    "1_0",
    "1.2.3",
    "0x1",
    "soon",
    '"a',
    '"a b"',
    'a"b',
    '"a\n1"',
    '"a""b"',
]
ODD_CELLS += [
    "\u0661",
    "é",
    "\ufeffa",
    "a\0b",
    "a\x0bb",
    "a\u2028b",
    "#a",
    " 5",
    "5 ",
    "5,",
    "\t5",
    "a\rb",
    "/m/nothing",
]
ENDS = ["\n", "\r\n", "\r", "\n\n", "\n \n", " \n", "\t\n", ",\n", ",,\n", "", "\n\t\t\t\n"]


@pytest.fixture
def row_by_row(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Callable[[], Any]], Any]:
    def read(module: Any, call: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(module, "plain_rows", refuse)
            return call()

    return read


def refuse(*args: object, **more: object) -> Iterator[Any]:
    raise OddLineError
    yield


def outcome(call: Callable[[], Any]) -> Any:
    """The result, with the order of what has one, or the error in words."""
    try:
        found = call()
    except UserError as error:
        return str(error)
    return list(found.items()) if isinstance(found, dict) else found


def tables_of(header: str, lines: list[str]) -> Iterator[str]:
    """Good tables, and such with one or two odd places; always the same ones."""
    chance = random.Random(0)
    good = "\n".join(lines) + "\n"
    yield from (header + good, header + good[:-1], (header + good).replace("\n", "\r\n"), "\ufeff" + header + good)
    yield from (
        header,
        header.rstrip("\n"),
        "",
        "\n",
        good,
        header + "\n" + good,
        header + header + good,
        header + good * 50,
    )
    yield from ('"' + header + good, header.replace("\t", "\n", 1) + good, header + "# note\n" + good)
    for _ in range(60):
        cells = [[*line.replace("\t", "\0\t\0").replace(",", "\0,\0").split("\0")] for line in lines * 2]
        for _ in range(chance.choice((1, 1, 2))):
            of_line = chance.choice(cells)
            of_line[chance.randrange(len(of_line))] = chance.choice(ODD_CELLS)
        ends = [chance.choice(ENDS) if chance.random() < 0.1 else "\n" for _ in cells]
        yield header + "".join("".join(of_line) + end for of_line, end in zip(cells, ends, strict=True))


@pytest.mark.parametrize("block", [7, 1 << 23])
@pytest.mark.parametrize("name", READERS)
def test_both_ways_say_the_same(
    name: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_by_row: Callable[..., Any]
) -> None:
    module, read, header, lines = READERS[name]
    monkeypatch.setattr(tables, "BLOCK", block)
    path, results = tmp_path / "table.tsv", set()
    for text in tables_of(header, lines):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        quick, slow = outcome(lambda: read(path)), row_by_row(module, lambda: outcome(lambda: read(path)))
        assert quick == slow, repr(text)
        results.add(repr(quick))
    assert len(results) > 10 and sum("line" in result for result in results) > 3


@pytest.mark.parametrize("name", [name for name in READERS if name != "weak labels with names"])
def test_plain_tables_go_the_quick_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, read, header, lines = READERS[name]
    (tmp_path / "t.tsv").write_text(header + "\n".join(line for line in lines if ", 4" not in line) + "\n")
    for slow in ("_events", "_durations", "_weak_labels"):
        monkeypatch.setattr(module, slow, lambda *_: pytest.fail("row by row"), raising=False)
    assert read(tmp_path / "t.tsv")


@pytest.mark.parametrize("name", READERS)
def test_what_is_no_text_is_said_as_before(name: str, tmp_path: Path) -> None:
    _, read, header, lines = READERS[name]
    (tmp_path / "t.tsv").write_bytes((header + lines[0] + "\n").encode() + b"\xff\xfe\n")
    with pytest.raises(UserError, match=r"t\.tsv: it is not UTF-8 text"):
        read(tmp_path / "t.tsv")
    with pytest.raises(UserError, match="it is a folder"):
        read(tmp_path)


def slow_read(path: Path) -> list[str]:
    with tables.open_text(path) as file:
        found = []
        for line in file:
            time.sleep(0.001)
            found.append(line)
    return found


def test_long_reads_have_a_bar_with_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "many.tsv"
    path.write_text("a" * (3 << 20) + "\n" + "b\n" * 50)
    assert len(slow_read(path)) == 51 and capsys.readouterr().err == ""
    monkeypatch.setattr(tables, "PATIENCE", 0.0)
    monkeypatch.setattr(tables, "_PAUSE", {True: 0.0, False: 0.0})
    assert len(slow_read(path)) == 51
    told = capsys.readouterr().err
    assert "reading many.tsv" in told and "100%" in told and "<00:00" in told  # percent, and time left
    strong = tmp_path / "strong.tsv"
    strong.write_text("segment_id\tstart_time_seconds\tend_time_seconds\tlabel\nabcdefghijk_0\t0\t1\t/m/0bt9lr\n" * 1)
    for read in (lambda: read_strong_tsv(strong, STRONG), lambda: psds_io.read_ground_truth(strong)):
        assert len(read()) == 1
        assert "reading strong.tsv" in capsys.readouterr().err
