"""Detections as files and as a table on the screen."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atomic import made, naming, unfinished
from data_util.clip_names import ClipNames, fullest_names
from data_util.times import WHAT, parse_seconds
from errors import UserError, reading
from helpers.events import Event, EventTable, rounded_down
from helpers.ledger import append_to_ledger, read_ledger
from printable import printable

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
        self._written: dict[str, set[str]] | None = None

    def check(self, name: str) -> Path:
        """The path of the file `name`; UserError when writing it would destroy something that is not ours."""
        path = self.path / name
        if self.path.resolve() not in path.resolve().parents:
            raise UserError(f"output name '{name}' leads out of the folder '{self.path}'")
        if path.exists() and not path.is_file():
            raise UserError(
                f"'{path}' is not a regular file (a folder, pipe or device): move it, or name another folder"
            )
        if path.exists() and not self.overwrite and checksum(path) not in self._ledger().get(name, ()):
            raise UserError(
                f"'{path}' exists and was not written by this program, or was changed since: --overwrite replaces it"
            )
        return path

    def require_ledger(self) -> None:
        """Raise UserError, before any work, where the ledger cannot tell what was written here."""
        self._ledger()

    def write(self, name: str, write: Callable[[Path], None]) -> Path:
        """Let `write` make a file at a temporary path, then give it its name; returns the final path."""
        with self.staged(name) as part:
            write(part)
        return self.path / name

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """A temporary path that becomes the file `name` when the block ends without an error."""
        path = self.check(name)
        # The ending stays last: writers such as Matplotlib choose the format by it.
        part = path.with_name(f".{path.stem}.part{os.getpid()}{path.suffix}")
        with made(path.parent), unfinished(part), naming(part, path):
            yield part
            # Noted before it has its name: a run that is killed in between must not take it for foreign. So a name has
            # several check sums, and a file with any of them is ours.
            self._note(name, checksum(part))
            os.replace(part, path)

    def _note(self, name: str, digest: str) -> None:
        self._ledger().setdefault(name, set()).add(digest)
        append_to_ledger(self.path / _LEDGER, {"name": name, "sha256": digest})

    def write_text(self, name: str, text: str) -> Path:
        """Write a text file, UTF-8 with line feeds."""

        def write(path: Path) -> None:
            path.write_bytes(text.encode())

        return self.write(name, write)

    def _ledger(self) -> dict[str, set[str]]:
        if self._written is None:
            self._written = {}
            for entry in read_ledger(self.path / _LEDGER):
                name, digest = entry.get("name"), entry.get("sha256")
                if isinstance(name, str) and isinstance(digest, str):
                    self._written.setdefault(name, set()).add(digest)
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
    return f"{rounded_down(time):.3f}"


def format_table(events: EventTable, limit: int | None = None) -> str:
    """Events as an aligned table for the screen; at most `limit` rows, with a note on what is left out."""
    if len(events) == 0:
        return "  no events"
    shown: Sequence[Event] = [events[i] for i in range(min(len(events), limit or len(events)))]
    labels = [printable(event.label) for event in shown]
    width = max(map(len, labels))
    lines = [f"  {'onset':>10} {'offset':>10}  {'event':<{width}}  {'mean':>5} {'peak':>5}"]
    for event, label in zip(shown, labels, strict=True):
        times = f"{seconds(event.onset):>10} {seconds(event.offset):>10}"
        lines.append(f"  {times}  {label:<{width}}  {event.mean_score:5.3f} {event.peak_score:5.3f}")
    if len(shown) < len(events):
        lines.append(f"  ... and {len(events) - len(shown)} more")
    return "\n".join(lines)


@dataclass(frozen=True)
class TrueEvents:
    """Annotated events of one audio: times in seconds and class names, or MIDs."""

    onset: list[float]
    offset: list[float]
    label: list[str]

    def add(self, other: TrueEvents) -> None:
        """Take in those of another table or spelling."""
        self.onset.extend(other.onset)
        self.offset.extend(other.offset)
        self.label.extend(other.label)

    def named(self, names_by_mid: Mapping[str, str]) -> TrueEvents:
        """The same with display names in place of MIDs."""
        return TrueEvents(self.onset, self.offset, [names_by_mid.get(label, label) for label in self.label])


TrueEventsOf = Mapping[str, TrueEvents]  # by the name of the audio

_COLUMNS = {
    "filename": ("filename", "file", "segment_id", "audio_filename"),
    "onset": ("onset", "start_time_seconds", "start"),
    "offset": ("offset", "end_time_seconds", "end"),
    "label": ("event_label", "label", "event"),
}


def read_true_events(path: str | os.PathLike[str], audio: Mapping[str, str]) -> dict[str, TrueEvents]:
    """Read annotations from a TSV in DCASE form or in the form of AudioSet Strong.

    Arguments:
        path: TSV with columns for onset, offset, label and, unless there is one audio only, the file.
        audio: name of each audio, with the path of its file; which one a row means says `data_util.clip_names`.

    Returns:
        Events of each audio that has some, by its name.

    Raises:
        UserError: the file is missing, lacks a column, or holds a time that cannot be (`data_util.times`); a name may
            mean several audios, or several names the same.
    """
    with reading(path, "the true events"):
        text = Path(path).read_text(encoding="utf-8-sig")
    reader = csv.DictReader(io.StringIO(text), delimiter="\t")
    reader.fieldnames = header = [name.strip() for name in reader.fieldnames or ()]
    column = {key: next((n for n in names if n in header), None) for key, names in _COLUMNS.items()}
    missing = [key for key in ("onset", "offset", "label") if column[key] is None]
    if missing:
        raise UserError(f"true events '{path}' lack a column for {', '.join(missing)}; found: {', '.join(header)}")
    if column["filename"] is None and len(audio) > 1:
        raise UserError(
            f"true events '{path}' lack a column filename, which says what is of which of {len(audio)} files"
        )
    found: dict[str, TrueEvents] = {}
    for line, row in enumerate(reader, start=2):
        name = (row[column["filename"]] or "") if column["filename"] is not None else next(iter(audio))
        events = found.setdefault(name, TrueEvents([], [], []))
        try:
            onset, offset = (parse_seconds(row[column[key]]) for key in ("onset", "offset"))  # type: ignore[index]
        except (TypeError, ValueError):
            raise UserError(f"true events '{path}', line {line}: a time is not {WHAT}") from None
        if offset < onset:
            raise UserError(f"true events '{path}', line {line}: the event ends at {offset:g} s, before it begins")
        events.onset.append(onset)
        events.offset.append(offset)
        events.label.append((row[column["label"]] or "").strip())  # type: ignore[index]
    return events_by_audio(found, audio, f"true events '{path}'")


def events_by_audio(found: Mapping[str, TrueEvents], audio: Mapping[str, str], where: str) -> dict[str, TrueEvents]:
    """Events by the name of the audio that they are of.

    Arguments:
        found: events by the name that a table gives.
        audio: as for `read_true_events`.
        where: the table, for messages.

    Raises:
        UserError: a name may mean several audios, or several names the same.
    """
    name_of = fullest_names(found)
    clips = ClipNames(audio).match(name_of.values(), where)
    true = {clip: TrueEvents([], [], []) for clip in clips.values()}
    for name, events in found.items():
        if name_of[name] in clips:
            true[clips[name_of[name]]].add(events)
    return true
