"""Ledgers with garbage, and ledgers that are links."""

from __future__ import annotations

from pathlib import Path

import pytest

from errors import UserError
from helpers.journal import Journal
from helpers.outputs import OutputFolder

LEDGERS = (".efficientsed.jsonl", ".efficientsed-done.jsonl")


def use(folder: Path, name: str) -> None:
    """What reads and writes that ledger."""
    if name == LEDGERS[0]:
        OutputFolder(folder).write_text("a.tsv", "events")
    else:
        Journal(folder, "settings").done()
        Journal(folder, "settings").add("a", ["a.wav"], [])


@pytest.mark.parametrize("name", LEDGERS)
def test_garbage_is_one_line_that_says_how_to_go_on(tmp_path: Path, name: str) -> None:
    use(tmp_path, name)
    ledger = tmp_path / name
    whole = ledger.read_text()
    ledger.write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(UserError, match=rf"{name}: it is not UTF-8 .*; or remove it, then --overwrite"):
        use(tmp_path, name)
    lines = ["[1]", "5", '{"name": ["a"], "sha256": 1}', '{"stem": 1, "settings": "settings", "row": 1, "files": 2}']
    ledger.write_text("\n".join([*lines, "[" * 100_000, whole, '{"half']))
    use(tmp_path, name)
    assert ledger.read_text().count("sha256" if name == LEDGERS[0] else "stem") == 3
    if name == LEDGERS[1]:
        assert Journal(tmp_path, "settings").done() == {"a": ["a.wav"]}


@pytest.mark.parametrize("name", LEDGERS)
def test_nothing_is_written_through_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / name).symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="is a symbolic link; remove it"):
        use(folder, name)
    if name == LEDGERS[1]:
        with pytest.raises(UserError, match="is a symbolic link; remove it"):
            Journal(folder, "settings").add("a", ["a.wav"], [])
    assert (tmp_path / "precious").read_text() == "mine"
