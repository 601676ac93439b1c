from __future__ import annotations

from pathlib import Path

from helpers.journal import Journal


def test_what_another_run_has_rewritten_counts_as_not_done(tmp_path: Path) -> None:
    files = [tmp_path / f"{stem}.tsv" for stem in "ab"]
    journal = Journal(tmp_path, "settings")
    for file in files:
        file.write_text("events")
        journal.add(file.stem, [file.name, "done"], [file])
    assert journal.done() == {"a": ["a.tsv", "done"], "b": ["b.tsv", "done"]}
    files[0].write_text("others")
    assert set(journal.done()) == {"b"}
    files[1].unlink()
    assert not journal.done()


def test_settings_stand_beside_each_other(tmp_path: Path) -> None:
    for settings in ("one", "two"):
        file = tmp_path / f"{settings}.tsv"
        file.touch()
        Journal(tmp_path, settings).add("a", [settings], [file])
    assert Journal(tmp_path, "one").done() == {"a": ["one"]} and Journal(tmp_path, "two").done() == {"a": ["two"]}
    assert not Journal(tmp_path, "three").done()


def test_a_line_half_written_costs_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "settings")
    journal.add("a", ["a"], [])
    (lines,) = tmp_path.iterdir()
    lines.write_text(lines.read_text() + '{"stem": "b", "sett')
    journal.add("c", ["c"], [])
    assert set(journal.done()) == {"a", "c"}
