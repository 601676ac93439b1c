"""Packs a folder of audio files into the HDF5 layout of AudioSet.

    python -m data_util.pack --audio DIR --labels FILE [--labels FILE ...] --out FILE.hdf

The label files say which clips there are: strong TSVs and weak CSVs as Google publishes them, or tables of one's own
with a column filename. The audio may have any format, rate and number of channels, be nested in folders or behind
links, and is named as the tables say, or `<ytid>`, `Y<ytid>` or `<ytid>_<start ms>`. Clips are stored as MP3, mono,
32 kHz, 10 s at most; an MP3 that is so already keeps its bytes.

Work goes on in batches beside the output (`FILE.hdf.parts`), so a killed run resumes where it was; the same request
again finds its output and writes the report only. `FILE.hdf.report.csv` lists every clip that is missing, unreadable,
cut off, silent, too short, too long, clipped, duplicated or the same audio as another, and files without a label.
Missing and unreadable clips are left out, the others are packed. The last lines on the screen say where every file
and every row of the tables went.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import math
import os
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from tqdm import tqdm

import locks
import signals
from atomic import check_writable, replacing
from data_util.audio_folders import AUDIO_ENDINGS, FFMPEG_ENDINGS, beneath, is_audio_name
from data_util.cells import safe_cells
from data_util.channels import CHANNELS
from data_util.hdf5_dataset import PackedRows, text_attribute
from data_util.hdf5_output import create_hdf5
from data_util.pack_account import Account, account
from data_util.pack_clip import CRASHED, PackedClip, pack_clip
from data_util.pack_labels import Wanted, WantedClip, read_wanted
from data_util.processes import map_in_processes
from errors import UserError, exit_on_user_error, wrong_path
from json_text import json_text
from printable import printable

REQUEST = "pack_request"  # attribute of the output, and of each batch
PROBLEMS = "pack_problems"  # entry of the output: what is wrong with the audio, as JSON
MARKER = "request.json"  # in the folder of finished batches
REPORT_COLUMNS = ("clip_id", "problem", "detail", "file")
BATCH = 256  # clips per resumable step
_FORMAT = 4  # raise it when the same request gives another file


class Problem(NamedTuple):
    """One line of the report."""

    clip_id: str
    problem: str
    detail: str
    file: str


@dataclass(frozen=True)
class Task:
    """One clip to pack: its id, its file relative to the audio folder, its packed weak labels."""

    clip_id: str
    file: str
    target: bytes


def find_audio(folder: Path) -> dict[str, list[str]]:
    """Stem of every audio file below `folder` -> its paths relative to it, sorted, those that need FFmpeg last.

    Stems are in the form of Unicode that names from tables are brought into.

    Raises:
        UserError: no such folder, or no audio in it.
    """
    if not folder.is_dir():
        raise UserError(f"--audio is {folder}: {wrong_path('folder', folder)}")
    found: dict[str, list[str]] = defaultdict(list)
    for path in beneath(folder):
        found[_normal(path.stem)].append(path.relative_to(folder).as_posix())
    if not found:
        raise UserError(f"--audio {folder}: it holds no audio files ({', '.join(sorted(AUDIO_ENDINGS)[:8])}, ...)")
    return {
        stem: sorted(paths, key=lambda p: (Path(p).suffix.lower() in FFMPEG_ENDINGS, p))
        for stem, paths in found.items()
    }


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class Plan:
    """Which file is packed as which clip.

    Attributes:
        tasks: one per clip that has a file, in the order of the labels.
        problems: clips without a file or with several, files without a label.
        wanted: what the labels ask for.
        files: clip -> its files, the one to pack first.
        n_files: all audio files.
    """

    tasks: list[Task]
    problems: list[Problem]
    wanted: Wanted
    files: dict[str, list[str]]
    n_files: int


def plan(folder: Path, label_files: Sequence[Path]) -> Plan:
    """Match the labelled clips with the files."""
    audio, wanted = find_audio(folder), read_wanted(label_files)
    files = _files_of(wanted.clips, audio)
    tasks, problems = [], []
    for clip in wanted.clips:
        paths = files.get(clip.clip_id)
        if not paths:
            problems.append(Problem(clip.clip_id, "missing", "no file of this name", ""))
            continue
        if len(paths) > 1:
            problems.append(Problem(clip.clip_id, "duplicated", f"{paths[0]} is taken", "; ".join(paths[1:])))
        tasks.append(Task(clip.clip_id, paths[0], clip.target))
    if not tasks:
        raise UserError(f"no file in {folder} is named after a clip of {', '.join(map(str, label_files))}")
    known = {path for paths in files.values() for path in paths}
    everything = [path for paths in audio.values() for path in paths]
    problems += [Problem("", "no label", "no table names it", path) for path in everything if path not in known]
    return Plan(tasks, problems, wanted, files, len(everything))


def _files_of(clips: Sequence[WantedClip], audio: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Files of each clip that has some; each belongs to one clip, first of all to the one that has its name."""
    owner: dict[str, str] = {}
    files: dict[str, list[str]] = defaultdict(list)
    for of_clip in (slice(0, 1), slice(1, None)):
        for clip in clips:
            for path in (path for name in clip.names[of_clip] for path in _named(name, audio)):
                if owner.setdefault(path, clip.clip_id) == clip.clip_id and path not in files[clip.clip_id]:
                    files[clip.clip_id].append(path)
    return {clip: paths for clip, paths in files.items() if paths}


