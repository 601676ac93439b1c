"""Which clip a name in a table means: one answer for annotations, true events, ground truths, durations and scores.

A clip is its path relative to the folder that was given, with `/`. Tables may give less than that (no folders, no
ending) where one clip alone can be meant, and AudioSet's clips have several spellings: `Y<ytid>`, `<ytid>`,
`<ytid>_<start ms>`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from data_util.audio_folders import is_audio_name
from errors import UserError

# A segment of AudioSet: YouTube ids have 11 characters, and times no leading zeros, unlike SITE_20240512_060000.
_SEGMENT = re.compile(r"Y?([A-Za-z0-9_-]{11})_(0|[1-9]\d{0,8})")
_OTHER_ENDING = 2

Rank = tuple[bool, int, int, int]  # how far a name is from a clip: the smaller, the nearer
_SAME: Rank = (False, 0, 0, 0)


class _Name(NamedTuple):
    """A path in its parts; the ending of an audio file in lower case, or empty."""

    folders: tuple[str, ...]
    stem: str
    ending: str

    @property
    def path(self) -> str:
        """Without the ending."""
        return "/".join((*self.folders, self.stem))


def _parse(name: str) -> _Name:
    # Unicode has two forms of an accented letter: file names of macOS use one, most tables the other.
    text = unicodedata.normalize("NFC", name.strip().replace("\\", "/"))
    parts = [part for part in text.split("/") if part not in ("", ".")] or [""]
    stem, ending = os.path.splitext(parts[-1]) if is_audio_name(parts[-1]) else (parts[-1], "")
    return _Name(tuple(parts[:-1]), stem, ending.lower())


def segment_clip(segment_id: str) -> tuple[str, int | None]:
    """Clip id and start (ms) of an AudioSet segment, `<ytid>_<start ms>`; any other id is a name: `file_clip`, None."""
    segment = _SEGMENT.fullmatch(segment_id.strip())
    return (f"Y{segment[1]}", int(segment[2])) if segment else (file_clip(segment_id), None)


def file_clip(name: str) -> str:
    """Clip id of a file in data sets of AudioSet's form: its path without the ending after a `Y`, in place of `/` `__`.

    `Y<ytid>` has its Y.
    """
    path = _parse(name).path.replace("/", "__")
    return path if len(path) == 12 and path.startswith("Y") else f"Y{path}"


def clip_ids(names: Iterable[str]) -> dict[str, str]:
    """Clip of each name of one table: its path without the ending; with it where another ending has the same path."""
    parsed = {name: _parse(name) for name in names}
    endings = _endings(parsed.values())
    return {name: one.path + (one.ending if len(endings[one.path]) > 1 else "") for name, one in parsed.items()}


def fullest_names(names: Iterable[str]) -> dict[str, str]:
    """Each name of one table as a path with the ending that other names of the same path may give it."""
    parsed = {name: _parse(name) for name in names}
    endings = _endings(parsed.values())
    return {
        name: one.path + (next(iter(endings[one.path])) if len(endings[one.path]) == 1 else one.ending)
        for name, one in parsed.items()
    }


def _endings(names: Iterable[_Name]) -> dict[str, set[str]]:
    endings: dict[str, set[str]] = {}
    for one in names:
        endings.setdefault(one.path, set()).update({one.ending} - {""})
    return endings


class ClipNames:
    """Clips by all the names under which tables may know them.

    Args:
        clips: their paths relative to the folder that was given; as a mapping, with the place of each file.
        strict: a name must be the end of a clip's path, with its ending or without. Else it may also have folders
            and an ending that the clip does not have, or be another spelling of AudioSet's: right where every name
            is known to be a clip, and wrong where files may be missing.
    """

    def __init__(self, clips: Iterable[str], *, strict: bool = False) -> None:
        self.strict = strict
        self._clips = dict.fromkeys(clips)
        places = clips if isinstance(clips, Mapping) else {}
        self._parsed = {clip: _parse(clip) for clip in self._clips}
        self._place = {clip: _parse(os.path.abspath(place)).folders for clip, place in places.items()}
        self._by_path: dict[str, list[str]] = defaultdict(list)
        self._by_core: dict[str, list[str]] = defaultdict(list)
        for clip, one in self._parsed.items():
            self._by_path[one.path].append(clip)
            self._by_core[_core(one.stem)].append(clip)

    def find(self, name: str, where: str) -> str | None:
        """The clip that a name means, or None.

        Args:
            name: as a table gives it.
            where: the table, and the line, for the message.

        Raises:
            UserError: several clips fit equally well (with the candidates).
        """
        found = self._find(name, where)
        return None if found is None else found[0]

    def match(self, names: Iterable[str], where: str) -> dict[str, str]:
        """The clip of each name that has one, no two names having the same: the nearest one gets it.

        Raises:
            UserError: a name may mean several clips, or several names mean a clip equally well (with the candidates).
        """
        nearest: dict[str, tuple[Rank, list[str]]] = {}
        for name in dict.fromkeys(names):
            if (found := self._find(name, where)) is None:
                continue
            clip, rank = found
            best, rivals = nearest.get(clip, (rank, []))
            if rank <= best:
                nearest[clip] = (rank, [*rivals, name] if rank == best else [name])
        for clip, (_, rivals) in nearest.items():
            if len(rivals) > 1:
                raise UserError(
                    f"{where}: clip {clip!r} may be {_either(rivals)}; give each clip the path it has there"
                )
        return {rivals[0]: clip for clip, (_, rivals) in nearest.items()}

    def _find(self, name: str, where: str) -> tuple[str, Rank] | None:
        if name in self._clips:
            return name, _SAME
        parsed = _parse(name)
        ranked = self._ranked(parsed, self._by_path.get(parsed.path, ()))
        if not ranked or min(ranked.values())[0]:
            ranked = self._ranked(parsed, self._by_core.get(_core(parsed.stem), ()))
        if not ranked:
            return None
        best = min(ranked.values())
        candidates = [clip for clip, rank in ranked.items() if rank == best]
        if len(candidates) > 1:
            raise UserError(f"{where}: file {name!r} may be {_either(candidates)}; give its path below the folder")
        return candidates[0], best

    def _ranked(self, name: _Name, clips: Iterable[str]) -> dict[str, Rank]:
        ranks = {clip: self._rank(name, clip) for clip in clips}
        return {clip: rank for clip, rank in ranks.items() if rank is not None}

    def _rank(self, name: _Name, clip: str) -> Rank | None:
        """How far a name is from a clip; None: it does not mean that clip."""
        other = self._parsed[clip]
        stem = 0 if name.stem == other.stem else None if self.strict else _audioset_rank(name.stem, other.stem)
        folders = self._folder_rank(name.folders, clip)
        ending = 0 if name.ending == other.ending else _OTHER_ENDING if name.ending and other.ending else 1
        if stem is None or folders is None or (self.strict and ending == _OTHER_ENDING):
            return None
        return ending == _OTHER_ENDING, stem, folders, ending

    def _folder_rank(self, folders: tuple[str, ...], clip: str) -> int | None:
        own = self._parsed[clip].folders
        if folders == own:
            return 0
        if _ends_with(own, folders) or _ends_with(self._place.get(clip, ()), folders):
            return 1
        if not self.strict and _ends_with(folders, own):
            return 1 + len(folders) - len(own)
        return None


def _ends_with(path: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return len(path) >= len(end) and path[len(path) - len(end) :] == end


def _either(names: list[str]) -> str:
    return " or ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


def _video(stem: str) -> tuple[str, str]:
    """YouTube id and start in ms (empty: not given) of an AudioSet clip; of others, their name."""
    if segment := _SEGMENT.fullmatch(stem):
        return segment[1], segment[2]
    return (stem[1:] if len(stem) == 12 and stem.startswith("Y") else stem), ""


def _core(stem: str) -> str:
    """What all spellings of a clip have in common."""
    return _video(stem)[0].removeprefix("Y")


def _audioset_rank(stem: str, other: str) -> int | None:
    """1: the same AudioSet clip; 2: the same but for a Y before it, of any length; None: neither."""
    (video, start), (other_video, other_start) = _video(stem), _video(other)
    if start and other_start and start != other_start:
        return None
    if video == other_video:
        return 1
    return 2 if f"Y{video}" == other_video or video == f"Y{other_video}" else None
