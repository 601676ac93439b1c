"""Events in the formats of other tools: one table; a new one is one function with one entry above it."""

from __future__ import annotations

import csv
import html
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np

from errors import UserError
from helpers.cells import safe_cells
from helpers.classes import ClassName
from helpers.detection import Detection
from helpers.events import RECORD_FIELDS, Event, make_record
from helpers.outputs import OutputFolder, seconds
from json_text import json_text
from printable import printable

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

    def at(self, threshold: str) -> Contents:
        """The same with the list of one threshold alone."""
        tables = {threshold: self.detection.tables[threshold]}
        return replace(self, detection=replace(self.detection, tables=tables))


Writer = Callable[[Path, Contents], None]


@dataclass(frozen=True)
class EventFormat:
    """A file format.

    Arguments:
        file_name: of its files; `{}` is the name of the audio.
        per_threshold: whether it cannot say which threshold an event belongs to, so that each has a file of its own.
        write: path and contents -> the file; with `per_threshold`, of contents with one list.
    """

    file_name: str
    per_threshold: bool
    write: Writer


FORMATS: dict[str, EventFormat] = {}


def _format(name: str, file_name: str, *, per_threshold: bool) -> Callable[[Writer], Writer]:
    def register(write: Writer) -> Writer:
        FORMATS[name] = EventFormat(file_name, per_threshold, write)
        return write

    return register


def file_names(format_name: str, stem: str, thresholds: list[str]) -> list[str]:
    """The files that a format makes for one audio: one, or one for each of several thresholds."""
    form = FORMATS[format_name]
    if form.per_threshold and len(thresholds) > 1:
        return [form.file_name.format(f"{stem}.above{name}") for name in thresholds]
    return [form.file_name.format(stem)]


def write_events(folder: OutputFolder, format_name: str, stem: str, contents: Contents) -> list[Path]:
    """Write the events of one audio in one format; returns the files."""
    form = FORMATS[format_name]
    thresholds = list(contents.detection.tables)
    parts = [contents.at(name) for name in thresholds] if form.per_threshold else [contents]
    names = file_names(format_name, stem, thresholds)
    return [
        folder.write(name, lambda path, part=part: form.write(path, part))  # type: ignore[misc]
        for name, part in zip(names, parts, strict=True)
    ]


def _write_text(path: Path, text: str) -> None:
    path.write_bytes(text.encode())


def field(text: str) -> str:
    """Text for one field of a tab-separated line: no tabs, no line breaks, nothing that a terminal obeys."""
    return printable(" ".join(text.split()))


def _tab_separated(header: tuple[str, ...] | None, rows: list[tuple[object, ...]]) -> str:
    lines = [header] if header else []
    return "".join("\t".join(str(v) for v in row) + "\n" for row in [*lines, *rows])


@_format("tsv", "{}.tsv", per_threshold=True)
def _write_tsv(path: Path, contents: Contents) -> None:
    """As the DCASE challenges exchange events: filename, onset, offset, event_label."""
    name = field(contents.filename)
    rows: list[tuple[object, ...]] = [
        (name, seconds(e.onset), seconds(e.offset), field(e.label)) for e in contents.detection.events
    ]
    _write_text(path, _tab_separated(("filename", "onset", "offset", "event_label"), rows))


@_format("csv", "{}.csv", per_threshold=False)
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


def records(contents: Contents) -> Iterator[dict[str, object]]:
    """All events of all lists in the columns of the CSV files."""
    return (_record(contents, name, event) for name, event in contents.rows())


@_format("json", "{}.json", per_threshold=False)
def _write_json(path: Path, contents: Contents) -> None:
    """One object: the audio, its tags, and a list of events for each threshold."""
    content = contents.detection.to_dict(contents.filename, contents.tags)
    _write_text(path, json_text(content, indent=1) + "\n")


@_format("jsonl", "{}.jsonl", per_threshold=False)
def _write_jsonl(path: Path, contents: Contents) -> None:
    """One event per line, in the fields of the JSON files."""
    _write_text(path, "".join(json_text(record) + "\n" for record in contents.detection.records(contents.filename)))


@_format("audacity", "{}.audacity.txt", per_threshold=True)
def _write_audacity(path: Path, contents: Contents) -> None:
    """A label track: File > Import > Labels in Audacity."""
    rows: list[tuple[object, ...]] = [
        (f"{e.onset:.6f}", f"{e.offset:.6f}", field(e.label)) for e in contents.detection.events
    ]
    _write_text(path, _tab_separated(None, rows))