def _named(name: str, audio: Mapping[str, Sequence[str]]) -> list[str]:
    """Files with a name: a stem or the end of a path, with or without an ending; one with that very ending first."""
    path, ending = _normal(name.strip().replace("\\", "/")).removeprefix("./"), ""
    if is_audio_name(path):
        path, ending = os.path.splitext(path)
    found = audio.get(path.rpartition("/")[2], ())
    if "/" in path:
        found = [p for p in found if f"/{_normal(os.path.splitext(p)[0])}".endswith(f"/{path}")]
    return sorted(found, key=lambda file: os.path.splitext(file)[1] != ending) if ending else list(found)


@dataclass(frozen=True)
class ClipRules:
    """How each file is read; as in `pack_clip`."""

    min_seconds: float = 1.0
    channel: int | None = None
    strict: bool = False


def fingerprint(folder: Path, tasks: Sequence[Task], rules: ClipRules) -> str:
    """Hash of all that the output depends on: clips, labels, sizes and times of the files, settings."""
    digest = hashlib.sha256(f"{_FORMAT} {rules}\n".encode())
    for task in tasks:
        path = folder / task.file
        state = f"{path.stat().st_size}\t{path.stat().st_mtime_ns}" if path.exists() else "a link that leads nowhere"
        digest.update(f"{task.clip_id}\t{task.file}\t{state}\t".encode() + task.target)
    return digest.hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What packing came to.

    Attributes:
        problems: the report.
        account: where every file and row went.
        is_new: False where this very output was there already.
    """

    problems: list[Problem]
    account: Account
    is_new: bool


def pack(
    folder: Path,
    label_files: Sequence[Path],
    out: Path,
    *,
    rules: ClipRules = ClipRules(),
    workers: int | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Pack a folder; see the module.

    Args:
        folder: audio files, nested as they like.
        label_files: strong TSVs and weak CSVs.
        out: the HDF5 file.
        rules: how each file is read.
        workers: processes; None = one per core.
        overwrite: replace an output made from other files.

    Returns:
        What came of it. The report of an output that is there already is written anew: which clips are missing may
        have changed.

    Raises:
        UserError: nothing to pack, unreadable labels, or an output that is something else.
        OSError: the output cannot be written, or another process is writing it.
    """
    check_writable(out)
    with locks.held(out):
        return _pack(folder, label_files, out, rules, workers, overwrite)


