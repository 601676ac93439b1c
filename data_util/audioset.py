"""AudioSet Strong and Weak as map-style data sets, straight from the packed HDF5 files.

A folder holds `{balanced_train,unbalanced_train,eval}_segments_mp3.hdf`, `audioset_{train,eval}_strong.tsv` and, if
the real lengths are known, `eval_durations.csv` (no header; `Y<ytid>,seconds`).

A sample is a dict that the default collate function can stack:

    audio           float32 [160000]    10 s, mono, 16 kHz
    strong          uint8 [447, 250]    0 or 1 (strong sets); `.float()` on the device: a quarter of the bytes
    weak            float32 [527]       0 or 1 (weak sets)
    clip_id         str                 `Y<ytid>`
    index           int                 of the clip in the data set
    valid           bool                False: the clip cannot be decoded; audio is silence, leave it out of scores
    pseudo_logits   float16 [447, 250]  teacher logits (strong sets with a pseudo-label file; else absent)
    has_pseudo      bool                False: no row in that file, or a damaged one; pseudo_logits are 0, use the
                                        hard labels

A corrupt clip in training is replaced by another one (so `clip_id` and `index` are those of the other); in evaluation
it comes as silence with `valid` False. Either way it is counted, whatever process met it: `corrupt_clips()` and
`new_corrupt_report()` work in the main process. More than one corrupt clip and more than 1 % of the set is an error.
Damaged pseudo labels (unreadable, or not numbers) are counted and reported in the same way, and are no error.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from data_util.audio import CLIP_SAMPLES, CLIP_SECONDS, DecodeError, decode, fix_length
from data_util.hdf5_dataset import Mp3File
from data_util.label_cache import load_strong_events
from data_util.label_files import read_durations
from data_util.labels import Vocabulary, encode_events, load_vocabulary, unpack_weak_target
from data_util.pseudo_labels import PseudoLabels, open_pseudo_labels, read_logits
from errors import UserError, wrong_path

MAX_CORRUPT_SHARE = 0.01
SPLITS = {"train": ("balanced_train", "unbalanced_train"), "eval": ("eval",)}
_UNSEEN, _GOOD, _CORRUPT, _REPORTED = range(4)
_log = logging.getLogger(__name__)


def split_files(data_dir: str | Path, split: str) -> list[Mp3File]:
    """Open the packed files of a split; the unbalanced one may be missing where the balanced one is there.

    Raises:
        UserError: an unknown split, no such folder, or none of its files.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r} is none of {', '.join(SPLITS)}")
    folder = Path(data_dir)
    if not folder.is_dir():
        raise UserError(f"--data_dir is {folder}: {wrong_path('folder', folder)}, or set AUDIOSET_DIR")
    paths = [folder / f"{part}_segments_mp3.hdf" for part in SPLITS[split]]
    found = [path for path in paths if path.is_file()]
    if not found:
        names = " or ".join(path.name for path in paths)
        raise UserError(f"{folder} holds no {names}; pack the data or generate a synthetic set into it")
    return [Mp3File(path) for path in found]


