"""Small synthetic data sets in the official layouts of the clip-wise tasks: ESC-50, TAU 2020 Mobile, FSD50K, OpenMIC.

File names, tables and audio formats are those of the published sets; the audio is made of the sounds of
`data_util.sounds`, and only stands in for what the classes are called.

    python -m data_util.synthetic --layout esc50 --out DIR
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_util.audio import resample
from data_util.audio_output import write_audio
from data_util.downstream import TASKS, TAU_SCENES
from data_util.labels import load_vocabulary
from data_util.sounds import RATE, SOUNDS, Sound
from data_util.synthetic_layouts import LayoutRequest, register_layout
from json_text import json_text

FILE_RATE = 44_100  # Hz, of all four published sets
ESC_CLASSES = 10
TAU_CITIES = ("barcelona", "helsinki", "lisbon", "london", "lyon", "milan", "paris", "prague", "stockholm", "vienna")
TAU_DEVICES = {"train": ("a", "b", "c", "s1", "s2", "s3"), "evaluate": ("a", "b", "c", *(f"s{i}" for i in range(1, 7)))}
OPENMIC_CLASSES = (
    "accordion", "banjo", "bass", "cello", "clarinet", "cymbals", "drums", "flute", "guitar", "mallet_percussion",
    "mandolin", "organ", "piano", "saxophone", "synthesizer", "trombone", "trumpet", "ukulele", "violin", "voice",
)  # fmt: skip
KNOWN_SHARE = 0.6  # of OpenMIC's labels that the annotators have decided on
SHORTEST = 0.3  # s, in FSD50K
_NOISE_FLOOR = -60.0  # dBFS
_LEVEL = -18.0  # dBFS, of a sound


# ---- audio ----------------------------------------------------------------------------------------------------


def render(rng: np.random.Generator, sounds: Iterable[Sound], seconds: float, tilt: float = 0.0) -> np.ndarray:
    """Sounds over the whole length on top of each other and of a noise floor.

    Args:
        rng: random generator.
        sounds: of `data_util.sounds`.
        seconds: length.
        tilt: dB per octave around 1 kHz, the response of a recording device.

    Returns:
        float32 [N] at 44.1 kHz, peak at most 0.98.
    """
    n = round(seconds * RATE)
    audio = rng.standard_normal(n) * 10 ** (_NOISE_FLOOR / 20)
    for sound in sounds:
        wave = sound.make(rng, max(n, round(sound.seconds[0] * RATE)))[:n]  # a pattern needs its shortest length
        audio[: len(wave)] += wave * (10 ** (_LEVEL / 20) / np.sqrt(np.mean(wave**2) + 1e-12))
    if tilt:
        octaves = np.log2(np.maximum(np.fft.rfftfreq(n, 1 / RATE), 50.0) / 1000.0)
        audio = np.fft.irfft(np.fft.rfft(audio) * 10 ** (tilt * octaves / 20), n)
    audio *= min(1.0, 0.9 / np.abs(audio).max())
    return resample(audio.astype(np.float32), RATE, FILE_RATE).clip(-0.98, 0.98)


def instrument(index: int) -> Sound:
    """A tone of its own pitch, brightness and tremolo for each of OpenMIC's classes."""

    def make(rng: np.random.Generator, n: int) -> np.ndarray:
        t = np.arange(n) / RATE
        pitch = 110.0 * 2 ** (index / 4) * rng.uniform(0.99, 1.01)
        harmonics = [np.sin(2 * np.pi * k * pitch * t) / k ** (1 + index % 3) for k in range(1, 5) if k * pitch < 15e3]
        return np.sum(harmonics, axis=0) * (1 + 0.8 * np.sin(2 * np.pi * (1 + index % 5) * t + rng.uniform(0, 6)))

    return Sound(OPENMIC_CLASSES[index], make)


def _write(path: Path, audio: np.ndarray, form: str = "WAV", subtype: str = "PCM_16") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, audio, FILE_RATE, form=form, subtype=subtype)


def _write_table(path: Path, rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)


def _names() -> list[str]:
    """Names of the classes of `SOUNDS` as FSD50K writes them."""
    vocabulary = load_vocabulary("weak")
    names = [vocabulary.names[vocabulary.index_by_mid[sound.mid]] for sound in SOUNDS]
    return ["_".join(name.replace(",", " and").split()) for name in names]


# ---- layouts --------------------------------------------------------------------------------------------------


@register_layout("esc50", train=80, eval=20, seconds=TASKS["esc50"].seconds)
def make_esc50(out: Path, request: LayoutRequest) -> None:
    """Ten classes; the training and evaluation files together are spread over the five folds."""
    rows: list[Sequence[object]] = [("filename", "fold", "target", "category", "esc10", "src_file", "take")]
    rng = np.random.default_rng([request.seed, 50])
    for i in range(request.train + request.eval):
        fold, target = 1 + i // ESC_CLASSES % TASKS["esc50"].folds, i % ESC_CLASSES
        source = 100_000 + i
        name = f"{fold}-{source}-A-{target}.wav"
        _write(out / "audio" / name, render(rng, [SOUNDS[target]], request.seconds))
        rows.append((name, fold, target, _names()[target].lower(), "False", source, "A"))
    _write_table(out / "meta" / "esc50.csv", rows)