def _pack(
    folder: Path, label_files: Sequence[Path], out: Path, rules: ClipRules, workers: int | None, overwrite: bool
) -> Outcome:
    planned = plan(folder, label_files)
    tasks = planned.tasks
    request = json_text({"sha256": fingerprint(folder, tasks, rules), "clips": len(tasks)}, ensure_ascii=True)
    done = out.exists() and _request_of(out) == request
    if out.exists() and not done and not overwrite:
        raise UserError(f"{out} is there and was made from other files or labels; add --overwrite to replace it")
    parts = out.with_name(f"{out.name}.parts")
    if not done or overwrite:
        done = False
        _open_parts(parts, request)
        with signals.telling(lambda: _progress(parts, len(tasks), request)):
            _pack_parts(folder, tasks, parts, rules, workers, request)
            _merge(parts, tasks, out, request)
    of_audio, packed = _read_output(out)
    problems = sorted(planned.problems + of_audio, key=lambda p: (p.clip_id, p.problem, p.file))
    _write_report(report_path(out), problems)
    if _marks(parts, request):
        shutil.rmtree(parts, ignore_errors=True)
    why = {p.clip_id: p.problem for p in of_audio}
    return Outcome(problems, account(planned.wanted, planned.files, planned.n_files, packed, why), not done)


def _request_of(out: Path) -> str | None:
    """The request that an output was made from; None where it is no output of this command."""
    try:
        with h5py.File(out) as file:
            return text_attribute(file, REQUEST)
    except OSError:
        return None


def _read_output(out: Path) -> tuple[list[Problem], list[str]]:
    """What is wrong with the audio, and the clips that are packed."""
    with h5py.File(out) as file:
        return _read_problems(file), [name.decode().removesuffix(".mp3") for name in file["audio_name"][:]]


def _read_problems(file: h5py.File) -> list[Problem]:
    return [Problem(*row) for row in json.loads(file[PROBLEMS][:].tobytes())]


def _store_problems(file: h5py.File, problems: Sequence[Problem]) -> None:
    text = json_text(problems, ensure_ascii=True)  # names may hold halves of characters
    file[PROBLEMS] = np.frombuffer(text.encode(), np.uint8)  # an attribute holds no more than 64 KB


def report_path(out: Path) -> Path:
    """Where the report of an output stands."""
    return out.with_name(f"{out.name}.report.csv")


def _open_parts(parts: Path, request: str) -> None:
    """The folder of finished batches: that of an interrupted run of this request, or a new one."""
    if not _marks(parts, request):
        shutil.rmtree(parts, ignore_errors=True)
        with replacing(parts / MARKER) as part:
            part.write_text(request, encoding="utf-8")


def _marks(parts: Path, request: str) -> bool:
    marker = parts / MARKER
    return marker.is_file() and marker.read_text(encoding="utf-8") == request


def _progress(parts: Path, n_tasks: int, request: str) -> str:
    firsts = [first for first in range(0, n_tasks, BATCH) if _request_of(_part_path(parts, first)) == request]
    done = [min(BATCH, n_tasks - first) for first in firsts]
    return f"{sum(done)} of {n_tasks} clips are in {parts}; the same command resumes"


def _part_path(parts: Path, first: int) -> Path:
    return parts / f"{first:09d}.hdf"


def _pack_parts(
    folder: Path, tasks: Sequence[Task], parts: Path, rules: ClipRules, workers: int | None, request: str
) -> None:
    """Encode the batches that are not there yet, or that another request has left."""
    firsts = [k for k in range(0, len(tasks), BATCH) if _request_of(_part_path(parts, k)) != request]
    left = [task for k in firsts for task in tasks[k : k + BATCH]]
    paths = [folder / task.file for task in left]
    packed = map_in_processes(partial(pack_clip, **asdict(rules)), paths, workers, lambda _: CRASHED)
    start = {"total": len(tasks), "initial": len(tasks) - len(left)}
    with tqdm(packed, desc=printable(f"packing {folder}"), unit="clip", **start) as clips:
        done = iter(clips)
        for first in firsts:
            batch = tasks[first : first + BATCH]
            _write_part(_part_path(parts, first), batch, list(islice(done, len(batch))), request)
        clips.update(len(tasks) - clips.n)  # it counts a clip only when the next one is asked for


