"""The audio files that words of a command line mean, their names, and the names of what is written for them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_util.audio_folders import AUDIO_ENDINGS, beneath, is_audio_name
from errors import UserError, reading

STDIN = "-"
SUMMARY, EVENTS, COUNTS = "summary", "events", "counts"  # stems of the tables of a run: no audio gets them
LONGEST_NAME = 200  # bytes of a stem's last part: file systems take 255, and endings are added


@dataclass(frozen=True)
class AudioInput:
    """An audio file with its two names, `/` between folders; no two inputs of a run share either.

    Attributes:
        path: where it is.
        stem: of the files that are written for it.
        name: of the audio in these files: its path below the folder that was named.
    """

    path: str
    stem: str
    name: str = ""


def find_audio(words: Sequence[str], list_file: str | None = None) -> list[AudioInput]:
    """Files, folders (with everything beneath), glob patterns and a file with one of these per line.

    A file that is named but missing stays in the result: it is reported when it cannot be read.

    Raises:
        UserError: a folder or pattern without audio, or a list that cannot be read.
    """
    words = [*words, *(_read_list(list_file) if list_file else ())]
    found: dict[str, tuple[str, Path]] = {}  # absolute path -> path, and path below the folder that was named
    for word in words:
        for path, below in _expand(word):
            found.setdefault(os.path.abspath(path) if word != STDIN else STDIN, (str(path), below))
    names = _names(found)
    paths = [path for path, _ in found.values()]
    return [AudioInput(*both) for both in zip(paths, _stems(names), names, strict=True)]


def _read_list(list_file: str) -> list[str]:
    """The lines of a list; what begins with # is a comment unless something of that name exists."""
    with reading(list_file, "--audio_list"):
        lines = Path(list_file).read_text(encoding="utf-8-sig").split("\n")
    words = [line.rstrip("\r") if os.path.exists(line.rstrip("\r")) else line.strip() for line in lines]
    words = [word for word in words if word and not (word.startswith("#") and not _exists(word))]
    if not words:
        raise UserError(f"--audio_list is {list_file}: it names no files")
    return words


def _exists(word: str) -> bool:
    return os.path.lexists(word) or (glob.has_magic(word) and any(glob.iglob(word, recursive=True)))


def _expand(word: str) -> Iterable[tuple[Path, Path]]:
    path = Path(word)
    if word == STDIN:
        return [(path, Path("stdin"))]
    if path.is_dir():
        return _required(((p, p.relative_to(path)) for p in beneath(path)), f"folder '{word}'")
    if not path.exists() and glob.has_magic(word):
        root = _fixed_part(word)
        matches = (p for p in sorted(glob.glob(word, recursive=True)) if is_audio_name(p))
        files = (Path(p) for p in matches if os.path.isfile(p) or not os.path.exists(p))
        return _required(((p, p.relative_to(root)) for p in files), f"pattern '{word}'")
    return [(path, Path(path.name))]


def _fixed_part(pattern: str) -> Path:
    """The folder that a pattern starts from: what stands before its first part with a wildcard."""
    folder = Path(pattern)
    while glob.has_magic(str(folder)):
        folder = folder.parent
    return folder


def _required(pairs: Iterable[tuple[Path, Path]], where: str) -> list[tuple[Path, Path]]:
    found = list(pairs)
    if not found:
        raise UserError(f"{where} holds no audio files ({', '.join(sorted(AUDIO_ENDINGS)[:8])}, ...)")
    return found


def _names(found: dict[str, tuple[str, Path]]) -> list[str]:
    """Names of the audio: below the folders that were named, or below what all share where two would be the same."""
    names = [below.as_posix() for _, below in found.values()]
    if len(set(names)) == len(names):
        return names
    files = [path for path in found if path != STDIN]
    top = os.path.commonpath([os.path.dirname(path) for path in files])
    return ["stdin" if path == STDIN else Path(os.path.relpath(path, top)).as_posix() for path in found]


def _stems(names: Sequence[str]) -> list[str]:
    """Names without ending; with it where two would be one, and numbered where that is not enough."""
    plain = [Path(name).with_suffix("").as_posix() for name in names]
    shared = {stem for stem, count in Counter(plain).items() if count > 1} | {SUMMARY, EVENTS, COUNTS}
    taken: set[str] = set()
    stems = []
    for name, stem in zip(names, plain, strict=True):
        wanted = _shortened(name if stem in shared else stem)
        unique, n = wanted, 1
        while unique in taken:
            n += 1
            unique = f"{wanted}-{n}"
        taken.add(unique)
        stems.append(unique)
    return stems


def _shortened(stem: str) -> str:
    folder, slash, name = stem.rpartition("/")
    return folder + slash + os.fsencode(name)[:LONGEST_NAME].decode(errors="replace")
