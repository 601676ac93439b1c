"""What streams cost: F1 over frames and CPU time of a detector that hears audio while it comes, beside the whole file.

On synthetic clips that the demo's detector was evaluated on, one after another, pushed in pieces of 0.1 s. The last
line is one JSON object.
Run: make demo, then python benchmarks/streaming.py [--quick] [--checkpoint demo/trained/best.ckpt] [--clips 20]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from timing import machine

from data_util import audio, synthetic
from helpers.audio_reader import SAMPLE_RATE, Audio
from helpers.detector import Detector
from helpers.events import FRAME_RATE
from json_text import json_text

DEMO_SEED, THRESHOLD, PIECE = 1, 0.3, SAMPLE_RATE // 10
# (causal, hop, lookahead)
STREAMS = [(False, 2, 2), (False, 1, 1), (True, 1, 1), (False, 0.4, 0.4), (True, 0.4, 0.8)]
Event = tuple[float, float, str]  # onset s, offset s, MID


def make_stream(n_clips: int) -> tuple[np.ndarray, list[Event]]:
    """Clips of the demo's evaluation set in a row: samples at 16 kHz, events."""
    clips = [synthetic.make_clip(DEMO_SEED, "eval", i) for i in range(n_clips)]
    sounds = [audio.fix_length(audio.decode(clip.mp3)) for clip in clips]
    starts = np.arange(n_clips) * audio.CLIP_SECONDS
    events = [(s + a, s + b, mid) for s, clip in zip(starts, clips, strict=True) for a, b, mid in clip.events]
    return np.concatenate(sounds), events


def active(events: Iterable[Event], n_frames: int) -> set[tuple[str, int]]:
    """The frames of each class that an event covers, its ends rounded to frames."""
    spans = [(mid, round(onset * FRAME_RATE), round(offset * FRAME_RATE)) for onset, offset, mid in events]
    return {(mid, frame) for mid, begin, end in spans for frame in range(begin, min(end, n_frames))}


def whole(detector: Detector, samples: np.ndarray) -> list[Event]:
    """The events of the recording as a whole."""
    return [(event.onset, event.offset, event.mid) for event in detector.detect(Audio(samples)).events]


def streamed(detector: Detector, samples: np.ndarray, causal: bool, hop: float, lookahead: float) -> list[Event]:
    """The events of the recording as it comes."""
    stream = detector.stream(causal=causal, hop=hop, lookahead=lookahead)
    events = [event for i in range(0, len(samples), PIECE) for event in stream.push(samples[i : i + PIECE])]
    return [(e.onset, e.time, e.mid) for e in [*events, *stream.finish()] if e.kind == "offset"]


def measure(detect: Callable[[], list[Event]], truth: list[Event], seconds: float) -> dict[str, float]:
    """F1 over frames, and CPU seconds per minute of audio."""
    start = time.process_time()
    found = detect()
    cost = time.process_time() - start
    n_frames = round(seconds * FRAME_RATE)
    got, expected = active(found, n_frames), active(truth, n_frames)
    f1 = 2 * len(got & expected) / (len(got) + len(expected))
    return {"f1": round(f1, 3), "cpu_seconds_per_minute": round(60 * cost / seconds, 2)}


def main() -> None:
    """Measure the whole recording and every stream, print a line for each and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one clip, one stream: only shows that the script works")
    parser.add_argument("--checkpoint", type=Path, default=Path("demo/trained/best.ckpt"), help="of a causal model")
    parser.add_argument("--clips", type=int, default=20)
    args = parser.parse_args()
    if not args.checkpoint.exists():
        print(f"left out: {args.checkpoint} does not exist; `make demo` trains one")
        return
    n_clips, streams = (1, STREAMS[:1]) if args.quick else (args.clips, STREAMS)
    samples, truth = make_stream(n_clips)
    detector = Detector(checkpoint=args.checkpoint, detection_thresholds=[THRESHOLD])
    detector.detect(Audio(samples[: 10 * SAMPLE_RATE]))  # what only the first call does is not counted
    seconds = len(samples) / SAMPLE_RATE
    results: dict[str, dict[str, float]] = {"whole": measure(partial(whole, detector, samples), truth, seconds)}
    for causal, hop, lookahead in streams:
        name = f"{'causal' if causal else 'sliding'} {hop:g} {lookahead:g}"
        run = partial(streamed, detector, samples, causal, hop, lookahead)
        latency = round(detector.stream(causal=causal, hop=hop, lookahead=lookahead).latency, 2)
        results[name] = {"latency": latency, **measure(run, truth, seconds)}
    for name, result in results.items():
        print(f"{name:>15}: " + ", ".join(f"{key} {value}" for key, value in result.items()))
    print(json_text({"benchmark": "streaming", "audio_seconds": seconds, **machine(), "results": results}))


if __name__ == "__main__":
    main()