def _write_part(path: Path, tasks: Sequence[Task], packed: Sequence[PackedClip], request: str) -> None:
    """One finished batch: the packed clips and what is wrong with them."""
    good = [(task, clip) for task, clip in zip(tasks, packed, strict=True) if clip.mp3]
    with replacing(path) as temporary, create_hdf5(temporary) as file:
        rows = PackedRows(file, [task.clip_id for task, _ in good])
        for row, (task, clip) in enumerate(good):
            rows.write(row, clip.mp3, np.frombuffer(task.target, np.uint8))
        file.attrs["digests"] = json_text([clip.digest for _, clip in good], ensure_ascii=True)
        problems = [
            Problem(task.clip_id, problem, detail, task.file)
            for task, clip in zip(tasks, packed, strict=True)
            for problem, detail in clip.problems
        ]
        _store_problems(file, problems)
        file.attrs[REQUEST] = request


def _merge(parts: Path, tasks: Sequence[Task], out: Path, request: str) -> None:
    """Join the batches into the output, with their problems and the clips whose audio is the same."""
    paths = [_part_path(parts, first) for first in range(0, len(tasks), BATCH)]
    problems: list[Problem] = []
    clip_ids: list[str] = []
    first_with: dict[str, str] = {}
    file_of = {task.clip_id: task.file for task in tasks}
    for path in paths:
        with h5py.File(path) as file:
            problems += _read_problems(file)
            names = [name.decode().removesuffix(".mp3") for name in file["audio_name"][:]]
            for clip, digest in zip(names, json.loads(file.attrs["digests"]), strict=True):
                if (other := first_with.setdefault(digest, clip)) != clip:
                    problems.append(Problem(clip, "same audio", f"as {other}", file_of[clip]))
            clip_ids += names
    if not clip_ids:
        raise UserError(f"not one of the {len(tasks)} files can be read; first: {problems[0].detail}")
    with replacing(out) as temporary, create_hdf5(temporary) as file:
        rows, row = PackedRows(file, clip_ids), 0
        for path in tqdm(paths, desc=printable(f"writing {out}"), unit="batch"):
            with h5py.File(path) as part:
                for mp3, target in zip(part["mp3"][:], part["target"][:], strict=True):
                    rows.write(row, mp3, target)
                    row += 1
        _store_problems(file, problems)
        file.attrs[REQUEST] = request


def _write_report(path: Path, problems: Sequence[Problem]) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(REPORT_COLUMNS)
        writer.writerows(map(safe_cells, problems))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data_util.pack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--audio", type=Path, required=True, metavar="DIR", help="folder of audio files, nested or not")
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        action="append",
        metavar="FILE",
        help="strong TSV or weak CSV as published, or a table with the columns filename, onset, offset, label (name or "
        "MID of AudioSet); may be given several times",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.hdf", help="the packed file")
    parser.add_argument(
        "--min_seconds", type=float, default=1.0, help="report clips shorter than this (default: %(default)s)"
    )
    parser.add_argument(
        "--channels", choices=CHANNELS, default="mix", help="pack the mean of all channels, or the first one"
    )
    parser.add_argument(
        "--strict", action="store_true", help="leave out files whose end is missing (default: pack what is there)"
    )
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--overwrite", action="store_true", help="replace an output made from other files")
    return parser


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    args = _parser().parse_args(argv)
    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: must be at least 1")
    if not 0 <= args.min_seconds < math.inf:
        raise UserError(f"--min_seconds {args.min_seconds}: must be a number of seconds from 0 on")
    outcome = pack(
        args.audio,
        args.labels,
        args.out,
        rules=ClipRules(args.min_seconds, 0 if args.channels == "first" else None, args.strict),
        workers=args.workers,
        overwrite=args.overwrite,
    )
    if outcome.is_new:
        counts = Counter(problem.problem for problem in outcome.problems)
        found = ", ".join(f"{count} {what}" for what, count in sorted(counts.items())) or "no problems"
        with h5py.File(args.out) as file:
            print(printable(f"{args.out}: {len(file['audio_name'])} clips packed; {found} ({report_path(args.out)})"))
    else:
        print(printable(f"{args.out} is made from these very files already: nothing to do ({report_path(args.out)})"))
    print("\n".join(outcome.account.lines()))


if __name__ == "__main__":
    main()
