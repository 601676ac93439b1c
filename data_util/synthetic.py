"""Makes a small data set in the format of packed AudioSet, out of sounds that can be synthesised truthfully.

    python -m data_util.synthetic --out DIR --train 480 --eval 96 --seed 0
    python -m data_util.synthetic --out DIR --layout dcase2016task2

Writes the three HDF5 files (32 kHz MP3), both label TSVs, `eval_durations.csv` and `synthetic.json`, which records the
request: the same request again finds its files and does nothing. The same seed gives the same bytes. `--layout` chooses
the layout of a downstream task instead: see `data_util.synthetic_layouts`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

import locks
import signals
from atomic import replacing
from command_line import check_output
from data_util.audio import CLIP_SECONDS
from data_util.audio_output import write_audio
from data_util.hdf5_dataset import PackedRows
from data_util.hdf5_output import create_hdf5
from data_util.label_files import STRONG_COLUMNS
from data_util.labels import load_vocabulary
from data_util.pack_clip import encode_mp3
from data_util.pack_labels import pack_target
from data_util.processes import worker_pool
from data_util.sounds import RATE, SOUNDS, Sound
from data_util.synthetic_layouts import MANIFEST, LayoutRequest, find_layout, make_layout
from errors import UserError, exit_on_user_error
from json_text import json_text
from printable import printable

AUDIOSET = "audioset"  # the layout of this module
AUDIOSET_FILES = (480, 96)  # training and evaluation clips
BALANCED_SHARE = 0.25  # of the training clips; the rest goes into the unbalanced file
SHIFT_SECONDS = 1.0  # largest shift of a noisy label
EVENTS_PER_CLIP = (1, 6)
_EVENT_COUNT_ODDS = (1, 2, 4, 4, 2, 1)
_NOISE_FLOOR = (-66.0, -54.0)  # dBFS
_EXAMPLE_EVENTS, _EXAMPLE_SILENCE = 3, 1.2  # seconds of silence before, between and behind them, together
_FORMAT = 5  # raise it when the same request gives other bytes

Event = tuple[float, float, str]  # onset s, offset s, MID


@dataclass(frozen=True)
class Request:
    """What a synthetic set is made from; equal requests give equal files."""

    train: int
    eval: int
    seed: int
    label_noise: float = 0.0
    format: int = _FORMAT


@dataclass(frozen=True)
class Clip:
    """One finished clip: YouTube-like id, MP3 bytes, its events."""

    ytid: str
    mp3: bytes
    events: list[Event]


def make_ytid(seed: int, split: str, index: int) -> str:
    """Eleven characters as YouTube ids have them, underscores and leading dashes among them."""
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
    return base64.urlsafe_b64encode(digest)[:11].decode()


def make_audio(rng: np.random.Generator, n_events: int | None = None) -> tuple[np.ndarray, list[Event]]:
    """Mix events of different classes at different levels over a noise floor.

    Args:
        rng: random generator.
        n_events: number of events; None draws 1 to 6.

    Returns:
        ([320000] float32 at 32 kHz, peak at most 0.98; events sorted by onset).
    """
    n = int(CLIP_SECONDS * RATE)
    audio = rng.standard_normal(n) * 10 ** (rng.uniform(*_NOISE_FLOOR) / 20)
    if n_events is None:
        odds = np.array(_EVENT_COUNT_ODDS, float)
        n_events = int(rng.choice(np.arange(EVENTS_PER_CLIP[0], EVENTS_PER_CLIP[1] + 1), p=odds / odds.sum()))
    events = []
    for index in rng.choice(len(SOUNDS), size=n_events, replace=False):
        sound = SOUNDS[index]
        wave = _sound(rng, sound, rng.uniform(*sound.seconds))
        first = int(rng.integers(n - len(wave) + 1))
        audio[first : first + len(wave)] += wave
        events.append((round(first / RATE, 3), round((first + len(wave)) / RATE, 3), sound.mid))
    audio *= min(1.0, 0.98 / np.abs(audio).max())
    return audio.astype(np.float32), sorted(events)


def make_clip(seed: int, split: str, index: int) -> Clip:
    """The clip of this number; the same arguments give the same bytes."""
    split_number = ("train", "eval", "example").index(split)
    audio, events = make_audio(np.random.default_rng([seed, split_number, index]))
    return Clip(make_ytid(seed, split, index), encode_mp3(audio), events)


def _sound(rng: np.random.Generator, sound: Sound, seconds: float) -> np.ndarray:
    """One event at a random level; it may be shorter than `seconds`."""
    wave = sound.make(rng, round(seconds * RATE))
    return wave * (10 ** (rng.uniform(*sound.level) / 20) / np.sqrt(np.mean(wave**2)))


def _make_clear_audio(seed: int) -> tuple[np.ndarray, list[Event]]:
    """As `make_audio`: three events one after the other, so that each of them can be heard and seen."""
    rng = np.random.default_rng([seed, 2])
    audio = rng.standard_normal(int(CLIP_SECONDS * RATE)) * 10 ** (rng.uniform(*_NOISE_FLOOR) / 20)
    sounds = [SOUNDS[index] for index in rng.choice(len(SOUNDS), size=_EXAMPLE_EVENTS, replace=False)]
    lengths = [CLIP_SECONDS]
    while (silence := CLIP_SECONDS - sum(lengths)) < _EXAMPLE_SILENCE:
        lengths = [rng.uniform(*sound.seconds) for sound in sounds]
    gap = round(silence / (_EXAMPLE_EVENTS + 1) * RATE)
    first, events = gap, []
    for sound, seconds in zip(sounds, lengths, strict=True):
        wave = _sound(rng, sound, seconds)
        audio[first : first + len(wave)] += wave
        events.append((round(first / RATE, 3), round((first + len(wave)) / RATE, 3), sound.mid))
        first += round(seconds * RATE) + gap
    audio *= min(1.0, 0.98 / np.abs(audio).max())
    return audio.astype(np.float32), events


def make_example(path: Path, seed: int, *, overwrite: bool = False) -> list[tuple[float, float, str]]:
    """Write a held-out file with three events, one after the other, and its true events beside it.

    Args:
        path: a `.wav` file (32 kHz, 16 bit); the events go to the `.tsv` of the same name, as DCASE writes them
            (filename, onset, offset, event_label).
        seed: that of the data set; the file is in none of its splits.
        overwrite: replace other files of these names.

    Returns:
        The events (onset s, offset s, class name).

    Raises:
        UserError: another suffix, or other files of these names.
    """
    table = path.with_suffix(".tsv")
    if path.suffix.lower() != ".wav":
        raise UserError(f"--example {path}: give a name that ends in .wav")
    audio, events = _make_clear_audio(seed)
    vocabulary = load_vocabulary("strong")
    named = [(a, b, vocabulary.names[vocabulary.index_by_mid[mid]]) for a, b, mid in events]
    rows = [f"{path.name}\t{a:.3f}\t{b:.3f}\t{name}\n" for a, b, name in named]
    text = "filename\tonset\toffset\tevent_label\n" + "".join(rows)
    if path.is_file() and table.is_file() and table.read_text(encoding="utf-8") == text and not overwrite:
        return named
    if not overwrite and (taken := [p for p in (path, table) if p.exists()]):
        raise UserError(f"{taken[0]} is there already; add --overwrite to replace it")
    with replacing(path) as part:
        write_audio(part, audio, RATE, form="WAV", subtype="PCM_16")
    with replacing(table) as part:
        part.write_text(text, encoding="utf-8")
    return named


def make_dataset(out: Path, request: Request, *, overwrite: bool = False, workers: int | None = None) -> bool:
    """Write a data set, unless this very one is there already.

    Args:
        out: folder; is made.
        request: what to make.
        overwrite: replace a different data set.
        workers: processes; None = one per core.

    Returns:
        Whether anything was written.

    Raises:
        UserError: the folder holds other data and `overwrite` is off.
    """
    n_balanced = round(request.train * BALANCED_SHARE) if request.train > 1 else request.train
    parts = {
        "balanced_train": ("train", range(n_balanced)),
        "unbalanced_train": ("train", range(n_balanced, request.train)),
        "eval": ("eval", range(request.eval)),
    }
    tables = {split: out / f"audioset_{split}_strong.tsv" for split in ("train", "eval")}
    files = {part: out / f"{part}_segments_mp3.hdf" for part in parts}
    durations = out / "eval_durations.csv"
    if not _must_write(out, request, [*files.values(), *tables.values(), durations], overwrite):
        return False
    (out / MANIFEST).unlink(missing_ok=True)  # comes back last: a set without it is not whole
    events: dict[str, list[tuple[str, Event]]] = {"train": [], "eval": []}
    total = request.train + request.eval
    with (
        tqdm(total=total, desc=printable(f"synthetic clips into {out}"), unit="clip") as bar,
        worker_pool(workers, total) as pool,
    ):
        for part, (split, numbers) in parts.items():
            clips = pool.map(partial(make_clip, request.seed, split), numbers, chunksize=4)
            ytids = [make_ytid(request.seed, split, number) for number in numbers]
            prefix = "00/" if part == "unbalanced_train" else ""
            events[split] += _write_hdf5(files[part], prefix, ytids, clips, bar)
    rng = np.random.default_rng([request.seed, 3])
    _write_tsv(tables["train"], _disturb(events["train"], request.label_noise, rng))
    _write_tsv(tables["eval"], events["eval"])
    with replacing(durations) as temporary:
        lines = (f"Y{make_ytid(request.seed, 'eval', i)},{CLIP_SECONDS:g}\n" for i in range(request.eval))
        temporary.write_text("".join(lines), encoding="utf-8")
    with replacing(out / MANIFEST) as temporary:
        temporary.write_text(json_text(asdict(request), ensure_ascii=True, indent=2) + "\n", encoding="utf-8")
    return True


def _must_write(out: Path, request: Request, files: list[Path], overwrite: bool) -> bool:
    taken = [path.name for path in files if path.exists()]
    try:
        held = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = None
    if held == asdict(request) and len(taken) == len(files):
        return False
    if taken and not overwrite:
        what = f"a synthetic set made with {held}" if held else f"{taken[0]}, which this command has not finished"
        raise UserError(f"{out} holds {what}; choose another --out or add --overwrite to replace it")
    return True


def _write_hdf5(
    path: Path, prefix: str, ytids: Sequence[str], clips: Iterable[Clip], bar: tqdm
) -> list[tuple[str, Event]]:
    """Pack clips as they come; returns (ytid, event) of all of them."""
    events = []
    vocabulary = load_vocabulary("weak")
    with replacing(path) as temporary, create_hdf5(temporary) as file:
        rows = PackedRows(file, [f"{prefix}Y{ytid}" for ytid in ytids])
        for row, clip in enumerate(clips):
            rows.write(row, clip.mp3, pack_target([mid for _, _, mid in clip.events], vocabulary))
            events += [(clip.ytid, event) for event in clip.events]
            bar.update()
    return events


def _disturb(
    events: Sequence[tuple[str, Event]], share: float, rng: np.random.Generator
) -> Iterator[tuple[str, Event]]:
    """Leave half of the share of events out, and shift the other half by up to a second."""
    for ytid, (onset, offset, mid) in events:
        fate, shift = rng.random(), rng.uniform(-SHIFT_SECONDS, SHIFT_SECONDS)
        if fate < share / 2:
            continue
        if fate < share:
            shift = min(max(shift, -onset), CLIP_SECONDS - offset)
            onset, offset = round(onset + shift, 3), round(offset + shift, 3)
        yield ytid, (onset, offset, mid)


def _write_tsv(path: Path, events: Iterable[tuple[str, Event]]) -> None:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write("\t".join(STRONG_COLUMNS) + "\n")
        file.writelines(f"{ytid}_30000\t{a:.3f}\t{b:.3f}\t{mid}\n" for ytid, (a, b, mid) in events)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_util.synthetic", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the data set")
    parser.add_argument("--layout", default=AUDIOSET, metavar="NAME", help="data set to imitate (default: %(default)s)")
    parser.add_argument("--train", type=int, help="training files (default: 480; other layouts have their own)")
    parser.add_argument("--eval", type=int, help="files of each other split (default: 96; other layouts: their own)")
    parser.add_argument("--seconds", type=float, help=f"length of a file, for other layouts than {AUDIOSET}")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument(
        "--label_noise",
        type=float,
        default=0.0,
        metavar="SHARE",
        help=f"share of the training events of {AUDIOSET} that are left out or shifted, half each (default: 0)",
    )
    parser.add_argument("--example", type=Path, metavar="FILE.wav", help="also write one held-out file and its events")
    parser.add_argument("--workers", type=int, help=f"processes for {AUDIOSET} (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return parser


def _check(args: argparse.Namespace) -> None:
    for name, low in (("train", 1), ("eval", 1), ("seed", 0), ("seconds", 1)):
        value = getattr(args, name)
        if value is not None and not low <= value < float("inf"):
            raise UserError(f"--{name} {value}: must be at least {low}")
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    if not 0 <= args.label_noise <= 1:
        raise UserError(f"--label_noise {args.label_noise}: must lie in [0, 1]")
    foreign = "seconds" if args.layout == AUDIOSET else "label_noise"
    if getattr(args, foreign):
        raise UserError(f"--{foreign}: --layout {args.layout} has no such option")
    if args.out is not None:
        check_output("out", args.out, folder=True)
    if args.example is not None:
        check_output("example", args.example)
    if args.out is None and args.example is None:
        raise UserError("nothing to do: give --out DIR, --example FILE.wav or both")


def _write_audioset(args: argparse.Namespace) -> str:
    train, evaluation = args.train or AUDIOSET_FILES[0], args.eval or AUDIOSET_FILES[1]
    request = Request(train, evaluation, args.seed, args.label_noise)
    written = make_dataset(args.out, request, overwrite=args.overwrite, workers=args.workers)
    return f"{args.out}: {train} training and {evaluation} evaluation clips" + ("" if written else ", as before")


def _write_layout(args: argparse.Namespace) -> str:
    layout = find_layout(args.layout)
    sizes = (args.train or layout.train, args.eval or layout.eval, args.seconds or layout.seconds)
    request = LayoutRequest(args.layout, *sizes, seed=args.seed)
    written = make_layout(args.out, request, overwrite=args.overwrite)
    shown = f"{request.train} training files, {request.eval} per other split, {request.seconds:g} s each"
    return f"{args.out}: {args.layout}, {shown}" + ("" if written else ", as before")


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    args = _parser().parse_args(argv)
    _check(args)
    if args.out is not None:
        how = f"{args.out} is not whole; to make it: the same command with --overwrite"
        with locks.held(args.out, folder=True), signals.telling(lambda: how):
            written = (_write_audioset if args.layout == AUDIOSET else _write_layout)(args)
        print(printable(str(written), keep="\n"))
    if args.example is not None:
        events = make_example(args.example, args.seed, overwrite=args.overwrite)
        print(printable(f"{args.example}: {len(events)} events, listed in {args.example.with_suffix('.tsv')}"))


if __name__ == "__main__":
    main()
