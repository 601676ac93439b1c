"""Which clips a set of label files asks for, with their clip-level labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_util.label_files import read_segments, read_weak_csv
from data_util.labels import Vocabulary, load_vocabulary


@dataclass(frozen=True)
class WantedClip:
    """A labelled clip: `Y<ytid>`, start of the segment in the video (ms), bit-packed weak labels (66 bytes)."""

    clip_id: str
    start_ms: int
    target: bytes


def read_wanted(label_files: Sequence[Path]) -> list[WantedClip]:
    """Clips of strong TSVs and weak CSVs, each once, in the order of the files.

    Weak labels of a weak CSV count where a clip has them; else those classes of its strong labels that are weak
    classes too (same MID).

    Raises:
        UserError: a file cannot be read as what its header says, or names an unknown class.
    """
    weak_vocabulary, strong_vocabulary = load_vocabulary("weak"), load_vocabulary("strong")
    start_of: dict[str, int] = {}
    weak: dict[str, tuple[str, ...]] = {}
    strong: dict[str, tuple[str, ...]] = {}
    for path in label_files:
        if path.suffix.lower() == ".tsv":
            found, mids_of = read_segments(path, strong_vocabulary), strong
        else:
            found, mids_of = read_weak_csv(path, weak_vocabulary), weak
        for clip, start_ms, mids in zip(found.clip_ids, found.start_ms, found.mids, strict=True):
            start_of.setdefault(clip, start_ms)
            mids_of.setdefault(clip, mids)
    return [
        WantedClip(clip, start, pack_target(weak.get(clip, strong.get(clip, ())), weak_vocabulary).tobytes())
        for clip, start in start_of.items()
    ]


def pack_target(mids: Sequence[str], vocabulary: Vocabulary) -> np.ndarray:
    """MIDs -> bit-packed clip labels, uint8 [66]; those without a weak class are left out."""
    target = np.zeros(len(vocabulary), np.uint8)
    target[[vocabulary.index_by_mid[mid] for mid in mids if mid in vocabulary.index_by_mid]] = 1
    return np.packbits(target)
