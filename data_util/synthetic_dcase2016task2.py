"""A small set in HEAR's packaging of DCASE 2016 task 2, out of eleven sounds that can be synthesised truthfully.

The published task has eleven office sounds that nobody can synthesise (coughs, drawers, keys); the labels here say
what is heard instead: `busy_signal`, `clicking`, `siren`, ...
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from data_util.audio import SAMPLE_RATE, resample
from data_util.audio_output import write_audio
from data_util.hear_files import LABEL_COLUMNS, LABELS_FILE, METADATA_FILE, SPLITS
from data_util.sounds import RATE, SOUNDS, Sound
from data_util.synthetic_layouts import LayoutRequest, register_layout
from json_text import json_text

# Without the noise and the hum, which have no sharp onset, and the dial tone, which a short busy signal equals.
SOUND_OF = {
    sound.make.__name__: sound for sound in SOUNDS if sound.make.__name__ not in ("noise", "mains_hum", "dial_tone")
}
LABELS = tuple(sorted(SOUND_OF))
EVENT_SECONDS = (0.8, 2.5)
EVENTS_PER_SECOND = (0.2, 0.35)
GAP_SECONDS = 0.5  # shortest silence between two events of a class
NOISE_FLOOR = (-66.0, -54.0)  # dBFS
_STEP = RATE // 1000  # samples; events begin on whole milliseconds

Event = dict[str, str | float]  # label, start and end in milliseconds


@register_layout("dcase2016task2", train=12, eval=4, seconds=120.0)
def make_dcase2016task2(folder: Path, request: LayoutRequest) -> None:
    """Fill an empty folder: mono WAV of 16 kHz and 16 bit, one JSON of events per split, vocabulary, metadata."""
    for number, split in enumerate(SPLITS):
        audio_folder = folder / str(SAMPLE_RATE) / split
        audio_folder.mkdir(parents=True)
        events: dict[str, list[Event]] = {}
        for index in range(request.train if split == "train" else request.eval):
            audio, found = make_scene(np.random.default_rng([request.seed, 16, number, index]), request.seconds)
            name = f"{split}_{index:03d}.wav"
            write_audio(audio_folder / name, audio, SAMPLE_RATE, subtype="PCM_16")
            events[name] = found
        _write_json(folder / f"{split}.json", events)
    with (folder / LABELS_FILE).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([LABEL_COLUMNS, *enumerate(LABELS)])
    metadata = {
        "task_name": "dcase2016_task2",
        "version": "synthetic",
        "embedding_type": "event",
        "prediction_type": "multilabel",
        "split_mode": "trainvaltest",
        "sample_duration": request.seconds,
        "evaluation": ["event_onset_200ms_fms", "event_onset_50ms_fms", "segment_1s_er"],
        "sample_rates": [SAMPLE_RATE],
    }
    _write_json(folder / METADATA_FILE, metadata)


def make_scene(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, list[Event]]:
    """Events of random classes, overlapping at times but never with their own class, over a noise floor.

    Args:
        rng: random generator.
        seconds: length.

    Returns:
        ([N] float32 at 16 kHz, peak at most 0.98; events sorted by start).
    """
    n = round(seconds * RATE)
    audio = rng.standard_normal(n) * 10 ** (rng.uniform(*NOISE_FLOOR) / 20)
    events: list[Event] = []
    busy: dict[str, list[tuple[int, int]]] = {label: [] for label in LABELS}
    for _ in range(max(1, round(seconds * rng.uniform(*EVENTS_PER_SECOND)))):
        label = LABELS[rng.integers(len(LABELS))]
        wave = _event(rng, SOUND_OF[label], n)
        first = int(rng.integers((n - len(wave)) // _STEP + 1)) * _STEP
        stop, gap = first + len(wave), round(GAP_SECONDS * RATE)
        if any(first < b + gap and a < stop + gap for a, b in busy[label]):
            continue
        busy[label].append((first, stop))
        audio[first:stop] += wave
        events.append({"label": label, "start": first / _STEP, "end": stop / _STEP})
    audio *= min(1.0, 0.98 / np.abs(audio).max())
    return resample(audio.astype(np.float32), RATE, SAMPLE_RATE), sorted(events, key=lambda e: (e["start"], e["label"]))


def _event(rng: np.random.Generator, sound: Sound, longest: int) -> np.ndarray:
    wave = sound.make(rng, min(round(rng.uniform(*EVENT_SECONDS) * RATE), longest))
    return wave * (10 ** (rng.uniform(*sound.level) / 20) / np.sqrt(np.mean(wave**2)))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json_text(content, ensure_ascii=True, indent=1) + "\n", encoding="utf-8")
