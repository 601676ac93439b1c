"""Events in the formats of other tools; each is one function in one table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from errors import UserError, printable
from helpers.cells import safe_cells
from helpers.classes import ClassName
from helpers.detection import Detection
from helpers.events import RECORD_FIELDS, Event, EventTable, make_record
from helpers.json_text import json_text
from helpers.outputs import OutputFolder, seconds

CSV_COLUMNS = RECORD_FIELDS
HIGHEST_HZ = 8000  # the models hear 16 kHz audio

Tags = list[tuple[ClassName, float]]


@dataclass(frozen=True)
class Contents:
    """What a file of events is about.

    Arguments:
        filename: of the audio, with the folders below the one that was given.
        detection: the result.
        tags: the best ones.
        recording: the audio for formats whose names have no ending; by default the file name without it.
    """

    filename: str
    detection: Detection
    tags: Tags
    recording: str = ""

    def rows(self) -> Iterator[tuple[str, Event]]:
        """(name of the threshold, event) of all lists."""
        for name, table in self.detection.tables.items():
            for event in table:
                yield name, event


@dataclass(frozen=True)
class EventFormat:
    """A file format.

    Arguments:
        suffix: of its files.
        write: path and contents -> a file with all lists of events; or, where the format cannot say which
            threshold an event belongs to, path, contents and one list.
        one_list: whether it takes one list.
    """

    suffix: str
    write: Callable[..., None]
    one_list: bool


FORMATS: dict[str, EventFormat] = {}

Writer = Callable[..., None]


def _format(name: str, suffix: str, *, one_list: bool) -> Callable[[Writer], Writer]:
    def register(write: Writer) -> Writer:
        FORMATS[name] = EventFormat(suffix, write, one_list)
        return write

    return register


def file_names(format_name: str, stem: str, thresholds: list[str]) -> list[str]:
    """The files that a format makes for one audio: one, or one for each of several thresholds."""
    form = FORMATS[format_name]
    if form.one_list and len(thresholds) > 1:
        return [f"{stem}.above{name}{form.suffix}" for name in thresholds]
    return [stem + form.suffix]


def write_events(folder: OutputFolder, format_name: str, stem: str, contents: Contents) -> list[Path]:
    """Write the events of one audio in one format; returns the files."""
    form = FORMATS[format_name]
    tables = contents.detection.tables
    names = file_names(format_name, stem, list(tables))
    if not form.one_list:
        return [folder.write(names[0], lambda path: form.write(path, contents))]
    return [
        folder.write(name, lambda path, table=table: form.write(path, contents, table))  # type: ignore[misc]
        for name, table in zip(names, tables.values(), strict=True)
    ]


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def _field(text: str) -> str:
    """Text for one field of a tab-separated line: no tabs, no line breaks, nothing that a terminal obeys."""
    return printable(" ".join(text.split()))


def _tab_separated(header: tuple[str, ...] | None, rows: list[tuple[object, ...]]) -> str:
    lines = [header] if header else []
    return "".join("\t".join(str(v) for v in row) + "\n" for row in [*lines, *rows])


@_format("tsv", ".tsv", one_list=True)
def _write_tsv(path: Path, contents: Contents, table: EventTable) -> None:
    """As the DCASE challenges exchange events: filename, onset, offset, event_label."""
    name = _field(contents.filename)
    rows: list[tuple[object, ...]] = [(name, seconds(e.onset), seconds(e.offset), _field(e.label)) for e in table]
    _write_text(path, _tab_separated(("filename", "onset", "offset", "event_label"), rows))


@_format("csv", ".csv", one_list=False)
def _write_csv(path: Path, contents: Contents) -> None:
    """Everything there is to know about an event, in fixed columns (RFC 4180)."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(safe_cells(_record(contents, name, event).values()) for name, event in contents.rows())
    _write_text(path, text.getvalue())


def _record(contents: Contents, threshold_name: str, event: Event) -> dict[str, object]:
    """One event in the columns of the CSV and Parquet files."""
    record = make_record(event, contents.filename, contents.detection.channel, threshold_name)
    return {**record, "channel": str(record["channel"])}  # one type for the column


