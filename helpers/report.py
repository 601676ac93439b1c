"""One HTML page per recording or folder: hear, see and filter what was detected; it asks for nothing from outside."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helpers.audio_reader import SAMPLE_RATE, Source, read_blocks
from helpers.detection import CLASS_THRESHOLDS, Decoding, Detection
from helpers.event_files import Tags
from helpers.events import FRAME_RATE
from helpers.outputs import OutputFolder, TrueEvents
from helpers.plots import DYNAMIC_RANGE, log_mel
from json_text import json_text
from printable import printable

TEMPLATE = Path(__file__).resolve().parent.parent / "resources" / "report.html"
PLACEHOLDER = "<!-- DATA -->"
PER_PAGE = 100  # recordings ...
PAGE_CHARACTERS = 60_000_000  # ... that hold this much together, or one that holds more
MAX_CURVES = 60  # classes with a score curve: those with the highest peaks ...
MIN_PEAK = 0.05  # ... that reach this
MAX_FRAMES = 90_000  # of a curve: an hour at full resolution
MAX_COLUMNS = 8000  # of the spectrogram
FLAC_SECONDS = 300.0  # longer audio is embedded as MP3
MAX_AUDIO_SECONDS = 3 * 3600.0  # longer audio is left out


class CurveStore:
    """Score curves in 8 bits; for long audio the maxima of neighbouring frames, so that memory stays bounded."""

    def __init__(self, n_classes: int) -> None:
        self.pooled = 1  # frames that one value stands for
        self._blocks: list[np.ndarray] = []
        self._rest = np.zeros((n_classes, 0), np.uint8)  # frames that do not fill a value yet

    def add(self, scores: np.ndarray) -> None:
        """Take the next scores [C, t] in [0, 1]."""
        frames = np.concatenate([self._rest, np.round(scores * 255).astype(np.uint8)], axis=1)
        whole = frames.shape[1] - frames.shape[1] % self.pooled
        self._blocks.append(_pool(frames[:, :whole], self.pooled))
        self._rest = frames[:, whole:]
        while sum(block.shape[1] for block in self._blocks) > MAX_FRAMES:
            values = np.concatenate(self._blocks, axis=1)
            odd = values.shape[1] % 2
            if odd:  # the value that has no partner yet goes back to the frames
                self._rest = np.concatenate([np.repeat(values[:, -1:], self.pooled, 1), self._rest], axis=1)
            self.pooled *= 2
            self._blocks = [_pool(values[:, : values.shape[1] - odd], 2)]

    def curves(self) -> np.ndarray:
        """All curves, uint8 [C, values]."""
        rest = self._rest.max(axis=1, keepdims=True) if self._rest.shape[1] else self._rest
        return np.concatenate([*self._blocks, rest], axis=1)


def _pool(values: np.ndarray, n: int) -> np.ndarray:
    return values if n == 1 else values.reshape(len(values), -1, n).max(axis=2)


@dataclass
class ReportPages:
    """Pages of recordings, written as they fill up: NAME.html, NAME-2.html, ...

    Arguments:
        folder: where to.
        name: of the first page, without ending.
        decoding: how the events were found.
        model: what found them, for the reader.
    """

    folder: OutputFolder
    name: str
    decoding: Decoding
    model: str

    def __post_init__(self) -> None:
        self._recordings: list[tuple[dict[str, str], str]] = []
        self.written: list[Path] = []

    def add(
        self,
        source: Source,
        detection: Detection,
        curves: CurveStore,
        tags: Tags,
        true: TrueEvents | None,
        name: str | None = None,
    ) -> None:
        """Take one recording, under a name; a page that is full, or would be too large with it, is written."""
        recording = describe(source, detection, curves, self.decoding, tags, true, name)
        about = {"name": recording["name"], "events": str(len(recording["lists"][-1]["events"]))}
        script = _as_script(recording)
        if len(script) + sum(len(other) for _, other in self._recordings) > PAGE_CHARACTERS:
            self.close()
        self._recordings.append((about, script))
        if len(self._recordings) == PER_PAGE:
            self.close()

    def close(self) -> None:
        """Write what has not been written."""
        if self._recordings:
            self._recordings.sort(key=lambda recording: _natural(recording[0]["name"]))  # readers overtake each other
            number = len(self.written) + 1
            name = f"{self.name}.html" if number == 1 else f"{self.name}-{number}.html"
            page = make_page(self._recordings, self.model)
            self.written.append(self.folder.write_text(name, page))
            self._recordings = []


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts clip 2 before clip 10."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"([0-9]+)", name)]


def make_page(recordings: Sequence[tuple[dict[str, str], str]], model: str) -> str:
    """The page: the template with an index and the data of each recording in script elements that are never run."""
    index = _as_script({"model": model, "recordings": [about for about, _ in recordings]})
    elements = [f'<script type="application/json" id="index">{index}</script>']
    for i, (_, data) in enumerate(recordings):
        elements.append(f'<script type="application/json" id="recording-{i}">{data}</script>')
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACEHOLDER, "\n".join(elements))


def _as_script(value: Any) -> str:
    """JSON that can stand inside a script element, whatever names it holds: no `<`, `>` or `&`."""
    text = json_text(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def describe(
    source: Source,
    detection: Detection,
    curves: CurveStore,
    decoding: Decoding,
    tags: Tags,
    true: TrueEvents | None,
    name: str | None = None,
) -> dict[str, Any]:
    """Everything that the page shows of one recording, under a name (that of its file by default)."""
    values = curves.curves()
    shown = _classes_to_show(detection, values)
    position = {c: i for i, c in enumerate(shown)}
    strictest = list(decoding.thresholds.values())[-1]
    classes = [
        {
            "label": printable(detection.classes[c].label),
            "mid": detection.classes[c].mid,
            "threshold": round(float(strictest[c]), 4),
            "curve": _base64(values[c].tobytes()),
        }
        for c in shown
    ]
    lists = [
        {
            "threshold": None if name == CLASS_THRESHOLDS else float(name),
            "events": [
                (
                    position[int(c)],
                    round(e.onset, 3),
                    round(e.offset, 3),
                    round(e.mean_score, 3),
                    round(e.peak_score, 3),
                )
                for c, e in zip(table.cls, table, strict=True)
            ],
        }
        for name, table in detection.tables.items()
    ]
    truth = zip(true.onset, true.offset, map(printable, true.label), strict=True) if true else ()
    return {
        "name": printable(name or Path(detection.name).name) + _channel_name(detection.channel),
        "duration": detection.duration,
        "frame": curves.pooled / FRAME_RATE,
        "classes": classes,
        "lists": lists,
        "rules": {
            "hysteresis": decoding.hysteresis,
            "min_duration": decoding.min_duration,
            "max_gap": decoding.max_gap,
            "top_k": decoding.top_k,
        },
        "tags": [(printable(name.label), round(p, 3)) for name, p in tags],
        "truth": list(truth),
        "spectrogram": picture(log_mel(read_blocks(source, detection.channel), detection.duration, MAX_COLUMNS)),
        "audio": _audio(source, detection),
    }


def _channel_name(channel: int | None) -> str:
    return "" if channel is None else f" (channel {channel + 1})"


def _classes_to_show(detection: Detection, values: np.ndarray) -> list[int]:
    """Classes with events, and those with the highest peaks."""
    peaks = values.max(axis=1, initial=0)
    best = np.argsort(-peaks.astype(int), kind="stable")[:MAX_CURVES]
    with_events = np.unique(np.concatenate([table.cls for table in detection.tables.values()]))
    return sorted({int(c) for c in best if peaks[c] >= MIN_PEAK * 255} | {int(c) for c in with_events})


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def picture(decibel: np.ndarray) -> str:
    """The spectrogram as a WebP picture in a data URL."""
    from matplotlib import colormaps
    from PIL import Image

    levels = np.round((decibel[::-1] / DYNAMIC_RANGE + 1) * 255).astype(np.uint8)
    colours = (colormaps["magma"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours[levels]).save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{_base64(file.getvalue())}"


def _audio(source: Source, detection: Detection) -> str | None:
    """What the network heard, 16 kHz mono, in a data URL; None where it is too long."""
    import soundfile

    if detection.duration > MAX_AUDIO_SECONDS:
        return None
    kind = ("FLAC", "PCM_16", "audio/flac") if detection.duration <= FLAC_SECONDS else ("MP3", None, "audio/mpeg")
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, subtype=kind[1], format=kind[0]) as writer:
        for block in read_blocks(source, detection.channel):
            writer.write(np.clip(block, -1, 1))
    return f"data:{kind[2]};base64,{_base64(file.getvalue())}"
