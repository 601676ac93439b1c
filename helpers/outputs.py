"""Detections as files and as a table on the screen."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atomic import unfinished
from errors import UserError, reading
from helpers.events import Event, EventTable

_LEDGER = ".efficientsed.jsonl"


class OutputFolder:
    """A folder that results are written to, each file whole or not at all.

    A file that an earlier run wrote here and nobody has changed since is replaced; any other file of the same name
    is kept and refused, unless `overwrite` is set. The check sums of what was written stand in a hidden ledger.

    Arguments:
        path: the folder; made when the first file is written.
        overwrite: replace any file.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.path, self.overwrite = Path(path), overwrite
        self._written: dict[str, str] | None = None

    def check(self, name: str) -> Path:
        """The path of the file `name`; UserError when writing it would destroy something that is not ours."""
        path = self.path / name
        if self.path.resolve() not in path.resolve().parents:
            raise UserError(f"output name '{name}' leads out of the folder '{self.path}'")
        if path.exists() and not self.overwrite and self._ledger().get(name) != checksum(path):
            raise UserError(
                f"'{path}' exists and was not written by this program, or was changed since: --overwrite replaces it"
            )
        return path

    def write(self, name: str, write: Callable[[Path], None]) -> Path:
        """Let `write` make a file at a temporary path, then give it its name; returns the final path."""
        with self.staged(name) as part:
            write(part)
        return self.path / name

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A temporary path that becomes the file `name` when the block ends without an error."""
        path = self.check(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # The ending stays last: writers such as Matplotlib choose the format by it.
        with unfinished(path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix}")) as part:
            yield part
            digest = checksum(part)
            os.replace(part, path)
        self._ledger()[name] = digest
        with (self.path / _LEDGER).open("a", encoding="utf-8") as ledger:
            ledger.write(json.dumps({"name": name, "sha256": digest}) + "\n")

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, UTF-8 with line feeds."""

        def write(path: Path) -> None:
            path.write_bytes(text.encode())

        return self.write(name, write)

    def _ledger(self) -> dict[str, str]:
        if self._written is None:
            self._written = {}
            ledger = self.path / _LEDGER
            for line in ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else ():
                try:
                    entry = json.loads(line)
                    self._written[entry["name"]] = entry["sha256"]
                except (ValueError, KeyError, TypeError):
                    continue  # a line that a killed run left half written
        return self._written


def checksum(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def seconds(time: float) -> str:
    """A time with milliseconds, rounded down, so that no event ends after its audio."""
    return f"{math.floor(time * 1000 + 1e-6) / 1000:.3f}"


def format_table(events: EventTable, limit: int | None = None) -> str:
    """Events as an aligned table for the screen; at most `limit` rows, with a note on what is left out."""
    if len(events) == 0:
        return "  no events"
    shown: Sequence[Event] = [events[i] for i in range(min(len(events), limit or len(events)))]
    width = max(len(event.label) for event in shown)
    lines = [f"  {'onset':>10} {'offset':>10}  {'event':<{width}}  {'mean':>5} {'peak':>5}"]
    for event in shown:
        times = f"{seconds(event.onset):>10} {seconds(event.offset):>10}"
        lines.append(f"  {times}  {event.label:<{width}}  {event.mean_score:5.3f} {event.peak_score:5.3f}")
    if len(shown) < len(events):
        lines.append(f"  ... and {len(events) - len(shown)} more")
    return "\n".join(lines)


@dataclass(frozen=True)
class TrueEvents:
    """Annotated events of one audio: times in seconds and class names."""

    onset: list[float]
    offset: list[float]
    label: list[str]


_COLUMNS = {
    "filename": ("filename", "file", "segment_id", "audio_filename"),
    "onset": ("onset", "start_time_seconds", "start"),
    "offset": ("offset", "end_time_seconds", "end"),
    "label": ("event_label", "label", "event"),
}


def read_true_events(path: str | os.PathLike[str], audio_name: str, names_by_mid: dict[str, str]) -> TrueEvents:
    """Read the annotations of one file from a TSV in DCASE form or in the form of AudioSet Strong.

    Arguments:
        path: TSV with columns for onset, offset, label and, unless it belongs to one file only, the file.
        audio_name: name of the audio file; `Y<id>.wav`, `<id>.wav` and the segment `<id>_<start ms>` are the same.
        names_by_mid: display name of each MID, for labels given as MID.
    Raises:
        UserError: the file is missing, lacks a column, or holds a time that is not a number.
    """
    with reading(path, "the true events"):
        text = Path(path).read_text(encoding="utf-8-sig")
    reader = csv.DictReader(io.StringIO(text), delimiter="\t")
    header = reader.fieldnames or []
    column = {key: next((n for n in names if n in header), None) for key, names in _COLUMNS.items()}
    missing = [key for key in ("onset", "offset", "label") if column[key] is None]
    if missing:
        raise UserError(f"true events '{path}' lack a column for {', '.join(missing)}; found: {', '.join(header)}")
    wanted, found = _spellings(audio_name), TrueEvents([], [], [])
    for line, row in enumerate(reader, start=2):
        if column["filename"] is not None and not wanted & _spellings(row[column["filename"]] or ""):
            continue
        try:
            found.onset.append(float(row[column["onset"]]))  # type: ignore[index]
            found.offset.append(float(row[column["offset"]]))  # type: ignore[index]
        except (TypeError, ValueError):
            raise UserError(f"true events '{path}', line {line}: a time is not a number") from None
        label = row[column["label"]] or ""  # type: ignore[index]
        found.label.append(names_by_mid.get(label, label))
    return found


def _spellings(name: str) -> set[str]:
    """The names under which lists know a clip: without folder and ending, AudioSet's also without Y and start time."""
    name = name.strip().replace("\\", "/").rpartition("/")[2]
    stem = re.sub(r"\.\w{1,5}$", "", name)
    segment = re.fullmatch(r"Y?(.{11})_\d+", stem)  # YouTube ids have 11 characters
    names = {stem, segment[1]} if segment else {stem}
    return names | {n[1:] for n in names if len(n) == 12 and n.startswith("Y")}
