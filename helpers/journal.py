"""Which audios have all their results in a folder: what an interrupted run goes on from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from helpers.ledger import append_to_ledger, read_ledger

_NAME = ".efficientsed-done.jsonl"


@dataclass(frozen=True)
class _Entry:
    settings: str
    row: list[str]
    files: dict[str, list[int]]  # by path from the folder: bytes, and nanoseconds of the last change

    def is_sound(self) -> bool:
        """Whether the values of a line are what `Journal.add` writes."""
        return isinstance(self.files, dict) and isinstance(self.row, list) and bool(self.row)


class Journal:
    """Finished audios, a line for each in a hidden file, written when all their results are.

    Arguments:
        folder: that of the results.
        settings: says what decides the results; what was finished under others counts as not done.
    """

    def __init__(self, folder: Path, settings: str) -> None:
        self._folder, self._file, self._settings = folder, folder / _NAME, settings

    def add(self, stem: str, row: Sequence[str], files: Sequence[Path]) -> None:
        """Note that the audio of that stem is done: its row in the table of the run, and its files."""
        stamps = {os.path.relpath(file, self._folder): _stamp(file) for file in files}
        entry = _Entry(self._settings, list(row), stamps)
        append_to_ledger(self._file, {"stem": stem, **asdict(entry)})

    def done(self) -> dict[str, list[str]]:
        """The rows, by stem, of audios that were finished under these settings and whose files are as they were."""
        entries: dict[str, _Entry] = {}
        for values in read_ledger(self._file):
            try:
                stem = values.pop("stem")
                entry = _Entry(**values)
            except (KeyError, TypeError):
                continue
            if entry.settings == self._settings and isinstance(stem, str) and entry.is_sound():
                entries[stem] = entry
        return {
            stem: entry.row
            for stem, entry in entries.items()
            if all(_stamp(self._folder / name) == stamp for name, stamp in entry.files.items())
        }


def _stamp(file: Path) -> list[int]:
    try:
        about = file.stat()
    except OSError:
        return []
    return [about.st_size, about.st_mtime_ns]
