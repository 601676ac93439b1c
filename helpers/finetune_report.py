"""What came out of fine-tuning, as one HTML page that asks for nothing from outside, and as JSON."""

from __future__ import annotations

import base64
import csv
import io
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from config_finetune import EPOCHS
from data_util.audio import SAMPLE_RATE, DecodeError, read_part
from data_util.own_data import OwnData, Recording
from data_util.own_splits import balance
from errors import UserError
from helpers.backends import model_title
from helpers.cells import html_text as _text
from helpers.cells import markdown_text
from helpers.confusion_map import confusion_map
from helpers.finetune_scores import examine
from helpers.plots import hz_to_mel, log_mel
from helpers.report import picture
from helpers.run_folder import BEST, CARD_FILE, CONFIG_FILE, HISTORY_FILE, write_text
from helpers.svg_charts import line_chart, ticks
from helpers.tuning import read_tuning, score_recordings
from json_text import json_text
from models.checkpoints import read_checkpoint
from models.sed_model import load_model
from printable import printable

log = logging.getLogger("efficientsed")

TEMPLATE = Path(__file__).resolve().parent.parent / "resources" / "finetune_report.html"
PAGE, FIGURES = "report.html", "report.json"
EXCERPT_SECONDS = 20.0  # of a long recording: where most went wrong
CURVES = {
    "Loss": {"training": "train/frame_loss", "validation": "val/loss"},
    "PSDS1 on the validation recordings": {"": "val/psds1_macro_averaged"},
}
FEW_RECORDINGS = 5  # resampling fewer tells little about how recordings differ
PICTURE_HEIGHT = 130  # pixels of a spectrogram, as the page has it
MARKED_HZ = {250: "250 Hz", 1000: "1 kHz", 4000: "4 kHz"}
Estimate = Sequence[float | None]