@_format("json", ".json", one_list=False)
def _write_json(path: Path, contents: Contents) -> None:
    """One object: the audio, its tags, and a list of events for each threshold."""
    content = contents.detection.to_dict(contents.filename, contents.tags)
    _write_text(path, json_text(content, indent=1) + "\n")


@_format("jsonl", ".jsonl", one_list=False)
def _write_jsonl(path: Path, contents: Contents) -> None:
    """One event per line, in the fields of the JSON files."""
    _write_text(path, "".join(json_text(record) + "\n" for record in contents.detection.records(contents.filename)))


@_format("audacity", ".audacity.txt", one_list=True)
def _write_audacity(path: Path, contents: Contents, table: EventTable) -> None:
    """A label track: File > Import > Labels in Audacity."""
    rows: list[tuple[object, ...]] = [(f"{e.onset:.6f}", f"{e.offset:.6f}", _field(e.label)) for e in table]
    _write_text(path, _tab_separated(None, rows))


@_format("raven", ".raven.txt", one_list=True)
def _write_raven(path: Path, contents: Contents, table: EventTable) -> None:
    """A selection table of Raven Pro and Raven Lite."""
    header = (
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)",
        "Begin File", "Annotation", "Score",
    )  # fmt: skip
    channel = (contents.detection.channel or 0) + 1
    rows: list[tuple[object, ...]] = []
    for i, e in enumerate(table, start=1):
        times = (f"{e.onset:.6f}", f"{e.offset:.6f}", "0.0", f"{HIGHEST_HZ:.1f}")
        about = (_field(contents.filename), _field(e.label), f"{e.mean_score:.4f}")
        rows.append((i, "Spectrogram 1", channel, *times, *about))
    _write_text(path, _tab_separated(header, rows))


@_format("rttm", ".rttm", one_list=True)
def _write_rttm(path: Path, contents: Contents, table: EventTable) -> None:
    """NIST's rich transcription: ten fields between blanks, so that names get underscores for their blanks."""
    recording = contents.recording or Path(contents.filename).with_suffix("").as_posix()
    audio = "_".join(recording.split()) or "audio"
    channel = (contents.detection.channel or 0) + 1
    lines = []
    for e in table:
        onset = float(seconds(e.onset))
        duration = float(seconds(e.offset)) - onset
        name = "_".join(e.label.split())
        lines.append(f"SPEAKER {audio} {channel} {onset:.3f} {duration:.3f} <NA> <NA> {name} {e.mean_score:.4f} <NA>\n")
    _write_text(path, "".join(lines))


@_format("vtt", ".vtt", one_list=True)
def _write_vtt(path: Path, contents: Contents, table: EventTable) -> None:
    """WebVTT subtitles, for players that show captions."""
    cues = [f"{_clock(e.onset)} --> {_clock(e.offset)}\n{_cue_text(e)}\n" for e in table]
    _write_text(path, "\n".join(["WEBVTT\n", *cues]))


def _clock(time: float) -> str:
    milliseconds = round(float(seconds(time)) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _cue_text(event: Event) -> str:
    label = _field(event.label).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{label} ({event.mean_score:.2f})"


@_format("parquet", ".parquet", one_list=False)
def _write_parquet(path: Path, contents: Contents) -> None:
    """The columns of the CSV files, for data frames."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError("--format parquet needs the package pyarrow: pip install pyarrow") from None
    records = [_record(contents, name, event) for name, event in contents.rows()]
    kinds = {"onset": "float64", "offset": "float64", "mean_score": "float32", "peak_score": "float32"}
    kinds["threshold"] = "float32"
    columns = {
        name: pyarrow.array([r[name] for r in records], pyarrow.type_for_alias(kinds.get(name, "string")))
        for name in CSV_COLUMNS
    }
    parquet.write_table(pyarrow.table(columns), path)


def best_tags(names: list[ClassName], probabilities: np.ndarray, k: int) -> Tags:
    """The k most probable tags."""
    order = np.argsort(-probabilities, kind="stable")[:k]
    return [(names[i], float(probabilities[i])) for i in order]
