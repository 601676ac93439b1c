"""Events while the audio is still coming: push samples, get onsets and offsets that will not change."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from errors import UserError
from helpers.audio_reader import SAMPLE_RATE
from helpers.chunking import SAMPLES_PER_FRAME, RunningFilter
from helpers.detection import NO_NUMBERS
from helpers.events import FRAME_RATE, Event, EventDecoder, make_record, rounded_down, to_frames

if TYPE_CHECKING:
    from helpers.detector import Detector

CONTEXT_SECONDS = 1.0  # audio before the new frames that a causal network hears again: its convolutions reach 0.8 s


class StreamEvent(NamedTuple):
    """A sound that begins or ends.

    `kind` is "onset" or "offset", `time` its time in seconds; `mean_score` and `peak_score` are those of the whole
    event at an offset, those so far at an onset; `threshold` is that of its class, `threshold_name` the list of events
    that it belongs to. `offset` is None at an onset.
    """

    kind: str
    time: float
    label: str
    mid: str
    mean_score: float
    peak_score: float
    threshold: float
    onset: float
    offset: float | None
    threshold_name: str

    def to_dict(
        self, filename: str = "stream", channel: int | None = None, started: datetime | None = None
    ) -> dict[str, Any]:
        """The line of `--format jsonl`: `kind` and `time`, then the record of the event as in files.

        Arguments:
            filename, channel: as in `helpers.events.make_record`.
            started: the moment of the first sample; adds `clock`, the moment of the onset or offset (ISO 8601, UTC).
        """
        end = self.onset if self.offset is None else self.offset
        event = Event(self.onset, end, self.label, self.mid, self.mean_score, self.peak_score, self.threshold)
        record = make_record(event, filename, channel, self.threshold_name)
        record["offset"] = None if self.offset is None else record["offset"]
        moment = {} if started is None else {"clock": clock_time(started, self.time)}
        return {"kind": self.kind, "time": rounded_down(self.time), **moment, **record}


def clock_time(started: datetime, time: float) -> str:
    """The moment `time` seconds after `started`, in UTC, ISO 8601 with milliseconds."""
    moment = (started + timedelta(seconds=time)).astimezone(timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Scorer(Protocol):
    """Gives the scores of the frames that are new."""

    def __call__(self, samples: np.ndarray, n_frames: int, n_ahead: int) -> np.ndarray:
        """Scores [C, n_frames] of the frames before the last `n_ahead` of the newest samples [n]."""
        ...


class _SlidingScorer:
    """Runs the network over the newest window; right for every model, and as costly as a window per hop."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def __call__(self, samples: np.ndarray, n_frames: int, n_ahead: int) -> np.ndarray:
        heard = -(-len(samples) // SAMPLES_PER_FRAME)
        window = np.zeros(self.detector.plan.only_window(heard) * SAMPLES_PER_FRAME, np.float32)
        window[: len(samples)] = samples
        strong, _ = self.detector.scores(window[None])
        end = heard - n_ahead
        return strong[0, :, end - n_frames : end]


class _CausalScorer:
    """Computes the embedding of new frames only, and runs the causal sequence model over the kept ones."""

    def __init__(self, detector: Detector) -> None:
        self.detector, self.keep = detector, detector.plan.window
        self._history: np.ndarray | None = None  # embeddings [frames, features]

    def __call__(self, samples: np.ndarray, n_frames: int, n_ahead: int) -> np.ndarray:
        heard = n_frames + n_ahead + to_frames(CONTEXT_SECONDS)
        end = -(-len(samples) // SAMPLES_PER_FRAME)
        begin = max(0, end - heard)
        piece = np.zeros((end - begin) * SAMPLES_PER_FRAME, np.float32)
        newest = samples[begin * SAMPLES_PER_FRAME :]
        piece[: len(newest)] = newest
        with self.detector.lock:
            embedding = self.detector.backend.embed(piece)  # type: ignore[attr-defined]
        new = embedding[len(embedding) - n_ahead - n_frames : len(embedding) - n_ahead]
        history = new if self._history is None else np.concatenate([self._history, new])
        self._history = history[-self.keep :]
        with self.detector.lock:
            strong = self.detector.backend.classify(self._history)  # type: ignore[attr-defined]
        return self.detector.select(strong[None])[0, :, -n_frames:]


class EventStream:
    """Find events in audio that arrives in pieces of any size; each onset and offset is given once.

    A stream is for one thread at a time; several streams, each in its thread, may share a detector.

    Arguments:
        detector: finds them; its thresholds, median windows and gap rules hold here as well.
        sample_rate: of the pieces, Hz.
        hop: seconds of audio between calls of the network.
        lookahead: seconds of audio that must follow a frame before it is scored.
        causal: compute new frames only; None: where the model's sequence model is causal.
    Raises:
        UserError: hop or lookahead do not fit into the window, or a model that is not causal is asked to be.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        sample_rate: int = SAMPLE_RATE,
        hop: float = 1.0,
        lookahead: float = 1.0,
        causal: bool | None = None,
    ) -> None:
        self.detector, self.decoding = detector, detector.decoding
        self.hop, self.lookahead = to_frames(hop), to_frames(lookahead)
        window = detector.plan.window
        if self.hop < 1 or self.lookahead < 0 or self.hop + self.lookahead > window:
            raise UserError(
                f"hop {hop:g} s and lookahead {lookahead:g} s of a stream must fit into the window of "
                f"{window / FRAME_RATE:g} s, and the hop be at least one frame of {1 / FRAME_RATE:g} s"
            )
        can = bool(getattr(detector.backend, "causal", False))
        if causal and not can:
            raise UserError("this model is not causal: its sequence model looks into the future")
        self.causal = can if causal is None else causal
        self._score: _Scorer = _CausalScorer(detector) if self.causal else _SlidingScorer(detector)
        self._kept_frames = window + self.hop + self.lookahead
        self._resampler = _resampler(sample_rate)
        self._samples: np.ndarray = np.zeros(0, np.float32)  # the newest
        self._n_samples = 0  # of the stream so far, at 16 kHz
        self._n_scored = 0  # frames
        self._smoother = RunningFilter(self.decoding.smooth, self.decoding.smooth.reach)
        self._decoders = self.decoding.decoders()
        self._announced: dict[str, set[tuple[int, int]]] = {name: set() for name in self._decoders}

    @property
    def latency(self) -> float:
        """Seconds of audio between what decides an onset or offset and its coming (computing time comes on top).

        An onset is decided where the score exceeds its threshold, an offset where it falls below. With hysteresis an
        event begins, and two of them may become one, above the lower threshold; that is only decided at the upper one.
        """
        frames = self.hop + self.lookahead + self.decoding.smooth.reach
        return frames / FRAME_RATE + max(self.decoding.min_duration, self.decoding.max_gap)

    def push(self, samples: np.ndarray) -> list[StreamEvent]:
        """Take the next samples, [n] or [n, channels]; return what has become certain, in order of time."""
        mono = np.asarray(samples, np.float32)
        mono = mono.mean(axis=1) if mono.ndim == 2 else mono
        return self._take(self._resampler.resample_chunk(mono) if self._resampler else mono)

    def finish(self) -> list[StreamEvent]:
        """End the stream here; return the rest."""
        events = []
        if self._resampler:
            events += self._take(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        n_left = -(-self._n_samples // SAMPLES_PER_FRAME) - self._n_scored
        if n_left > 0:
            scores = self._checked(self._aligned(self._n_samples), n_left, 0)
            self._n_scored += n_left
            events += self._decode(self._smoother.push(scores))
        events += self._decode(self._smoother.finish())
        duration = self._n_samples / SAMPLE_RATE
        for name, decoder in self._decoders.items():
            events += self._events(name, decoder.finish(), duration)
        return events

    def _take(self, samples: np.ndarray) -> list[StreamEvent]:
        self._samples = np.concatenate([self._samples, samples])
        self._n_samples += len(samples)
        events = []
        while (end := self._n_scored + self.hop + self.lookahead) * SAMPLES_PER_FRAME <= self._n_samples:
            scores = self._checked(self._aligned(end * SAMPLES_PER_FRAME), self.hop, self.lookahead)
            self._n_scored += self.hop
            events += self._decode(self._smoother.push(scores))
        self._samples = self._samples[-(self._kept_frames + 1) * SAMPLES_PER_FRAME :]
        return events

    def _checked(self, samples: np.ndarray, n_frames: int, n_ahead: int) -> np.ndarray:
        scores = self._score(samples, n_frames, n_ahead)
        if not np.isfinite(scores).all():
            raise UserError(f"stream: {NO_NUMBERS}")
        return scores

    def _aligned(self, end: int) -> np.ndarray:
        """The newest samples before sample `end` of the stream, from the start of a frame on, a window at most."""
        begin = max(0, -(-end // SAMPLES_PER_FRAME) - self.detector.plan.window) * SAMPLES_PER_FRAME
        first = self._n_samples - len(self._samples)
        return self._samples[begin - first : end - first]

    def _decode(self, scores: np.ndarray) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        if scores.shape[1]:
            for name, decoder in self._decoders.items():
                events += self._events(name, decoder.push(scores))
                events += self._onsets(name, decoder)
        return sorted(events, key=lambda event: event.time)

    def _events(self, name: str, runs: np.ndarray, duration: float | None = None) -> list[StreamEvent]:
        """Offsets of events that are over, and onsets of those that were never announced."""
        events = []
        for run in runs:
            key = (int(run["cls"]), int(run["start"]))
            if key not in self._announced[name]:
                events.append(self._event("onset", name, run, None))
            self._announced[name].discard(key)
            events.append(self._event("offset", name, run, duration))
        return events

    def _onsets(self, name: str, decoder: EventDecoder) -> Iterator[StreamEvent]:
        for run in decoder.ongoing():
            key = (int(run["cls"]), int(run["start"]))
            if key not in self._announced[name]:
                self._announced[name].add(key)
                yield self._event("onset", name, run, None)

    def _event(self, kind: str, name: str, run: np.void, duration: float | None) -> StreamEvent:
        about = self.decoding.classes[run["cls"]]
        onset, offset = run["start"] / FRAME_RATE, run["end"] / FRAME_RATE
        offset = offset if duration is None else min(offset, duration)
        time = onset if kind == "onset" else offset
        mean, peak = float(run["total"] / run["active"]), float(run["peak"])
        threshold = float(self.decoding.thresholds[name][run["cls"]])
        end = None if kind == "onset" else float(offset)
        return StreamEvent(kind, float(time), about.label, about.mid, mean, peak, threshold, float(onset), end, name)


def _resampler(rate: int):  # type: ignore[no-untyped-def]
    if rate == SAMPLE_RATE:
        return None
    import soxr

    return soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
