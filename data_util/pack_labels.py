"""Which clips a set of label files asks for, with their clip-level labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_util.label_files import holds_events, read_segments, read_weak_csv
from data_util.labels import Vocabulary, load_vocabulary


@dataclass(frozen=True)
class WantedClip:
    """A labelled clip.

    Attributes:
        clip_id: `Y<ytid>`, or `Y` and the name of another recording.
        names: stems or paths of files that it may have; a file with the first one is no other clip's.
        target: bit-packed weak labels (66 bytes).
        n_rows: rows of the tables that are about it and count.
        n_late: those of them whose events begin after its 10 s.
    """

    clip_id: str
    names: tuple[str, ...]
    target: bytes
    n_rows: int = 1
    n_late: int = 0


@dataclass(frozen=True)
class Wanted:
    """What label files ask for.

    Attributes:
        clips: each once, in the order of the files.
        repeated_rows: rows that do not count: about a clip that a table of the kind has described already, or about a
            further segment of a video.
    """

    clips: list[WantedClip]
    repeated_rows: int


def read_wanted(label_files: Sequence[Path]) -> Wanted:
    """Clips of strong and weak tables.

    Weak labels of a weak CSV count where a clip has them; else those classes of its strong labels that are weak
    classes too (same MID).

    Raises:
        UserError: a file cannot be read as what its header says, or names an unknown class.
    """
    weak_vocabulary, strong_vocabulary = load_vocabulary("weak"), load_vocabulary("strong")
    names_of: dict[str, tuple[str, ...]] = {}
    n_rows: Counter[str] = Counter()
    n_late: Counter[str] = Counter()
    repeated = 0
    weak: dict[str, tuple[str, ...]] = {}
    strong: dict[str, tuple[str, ...]] = {}
    for path in label_files:
        if holds_events(path):
            found, mids_of = read_segments(path, strong_vocabulary), strong
        else:
            found, mids_of = read_weak_csv(path, weak_vocabulary), weak
        repeated += found.further_rows
        late_rows = found.n_late or [0] * len(found.clip_ids)
        columns = (found.clip_ids, found.names, found.start_ms, found.mids, found.n_rows, late_rows)
        for clip, name, start_ms, mids, n, late in zip(*columns, strict=True):
            names_of.setdefault(clip, spellings(clip, name, start_ms))
            if clip in mids_of:
                repeated += n
            else:
                mids_of[clip], n_rows[clip] = mids, n_rows[clip] + n
                n_late[clip] += late
    clips = []
    for clip, names in names_of.items():
        target = pack_target(weak.get(clip, strong.get(clip, ())), weak_vocabulary).tobytes()
        clips.append(WantedClip(clip, names, target, n_rows[clip], n_late[clip]))
    return Wanted(clips, repeated)


def spellings(clip_id: str, name: str, start_ms: int) -> tuple[str, ...]:
    """Names of files that a clip may have: what the table says, and the spellings of AudioSet."""
    bare = clip_id[1:]
    return tuple(dict.fromkeys((name, clip_id, bare, f"{bare}_{start_ms}", f"{clip_id}_{start_ms}")))


def pack_target(mids: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
    """MIDs -> bit-packed clip labels, uint8 [66]; those without a weak class are left out."""
    target = np.zeros(len(vocabulary), np.uint8)
    target[[vocabulary.index_by_mid[mid] for mid in mids if mid in vocabulary.index_by_mid]] = 1
    return np.packbits(target)
