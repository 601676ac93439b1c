"""From the scores of one audio's windows to its events: options, the running pass, and the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from config import option, refuse
from helpers.audio_reader import SAMPLE_RATE
from helpers.chunking import RunningFilter, ScoreBlender, WindowPlan
from helpers.classes import ClassName
from helpers.events import RECORD_FIELDS, EventDecoder, EventTable, make_record, make_table, to_frames
from helpers.thresholds import parse_thresholds, require_one_number
from json_text import json_text

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_THRESHOLDS = (0.1, 0.2, 0.5)
DEFAULT_THRESHOLD = 0.5  # of the other classes, where some have thresholds of their own
DEFAULT_MEDIAN_WINDOW = 9
NO_NUMBERS = "the network gives scores that are not numbers: the audio is far too loud, or the precision too low"
CLASS_THRESHOLDS = "class"  # name of the list of events where each class has its own threshold

ScoreSink = Callable[[np.ndarray], None]


@dataclass
class DetectionOptions:
    """How frame scores are computed and turned into events."""

    detection_thresholds: list[str] | None = option(
        None,
        "scores above it are events, 0 to 1; each number gives its own list, CLASS=NUMBER is for one class, e.g. "
        "0.5 Dog=0.3 (default: one per class where the checkpoint holds tuned ones, else 0.1 0.2 0.5)",
    )
    thresholds: Path | None = option(
        None, "table of thresholds per class: CSV or TSV with the columns label (name or MID) and threshold"
    )
    median_window: int | None = option(
        None,
        "frames (40 ms each) of the median filter, odd; 1: none (default: the checkpoint's own, else 9)",
        low=1,
        high=9999,
    )
    hysteresis: float = option(1.0, "an event goes on above this share of its threshold; 1: off", low=0, high=1)
    min_duration: float = option(0.0, "shortest event, seconds", low=0)
    max_gap: float = option(0.0, "gaps within an event that are bridged, seconds", low=0)
    include: list[str] | None = option(
        None, "only these classes: names (with all beneath them in AudioSet's ontology), groups, MIDs, or =Name"
    )
    exclude: list[str] | None = option(None, "without these classes: as --include")
    top_k: int | None = option(None, "keep the events of so many classes per audio, those with the best scores", low=1)
    window: float = option(10.0, "seconds that the network hears at once", low=1, high=3600)
    overlap: float = option(2.0, "seconds that windows share, blended; 0: the published chunks side by side", low=0)
    batch_size: int = option(8, "windows per call of the network", low=1)

    def check(self) -> None:
        """Raise UserError where values do not go together."""
        numbers, by_class = self.split_thresholds()
        if by_class or self.thresholds is not None:
            require_one_number(numbers)
        if self.median_window is not None and self.median_window % 2 == 0:
            refuse("median_window", self.median_window, "must be odd")
        if self.overlap > self.window / 2:
            refuse("overlap", self.overlap, f"must be at most half the window of {self.window:g} s")

    def split_thresholds(self) -> tuple[list[float], dict[str, float]]:
        """The numbers, rising, and the thresholds by class that `detection_thresholds` names."""
        return ([], {}) if self.detection_thresholds is None else parse_thresholds(self.detection_thresholds)

    @property
    def plan(self) -> WindowPlan:
        """How the windows lie over the audio."""
        return WindowPlan(to_frames(self.window), to_frames(self.overlap))


def detection_options(options: DetectionOptions) -> dict[str, Any]:
    """The fields of `DetectionOptions` in the options of a script that extends them."""
    return {f.name: getattr(options, f.name) for f in fields(DetectionOptions)}


class Smoother:
    """Median filter over scores [C, T] in blocks.

    The compiled filter is 30 times as fast as SciPy's, but takes half a second to be ready: too much for one file.

    Arguments:
        window: frames, one for all classes or one per class.
    """

    scipy_frames = 3000  # until so many have been filtered, SciPy does it

    def __init__(self, window: int | Sequence[int]) -> None:
        self.window = window
        self.reach = int(np.max(window)) // 2
        self._n_frames = 0

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The filtered scores, mirrored at both ends."""
        if self.reach == 0:
            return scores
        self._n_frames += scores.shape[1]
        if self._n_frames > self.scipy_frames:
            from helpers.postprocess import median_filter

            return median_filter(scores, self.window)
        from scipy import ndimage

        windows = np.broadcast_to(self.window, len(scores))
        smooth = np.empty_like(scores)
        for window in np.unique(windows):
            smooth[windows == window] = ndimage.median_filter(scores[windows == window], (1, window), mode="reflect")
        return smooth


@dataclass
class Decoding:
    """How frame scores become events, with everything that the model and its classes decide.

    Arguments:
        classes: name and MID of each class that is kept [C].
        thresholds: threshold of each class [C], by the name of the list of events it gives.
        median_window: frames, one for all classes or [C].
        hysteresis, min_duration, max_gap, top_k: as in `DetectionOptions`.
    """

    classes: Sequence[ClassName]
    thresholds: dict[str, np.ndarray]
    median_window: int | Sequence[int] = DEFAULT_MEDIAN_WINDOW
    hysteresis: float = 1.0
    min_duration: float = 0.0
    max_gap: float = 0.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        self.smooth = Smoother(self.median_window)

    def decoders(self) -> dict[str, EventDecoder]:
        """A fresh decoder for each list of events."""
        return {
            name: EventDecoder(
                high,
                high * np.float32(self.hysteresis),
                min_frames=max(1, to_frames(self.min_duration)),
                max_gap=to_frames(self.max_gap),
            )
            for name, high in self.thresholds.items()
        }

    def table(self, name: str, runs: Sequence[np.ndarray], duration: float | None = None) -> EventTable:
        """The table of a decoder's runs."""
        events = make_table(np.concatenate(runs), self.classes, self.thresholds[name], duration=duration)
        return events if self.top_k is None else keep_top_classes(events, self.top_k)


