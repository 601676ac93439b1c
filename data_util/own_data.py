"""One's own recordings with their labels: found, checked, and brought into one plain structure.

Three ways to say what is heard where:

- a table (CSV, TSV) with the columns filename, onset, offset, label;
- a file of another program beside each recording, or one for all of them (`annotation_formats`);
- a folder per class, for clips of which only the class is known.

In the recordings of a folder named background, noise or negative nothing happens, unless a table says otherwise.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_util.annotation_formats import files_beside, read_beside, read_events
from data_util.audio_file import DecodeError, Length, measure
from data_util.audio_folders import AUDIO_ENDINGS, beneath
from data_util.clip_names import ClipNames
from data_util.labels import merge_intervals
from data_util.own_annotations import Row
from errors import UserError, wrong_path

Event = tuple[float, float, str]  # onset s, offset s, label

# What programs append to the name of a recording that they cut: _chunk3, -part02, _0-10, _12.5s-22.5s
_PIECE = re.compile(
    r"[-_ .]+(?:(?:chunk|part|piece|seg|segment|slice|window|split)[-_ ]?\d+|\d+\.?\d*s?-\d+\.?\d*s?)$", re.I
)
BACKGROUND_FOLDERS = frozenset({"background", "noise", "negative"})  # recordings in which nothing happens; plurals, too
WRONG_UNIT = 0.5  # share of the events beyond the end of their file, above which something is wrong altogether


@dataclass(frozen=True)
class Recording:
    """One annotated audio file.

    Attributes:
        name: path below the audio folder, with `/`.
        path: where it is.
        duration: seconds.
        events: merged per class, sorted, within the duration.
        group: recordings of one group stay together in a split.
        split: train, val or test where the annotations say so, else empty.
        channel: to take of several, counted from 0; None: the mean of all.
    """

    name: str
    path: Path
    duration: float
    events: tuple[Event, ...]
    group: str
    split: str = ""
    channel: int | None = None


@dataclass
class OwnData:
    """Recordings with their labels.

    Attributes:
        recordings: sorted by name.
        labels: the classes, sorted.
        clip_labels: True: an event covers its whole recording, because only the class of the recording is known.
        notes: what was mended or left out, one line each, with counts.
    """

    recordings: list[Recording]
    labels: tuple[str, ...]
    clip_labels: bool = False
    notes: list[str] = field(default_factory=list)


def read_own_data(
    audio: Path,
    events: Path | None = None,
    group_column: str | None = None,
    *,
    label_column: str | None = None,
    background: Path | None = None,
    channel: int | None = None,
    strict: bool = False,
) -> OwnData:
    """Read recordings and annotations.

    Args:
        audio: folder with recordings in any format, also in folders beneath and behind links.
        events: file of annotations; None: label files beside the recordings, or a folder per class.
        group_column: column of that table that says which recordings belong together; None: names that differ in
            the number of a piece (`_chunk3`, `_part02`, `_10-20`) do.
        label_column: column, tier or control that holds the labels; None: found by its name.
        background: folder of recordings in which nothing happens, in `audio` or elsewhere.
        channel: of recordings with several, counted from 0; None: the mean of all.
        strict: refuse recordings whose end is missing; otherwise what is there counts.

    Raises:
        UserError: no audio, no annotations, a name outside the folder, a bad line, or times of the wrong unit.
    """
    if not audio.is_dir():
        raise UserError(f"--audio is {audio}: {wrong_path('folder', audio)}")
    files = _find_audio(audio)
    quiet = _background(audio, files, background)
    loud = [file for file in files if file not in set(quiet)]
    clip_labels = False
    notes: list[str] = []
    told: dict[str, list[str]] = {}
    how: dict[str, Any] = {"find": _finder(audio, files), "label_column": label_column, "notes": told}
    if events is not None:
        rows = read_events(events, group_column=group_column, **how)
        by_file = _by_file(rows, audio, files, told, notes)
        notes += _count([file for file in loud if file not in by_file], NOT_LISTED, audio)
    elif beside := files_beside(files):
        rows = [row for file, found in beside.items() for row in read_beside(found[0], _below(file, audio), **how)]
        if several := [found[0].name for found in beside.values() if len(found) > 1]:
            told[SEVERAL] = several
        by_file = _by_file(rows, audio, files, told, notes)
        notes += _count([f for f in loud if f not in by_file], "recordings without a label file, left out", audio)
    elif label_column is not None:
        raise UserError(
            f"--label_column is {label_column}: expected label files beside the recordings in {audio}, got none; "
            "name a table with --events, or leave the option out"
        )
    else:
        by_file, notes = _class_folders(audio, loud)
        clip_labels = True
    quiet = [f for f in quiet if f not in by_file]
    by_file |= {f: [Row(_below(f, audio), str(f))] for f in quiet}
    notes += _count(quiet, "background: recordings in which nothing happens", audio)
    return _assemble(audio, by_file, clip_labels, notes, channel, strict)


SEVERAL = "recordings with several label files, of which one is used"
NOT_LISTED = (
    "recordings that are not in the table, left out (a line with the file name alone would say that nothing happens)"
)


def group_of(name: str) -> str:
    """Group of a recording that no annotation puts into one: its name without its ending and the number of a piece."""
    return _PIECE.sub("", str(Path(name).with_suffix("")))


def _below(file: Path, audio: Path) -> str:
    """Name of a recording: its path below the audio folder (`../quiet/a.wav` where it lies beside it)."""
    return Path(os.path.relpath(file, audio)).as_posix()


def _background(audio: Path, files: Sequence[Path], background: Path | None) -> list[Path]:
    """Recordings in which nothing happens: those of `background`, and of folders that are named so."""
    quiet = [f for f in files if f.relative_to(audio).parts[0].strip().lower().removesuffix("s") in BACKGROUND_FOLDERS]
    if background is None:
        return quiet
    if not background.is_dir():
        raise UserError(f"--background is {background}: {wrong_path('folder', background)}")
    known = {os.path.realpath(file): file for file in files}
    more = [known.get(os.path.realpath(file), file) for file in beneath(background)]
    if not more:
        raise UserError(f"--background is {background}: it holds no audio files")
    return sorted({*quiet, *more})


def _find_audio(audio: Path) -> list[Path]:
    files = beneath(audio)
    if not files:
        raise UserError(f"--audio is {audio}: it holds no audio files ({', '.join(sorted(AUDIO_ENDINGS)[:8])}, ...)")
    return files


def _count(items: Iterable[object], what: str, audio: Path | None = None) -> list[str]:
    """One note about some things, with the first names; no note about none."""
    names = [_below(i, audio) if isinstance(i, Path) and audio else str(i) for i in items]
    if not names:
        return []
    more = ", ..." if len(names) > 3 else ""
    return [f"{what}: {len(names)} ({', '.join(names[:3])}{more})"]


# ---- which file a row means -----------------------------------------------------------------------------------


def _by_file(
    rows: Sequence[Row], audio: Path, files: Sequence[Path], told: dict[str, list[str]], notes: list[str]
) -> dict[Path, list[Row]]:
    """Rows by file; what readers told goes into the notes."""
    notes += [line for what, names in told.items() for line in (_count(names, what) or [what])]
    return _resolve(rows, audio, files, notes)


def _resolve(rows: Sequence[Row], audio: Path, files: Sequence[Path], notes: list[str]) -> dict[Path, list[Row]]:
    """Rows by file; names may lack the folder or the ending where that leaves one possibility."""
    file_of = {_below(file, audio): file for file in files}
    clips = ClipNames(file_of, strict=True)
    by_file: dict[Path, list[Row]] = {}
    missing: dict[str, None] = {}
    classes: dict[bool, dict[str, None]] = {True: {}, False: {}}  # of files that are there, and of missing ones
    for row in rows:
        found = clips.find(_inside(row, audio), row.where)
        classes[found is not None][row.label] = None
        if found is None:
            missing[row.name] = None
        else:
            by_file.setdefault(file_of[found], []).append(row)
    if not by_file:
        raise UserError(f"none of the {len(missing)} files of the table is in {audio}, such as {next(iter(missing))}")
    notes += _count(missing, "files of the table that are missing, left out")
    lost = sorted(classes[False].keys() - classes[True].keys() - {""})
    notes += _count(lost, "classes of missing files alone, left out")
    return by_file


def _inside(row: Row, audio: Path) -> str:
    """The name of a row as a path below the audio folder; UserError for one that leads out of it."""
    name = row.name if os.path.exists(audio / row.name) else row.name.replace("\\", "/")
    inside = os.path.relpath(os.path.normpath(os.path.join(audio.absolute(), name)), audio.absolute())
    inside = inside.replace(os.sep, "/")
    if inside.split("/")[0] == "..":
        raise UserError(f"{row.where}: file {row.name!r} lies outside {audio}")
    return inside


def _finder(audio: Path, files: Sequence[Path]) -> Callable[[str, str], str | None]:
    """(name that another program wrote, where) -> name of a recording, or None.

    Folders at its beginning that are not here belong to the machine where the recordings were annotated.
    """
    return finder(ClipNames({_below(file, audio): file for file in files}, strict=True))


def finder(clips: ClipNames) -> Callable[[str, str], str | None]:
    """(name that another program wrote, where) -> the clip that it means, or None."""
    known: dict[str, str | None] = {}

    def find(name: str, where: str) -> str | None:
        if name not in known:
            parts = [part for part in name.replace("\\", "/").split("/") if part]
            ends = (clips.find("/".join(parts[i:]), where) for i in range(len(parts)))
            known[name] = next((clip for clip in ends if clip is not None), None)
        return known[name]

    return find


def _class_folders(audio: Path, files: Sequence[Path]) -> tuple[dict[Path, list[Row]], list[str]]:
    below = {file: file.relative_to(audio).parts for file in files}
    if not any(len(parts) > 1 for parts in below.values()):
        raise UserError(
            f"nothing says what is heard in {audio}: give --events FILE.csv (filename, onset, offset, label), put "
            "label files (Audacity, Raven, Praat, ELAN) beside the recordings, or sort them into one folder per class"
        )
    rows = {f: [Row(_below(f, audio), str(f), 0.0, np.inf, p[0].strip())] for f, p in below.items() if len(p) > 1}
    return rows, _count([f for f in files if f not in rows], "recordings in no class folder, left out", audio)


# ---- from rows to recordings ----------------------------------------------------------------------------------


@dataclass
class _Tally:
    """What happened to the events of all recordings."""

    total: int = 0
    beyond: list[str] = field(default_factory=list)  # begin after the end of their file
    cut: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    duplicates: int = 0
    merged: int = 0
    lost: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # class -> why -> events

    def lost_classes(self, labels: Collection[str]) -> list[str]:
        """Lines that name the classes of which no event is left, by what is wrong with their events."""
        classes: dict[str, list[str]] = defaultdict(list)
        for label, whys in sorted(self.lost.items()):
            if label not in labels:
                classes[" or ".join(sorted(whys))].append(f"{label}: {whys.total()} events")
        return [f"classes whose events all {why}, left out: {', '.join(names)}" for why, names in classes.items()]

    def notes(self) -> list[str]:
        lines = _count(self.beyond, "events that begin after the end of their file, left out")
        lines += _count(self.cut, "events that end after the end of their file, cut there")
        lines += _count(self.points, "events without duration, left out")
        if self.duplicates:
            lines.append(f"lines that say the same as another one: {self.duplicates}")
        if self.merged:
            lines.append(f"events that overlap or touch another one of their class, merged: {self.merged}")
        return lines


def _assemble(
    audio: Path, by_file: dict[Path, list[Row]], clip_labels: bool, notes: list[str], channel: int | None, strict: bool
) -> OwnData:
    durations = _measure(audio, sorted(by_file), notes, strict)
    tally = _Tally()
    for row in (row for file, rows in by_file.items() if file not in durations for row in rows if row.label):
        tally.lost[row.label]["are in files that cannot be read"] += 1
    recordings = []
    for file, duration in durations.items():
        rows = by_file[file]
        events = _events_of(rows, duration, tally)
        name = _below(file, audio)
        group = _agreed(rows, "group") or group_of(name)
        recordings.append(Recording(name, file, duration, events, group, _agreed(rows, "split"), channel))
    if len(tally.beyond) > WRONG_UNIT * tally.total:
        raise UserError(
            f"{len(tally.beyond)} of {tally.total} events begin after the end of their file, such as "
            f"{tally.beyond[0]}: times must be seconds from the start of the file"
        )
    labels = sorted({label for r in recordings for *_, label in r.events})
    if not labels:
        why = "".join(f"; {line}" for line in tally.lost_classes(labels))
        raise UserError(f"the annotations of {audio} hold no event{why}")
    notes += [*tally.lost_classes(labels), *tally.notes(), *_alike(labels)]
    return OwnData(recordings, tuple(labels), clip_labels, notes)


def _measure(audio: Path, files: Sequence[Path], notes: list[str], strict: bool) -> dict[Path, float]:
    """Seconds of each file that can be read; what is odd about files goes into the notes."""
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(files, pool.map(_length, files), strict=True))
    bad = [f"{_below(file, audio)}: {why}" for file, why in found.items() if isinstance(why, DecodeError)]
    lengths = {file: length for file, length in found.items() if isinstance(length, Length)}
    if not lengths:
        raise UserError(f"none of the {len(files)} annotated files of {audio} can be read as audio, such as {bad[0]}")
    notes += _count(bad, "files that cannot be read as audio, left out")
    odd = {_below(file, audio): length for file, length in lengths.items() if length.notes}
    told = [f"{name}: {'; '.join(length.notes)}" for name, length in odd.items()]
    if strict and any(length.cut_off for length in odd.values()):
        first = next(text for text, length in zip(told, odd.values(), strict=True) if length.cut_off)
        raise UserError(f"{first}; omit --strict to use what is there")
    notes += _count(told, "recordings with odd audio, used as far as they go")
    return {file: length.seconds for file, length in lengths.items()}


def _length(path: Path) -> Length | DecodeError:
    try:
        return measure(path)
    except DecodeError as error:
        return error


def _agreed(rows: Sequence[Row], name: str) -> str:
    """What all rows of a file say about it; UserError where they differ."""
    said = {getattr(row, name): row for row in rows if getattr(row, name)}
    if len(said) > 1:
        first, second = list(said.values())[:2]
        raise UserError(
            f"{second.where}: {name} {getattr(second, name)!r} of {second.name}, but {getattr(first, name)!r} in "
            f"{first.where}; a file belongs to one {name}"
        )
    return next(iter(said), "")


def _events_of(rows: Sequence[Row], duration: float, tally: _Tally) -> tuple[Event, ...]:
    """Events within the duration, those of one class merged."""
    kept: list[Event] = []
    seen: set[Event] = set()
    for row in rows:
        if not row.label:
            continue
        tally.total += 1
        event = (row.onset, min(row.offset, duration), row.label)
        if event in seen:
            tally.duplicates += 1
        elif row.offset == row.onset:
            tally.points.append(row.where)
            tally.lost[row.label]["have no duration"] += 1
        elif row.onset >= duration:
            tally.beyond.append(row.where)
            tally.lost[row.label]["begin after the end of their file"] += 1
        else:
            if duration + 0.05 < row.offset < np.inf:  # programs round the ends of files
                tally.cut.append(row.where)
            kept.append(event)
        seen.add(event)
    merged = merge(kept)
    tally.merged += len(kept) - len(merged)
    return merged


def merge(events: Sequence[Event]) -> tuple[Event, ...]:
    """Merge events of one class that overlap or touch; sorted by onset."""
    if not events:
        return ()
    names, group = np.unique([label for *_, label in events], return_inverse=True)
    onset, offset = (np.array([event[i] for event in events], np.float64) for i in (0, 1))
    group, onset, offset = merge_intervals(group, onset, offset)
    return tuple(sorted(zip(onset.tolist(), offset.tolist(), names[group].tolist(), strict=True)))


def _alike(labels: Sequence[str]) -> list[str]:
    """A note about labels that differ in upper and lower case or in blanks alone: likely slips of the pen."""
    keys = Counter("".join(label.lower().split()) for label in labels)
    alike = [label for label in labels if keys["".join(label.lower().split())] > 1]
    return [f"labels that differ in spelling alone are different classes: {', '.join(alike)}"] if alike else []
