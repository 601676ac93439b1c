"""The audio files that words of a command line mean, and the names of what is written for them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from errors import UserError, reading

# Endings that libsndfile knows; in folders only such files count, files that are named themselves may have any.
AUDIO_ENDINGS = frozenset(
    f".{ending}"
    for ending in (
        *("wav", "flac", "mp3", "ogg", "oga", "opus", "aif", "aiff", "aifc", "au", "snd", "caf", "w64", "rf64", "wv"),
        *("voc", "ircam", "sph", "nist", "mp2", "mp1"),
    )
)
STDIN = "-"
SUMMARY = "summary"  # stem of the table of a run: no audio gets it
LONGEST_NAME = 200  # bytes of a stem's last part: file systems take 255, and endings are added


@dataclass(frozen=True)
class AudioInput:
    """An audio file and the stem of the files that are written for it, with `/` between folders."""

    path: str
    stem: str


def find_audio(words: Sequence[str], list_file: str | None = None) -> list[AudioInput]:
    """Files, folders (with everything beneath), glob patterns and a file with one of these per line.

    A file that is named but missing stays in the result: it is reported when it cannot be read.

    Raises:
        UserError: a folder or pattern without audio, or a list that cannot be read.
    """
    words = [*words, *(_read_list(list_file) if list_file else ())]
    found: dict[str, Path] = {}  # path -> path below the folder that was named
    for word in words:
        for path, below in _expand(word):
            found.setdefault(str(path), below)
    return _with_stems(found)


def _read_list(list_file: str) -> list[str]:
    with reading(list_file, "--audio_list"):
        lines = Path(list_file).read_text(encoding="utf-8-sig").splitlines()
    words = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not words:
        raise UserError(f"--audio_list is {list_file}: it names no files")
    return words


def _expand(word: str) -> Iterable[tuple[Path, Path]]:
    path = Path(word)
    if word == STDIN:
        return [(path, Path("stdin"))]
    if path.is_dir():
        return _required(((p, p.relative_to(path)) for p in _audio_beneath(path)), f"folder '{word}'")
    if not path.exists() and glob.has_magic(word):
        matches = (Path(p) for p in sorted(glob.glob(word, recursive=True)))
        files = (p for p in matches if p.is_file() and p.suffix.lower() in AUDIO_ENDINGS)
        return _required(((p, Path(p.name)) for p in files), f"pattern '{word}'")
    return [(path, Path(path.name))]


def _audio_beneath(folder: Path) -> Iterator[Path]:
    with reading(folder, "the folder"), os.scandir(folder):
        pass  # what may not be read is empty for rglob
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in AUDIO_ENDINGS and not hidden and path.is_file():
            yield path


def _required(pairs: Iterable[tuple[Path, Path]], where: str) -> list[tuple[Path, Path]]:
    found = list(pairs)
    if not found:
        raise UserError(f"{where} holds no audio files ({', '.join(sorted(AUDIO_ENDINGS)[:8])}, ...)")
    return found


def _with_stems(found: dict[str, Path]) -> list[AudioInput]:
    """Stems without ending; with it where two files would share one, and numbered where that is not enough."""
    plain = [below.with_suffix("").as_posix() for below in found.values()]
    shared = {stem for stem, count in Counter(plain).items() if count > 1} | {SUMMARY}
    taken: set[str] = set()
    inputs = []
    for path, below, stem in zip(found, found.values(), plain, strict=True):
        name = _shortened(below.as_posix() if stem in shared else stem)
        unique, n = name, 1
        while unique in taken:
            n += 1
            unique = f"{name}-{n}"
        taken.add(unique)
        inputs.append(AudioInput(path, unique))
    return inputs


def _shortened(stem: str) -> str:
    folder, slash, name = stem.rpartition("/")
    return folder + slash + os.fsencode(name)[:LONGEST_NAME].decode(errors="replace")
