"""AudioSet as it is packed in practice: MP3 bytes and bit-packed weak targets in HDF5."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_util.clip_index import clip_id_of_name
from data_util.hdf5_output import check_written
from errors import UserError, one_line, reading

N_TARGET_BYTES = 66  # 527 classes, bit-packed
NAME_BYTES = 20  # width of the published names


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open for reading, as long as the block lasts.

    Raises:
        UserError: the file is missing, unreadable, truncated, damaged or no HDF5 file.
    """
    file = _opened(path)
    with file, _refusing_damage(path):
        yield file


def _opened(path: Path) -> h5py.File:
    with reading(path, "the HDF5 file"), path.open("rb"):
        pass  # h5py words neither a missing permission nor a folder well
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = "is truncated" if "truncated" in str(error) else f"cannot be read as HDF5 ({error})"
        raise UserError(f"{path} {reason}; copy or download it again") from None


@contextmanager
def _refusing_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError) as error:  # h5py raises any of them where the file contradicts itself
        raise UserError(f"{path} is damaged ({one_line(error)}); copy or download it again") from None


def entry(file: h5py.File, name: str, expected: str) -> h5py.Dataset:
    """The data set of this name in an open HDF5 file; `expected` words what it should hold.

    Raises:
        UserError: it is not there; names what the file holds instead. Its values are in another file: whoever made this
            one could have us read, and pass on, any file of this machine.
    """
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise _of_another_file(file, name)
    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        held = ", ".join(sorted(file)) or "nothing"
        raise UserError(f"{file.filename}: no entry {name!r} ({expected}); the file holds {held}")
    if found.external or found.is_virtual or found.file.filename != file.filename:
        raise _of_another_file(file, name)
    return found


def _of_another_file(file: h5py.File, name: str) -> UserError:
    return UserError(f"{file.filename}: entry {name!r} takes its values from another file; copy them into this one")


def text_attribute(file: h5py.File, name: str) -> str | None:
    """An attribute of a file; None where it is missing or not text."""
    try:
        value = file.attrs.get(name)
    except (OSError, RuntimeError, TypeError, ValueError):  # as many as there are types that NumPy has not
        return None
    return value if isinstance(value, str) else None


def read_names(file: h5py.File, names: h5py.Dataset, expected: str) -> list[str]:
    """The strings of an entry; raises UserError where it is no list of strings."""
    if names.ndim != 1 or (names.dtype.kind != "S" and not h5py.check_string_dtype(names.dtype)):
        refuse_entry(file, names, expected)
    return [name.decode("utf-8", "replace") for name in names[:]]


def refuse_entry(file: h5py.File, dataset: h5py.Dataset, expected: str) -> None:
    """Raise the UserError of an entry with the wrong type or shape."""
    name = str(dataset.name).lstrip("/")
    found = f"{dataset.dtype} {list(dataset.shape)}"
    raise UserError(f"{file.filename}: entry {name!r} is {found}, expected {expected}")


class LazyHdf5:
    """An HDF5 file that every process opens for itself, when it first reads.

    An HDF5 handle must not cross a fork or a pickle; so the constructor closes what it has opened, the handle is
    tied to the process id, and a pickled copy comes without it. Entries are kept: looking one up by name takes
    longer than reading a clip's bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._entries: dict[str, h5py.Dataset] = {}
        self._pid = -1

    def entry(self, name: str) -> h5py.Dataset:
        """An entry of the file, through the handle of this process."""
        if self._pid != os.getpid():
            self._entries, self._file = {}, None  # handles inherited through a fork go before new ones come
            self._file = _opened(self.path)
            self._pid = os.getpid()
        if name not in self._entries:
            with _refusing_damage(self.path):
                self._entries[name] = entry(self._file, name, "as when it was opened first")
        return self._entries[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_entries": {}, "_pid": -1}


class Mp3File(LazyHdf5):
    """Map-style reader of one packed file: `audio_name` (bytes), `mp3` (vlen uint8), `target` (uint8 [N, 66]).

    Attributes:
        path: the HDF5 file.
        clip_ids: [N] str, `Y<ytid>`, in the order of the file.
    """

    def __init__(self, path: str | Path) -> None:
        """Check the file and read its names.

        Raises:
            UserError: missing, truncated or not HDF5; an entry is missing or has the wrong type, shape or length.
        """
        super().__init__(path)
        with open_hdf5(self.path) as file:
            self.clip_ids = np.array([clip_id_of_name(name) for name in self._check(file)], np.str_)

    @staticmethod
    def _check(file: h5py.File) -> list[str]:
        name_text, mp3_text = "bytes [N], names of clips", "vlen uint8 [N], bytes of an MP3 each"
        target_text = f"uint8 [N, {N_TARGET_BYTES}], bit-packed weak labels"
        names, mp3 = entry(file, "audio_name", name_text), entry(file, "mp3", mp3_text)
        target = entry(file, "target", target_text)
        clip_names = read_names(file, names, name_text)
        if mp3.ndim != 1 or h5py.check_vlen_dtype(mp3.dtype) != np.uint8:
            refuse_entry(file, mp3, mp3_text)
        if target.ndim != 2 or target.shape[1] != N_TARGET_BYTES or target.dtype != np.uint8:
            refuse_entry(file, target, target_text)
        if not len(names) == len(mp3) == len(target):
            lengths = f"{len(names)}, {len(mp3)} and {len(target)}"
            raise UserError(f"{file.filename}: audio_name, mp3 and target have {lengths} rows; pack it again")
        return clip_names

    def __len__(self) -> int:
        return len(self.clip_ids)

    def mp3(self, row: int) -> np.ndarray:
        """The encoded bytes of one clip, uint8 [n]."""
        return self.entry("mp3")[row]

    def target(self, row: int) -> np.ndarray:
        """The packed weak labels of one clip, uint8 [66]."""
        return self.entry("target")[row]

    def targets(self) -> np.ndarray:
        """The packed weak labels of all clips, uint8 [N, 66]."""
        return self.entry("target")[:]


class PackedRows:
    """The rows of a packed file under construction: names are there already, audio and labels come one by one."""

    def __init__(self, file: h5py.File, names: Sequence[str]) -> None:
        """Make the entries `audio_name`, `mp3` and `target` in an open file; `names` without `.mp3`."""
        self._file = file
        encoded = [f"{name}.mp3".encode() for name in names]
        width = max([NAME_BYTES, *map(len, encoded)])
        file.create_dataset("audio_name", data=np.array(encoded, f"S{width}"))
        self._mp3 = file.create_dataset("mp3", (len(names),), h5py.vlen_dtype(np.uint8))
        self._target = file.create_dataset("target", (len(names), N_TARGET_BYTES), np.uint8)

    def write(self, row: int, mp3: bytes | np.ndarray, target: np.ndarray) -> None:
        """Store the bytes of a clip and its packed weak labels, uint8 [66]."""
        self._mp3[row] = np.frombuffer(mp3, np.uint8) if isinstance(mp3, bytes) else mp3
        self._target[row] = target
        check_written(self._file)