@_format("raven", "{}.raven.txt", per_threshold=True)
def _write_raven(path: Path, contents: Contents) -> None:
    """A selection table of Raven Pro and Raven Lite."""
    header = (
        "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)",
        "Begin File", "File Offset (s)", "Annotation", "Score",
    )  # fmt: skip
    channel = (contents.detection.channel or 0) + 1
    rows: list[tuple[object, ...]] = []
    for i, e in enumerate(contents.detection.events, start=1):
        times = (f"{e.onset:.6f}", f"{e.offset:.6f}", "0.0", f"{HIGHEST_HZ:.1f}")
        about = (field(contents.filename), f"{e.onset:.6f}", field(e.label), f"{e.mean_score:.4f}")
        rows.append((i, "Spectrogram 1", channel, *times, *about))
    _write_text(path, _tab_separated(header, rows))


@_format("rttm", "{}.rttm", per_threshold=True)
def _write_rttm(path: Path, contents: Contents) -> None:
    """NIST's rich transcription: ten fields between blanks, so that names get underscores for their blanks."""
    recording = contents.recording or Path(contents.filename).with_suffix("").as_posix()
    audio = printable("_".join(recording.split())) or "audio"
    channel = (contents.detection.channel or 0) + 1
    lines = []
    for e in contents.detection.events:
        onset = float(seconds(e.onset))
        duration = float(seconds(e.offset)) - onset
        name = printable("_".join(e.label.split()))
        lines.append(f"SPEAKER {audio} {channel} {onset:.3f} {duration:.3f} <NA> <NA> {name} {e.mean_score:.4f} <NA>\n")
    _write_text(path, "".join(lines))


@_format("vtt", "{}.vtt", per_threshold=True)
def _write_vtt(path: Path, contents: Contents) -> None:
    """WebVTT subtitles, for players that show captions."""
    cues = [_cue(e, ".", html.escape(field(e.label), quote=False)) for e in contents.detection.events]
    _write_text(path, "\n".join(["WEBVTT\n", *cues]))


@_format("srt", "{}.srt", per_threshold=True)
def _write_srt(path: Path, contents: Contents) -> None:
    """SubRip subtitles; nothing can be escaped, and an arrow in a label would look like times."""
    labels = [field(e.label).replace("-->", "->") for e in contents.detection.events]
    cues = [_cue(e, ",", label) for e, label in zip(contents.detection.events, labels, strict=True)]
    _write_text(path, "\n".join(f"{i}\n{cue}" for i, cue in enumerate(cues, start=1)))


def _cue(event: Event, point: str, label: str) -> str:
    """Times and text of a subtitle."""
    return f"{_clock(event.onset, point)} --> {_clock(event.offset, point)}\n{label} ({event.mean_score:.2f})\n"


def _clock(time: float, point: str) -> str:
    milliseconds = round(float(seconds(time)) * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"


@_format("label_studio", "{}.label_studio.json", per_threshold=False)
def _write_label_studio(path: Path, contents: Contents) -> None:
    """One task of Label Studio with pre-annotations, a prediction for each threshold; audio from its local files."""
    predictions = [
        {
            "model_version": f"EfficientSED, threshold {name}",
            "score": round(float(np.mean([e.mean_score for e in table])), 4) if len(table) else 0.0,
            "result": [_region(contents, e, f"{name}_{i}") for i, e in enumerate(table)],
        }
        for name, table in contents.detection.tables.items()
    ]
    place = "/data/local-files/?d=" + quote(os.fsencode(contents.filename))
    task = {"data": {"audio": place}, "predictions": predictions}
    _write_text(path, json_text([task], indent=1) + "\n")


def _region(contents: Contents, event: Event, name: str) -> dict[str, object]:
    """A region of Label Studio; `label` and `audio` are the names of its controls in the template for sound events."""
    return {
        "id": name.replace(".", "-"),
        "from_name": "label",
        "to_name": "audio",
        "type": "labels",
        "original_length": round(contents.detection.duration, 6),
        "score": round(event.mean_score, 4),
        "value": {
            "start": float(seconds(event.onset)),
            "end": float(seconds(event.offset)),
            "channel": contents.detection.channel or 0,
            "labels": [event.label],
        },
    }


@_format("parquet", "{}.parquet", per_threshold=False)
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