class ClipDataset(Dataset):
    """Clips out of several packed files, with the handling of corrupt ones.

    Attributes:
        clip_ids: the ids, in the order of the indices.
    """

    def __init__(self, files: Sequence[Mp3File], rows: Sequence[np.ndarray], *, replace_corrupt: bool) -> None:
        """Args: the packed files, the rows taken from each, and whether corrupt clips are replaced by others."""
        self.files = list(files)
        self._file_of = np.repeat(np.arange(len(files)), [len(r) for r in rows])
        self._row_of = np.concatenate([np.asarray(r, np.int64) for r in rows])
        self.clip_ids: list[str] = [
            clip for file, taken in zip(files, rows, strict=True) for clip in file.clip_ids[taken].tolist()
        ]
        self.replace_corrupt = replace_corrupt
        # One byte per clip in shared memory: every worker writes what it meets, the main process reads it.
        self._status = torch.zeros(len(self), dtype=torch.uint8).share_memory_()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def sample(self, index: int) -> dict[str, Any]:
        """All but the audio of one sample; the subclass says what that is."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = int(index)
        audio = self.audio(index)
        if audio is None and self.replace_corrupt:
            index, audio = self._replacement(index)
        sample = self.sample(index)
        sample["audio"] = torch.zeros(CLIP_SAMPLES) if audio is None else torch.from_numpy(audio)
        sample["valid"] = audio is not None
        return sample

    def mp3(self, index: int) -> np.ndarray:
        """The encoded bytes of a clip, uint8 [n]."""
        return self.files[self._file_of[index]].mp3(self._row_of[index])

    def decoded(self, index: int) -> np.ndarray:
        """The clip as float32 [160000]; raises DecodeError where its bytes are no audio."""
        return fix_length(decode(self.mp3(index), max_seconds=CLIP_SECONDS))

    def audio(self, index: int) -> np.ndarray | None:
        """The clip as `decoded` gives it, or None where it cannot be decoded (noted, and counted against the limit).

        Raises:
            UserError: too many corrupt clips.
        """
        try:
            audio = self.decoded(index)
        except (DecodeError, OSError):
            if self._status[index] < _CORRUPT:
                self._status[index] = _CORRUPT
                self._refuse_too_many()
            return None
        self._status[index] = _GOOD
        return audio

    def _replacement(self, index: int) -> tuple[int, np.ndarray]:
        """Another clip, always the same one for the same corrupt clip."""
        rng = np.random.default_rng(index)
        while True:  # ends: a clip that decodes, or the limit of corrupt clips
            if int((self._status >= _CORRUPT).sum()) == len(self):
                raise UserError(f"{self.files[0].path}: no clip can be decoded")
            other = int(rng.integers(len(self)))
            if (audio := self.audio(other)) is not None:
                return other, audio

    def _refuse_too_many(self) -> None:
        corrupt = (self._status >= _CORRUPT).nonzero().flatten().tolist()
        if len(corrupt) > max(1, MAX_CORRUPT_SHARE * len(self)):
            names = ", ".join(self.clip_ids[i] for i in corrupt)
            files = ", ".join(str(file.path) for file in self.files)
            raise UserError(
                f"{len(corrupt)} of {len(self)} clips of {files} cannot be decoded, more than "
                f"{MAX_CORRUPT_SHARE:.0%}: {names}; replace these clips or leave them out"
            )

    def corrupt_clips(self) -> dict[str, str]:
        """Clips met so far that cannot be decoded, by any process: clip id -> reason."""
        return {self.clip_ids[i]: self._reason(i) for i in (self._status >= _CORRUPT).nonzero().flatten().tolist()}

    def new_corrupt_report(self) -> str | None:
        """One line about the corrupt clips that no earlier call has reported; None: nothing new."""
        fresh = (self._status == _CORRUPT).nonzero().flatten().tolist()
        if not fresh:
            return None
        self._status[fresh] = _REPORTED
        names = ", ".join(f"{self.clip_ids[i]} ({self._reason(i)})" for i in fresh)
        what = "replaced by others" if self.replace_corrupt else "left out of the scores"
        return f"{len(fresh)} clips cannot be decoded and were {what}: {names}"

    def _reason(self, index: int) -> str:
        try:
            decode(self.mp3(index), max_seconds=CLIP_SECONDS)
        except (DecodeError, OSError) as error:
            return str(error)
        return "decodes now"


class AudioSetStrong(ClipDataset):
    """The clips of a split that have strong labels.

    Attributes:
        vocabulary: the classes, in the order of the logits.
        events: merged events of the clips, in the order of the indices (for the sampling weights).
        without_pseudo: how many clips the pseudo-label file does not hold (0 without a file).
    """

    def __init__(
        self,
        data_dir: str | Path,
        split: str = "train",
        vocabulary: Vocabulary | None = None,
        pseudo_labels: PseudoLabels | str | Path | None = None,
    ) -> None:
        """Read names and labels; no audio is decoded.

        Args:
            data_dir: folder with the packed files and label files (see the module).
            split: "train" (balanced, then unbalanced) or "eval".
            vocabulary: None = the 447 published classes.
            pseudo_labels: teacher logits, a reader or the path of a file; None = none.

        Raises:
            UserError: a file is missing or malformed, or no clip on disk has labels or pseudo labels.
        """
        self.data_dir, self.split = Path(data_dir), split
        self.vocabulary = vocabulary or load_vocabulary("strong")
        files = split_files(data_dir, split)
        labels = self.data_dir / f"audioset_{split}_strong.tsv"
        events = load_strong_events(labels, self.vocabulary)
        rows, clips = _labelled_rows(files, events.clip_ids)
        if len(clips) == 0:
            names = ", ".join(file.path.name for file in files)
            raise UserError(f"no clip of {names} in {data_dir} has labels in {labels.name}")
        super().__init__(files, rows, replace_corrupt=split == "train")
        self.events = events.select(clips)
        self._open_pseudo_labels(pseudo_labels)

    def _open_pseudo_labels(self, source: PseudoLabels | str | Path | None) -> None:
        if isinstance(source, (str, Path)):
            source = open_pseudo_labels(source, n_classes=len(self.vocabulary))
        self.pseudo_labels = source
        self.without_pseudo = 0
        self._pseudo_status = torch.zeros(len(self), dtype=torch.uint8).share_memory_()
        if source is not None:
            self._pseudo_rows = source.rows_of(self.clip_ids)
            self.without_pseudo = int((self._pseudo_rows < 0).sum())
            if self.without_pseudo == len(self):
                raise UserError(
                    f"the pseudo-label file names none of the {len(self)} clips, such as {self.clip_ids[0]}"
                )
            if self.without_pseudo:
                _log.warning(
                    "%d of %d clips have no pseudo labels and use their hard labels", self.without_pseudo, len(self)
                )

    def sample(self, index: int) -> dict[str, Any]:
        """Labels, names and, with a file of them, pseudo labels of a clip."""
        target = encode_events(*self.events.of(index), n_classes=len(self.vocabulary))
        sample = {"strong": torch.from_numpy(target), "clip_id": self.clip_ids[index], "index": index}
        if self.pseudo_labels is not None:
            logits = self._pseudo_logits(index)
            sample["has_pseudo"] = logits is not None
            sample["pseudo_logits"] = torch.from_numpy(np.zeros(target.shape, np.float16) if logits is None else logits)
        return sample

    def _pseudo_logits(self, index: int) -> np.ndarray | None:
        """Teacher logits of a clip; None where the file has none, or damaged ones."""
        row = int(self._pseudo_rows[index])
        if row < 0 or self.pseudo_labels is None:
            return None
        logits = read_logits(self.pseudo_labels, row)
        if logits is None and self._pseudo_status[index] < _CORRUPT:
            self._pseudo_status[index] = _CORRUPT
        return logits

    def new_corrupt_report(self) -> str | None:
        """One line about corrupt clips and damaged pseudo labels that no earlier call has reported; None: nothing."""
        reports = [super().new_corrupt_report()]
        fresh = (self._pseudo_status == _CORRUPT).nonzero().flatten().tolist()
        if fresh:
            self._pseudo_status[fresh] = _REPORTED
            names = ", ".join(self.clip_ids[i] for i in fresh)
            reports.append(f"{len(fresh)} clips have damaged pseudo labels and use their hard labels: {names}")
        return "; ".join(filter(None, reports)) or None

    def ground_truth(self) -> dict[str, list[tuple[float, float, str]]]:
        """Clip id -> list of (onset s, offset s, class name); clips without events have an empty list."""
        return self.events.as_lists(self.vocabulary.names)

    def durations(self) -> dict[str, float]:
        """Clip id -> seconds: from `eval_durations.csv` where it names the clip, else 10."""
        known = read_durations(self.data_dir / "eval_durations.csv") if self.split == "eval" else {}
        return {clip: known.get(clip, CLIP_SECONDS) for clip in self.clip_ids}

    def class_names_present(self) -> list[str]:
        """Names of the classes with at least one event, in the order of the logits."""
        return [self.vocabulary.names[i] for i in np.unique(self.events.class_index)]


def _labelled_rows(files: Sequence[Mp3File], labelled: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of each file whose clip is in `labelled` (sorted) and in no earlier place; and the index in `labelled`."""
    taken = np.zeros(len(labelled), bool)
    rows, clips = [], []
    for file in files:
        position = np.searchsorted(labelled, file.clip_ids).clip(max=max(len(labelled) - 1, 0))
        known = np.flatnonzero(labelled[position] == file.clip_ids) if len(labelled) else np.empty(0, np.int64)
        clip, first = np.unique(position[known], return_index=True)
        keep = np.sort(first[~taken[clip]])
        rows.append(known[keep])
        clips.append(position[known[keep]])
        taken[clips[-1]] = True
    return rows, np.concatenate(clips)


