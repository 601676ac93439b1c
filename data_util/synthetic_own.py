"""A set of the kind that people bring along: short recordings of mixed lengths, rates and formats, and a table.

    python -m data_util.synthetic --layout own --out DIR

Writes `audio/` with `events.csv` (filename, onset, offset, label; a recording without events has a line of its own)
and, for trying out what was learnt, `heldout/audio/` with `heldout/events.csv`.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import soxr

from data_util.audio_output import write_audio
from data_util.own_data import Event
from data_util.sounds import RATE, Generator, beep, clicking, hiss, noise, siren
from data_util.synthetic_layouts import LayoutRequest, register_layout

CLASSES: dict[str, Generator] = {"beeps": beep, "hiss": hiss, "siren": siren}
UNLABELLED: tuple[Generator, ...] = (clicking, noise)  # sounds that nobody asked about
UNLABELLED_SHARE = 0.3  # of the recordings that hold one of them
LENGTHS = (0.5, 1.5)  # times the length that was asked for
EVENT_SECONDS = (0.6, 2.5)
EVENT_COUNT_ODDS = (0.08, 0.3, 0.32, 0.2, 0.1)  # 0 to 4 events
EVENT_LEVEL, OTHER_LEVEL, NOISE_FLOOR = (-30.0, -14.0), (-40.0, -30.0), (-70.0, -55.0)  # dBFS
FILES = ((".wav", 44_100, 2), (".wav", 16_000, 1), (".flac", 48_000, 1), (".ogg", 22_050, 1))  # suffix, Hz, channels


def make_recording(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, list[Event]]:
    """Mix some events over a noise floor; those of one class do not overlap.

    Args:
        rng: random generator.
        seconds: length.

    Returns:
        ([n] float32 at 32 kHz; events (onset s, offset s, label) sorted by onset).
    """
    n = round(seconds * RATE)
    audio = rng.standard_normal(n) * 10 ** (rng.uniform(*NOISE_FLOOR) / 20)
    if rng.random() < UNLABELLED_SHARE:
        _add(audio, UNLABELLED[rng.integers(len(UNLABELLED))](rng, n), 0, rng.uniform(*OTHER_LEVEL))
    events: list[Event] = []
    for _ in range(rng.choice(len(EVENT_COUNT_ODDS), p=EVENT_COUNT_ODDS)):
        label = str(rng.choice(list(CLASSES)))
        wave = CLASSES[label](rng, round(min(rng.uniform(*EVENT_SECONDS), 0.8 * seconds) * RATE))
        first = int(rng.integers(n - len(wave) + 1))
        onset, offset = round(first / RATE, 3), round((first + len(wave)) / RATE, 3)
        if any(name == label and onset < b and a < offset for a, b, name in events):
            continue
        _add(audio, wave, first, rng.uniform(*EVENT_LEVEL))
        events.append((onset, offset, label))
    return (audio * min(1.0, 0.98 / np.abs(audio).max())).astype(np.float32), sorted(events)


def _add(audio: np.ndarray, wave: np.ndarray, first: int, level: float) -> None:
    """Mix a sound in at a level in dBFS."""
    audio[first : first + len(wave)] += wave * (10 ** (level / 20) / np.sqrt(np.mean(wave**2)))


def write_recordings(folder: Path, n_files: int, seconds: float, seed: tuple[int, ...]) -> dict[str, list[Event]]:
    """Write `audio/` and `events.csv` into a folder.

    Args:
        folder: is made.
        n_files: number of recordings; every fifth one comes in two pieces.
        seconds: mean length.
        seed: of the random numbers; recording i is the same whatever `n_files`.

    Returns:
        Name of each file -> its events.
    """
    (folder / "audio").mkdir(parents=True)
    events: dict[str, list[Event]] = {}
    names = [f"rec{i // 5 * 4 + min(i % 5, 3):03d}" + ("", "", "", "_chunk1", "_chunk2")[i % 5] for i in range(n_files)]
    for i, stem in enumerate(names):
        rng = np.random.default_rng([*seed, i])
        audio, events_of_file = make_recording(rng, round(seconds * rng.uniform(*LENGTHS), 2))
        suffix, rate, channels = FILES[i % len(FILES)]
        audio = np.clip(soxr.resample(audio, RATE, rate), -1, 1)
        write_audio(folder / "audio" / f"{stem}{suffix}", np.repeat(audio[:, None], channels, axis=1), rate)
        events[f"{stem}{suffix}"] = events_of_file
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("filename", "onset", "offset", "label"))
    for name, rows in events.items():
        writer.writerows([(name, *row) for row in rows] or [(name, "", "", "")])
    (folder / "events.csv").write_text(text.getvalue(), encoding="utf-8")
    return events


@register_layout("own", train=60, eval=20, seconds=6.0)
def make_own(folder: Path, request: LayoutRequest) -> None:
    """Recordings to learn from, and others to try the result on."""
    write_recordings(folder, request.train, request.seconds, (request.seed, 0))
    write_recordings(folder / "heldout", request.eval, request.seconds, (request.seed, 1))