@register_layout("tau2020", train=60, eval=30, seconds=TASKS["tau2020"].seconds)
def make_tau2020(out: Path, request: LayoutRequest) -> None:
    """Ten scenes in turn; each device bends the spectrum its own way, and three occur in the evaluation alone."""
    meta: list[Sequence[object]] = [("filename", "scene_label", "identifier", "source_label")]
    rng = np.random.default_rng([request.seed, 2020])
    for part, n_files in (("train", request.train), ("evaluate", request.eval)):
        rows: list[Sequence[object]] = [("filename", "scene_label")]
        for i in range(n_files):
            scene, place = i % len(TAU_SCENES), TAU_CITIES[int(rng.integers(len(TAU_CITIES)))]
            device = TAU_DEVICES[part][i % len(TAU_DEVICES[part])]
            location = i if part == "train" else request.train + i
            name = f"audio/{TAU_SCENES[scene]}-{place}-{location}-{i}-{device}.wav"
            tilt = 0.5 * (TAU_DEVICES["evaluate"].index(device) - 4)
            _write(out / name, render(rng, [SOUNDS[scene]], request.seconds, tilt))
            rows.append((name, TAU_SCENES[scene]))
            meta.append((name, TAU_SCENES[scene], f"{place}-{location}", device))
        _write_table(out / "evaluation_setup" / f"fold1_{part}.csv", rows, "\t")
    _write_table(out / "meta.csv", meta, "\t")


@register_layout("fsd50k", train=56, eval=28, seconds=14.0)
def make_fsd50k(out: Path, request: LayoutRequest) -> None:
    """One or two sounds per file; files last from 0.3 s to the requested length."""
    truth, names = out / "FSD50K.ground_truth", _names()
    rng = np.random.default_rng([request.seed, 50_000])
    tables: dict[str, list[Sequence[object]]] = {
        "dev": [("fname", "labels", "mids", "split")],
        "eval": [("fname", "labels", "mids")],
    }
    first = 1000
    for part, split, n_files in (
        ("dev", "train", request.train), ("dev", "val", request.eval), ("eval", "", request.eval)
    ):  # fmt: skip
        for i in range(n_files):
            chosen = sorted({i % len(SOUNDS), int(rng.integers(len(SOUNDS)))})
            seconds = rng.uniform(SHORTEST, max(SHORTEST, request.seconds))
            audio = render(rng, [SOUNDS[c] for c in chosen], seconds)
            _write(out / f"FSD50K.{part}_audio" / f"{first + i}.wav", audio)
            labels, mids = ",".join(names[c] for c in chosen), ",".join(SOUNDS[c].mid for c in chosen)
            tables[part].append((first + i, labels, mids, *([split] if split else [])))
        first += n_files
    for part, rows in tables.items():
        _write_table(truth / f"{part}.csv", rows)
    _write_table(truth / "vocabulary.csv", [(i, names[i], sound.mid) for i, sound in enumerate(SOUNDS)])


@register_layout("openmic", train=60, eval=40, seconds=TASKS["openmic"].seconds)
def make_openmic(out: Path, request: LayoutRequest) -> None:
    """One to three instruments per file; most of the labels are known, those of the others are 0.5."""
    rng = np.random.default_rng([request.seed, 2018])
    n_files, n_classes = request.train + request.eval, len(OPENMIC_CLASSES)
    instruments = [instrument(c) for c in range(n_classes)]
    keys = [f"{i:06d}_{int(rng.integers(100_000, 400_000))}" for i in range(n_files)]
    present = np.zeros((n_files, n_classes), bool)
    for i, key in enumerate(keys):
        chosen = sorted({i % n_classes, *rng.integers(n_classes, size=2).tolist()})
        present[i, chosen] = True
        audio = render(rng, [instruments[c] for c in chosen], request.seconds)
        _write(out / "audio" / key[:3] / f"{key}.ogg", audio, "OGG", "VORBIS")
    known = rng.random(present.shape) < KNOWN_SHARE
    sure = np.where(present, rng.uniform(0.55, 1.0, present.shape), rng.uniform(0.0, 0.45, present.shape))
    np.savez(
        out / "openmic-2018.npz",
        Y_true=np.where(known, sure, 0.5),
        Y_mask=known,
        sample_key=np.array(keys, object),  # as it is published
    )
    (out / "class-map.json").write_text(
        json_text({name: i for i, name in enumerate(OPENMIC_CLASSES)}, ensure_ascii=True)
    )
    _write_table(out / "partitions" / "split01_train.csv", [[key] for key in keys[: request.train]])
    _write_table(out / "partitions" / "split01_test.csv", [[key] for key in keys[request.train :]])
