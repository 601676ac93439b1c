"""Class vocabularies, event lists in columns, and their encoding on the 40 ms label grid.

Labels are joined on the machine id (MID); a table of one's own may say the display name in its place. Events are
held as columns (one array per field, grouped by clip), so that those of a hundred thousand clips are merged and counted
without a loop over rows. `data_util.label_files` reads them.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from errors import UserError, reading

FRAME_RATE = 25.0  # label frames per second
CLIP_FRAMES = 250  # label frames of a 10 s clip
# A time this close to a frame border (in frames: 40 microseconds) lies on it. That is above the rounding error
# of float32 seconds (2.4e-5 frames at 10 s) and far below the millisecond (0.025 frames) of published labels.
FRAME_TOLERANCE = 1e-3

_RESOURCES = Path(__file__).resolve().parent.parent / "resources"
_SHIPPED = {
    "strong": _RESOURCES / "audioset_strong_classes.csv",
    "weak": _RESOURCES / "audioset_weak_classes.csv",
}
_INDEX_COLUMNS = ("train_index", "index", "idx")


@dataclass(frozen=True)
class Vocabulary:
    """Classes of a task in the order of the logits.

    Attributes:
        names: display names, one per class.
        mids: machine ids, one per class (equal to the names where a vocabulary has none).
        in_eval: whether the class occurs in the evaluation set; True everywhere where that is not known.
        ignored_mids: ids that are known but have no logit: classes that occur in the evaluation set only.
        ignored_names: their display names.
    """

    names: tuple[str, ...]
    mids: tuple[str, ...]
    in_eval: tuple[bool, ...]
    ignored_mids: frozenset[str] = field(default_factory=frozenset)
    ignored_names: frozenset[str] = field(default_factory=frozenset)

    def __len__(self) -> int:
        return len(self.mids)

    @cached_property
    def index_by_mid(self) -> dict[str, int]:
        """Class index of each machine id."""
        return {mid: index for index, mid in enumerate(self.mids)}

    @cached_property
    def _index_by_name(self) -> dict[str, int]:
        """Class index of each name in lower case, where one class alone has it."""
        lower = [name.lower() for name in self.names]
        return {name: index for index, name in enumerate(lower) if lower.count(name) == 1}

    @cached_property
    def _ignored(self) -> frozenset[str]:
        return self.ignored_mids | {name.lower() for name in self.ignored_names}

    def index_of(self, label: str) -> int | None:
        """Class index of a machine id, or of a name in any case; None for an unknown one."""
        return self.index_by_mid.get(label, self._index_by_name.get(label.lower()))

    def ignores(self, label: str) -> bool:
        """Whether a machine id, or a name in any case, is of a class without a logit."""
        return label in self._ignored or label.lower() in self._ignored

    @cached_property
    def eval_indices(self) -> np.ndarray:
        """Indices (int64) of the classes that occur in the evaluation set as well."""
        return np.flatnonzero(self.in_eval)


@lru_cache(maxsize=16)
def load_vocabulary(name: str | Path) -> Vocabulary:
    """Read a class vocabulary.

    Args:
        name: "strong" (447 classes), "weak" (527 classes) or the path of a CSV file with a column `name` and,
            where they apply, `mid`, `in_eval` and an index column (`train_index`, `index` or `idx`; an empty
            index = a known class without a logit).

    Returns:
        The vocabulary, in the order of the indices.

    Raises:
        UserError: the file is missing, lacks the column `name`, or its indices are not 0 .. n-1.
    """
    path = Path(_SHIPPED.get(str(name), name))
    with reading(path, "the class list"), path.open(newline="", encoding="utf-8-sig") as handle:
        rows = list(csv.DictReader(handle))
    if not rows or "name" not in rows[0]:
        raise UserError(f"{path}: a class list needs a header with a column `name` and at least one class")
    column = next((c for c in _INDEX_COLUMNS if c in rows[0]), None)
    for position, row in enumerate(rows):
        row.setdefault("mid", row["name"])
        row.update({key: (row[key] or "").strip() for key in ("name", "mid")})
        row["_index"] = row[column] or "" if column else str(position)
    known = sorted((r for r in rows if r["_index"].strip()), key=lambda r: _as_index(path, r["_index"]))
    if [int(r["_index"]) for r in known] != list(range(len(known))):
        raise UserError(f"{path}: column {column} must number the classes 0 to {len(known) - 1}, each once")
    return Vocabulary(
        names=tuple(r["name"] for r in known),
        mids=tuple(r["mid"] for r in known),
        in_eval=tuple(r.get("in_eval", "1").strip() == "1" for r in known),
        ignored_mids=frozenset(r["mid"] for r in rows if not r["_index"].strip()),
        ignored_names=frozenset(r["name"] for r in rows if not r["_index"].strip()),
    )


def _as_index(path: Path, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{path}: class index {text!r} is not a whole number") from None


@dataclass(frozen=True, eq=False)
class Events:
    """Events of many clips in columns; the events of clip i are rows `starts[i] : starts[i + 1]`.

    Attributes:
        clip_ids: [n_clips] str, `Y<ytid>`, sorted; a clip whose events were all ignored stays, empty.
        starts: [n_clips + 1] int64, first event row of each clip.
        onset, offset: [n_events] float64, seconds from the start of the clip, onset <= offset.
        class_index: [n_events] int64, index into the vocabulary.
    """

    clip_ids: np.ndarray
    starts: np.ndarray
    onset: np.ndarray
    offset: np.ndarray
    class_index: np.ndarray

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def n_events(self) -> int:
        """Number of events of all clips."""
        return len(self.onset)

    @property
    def clip_index(self) -> np.ndarray:
        """[n_events] int64, the clip that each event belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def of(self, clip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(onset, offset, class_index) of the clip with this index."""
        rows = slice(self.starts[clip], self.starts[clip + 1])
        return self.onset[rows], self.offset[rows], self.class_index[rows]

    def select(self, clips: np.ndarray) -> Events:
        """The events of these clips (int indices), in this order."""
        counts = np.diff(self.starts)[clips]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = np.arange(starts[-1]) + np.repeat(self.starts[:-1][clips] - starts[:-1], counts)
        return Events(self.clip_ids[clips], starts, self.onset[rows], self.offset[rows], self.class_index[rows])

    def as_lists(self, names: Sequence[str]) -> dict[str, list[tuple[float, float, str]]]:
        """Clip id -> list of (onset s, offset s, name), `names` being those of the classes."""
        labels = [names[i] for i in self.class_index.tolist()]
        rows = list(zip(self.onset.tolist(), self.offset.tolist(), labels, strict=True))
        bounds = self.starts.tolist()
        return {clip: rows[bounds[i] : bounds[i + 1]] for i, clip in enumerate(self.clip_ids.tolist())}


def merge_intervals(
    group: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge intervals of the same group that overlap or touch.

    Args:
        group: [n] int, intervals of different groups are never merged.
        start, stop: [n] any ordered numbers, start <= stop.

    Returns:
        (group, start, stop) of the merged intervals, sorted by group and start; the values are exactly as given.
    """
    if len(group) == 0:
        return group, start, stop
    order = np.lexsort((stop, start, group))
    group, start, stop = group[order], start[order], stop[order]
    # Running maximum of `stop` inside each group: on ranks, so that the group can be the leading digit.
    values, rank = np.unique(stop, return_inverse=True)
    _, group_rank = np.unique(group, return_inverse=True)
    reach = np.maximum.accumulate(group_rank.astype(np.int64) * len(values) + rank) % len(values)
    reach = values[reach]
    first = np.ones(len(group), bool)
    first[1:] = (group[1:] != group[:-1]) | (start[1:] > reach[:-1])
    last = np.append(np.flatnonzero(first)[1:], len(group)) - 1
    return group[first], start[first], reach[last]


def merge_events(events: Events, n_classes: int) -> Events:
    """Merge events of one class that overlap or touch; in a clip the result is sorted by class and onset."""
    key = events.clip_index * n_classes + events.class_index
    key, onset, offset = merge_intervals(key, events.onset, events.offset)
    clip, class_index = np.divmod(key, n_classes)
    starts = np.searchsorted(clip, np.arange(len(events) + 1)).astype(np.int64)
    return Events(events.clip_ids, starts, onset, offset, class_index)


def encode_events(
    onset: np.ndarray,
    offset: np.ndarray,
    class_index: np.ndarray,
    n_classes: int,
    n_frames: int = CLIP_FRAMES,
) -> np.ndarray:
    """Encode the events of one clip on the label grid.

    Args:
        onset, offset: [n] seconds.
        class_index: [n] int, 0 .. n_classes - 1.
        n_classes: rows of the result.
        n_frames: columns of the result, 25 per second.

    Returns:
        [n_classes, n_frames] uint8, 1 from frame floor(25 onset) up to, not including, ceil(25 offset).
    """
    target = np.zeros((n_classes, n_frames), np.uint8)
    first, stop = frame_span(onset, offset, n_frames)
    for c, a, b in zip(class_index.tolist(), first.tolist(), stop.tolist(), strict=True):
        target[c, a:b] = 1
    return target


def frame_span(onset: np.ndarray, offset: np.ndarray, n_frames: int = CLIP_FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """First label frame of each event and the one after its last (int64), clipped to 0 .. n_frames."""
    first = np.floor(np.asarray(onset, np.float64) * FRAME_RATE + FRAME_TOLERANCE)
    stop = np.ceil(np.asarray(offset, np.float64) * FRAME_RATE - FRAME_TOLERANCE)
    return np.clip(first, 0, n_frames).astype(np.int64), np.clip(stop, 0, n_frames).astype(np.int64)


def active_frames(events: Events, n_frames: int = CLIP_FRAMES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the active label frames of each clip and class.

    Returns:
        (clip index, class index, frames), all int64, one entry per pair with at least one active frame.
    """
    first, stop = frame_span(events.onset, events.offset, n_frames)
    n_classes = int(events.class_index.max(initial=-1)) + 1
    key = events.clip_index * n_classes + events.class_index
    full = stop > first
    key, first, stop = merge_intervals(key[full], first[full], stop[full])  # neighbours may share a frame
    pairs, inverse = np.unique(key, return_inverse=True)
    frames = np.bincount(inverse, weights=stop - first, minlength=len(pairs)).astype(np.int64)
    clip, class_index = np.divmod(pairs, max(n_classes, 1))
    return clip, class_index, frames


def unpack_weak_target(packed: np.ndarray, n_classes: int) -> np.ndarray:
    """Bit-packed labels (uint8 [..., 66], most significant bit first) -> uint8 [..., n_classes] of 0 and 1."""
    return np.unpackbits(packed, axis=-1, count=n_classes)
