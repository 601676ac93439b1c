"""Predicted events of a downstream task as HEAR writes them (JSON, milliseconds) and as DCASE does (TSV, seconds)."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers.onset_scores import Event
from helpers.run_folder import write_text
from json_text import json_text


def write_predictions(path: Path, events: Mapping[str, Sequence[Event]]) -> None:
    """Write PATH.json (file -> list of label, start, end) and PATH.tsv (filename, onset, offset, event_label).

    Args:
        path: without suffix.
        events: file name -> (onset s, offset s, class name); files without events stay as empty lists in the JSON.
    """
    in_ms = {
        name: [{"label": label, "start": round(a * 1000, 3), "end": round(b * 1000, 3)} for a, b, label in found]
        for name, found in events.items()
    }
    write_text(path.with_suffix(".json"), json_text(in_ms, indent=1) + "\n")
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(("filename", "onset", "offset", "event_label"))
    writer.writerows((name, f"{a:.3f}", f"{b:.3f}", label) for name, found in events.items() for a, b, label in found)
    write_text(path.with_suffix(".tsv"), text.getvalue())
