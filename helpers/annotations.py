"""Annotations to draw beside detected events, in any format that this project reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from data_util.annotation_formats import read_events
from data_util.clip_names import ClipNames
from data_util.own_annotations import COLUMNS
from data_util.own_data import finder
from errors import UserError, reading
from helpers.outputs import TrueEvents, events_by_audio, read_true_events
from printable import printable

_TABLE = ("onset", "offset", "label")


def read_annotations(path: Path, audio: Mapping[str, str]) -> dict[str, TrueEvents]:
    """Read annotations: a table in DCASE form or that of AudioSet Strong, or any of `data_util.annotation_formats`.

    Args:
        path: of the file.
        audio: name of each audio, with the path of its file. A file that names no recording is about the only audio,
            or about the one that is called like it.

    Returns:
        Events of each audio that has some, by its name.

    Raises:
        UserError: as `helpers.outputs.read_true_events`, and what the reader of the format refuses.
    """
    with reading(path, "the true events"), path.open("rb") as file:
        header = file.readline().decode("utf-8-sig", "replace")
    names = {name.strip().lower() for name in header.split("\t")}
    if "segment_id" in names or {"onset", "offset", "event_label"} <= names:
        return read_true_events(path, audio)
    alone = next(iter(audio)) if len(audio) == 1 else None
    notes: dict[str, list[str]] = {}
    options: dict[str, object] = {"find": finder(ClipNames(audio)), "notes": notes}
    if alone is not None:
        options |= {"name": alone, "beside": _names_no_file(header)}
    found: dict[str, TrueEvents] = {}
    for row in read_events(path, "the true events", **options):
        events = found.setdefault(row.name, TrueEvents([], [], []))
        if row.label:
            events.add(TrueEvents([row.onset], [row.offset], [row.label]))
    for what, about in notes.items():
        print(printable(f"true events '{path}': {what}" + (f" ({', '.join(about)})" if about else "")), file=sys.stderr)
    if not found:
        raise UserError(f"true events '{path}' hold no annotations")
    return events_by_audio(found, audio, f"true events '{path}'")


def _names_no_file(header: str) -> bool:
    """Whether a first line is that of a table without a column of file names."""
    separator = max("\t;,", key=header.count)
    names = {name.strip(' "\r\n').lower() for name in header.split(separator)}
    return all(not names.isdisjoint(COLUMNS[kind]) for kind in _TABLE) and names.isdisjoint(COLUMNS["filename"])
