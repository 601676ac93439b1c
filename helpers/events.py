"""Events from frame scores: thresholds, hysteresis, minimum duration and gap merging, block by block."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from helpers.classes import ClassName
from json_text import json_text

if TYPE_CHECKING:
    import pandas as pd

FRAME_RATE = 25.0  # frames of every model per second

# One run of active frames of one class; `end` is the first frame after it.
RUN = np.dtype([("cls", "i4"), ("start", "i8"), ("end", "i8"), ("active", "i8"), ("total", "f8"), ("peak", "f4")])


# The fields of an event in JSON, CSV, Parquet, data frames and from streams (`make_record`), in this order.
RECORD_FIELDS = (
    "filename", "channel", "onset", "offset", "label", "mid", "mean_score", "peak_score", "threshold_name", "threshold",
)  # fmt: skip


class Event(NamedTuple):
    """One detected event: times in seconds, scores in [0, 1] over its active frames."""

    onset: float
    offset: float
    label: str
    mid: str
    mean_score: float
    peak_score: float
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """The event as in files: times rounded down to milliseconds, scores to four digits."""
        times = {"onset": rounded_down(self.onset), "offset": rounded_down(self.offset)}
        names = {"label": self.label, "mid": self.mid}
        scores = {name: round(getattr(self, name), 4) for name in ("mean_score", "peak_score", "threshold")}
        return {**times, **names, **scores}


def rounded_down(time: float) -> float:
    """A time in whole milliseconds, rounded down, so that no event ends after its audio."""
    return math.floor(time * 1000 + 1e-6) / 1000


def make_record(event: Event, filename: str, channel: int | None, threshold_name: str) -> dict[str, Any]:
    """One event as a flat record, the same in JSON, JSON lines, CSV, Parquet, data frames and from streams.

    Arguments:
        event: its times, names and scores.
        filename: of its audio.
        channel: of the audio, counted from 0; None: the mean of all. In the record it counts from 1, or is "mix".
        threshold_name: of the list of events that it is from.
    """
    values = event.to_dict()
    threshold = values.pop("threshold")
    about = {"filename": filename, "channel": "mix" if channel is None else channel + 1}
    return {**about, **values, "threshold_name": threshold_name, "threshold": threshold}


@dataclass(frozen=True)
class EventTable:
    """Events as columns, sorted by onset; iterating gives `Event` tuples.

    Arguments:
        classes: name and MID of every class of the model, in the order of its outputs.
        cls: class index of each event, int [N].
        onset, offset: seconds, float64 [N].
        mean_score, peak_score: over the active frames, float32 [N].
        threshold: the threshold that the event was found with, float32 [N].
    """

    classes: Sequence[ClassName]
    cls: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    mean_score: np.ndarray
    peak_score: np.ndarray
    threshold: np.ndarray

    def __len__(self) -> int:
        return len(self.cls)

    def __getitem__(self, i: int) -> Event:
        name = self.classes[self.cls[i]]
        scores = (float(column[i]) for column in (self.mean_score, self.peak_score, self.threshold))
        return Event(float(self.onset[i]), float(self.offset[i]), name.label, name.mid, *scores)

    def __iter__(self) -> Iterator[Event]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        if not len(self):
            return "EventTable(no events)"
        times = f"{self.onset.min():.2f} to {self.offset.max():.2f} s"
        return f"EventTable({len(self)} events of {len(np.unique(self.cls))} classes, {times})"

    def to_dict(self) -> list[dict[str, Any]]:
        """The events as a list of dictionaries (`Event.to_dict`)."""
        return [event.to_dict() for event in self]

    def to_json(self) -> str:
        """The events as a JSON list."""
        return json_text(self.to_dict())

    def to_dataframe(self) -> pd.DataFrame:
        """The events as a pandas data frame, one row each."""
        import pandas as pd

        return pd.DataFrame(self.to_dict(), columns=list(Event._fields))

    def select(self, keep: np.ndarray) -> EventTable:
        """The events that a boolean mask or an index array [N] picks, in its order."""
        columns = (self.cls, self.onset, self.offset, self.mean_score, self.peak_score, self.threshold)
        return EventTable(self.classes, *(column[keep] for column in columns))


def make_table(
    runs: np.ndarray,
    classes: Sequence[ClassName],
    thresholds: np.ndarray,
    *,
    frame_rate: float = FRAME_RATE,
    duration: float | None = None,
) -> EventTable:
    """Turn runs of frames into a table of events in seconds.

    Arguments:
        runs: array of dtype `RUN`.
        classes: name and MID of every class.
        thresholds: the threshold of each class [C].
        frame_rate: frames per second.
        duration: length of the audio in seconds; no event ends later.
    """
    runs = runs[np.lexsort((runs["cls"], runs["end"], runs["start"]))]
    offset = runs["end"] / frame_rate
    if duration is not None:
        offset = np.minimum(offset, duration)
    mean = (runs["total"] / np.maximum(runs["active"], 1)).astype(np.float32)
    return EventTable(
        classes, runs["cls"], runs["start"] / frame_rate, offset, mean, runs["peak"], thresholds[runs["cls"]]
    )


def _find_runs(scores: np.ndarray, low: np.ndarray, first_frame: int) -> np.ndarray:
    """Runs of frames with score > low within one block [C, t]."""
    classes = np.flatnonzero(scores.max(axis=1, initial=-np.inf) > low)  # nearly all classes are silent
    rows = np.zeros((len(classes), scores.shape[1] + 1), np.float32)  # one spare column: a run may end there
    rows[:, :-1] = scores[classes]
    active = np.zeros((len(classes), scores.shape[1] + 2), np.int8)
    active[:, 1:-1] = rows[:, :-1] > low[classes, None]
    step = np.diff(active, axis=1)  # [rows, t + 1]: 1 where a run starts, -1 after its end
    row, start = np.nonzero(step == 1)
    end = np.nonzero(step == -1)[1]
    runs = np.empty(len(row), RUN)
    runs["cls"], runs["start"], runs["end"] = classes[row], start + first_frame, end + first_frame
    runs["active"] = end - start
    if len(row):
        edges = np.stack([start, end], 1) + row[:, None] * rows.shape[1]
        flat = rows.reshape(-1)
        runs["total"] = np.add.reduceat(flat, edges.reshape(-1), dtype=np.float64)[::2]
        runs["peak"] = np.maximum.reduceat(flat, edges.reshape(-1))[::2]
    return runs


def _merge_runs(runs: np.ndarray, max_gap: int) -> np.ndarray:
    """Join runs of a class that are at most `max_gap` frames apart."""
    if len(runs) < 2:
        return runs
    runs = runs[np.lexsort((runs["start"], runs["cls"]))]
    apart = (runs["cls"][1:] != runs["cls"][:-1]) | (runs["start"][1:] - runs["end"][:-1] > max_gap)
    first = np.flatnonzero(np.concatenate([[True], apart]))
    merged = runs[first]
    merged["end"] = np.maximum.reduceat(runs["end"], first)
    merged["active"] = np.add.reduceat(runs["active"], first)
    merged["total"] = np.add.reduceat(runs["total"], first)
    merged["peak"] = np.maximum.reduceat(runs["peak"], first)
    return merged


class EventDecoder:
    """Decode frame scores that arrive in blocks; every event comes out once, when nothing can change it.

    A frame is active where its score is above `low`; a run of active frames counts when its peak is above `high`
    (hysteresis; plain thresholding when both are equal). Runs at most `max_gap` frames apart are joined, and
    what is then shorter than `min_frames` is dropped. All classes are handled at once.

    Arguments:
        high: threshold of each class, float [C], in [0, 1].
        low: lower threshold, float [C], at most `high`; `high` when left out.
        min_frames: shortest event, frames.
        max_gap: longest gap that is bridged, frames.
    """

    def __init__(
        self, high: np.ndarray, low: np.ndarray | None = None, *, min_frames: int = 1, max_gap: int = 0
    ) -> None:
        self.high = np.asarray(high, np.float32)
        self.low = self.high if low is None else np.minimum(np.asarray(low, np.float32), self.high)
        self.min_frames, self.max_gap = min_frames, max_gap
        self.n_frames = 0
        self._open = np.empty(0, RUN)  # runs that reach the newest frame
        self._waiting = np.empty(0, RUN)  # ended, but a later run may still be joined to them

    def push(self, scores: np.ndarray) -> np.ndarray:
        """Take the next scores [C, t] in [0, 1]; return the events (dtype `RUN`) that are now final."""
        runs = _find_runs(scores, self.low, self.n_frames)
        self.n_frames += scores.shape[1]
        runs = _merge_runs(np.concatenate([self._open, runs]), 0)
        reaches_now = runs["end"] == self.n_frames
        self._open = runs[reaches_now]
        ended = _merge_runs(np.concatenate([self._waiting, self._loud(runs[~reaches_now])]), self.max_gap)
        horizon = np.full(len(self.high), self.n_frames)
        horizon[self._open["cls"]] = self._open["start"]
        final = horizon[ended["cls"]] - ended["end"] > self.max_gap
        self._waiting = ended[~final]
        return self._long(ended[final])

    def finish(self) -> np.ndarray:
        """End the scores here; return the events that were still open."""
        ended = self.ongoing()
        self._open = self._waiting = np.empty(0, RUN)
        return ended

    def ongoing(self) -> np.ndarray:
        """The events that are certain to come, though not yet when they end; their onsets will not change."""
        return self._long(_merge_runs(np.concatenate([self._waiting, self._loud(self._open)]), self.max_gap))

    def _loud(self, runs: np.ndarray) -> np.ndarray:
        return runs[runs["peak"] > self.high[runs["cls"]]]

    def _long(self, runs: np.ndarray) -> np.ndarray:
        return runs[runs["end"] - runs["start"] >= self.min_frames]


def to_frames(seconds: float, frame_rate: float = FRAME_RATE) -> int:
    """The nearest number of frames to a time in seconds."""
    return round(seconds * frame_rate)


def decode_events(
    scores: np.ndarray,
    classes: Sequence[ClassName],
    threshold: float | np.ndarray = 0.5,
    *,
    hysteresis: float = 1.0,
    min_duration: float = 0.0,
    max_gap: float = 0.0,
    frame_rate: float = FRAME_RATE,
    duration: float | None = None,
) -> EventTable:
    """Decode the scores of one whole recording.

    Arguments:
        scores: [C, T] in [0, 1].
        classes: name and MID of the C classes.
        threshold: one for all classes, or [C]; a frame is active where its score is above.
        hysteresis: an event goes on while its score is above this share of the threshold, in (0, 1].
        min_duration, max_gap: shortest event and longest bridged gap, seconds.
        frame_rate: frames per second.
        duration: length of the audio, seconds; the last frame ends there.
    """
    high = np.broadcast_to(np.asarray(threshold, np.float32), (len(scores),))
    decoder = EventDecoder(
        high,
        high * hysteresis,
        min_frames=max(1, to_frames(min_duration, frame_rate)),
        max_gap=to_frames(max_gap, frame_rate),
    )
    runs = np.concatenate([decoder.push(np.asarray(scores, np.float32)), decoder.finish()])
    return make_table(runs, classes, high, frame_rate=frame_rate, duration=duration)
