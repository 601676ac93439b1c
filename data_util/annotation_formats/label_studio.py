"""Exports of Label Studio: JSON, JSON-MIN, and CSV or TSV (whose cells hold the regions), many recordings in one file.

Format: https://labelstud.io/guide/export
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data_util.audio_folders import is_audio_name
from data_util.own_annotations import (
    Row,
    Source,
    checked_event,
    last_part,
    refuse_control,
    refuse_surplus,
    separator_of,
)
from errors import UserError

_CSV_MARKS = {"annotation_id", "lead_time"}  # columns that only its tables have
_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # put before the names of files that were uploaded
NOT_ANNOTATED = "tasks that nobody has annotated (predictions alone do not count), left out"


def fits(text: str) -> bool:
    """Whether it looks like JSON."""
    return text.lstrip()[:1] in ("[", "{")


def rows(source: Source) -> list[Row]:
    """Rows of all regions of all annotations that were submitted; a task with none says that nothing happens in it.

    Raises:
        UserError: no JSON, no export of Label Studio, a region without label, bad times.
    """
    source.refuse_group_column()
    try:
        content = json.loads(source.text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"cannot read {source.path}: it is not JSON ({str(error)[:80]})") from None
    return _rows(source, content if isinstance(content, list) else [content])


def fits_csv(text: str) -> bool:
    """Whether the header is that of a table of Label Studio."""
    header = text.split("\n", 1)[0]
    return {name.strip(' "\r') for name in header.split(separator_of(header))} >= _CSV_MARKS


def rows_csv(source: Source) -> list[Row]:
    """Rows of all regions; a line is an annotation as in JSON-MIN, its lists are JSON.

    Raises:
        UserError: a list that is no JSON; as `rows`.
    """
    source.refuse_group_column()
    table = csv.DictReader(io.StringIO(source.text, newline=""), delimiter=separator_of(source.text), strict=True)
    tasks = []
    for record in table:
        where = f"{source.path}, line {table.line_num}"
        refuse_surplus(record, where, "export the project as JSON")
        try:
            tasks.append({name: _value(cell or "") for name, cell in record.items() if cell})
        except (ValueError, RecursionError):
            raise UserError(f"{where}: a cell begins as a list and is no JSON; export the project as JSON") from None
    return _rows(source, tasks)


def _value(cell: str) -> Any:
    return json.loads(cell) if cell.startswith("[") else cell


def _rows(source: Source, tasks: list[Any]) -> list[Row]:
    """Rows of tasks in any of the forms."""
    found: list[Row] = []
    controls: set[str] = set()
    for number, task in enumerate(tasks, start=1):
        where = f"{source.path}, task {task.get('id', number) if isinstance(task, dict) else number}"
        try:
            found += _task_rows(task, source, where, controls)
        except (KeyError, TypeError, AttributeError):
            raise UserError(f"{where}: not as Label Studio exports it; export the project as JSON") from None
    if NOT_ANNOTATED in source.notes and not found:
        raise UserError(f"{source.path} holds no annotations, only tasks that nobody has annotated: export them later")
    if source.label_column is not None and controls and source.label_column not in controls:
        names = ", ".join(sorted(controls))
        raise UserError(f"--label_column is {source.label_column}: {source.path} has labels from {names}")
    return found


def _task_rows(task: dict[str, Any], source: Source, where: str, controls: set[str]) -> Iterator[Row]:
    minimal = "data" not in task
    name = _recording(task if minimal else task["data"], source, where)
    if minimal:
        regions = [(key, region) for key, value in task.items() if _is_regions(value) for region in value]
    else:
        done = [a for a in task.get("annotations", task.get("completions", ())) if not a.get("was_cancelled")]
        if not done:
            source.note(NOT_ANNOTATED, name)
            return
        regions = [(r["from_name"], dict(r["value"])) for a in done for r in a["result"] if "from_name" in r]
    yield Row(name, where)
    for control, region in regions:
        lists = [value for key, value in region.items() if key.endswith("labels")]
        if "start" not in region or not lists:
            source.note("results of Label Studio that are not regions with labels, left out", control)
            continue
        controls.add(control)
        if source.label_column not in (None, control):
            continue
        for label in [label for labels in lists for label in _list(labels)] or [""]:
            times = (repr(region["start"]), repr(region["end"]))
            yield Row(name, where, *checked_event(*times, label.strip(), where))


def _list(labels: object) -> list[Any]:
    if not isinstance(labels, list):
        raise TypeError("not a list of labels")
    return labels


def _is_regions(value: object) -> bool:
    """Whether a value of JSON-MIN is a list of regions."""
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _recording(data: dict[str, Any], source: Source, where: str) -> str:
    """The recording of a task: the first value that names an audio file."""
    places = [_place(value) for value in (data.get("audio"), *data.values()) if isinstance(value, str)]
    place = next((place for place in places if is_audio_name(place)), None)
    if place is None:
        raise UserError(f"{where}: names no audio file; expected one under data, audio")
    refuse_control(place, "file name", where)
    base = last_part(place)
    tries = (place, _UPLOAD.sub("", base)) if _UPLOAD.match(base) else (place,)
    return next((found for name in tries if (found := source.find(name, where))), _UPLOAD.sub("", base))


def _place(url: str) -> str:
    """Path in an address: of local files, what `d` says; of a URL, its path; else the text."""
    parts = urlsplit(url) if re.match(r"[a-z0-9]+://|/data/", url) else None
    if parts is None:
        return url
    local = parse_qs(parts.query.replace("+", "%2B")).get("d")  # a plus is a plus there
    return local[0] if local else unquote(parts.path)
