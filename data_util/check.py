"""Looks a data folder over before a training does: what is there, what is missing, what cannot be decoded.

    python -m data_util.check --data_dir DIR [--decode 200 | --decode all]

Prints clips, hours, labels and events, and how far this copy is from the published sizes. Exit code 0: usable;
1: something is wrong (each such line begins with "WRONG"); 2: there is nothing to look at.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_util.audio import DecodeError, decode_channels
from data_util.audioset import SPLITS
from data_util.hdf5_dataset import Mp3File, open_hdf5
from data_util.label_cache import load_strong_events
from data_util.label_files import read_durations, read_mids
from data_util.labels import CLIP_FRAMES, FRAME_RATE, Events, Vocabulary, load_vocabulary
from data_util.processes import map_in_processes
from errors import UserError, exit_on_user_error, wrong_path
from printable import printable

EXIT_WRONG = 1
PUBLISHED_CLIPS = {"train": 103_463, "eval": 16_996}  # clips with strong labels
PUBLISHED_CLASSES = {"train": "447 classes", "eval": "416 classes, 407 of them among the 447 of the training set"}
_LISTED = 10  # names shown of a longer list
_CHUNK = 64  # clips that a worker decodes at a time


@dataclass
class Findings:
    """What to print, and what is wrong among it."""

    lines: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def say(self, line: str = "") -> None:
        """Add a line."""
        self.lines.append(line)

    def complain(self, line: str) -> None:
        """Add a line that makes the exit code 1."""
        self.wrong.append(line)
        self.lines.append(f"WRONG  {line}")


@dataclass(frozen=True)
class Decoded:
    """What decoding some clips found: seconds of the good ones, the reason for each bad one, what is odd about some."""

    seconds: dict[str, float]
    errors: dict[str, str]
    notes: dict[str, str]


def check(data_dir: Path, *, decode_count: int | None = 200, show_classes: bool = False) -> Findings:
    """Look a data folder over.

    Args:
        data_dir: as `data_util.audioset` describes it.
        decode_count: clips per file to decode, drawn evenly; None = all of them.
        show_classes: list every class that has events instead of the most frequent ones.

    Returns:
        The findings.

    Raises:
        UserError: no such folder, or none of the files of a data set in it.
    """
    if not data_dir.is_dir():
        raise UserError(f"--data_dir is {data_dir}: {wrong_path('folder', data_dir)}, or set AUDIOSET_DIR")
    paths = {part: data_dir / f"{part}_segments_mp3.hdf" for parts in SPLITS.values() for part in parts}
    if not any(path.exists() for path in paths.values()):
        raise UserError(f"{data_dir} holds no {' and no '.join(path.name for path in paths.values())}")
    findings = Findings()
    ids: dict[str, np.ndarray] = {}
    for part, path in paths.items():
        ids[part] = _check_file(findings, part, path, decode_count)
    _check_overlap(findings, ids)
    for split, parts in SPLITS.items():
        clips = np.unique(np.concatenate([ids[part] for part in parts]))
        findings.say(f"\n{split}: {len(clips):,} clips")
        _check_labels(findings, data_dir / f"audioset_{split}_strong.tsv", split, clips, show_classes)
    _check_durations(findings, data_dir / "eval_durations.csv", ids["eval"])
    findings.say()
    findings.say(f"{len(findings.wrong)} things are wrong" if findings.wrong else "nothing is wrong")
    return findings


def _check_file(findings: Findings, part: str, path: Path, decode_count: int | None) -> np.ndarray:
    """Report one packed file; returns its clip ids."""
    findings.say(f"\n{part}: {path}")
    none = np.array([], np.str_)
    if not path.exists():
        say = findings.say if part == "unbalanced_train" else findings.complain
        say(f"  {path.name} is not there")
        return none
    try:
        file = Mp3File(path)
    except UserError as error:
        findings.complain(str(error))
        return none
    if len(file) == 0:
        findings.say("  no clips")
        return none
    unique, counts = np.unique(file.clip_ids, return_counts=True)
    if (counts > 1).any():
        findings.complain(f"{int((counts > 1).sum())} clips come more than once: {_some(unique[counts > 1])}")
    count = len(file) if decode_count is None else min(decode_count, len(file))
    rows = np.unique(np.linspace(0, len(file) - 1, count).round().astype(int)) if count else np.array([], int)
    decoded = _decode(path, file, rows)
    _report_decoded(findings, len(file), len(rows), decoded)
    return file.clip_ids


def _report_decoded(findings: Findings, n_clips: int, n_decoded: int, decoded: Decoded) -> None:
    findings.say(f"  {n_clips:,} clips, {n_decoded:,} of them decoded")
    seconds = np.array(list(decoded.seconds.values()))
    if len(seconds):
        hours = n_clips * seconds.mean() / 3600
        about = "" if n_decoded == n_clips else "about "
        quantiles = "  ".join(f"{np.quantile(seconds, q):.2f}" for q in (0, 0.1, 0.5, 0.9, 1))
        findings.say(f"  {about}{hours:.2f} h; seconds per clip (least, 10 %, median, 90 %, most): {quantiles}")
        findings.say(f"  {int((seconds < 9.9).sum()):,} of the decoded are shorter than 9.9 s")
    if decoded.errors:
        shown = [f"{clip} ({reason})" for clip, reason in decoded.errors.items()]
        findings.complain(f"{len(shown)} of {n_decoded:,} clips cannot be decoded: {_some(shown)}")
    if decoded.notes:
        odd = [f"{clip} ({note})" for clip, note in decoded.notes.items()]
        findings.say(f"  {len(odd):,} of the decoded are odd, and used as far as they go: {_some(odd)}")


def _decode(path: Path, file: Mp3File, rows: np.ndarray) -> Decoded:
    """Decode these rows on all cores."""
    seconds: dict[str, float] = {}
    errors: dict[str, str] = {}
    notes: dict[str, str] = {}
    chunks = [rows[k : k + _CHUNK] for k in range(0, len(rows), _CHUNK)]
    if not chunks:
        return Decoded(seconds, errors, notes)
    found = map_in_processes(partial(decode_rows, path), chunks, None, partial(_decode_singly, path))
    with tqdm(total=len(rows), desc=printable(f"decoding {path.name}"), unit="clip") as bar:
        for chunk, results in zip(chunks, found, strict=True):
            for clip, (n_seconds, problem) in zip(file.clip_ids[chunk].tolist(), results, strict=True):
                if n_seconds:
                    seconds[clip] = n_seconds
                if problem:
                    (notes if n_seconds else errors)[clip] = problem
            bar.update(len(chunk))
    return Decoded(seconds, errors, notes)


_DecodedRow = tuple[float, str]  # seconds, 0 where it cannot be decoded; the reason, or what is odd about it


def decode_rows(path: Path, rows: np.ndarray) -> list[_DecodedRow]:
    """Length and problem of each row of a packed file."""
    found: list[_DecodedRow] = []
    with open_hdf5(path) as file:
        for row in rows:
            try:
                clip = decode_channels(file["mp3"][row])
                found.append((len(clip.audio) / clip.sample_rate, "; ".join(clip.notes)))
            except (DecodeError, OSError, RuntimeError) as error:
                found.append((0.0, str(error)))
    return found


def _decode_singly(path: Path, rows: np.ndarray) -> list[_DecodedRow]:
    """As `decode_rows`, for rows one of which kills the process that decodes it."""

    def crashed(_: np.ndarray) -> list[_DecodedRow]:
        return [(0.0, "the process that decoded it died: no memory, or a crash of the decoder")]

    singly = map_in_processes(partial(decode_rows, path), np.split(rows, len(rows)), 1, crashed)
    return [found for result in singly for found in result]


def _check_overlap(findings: Findings, ids: dict[str, np.ndarray]) -> None:
    train = np.concatenate([ids[part] for part in SPLITS["train"]])
    both = np.intersect1d(train, ids["eval"])
    if len(both):
        findings.complain(f"{len(both):,} clips are in training and in evaluation: {_some(both)}")
    twice = np.intersect1d(ids["balanced_train"], ids["unbalanced_train"])
    if len(twice):
        findings.say(f"{len(twice):,} clips are in both training files; each counts once")


def _check_labels(findings: Findings, path: Path, split: str, clips: np.ndarray, show_classes: bool) -> None:
    findings.say(f"\nstrong labels, {split}: {path}")
    vocabulary = load_vocabulary("strong")
    if not path.exists():
        findings.complain(f"{path.name} is not there (the strong labels; of own recordings a copy of your table)")
        return
    try:
        events = load_strong_events(path, vocabulary)
    except UserError as error:
        findings.complain(str(error))
        return
    here = np.isin(events.clip_ids, clips)
    missing = events.clip_ids[~here]
    findings.say(f"  {len(events):,} labelled clips, {int(here.sum()):,} of them here, {len(missing):,} missing")
    if len(missing):
        findings.say(f"  missing: {_some(missing)}")
    if not here.any():
        findings.complain(f"no clip on disk has labels in {path.name}")
    of_published = int(here.sum()) / PUBLISHED_CLIPS[split]
    published = f"{PUBLISHED_CLIPS[split]:,} clips, {PUBLISHED_CLASSES[split]}"
    findings.say(f"  published: {published}; this copy has {of_published:.1%} of the clips")
    findings.say(f"  {len(read_mids(path)):,} classes in {path.name}")
    if late := int((events.onset >= CLIP_FRAMES / FRAME_RATE).sum()):
        findings.say(f"  {late:,} events begin after the 10 s of a clip: nothing learns or scores them")
    _report_classes(findings, events.select(np.flatnonzero(here)), vocabulary, split, show_classes)


def _report_classes(findings: Findings, events: Events, vocabulary: Vocabulary, split: str, show_classes: bool) -> None:
    counts = np.bincount(events.class_index, minlength=len(vocabulary))
    expected = np.arange(len(vocabulary)) if split == "train" else vocabulary.eval_indices
    without = [vocabulary.names[c] for c in expected if counts[c] == 0]
    present, what = int((counts[expected] > 0).sum()), "have a logit" if split == "train" else "are scored"
    findings.say(f"  {counts[expected].sum():,} events of {present} of the {len(expected)} classes that {what}")
    if more := events.n_events - counts[expected].sum():
        findings.say(f"  {more:,} events of {int((counts > 0).sum()) - present} classes that are not")
    order = np.argsort(-counts, kind="stable")
    order = order[: int((counts > 0).sum())]  # a small copy lacks most of them
    shown = order if show_classes else order[:_LISTED]
    findings.lines += [f"    {counts[c]:>8,}  {vocabulary.names[c]}" for c in shown]
    if without:
        findings.say(f"  {len(without)} classes without events: {_some(without)}")


def _check_durations(findings: Findings, path: Path, eval_ids: np.ndarray) -> None:
    try:
        durations = read_durations(path)
    except UserError as error:
        findings.complain(str(error))
        return
    if durations:
        known = np.isin(eval_ids, np.array(list(durations), np.str_)).sum()
        findings.say(f"\n{path.name}: {len(durations):,} clips, {int(known):,} of the {len(eval_ids):,} here")
    else:
        findings.say(f"\n{path.name} is not there; every evaluation clip counts as 10 s")


def _some(names: Sequence[str] | np.ndarray) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _LISTED
    return ", ".join(printable(str(name)) for name in names[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _decode_count(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of clips nor `all`")
    return int(text)


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    parser = argparse.ArgumentParser(prog="python -m data_util.check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data_dir", type=Path, default=os.environ.get("AUDIOSET_DIR"), help="folder of the data set")
    parser.add_argument(
        "--decode", type=_decode_count, default=200, metavar="N|all", help="clips per file to decode (default: 200)"
    )
    parser.add_argument("--classes", action="store_true", help="list every class with events, not only the ten first")
    args = parser.parse_args(argv)
    if args.data_dir is None:
        raise UserError("give --data_dir DIR or set AUDIOSET_DIR")
    findings = check(Path(args.data_dir), decode_count=args.decode, show_classes=args.classes)
    print(printable("\n".join(findings.lines), keep="\n").lstrip("\n"))
    if findings.wrong:
        raise SystemExit(EXIT_WRONG)


if __name__ == "__main__":
    main()