class AudioSetWeak(ClipDataset):
    """All clips of a split, each once, with their clip-level labels.

    Attributes:
        vocabulary: the 527 classes, in the order of the logits.
    """

    def __init__(self, data_dir: str | Path, split: str = "train") -> None:
        """Read the names; no audio is decoded.

        Args:
            data_dir: folder with the packed files.
            split: "train" (balanced, then unbalanced) or "eval".

        Raises:
            UserError: a file is missing or malformed.
        """
        self.vocabulary = load_vocabulary("weak")
        files = split_files(data_dir, split)
        rows, _ = _labelled_rows(files, np.unique(np.concatenate([file.clip_ids for file in files])))
        self._rows = rows
        super().__init__(files, rows, replace_corrupt=split == "train")

    def sample(self, index: int) -> dict[str, Any]:
        """Labels and name of a clip."""
        packed = self.files[self._file_of[index]].target(self._row_of[index])
        weak = unpack_weak_target(packed, len(self.vocabulary)).astype(np.float32)
        return {"weak": torch.from_numpy(weak), "clip_id": self.clip_ids[index], "index": index}

    def targets(self) -> np.ndarray:
        """Bit-packed labels of all clips, uint8 [N, 66] (for the sampling weights)."""
        return np.concatenate([file.targets()[rows] for file, rows in zip(self.files, self._rows, strict=True)])
