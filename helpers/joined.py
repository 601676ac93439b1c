"""The events of all recordings of a run in one table, and how many of each class each recording has."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from atomic import replacing
from helpers.cells import safe_cells
from helpers.event_files import CSV_COLUMNS, Contents, records
from helpers.inputs import COUNTS, EVENTS
from helpers.outputs import OutputFolder
from json_text import json_text

EVENTS_FILE, COUNTS_FILE = f"{EVENTS}.csv", f"{COUNTS}.csv"
_LEDGER = ".efficientsed-events.jsonl"
_THRESHOLD = CSV_COLUMNS.index("threshold_name")
_LABEL = CSV_COLUMNS.index("label")


class JoinedEvents:
    """Collects events on disk as recordings finish, in any order, and writes them in the order of the run.

    What a killed run has collected is there for the one that resumes it: a hidden file holds a line per recording.

    Arguments:
        folder: of the results.
        settings: decides the results; lines of other settings do not count.
    """

    def __init__(self, folder: OutputFolder, settings: str) -> None:
        self.folder, self._settings = folder, settings
        self._path = folder.path / _LEDGER
        self._places: dict[tuple[str, str], int] | None = None  # settings and stem -> byte at which its line begins

    def __contains__(self, stem: str) -> bool:
        return (self._settings, stem) in self._index()

    def add(self, stem: str, contents: Contents) -> None:
        """Note the events of one recording."""
        channel = contents.detection.channel
        about = {"filename": contents.filename, "channel": "mix" if channel is None else str(channel + 1)}
        rows = [list(record.values()) for record in records(contents)]
        line = json_text({"settings": self._settings, "stem": stem, **about, "events": rows}, ensure_ascii=True)
        places = self._index()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # A link that leads elsewhere is not written through.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        with open(os.open(self._path, flags, 0o666), "ab") as file:
            place = file.seek(0, os.SEEK_END) + 1
            file.write(f"\n{line}\n".encode())  # the line before may be one that a killed run left half written
        places[self._settings, stem] = place

    def check(self) -> None:
        """Raise UserError where the tables would replace files that are not ours."""
        for name in (EVENTS_FILE, COUNTS_FILE):
            self.folder.check(name)

    def write(self, stems: Iterable[str], threshold: str) -> list[Path]:
        """Write the tables of these recordings, in this order; counts are of the events above one threshold."""
        known = [stem for stem in stems if stem in self]
        counts: dict[tuple[str, str], Counter[str]] = {}

        def events(path: Path) -> None:
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\r\n")
                writer.writerow(CSV_COLUMNS)
                for entry in self._entries(known):
                    writer.writerows(safe_cells(row) for row in entry["events"])
                    labels = (row[_LABEL] for row in entry["events"] if row[_THRESHOLD] == threshold)
                    counts[entry["filename"], entry["channel"]] = Counter(labels)

        written = [self.folder.write(EVENTS_FILE, events)]
        written.append(self.folder.write(COUNTS_FILE, lambda path: _write_counts(path, counts)))
        self._compact()
        return written

    def _index(self) -> dict[tuple[str, str], int]:
        if self._places is None:
            self._places = {}
            for place, line in _lines(self._path):
                try:
                    entry = json.loads(line)
                    self._places[str(entry["settings"]), str(entry["stem"])] = place
                except (ValueError, KeyError, TypeError):
                    continue  # half written
        return self._places

    def _entries(self, stems: Iterable[str]) -> Iterator[dict[str, Any]]:
        with _open(self._path) as file:
            for stem in stems:
                file.seek(self._index()[self._settings, stem])
                yield json.loads(file.readline())

    def _compact(self) -> None:
        """Drop lines that later ones have replaced, so that runs over the same recordings do not pile up."""
        places = self._index()
        if sum(1 for _ in _lines(self._path)) <= len(places):
            return
        with _open(self._path) as old, replacing(self._path) as part, part.open("wb") as new:
            for place in sorted(places.values()):
                old.seek(place)
                new.write(old.readline())
        self._places = None


def _open(path: Path) -> Any:
    return path.open("rb") if path.exists() else open(os.devnull, "rb")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that are not empty, and where they begin."""
    with _open(path) as file:
        place = 0
        for line in file:
            if line.strip():
                yield place, line
            place += len(line)


def _write_counts(path: Path, counts: dict[tuple[str, str], Counter[str]]) -> None:
    """A row per recording, a column per class that occurs, the most frequent first."""
    total: Counter[str] = sum(counts.values(), Counter())
    labels = sorted(total, key=lambda label: (-total[label], label))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(safe_cells(["filename", "channel", "events", *labels]))
        for (name, channel), of in counts.items():
            writer.writerow(safe_cells([name, channel, of.total(), *(of[label] for label in labels)]))