def report_on(
    checkpoint: Path,
    folder: Path,
    data: OwnData,
    splits: Mapping[str, Sequence[Recording]],
    device: str,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """Score the test recordings as `inference.py` would, and write page and figures.

    Args:
        checkpoint: of our own training, with or without tuned decisions.
        folder: of the run.
        data: all recordings.
        splits: without test recordings, those for validation are reported on, and the page says so.
        device: to compute on.
        n_bootstrap: draws behind the confidence intervals.

    Returns:
        What `report.json` holds.

    Raises:
        UserError: the checkpoint does not know a class of the annotations.
    """
    name = "test" if any(r.events for r in splits["test"]) else "val"
    model, metadata = load_model(checkpoint), read_checkpoint(checkpoint)[1]
    unknown = [label for label in data.labels if label not in model.labels]
    if unknown:
        raise UserError(f"the checkpoint does not know {', '.join(unknown)}; its classes: {', '.join(model.labels)}")
    tuning = read_tuning(metadata, len(model.labels))
    scored = list(splits[name])
    scores = score_recordings(model, scored, device)
    figures = examine(scores, scored, model.labels, tuning, clip_labels=data.clip_labels, n_bootstrap=n_bootstrap)
    history = read_history(folder / HISTORY_FILE)
    notes = limits(len(scored), history)
    for note in notes:
        log.warning("note: %s", note)
    report = {
        "name": folder.name,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "model": model_title(model),
        "checkpoint": str(checkpoint),
        "scored": name,
        "clip_labels": data.clip_labels,
        "splits": {split: [r.name for r in recordings] for split, recordings in splits.items()},
        "balance": balance(data, splits),
        "notes": [*notes, *data.notes],
        **figures,
    }
    write_text(folder / FIGURES, json_text(report, indent=1) + "\n")
    recordings = {r.name: r for r in scored}
    write_text(folder / PAGE, render(report, history, recordings))
    write_text(folder / CARD_FILE, model_card(report))
    log.info("%s", summary(report))
    log.info("report: %s", folder / PAGE)
    return report


def limits(n_scored: int, history: Sequence[Mapping[str, float]]) -> list[str]:
    """Why figures of so few recordings, or of so short a training, say little; nothing where they are fine.

    Args:
        n_scored: recordings that the figures are of.
        history: figures per epoch, as `read_history` gives them.
    """
    notes = []
    if n_scored < FEW_RECORDINGS:
        notes.append(
            f"the figures are of {n_scored} recording{'s'[: n_scored != 1]}: intervals over fewer than "
            f"{FEW_RECORDINGS} are narrower than the truth; more, shorter recordings say more"
        )
    chosen = _chosen(history)
    if chosen and chosen is history[-1] and len(history) < EPOCHS:
        notes.append(
            f"the last of {len(history)} epochs was the best one: a longer training (--n_epochs; the default is "
            f"{EPOCHS}) is likely to do better"
        )
    return notes


def read_history(path: Path) -> list[dict[str, float]]:
    """Figures per epoch of a run; nothing where it has none."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def summary(report: Mapping[str, Any]) -> str:
    """The main figures as text."""
    labels = [printable(row["label"]) for row in report["classes"]]
    width = max(map(len, labels))
    lines = [f"{report['scored']} recordings: {report['recordings']}, with 95 % intervals"]
    for title, key in HEADLINES:
        lines.append(f"  {title:<{max(width, 24)}}  {_interval(report[key])}")
    scores = (_interval(row["event_f1"]) for row in report["classes"])
    lines += [f"  {label:<{max(width, 24)}}  {score}" for label, score in zip(labels, scores, strict=True)]
    return "\n".join(lines)


def model_card(report: Mapping[str, Any]) -> str:
    """A page about the detector: what it knows, from what, how well, how to use it."""
    sizes = ", ".join(f"{len(names)} {name}" for name, names in report["splits"].items())
    rows = [(row["label"], row["events"], row["event_f1"], row["segment_f1"]) for row in report["classes"]]
    table = "\n".join(
        f"| {markdown_text(str(label).replace('|', '/'))} | {n} | {_interval(event)} | {_interval(segment)} |"
        for label, n, event, segment in rows
    )
    return f"""# {markdown_text(report["name"])}

{markdown_text(report["model"])}: {len(rows)} classes of sounds, at 25 frames per second from 16 kHz audio.

- Training: `ex_finetune.py` on own recordings ({sizes}); options: `{CONFIG_FILE}`
- Figures: of {report["recordings"]} {report["scored"]} recordings, with 95 % intervals; more in `{PAGE}`
- Limits: other microphones, places and sounds than those of the recordings may do worse

| class | events | event F1 | F1 of 1-s segments |
| --- | --- | --- | --- |
{table}

Use: `python inference.py --checkpoint={BEST} --audio_file=FILE`
"""


HEADLINES = (("Event F1", "event_f1"), ("F1 of 1-s segments", "segment_f1"), ("PSDS1", "psds1"))


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(estimate: Estimate) -> str:
    value, low, high = (_number(part) for part in estimate)
    return value if low == "-" else f"{value} ({low} to {high})"


# ---- the page -------------------------------------------------------------------------------------------------


def render(
    report: Mapping[str, Any], history: Sequence[Mapping[str, float]], recordings: Mapping[str, Recording]
) -> str:
    """The page; whatever names say, they stay text.

    Args:
        report: from `report_on`.
        history: figures per epoch.
        recordings: those that are scored, by name.
    """
    parts = {
        "TITLE": _text(report["name"]),
        "ABOUT": _about(report),
        "HEADLINES": "".join(_tile(title, report[key]) for title, key in HEADLINES),
        "CLASSES": _class_table(report["classes"]),
        "CONFUSION": confusion_map(report["confusion"], [row["label"] for row in report["classes"]]),
        "CURVES": _curves(history),
        "WORST": "".join(_worst_clip(entry, recordings) for entry in report["worst"]) or "<p>No errors at all.</p>",
        "BALANCE": _balance_table(report["balance"]),
        "NOTES": "".join(f"<li>{_text(note)}</li>" for note in report["notes"]) or "<li>Nothing to note.</li>",
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    pieces = page.split("<!-- ")  # replaced one by one: what is put in is never searched again
    return pieces[0] + "".join(_fill(piece, parts) for piece in pieces[1:])


def _fill(piece: str, parts: Mapping[str, str]) -> str:
    name, _, rest = piece.partition(" -->")
    return parts[name] + rest if name in parts else f"<!-- {piece}"


def _about(report: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{len(names)} {name}" for name, names in report["splits"].items())
    scored = {"test": "test recordings, which training has not seen", "val": "validation recordings"}[report["scored"]]
    lines = [f"{_text(report['model'])} · recordings: {sizes} · {_text(report['written'][:16].replace('T', ' '))}"]
    lines.append(f"Figures are of {report['recordings']} {scored} ({report['seconds'] / 60:.1f} minutes).")
    if report["scored"] == "val":
        lines.append("<strong>They are too good: thresholds were tuned on these recordings.</strong>")
    if report["clip_labels"]:
        lines.append("Only the class of each recording is known: an event stands for a recording.")
    return "".join(f"<p>{line}</p>" for line in lines)


def _tile(title: str, estimate: Estimate) -> str:
    value, low, high = estimate
    span = "" if low is None else f"95 %: {_number(low)} to {_number(high)}"
    return f'<div class="tile"><span>{_text(title)}</span><b>{_number(value)}</b><span>{span}</span></div>'


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers. Cells are HTML."""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _class_table(classes: Sequence[Mapping[str, Any]]) -> str:
    header = (
        "Class",
        "Events",
        "Event F1",
        "95 %",
        "Precision",
        "Recall",
        "Segment F1",
        "PSDS1",
        "Threshold",
        "Median",
    )
    rows = [
        (
            _text(row["label"]),
            str(row["events"]),
            f"<b>{_number(row['event_f1'][0])}</b>",
            _whisker(row["event_f1"]),
            _number(row["precision"]),
            _number(row["recall"]),
            _number(row["segment_f1"][0]),
            _number(row["psds1"]),
            _number(row["threshold"], 3),
            f"{row['median_window'] / 25:.2f} s",
        )
        for row in classes
    ]
    return _table(header, rows)


def _whisker(estimate: Estimate) -> str:
    """An estimate and its interval on a line from 0 to 1."""
    value, low, high = estimate
    if value is None or low is None or high is None:
        return ""
    bar = f'<i style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></i>'
    point = f'<u style="left:{100 * value:.1f}%"></u>'
    return f'<span class="whisker" title="{_number(low)} to {_number(high)}">{bar}{point}</span>'


def _balance_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["Class", *(name.capitalize() for name in rows[0] if name != "label")]
    return _table(header, [[_text(value) for value in row.values()] for row in rows])


def _chosen(history: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """The epoch whose state is kept; None where none was validated."""
    return max((row for row in history if "val/choice" in row), key=lambda row: row["val/choice"], default=None)


def _curves(history: Sequence[Mapping[str, float]]) -> str:
    if not history:
        return "<p>This report is about a checkpoint; its training left no curves here.</p>"
    chosen = _chosen(history)
    kept = chosen["epoch"] if chosen else None
    charts = []
    for title, curves in CURVES.items():
        lines = {name: [(r["epoch"], r[key]) for r in history if key in r] for name, key in curves.items()}
        charts.append(f"<figure><figcaption>{title}</figcaption>{line_chart(lines, kept)}</figure>")
    return "".join(charts)


# ---- clips to listen to ---------------------------------------------------------------------------------------


def _worst_clip(entry: Mapping[str, Any], recordings: Mapping[str, Recording]) -> str:
    start, seconds = excerpt(entry["true"], entry["detected"], entry["duration"])
    what = f"{entry['missed']:.1f} s missed, {entry['false']:.1f} s detected wrongly"
    if seconds < entry["duration"]:
        what += f"; shown: {start:.0f} s to {start + seconds:.0f} s of {entry['duration']:.0f} s"
    title = f"<h3>{_text(entry['name'])}</h3><p>{what}</p>"
    try:
        recording = recordings[entry["name"]]
        audio = read_part(recording.path, start, seconds, recording.channel)
    except DecodeError as error:
        return f"<article>{title}<p>It cannot be read again: {_text(error)}</p></article>"
    lanes = "".join(
        _lane(label, entry, start, seconds) for label in sorted({e[2] for e in (*entry["true"], *entry["detected"])})
    )
    return (
        f'<article>{title}<div class="heard"><img alt="spectrogram" src="{picture(log_mel([audio], seconds))}">'
        f"{_frequencies()}{_times(start, seconds)}{lanes}</div>"
        f'<audio controls preload="none" src="{sound(audio)}"></audio></article>'
    )


def _frequencies() -> str:
    """The axis of frequency, left of the spectrogram."""
    top = float(hz_to_mel(SAMPLE_RATE / 2))
    places = {text: PICTURE_HEIGHT * (1 - float(hz_to_mel(hz)) / top) for hz, text in MARKED_HZ.items()}
    return "".join(f'<span class="hz" style="top:{place:.0f}px">{text}</span>' for text, place in places.items())


def _times(start: float, seconds: float) -> str:
    """The axis of time beneath the spectrogram: seconds since the recording began."""
    marks = ""
    for t in ticks(start, start + seconds, 5):
        place = (t - start) / seconds
        if 0 <= place <= 1:
            kind = ' class="first"' if place < 0.04 else ' class="last"' if place > 0.96 else ""
            marks += f'<span{kind} style="left:{100 * place:.2f}%">{t:g} s</span>'
    return f'<div class="axis">{marks}</div>'


def _lane(label: str, entry: Mapping[str, Any], start: float, seconds: float) -> str:
    """True events of a class above, detected ones below, on the time axis of the picture."""
    bars = ""
    for kind in ("true", "detected"):
        for onset, offset, name in entry[kind]:
            left, right = ((np.clip((t - start) / seconds, 0, 1)) * 100 for t in (onset, offset))
            if name == label and right > left:
                title = f"{kind}: {_text(label)}, {onset:.2f} s to {offset:.2f} s"
                bars += f'<i class="{kind}" style="left:{left:.2f}%;width:{right - left:.2f}%" title="{title}"></i>'
    return f'<div class="lane">{bars}<span title="{_text(label)}">{_text(label)}</span></div>'


def excerpt(true: Sequence[Any], detected: Sequence[Any], duration: float) -> tuple[float, float]:
    """Start and length of the part of a recording in which most went wrong."""
    if duration <= EXCERPT_SECONDS:
        return 0.0, duration
    wrong = np.zeros(int(duration) + 1)
    for label in {event[2] for event in (*true, *detected)}:
        tracks = []
        for events in (true, detected):
            track = np.zeros(len(wrong), bool)
            for onset, offset, name in events:
                track[int(onset) : int(np.ceil(offset))] |= name == label
            tracks.append(track)
        wrong += tracks[0] != tracks[1]
    sums = np.convolve(wrong, np.ones(int(EXCERPT_SECONDS)), mode="valid")
    return min(float(np.argmax(sums)), duration - EXCERPT_SECONDS), EXCERPT_SECONDS


def sound(audio: np.ndarray) -> str:
    """Samples [n] at 16 kHz as FLAC in a data URL."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(audio, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