def keep_top_classes(events: EventTable, k: int) -> EventTable:
    """The events of the k classes whose best event has the highest peak score."""
    best = np.full(len(events.classes), -1.0, np.float32)
    np.maximum.at(best, events.cls, events.peak_score)
    top = np.argsort(-best, kind="stable")[:k]
    return events.select(np.isin(events.cls, top))


@dataclass
class Detection:
    """What was found in one audio.

    Attributes:
        name: of the file, or of the `Audio`.
        duration: seconds.
        classes: name and MID of every class that was looked for.
        tables: the events, by the name of their threshold ("0.5", or "class" for one per class), rising.
        tags: probability of each class of the weak head somewhere in the audio [Cw], the highest of all windows.
        channel: of the audio, counted from 0; None: the mean of all.
        scores: frame scores after the median filter, float32 [C, T]; None unless they were asked for.
        notes: what is odd about the audio, such as an end that is missing.
        thresholds: threshold of each class [C], by the name of its table.
    """

    name: str
    duration: float
    classes: Sequence[ClassName]
    tables: dict[str, EventTable]
    tags: np.ndarray
    channel: int | None = None
    scores: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    thresholds: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(table)} above {name}" for name, table in self.tables.items())
        return f"Detection('{self.name}', {self.duration:.2f} s, events: {counts})"

    def records(self, filename: str | None = None) -> list[dict[str, Any]]:
        """The events of all tables as flat records (`helpers.events.make_record`).

        `filename` is what the audio is called there; by default the name of its file without folders.
        """
        called = Path(self.name).name if filename is None else filename
        return [
            make_record(event, called, self.channel, name) for name, table in self.tables.items() for event in table
        ]

    def to_dict(self, filename: str | None = None, tags: Sequence[tuple[ClassName, float]] = ()) -> dict[str, Any]:
        """What `--format json` writes: the audio, its thresholds, tags, and the records of each table.

        A threshold is a number where it is the same for all classes, else a dictionary of numbers by class.
        """
        records = self.records(filename)
        return {
            "filename": Path(self.name).name if filename is None else filename,
            "duration": round(self.duration, 6),
            "channel": "mix" if self.channel is None else self.channel + 1,
            "thresholds": {name: self._threshold(values) for name, values in self.thresholds.items()},
            "tags": [{"label": about.label, "mid": about.mid, "probability": round(p, 4)} for about, p in tags],
            "events": {name: [r for r in records if r["threshold_name"] == name] for name in self.tables},
        }

    def to_json(self, filename: str | None = None) -> str:
        """`to_dict` as JSON."""
        return json_text(self.to_dict(filename))

    def to_dataframe(self, filename: str | None = None) -> pd.DataFrame:
        """The events of all tables as a pandas data frame, one row each, in the columns of `--format csv`."""
        import pandas as pd

        return pd.DataFrame(self.records(filename), columns=list(RECORD_FIELDS))

    def _threshold(self, values: np.ndarray) -> float | dict[str, float]:
        numbers = [round(float(value), 4) for value in values]
        if len(set(numbers)) == 1:
            return numbers[0]
        return {about.label: number for about, number in zip(self.classes, numbers, strict=True)}

    @property
    def events(self) -> EventTable:
        """The events at the first, lowest threshold."""
        return next(iter(self.tables.values()))


@dataclass
class ClipPass:
    """One audio on its way from the scores of its windows to its events, in bounded memory.

    Arguments:
        name, channel: as in `Detection`.
        plan: how its windows lie.
        decoding: what becomes of the scores.
        keep_scores: put them into the result.
        sink: called with each block of them, in order.
    """

    name: str
    plan: WindowPlan
    decoding: Decoding
    channel: int | None = None
    keep_scores: bool = False
    sink: ScoreSink | None = None
    _scores: list[np.ndarray] = field(default_factory=list)
    _tags: np.ndarray | float = 0.0

    def __post_init__(self) -> None:
        self._blender = ScoreBlender(self.plan)
        self._smoother = RunningFilter(self.decoding.smooth, self.decoding.smooth.reach)
        self._decoders = self.decoding.decoders()
        self._runs: dict[str, list[np.ndarray]] = {name: [] for name in self._decoders}

    def add(self, start: int, strong: np.ndarray, weak: np.ndarray) -> None:
        """Take the scores of the window that starts at frame `start`: [C, T] and [Cw]."""
        self._tags = np.maximum(self._tags, weak)
        self._decode(self._smoother.push(self._blender.add(start, strong)))

    def finish(self, n_samples: int, notes: tuple[str, ...] = ()) -> Detection:
        """The result, after the last window of an audio of so many samples; `notes` as in `Detection`."""
        self._decode(self._smoother.push(self._blender.finish(self.plan.count_frames(n_samples))))
        self._decode(self._smoother.finish())
        duration = n_samples / SAMPLE_RATE
        tables = {
            name: self.decoding.table(name, [*self._runs[name], decoder.finish()], duration)
            for name, decoder in self._decoders.items()
        }
        scores = np.concatenate(self._scores, axis=1) if self.keep_scores else None
        tags = np.asarray(self._tags, np.float32)
        return Detection(
            self.name,
            duration,
            self.decoding.classes,
            tables,
            tags,
            self.channel,
            scores,
            notes,
            self.decoding.thresholds,
        )

    def _decode(self, scores: np.ndarray) -> None:
        if scores.shape[1] == 0:
            return
        if self.keep_scores:
            self._scores.append(scores)
        if self.sink is not None:
            self.sink(scores)
        for name, decoder in self._decoders.items():
            self._runs[name].append(decoder.push(scores))
