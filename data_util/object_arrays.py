"""Reading npz files whose names are stored as pickled object arrays, without running anything from the file.

NumPy stores an array of Python strings as a pickle. A pickle can run any code, so `numpy.load` is not let near it: the
unpickler here knows the three names that NumPy itself writes, and answers each with a stand-in that only keeps values.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from errors import UserError, wrong_path


class _Array:
    """Stands in for numpy.ndarray: keeps the values that its pickle brings."""

    values: list[Any]

    def __init__(self, *_: Any) -> None:
        self.values = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.values = list(state[-1])  # (version, shape, dtype, Fortran order, values)


class _Type:
    """Stands in for numpy.dtype."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        pass


def _reconstruct(*_: Any) -> _Array:
    return _Array()


_STAND_INS = {"_reconstruct": _reconstruct, "ndarray": _Array, "dtype": _Type}


class _StringsUnpickler(pickle.Unpickler):
    """Reads an object array of plain values; anything else that would have to be imported is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in _STAND_INS:
            return _STAND_INS[name]
        raise pickle.UnpicklingError(f"it wants to import {module}.{name}")

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def _read_strings(file: IO[bytes]) -> np.ndarray:
    content = _StringsUnpickler(file).load()
    if not isinstance(content, _Array) or not all(isinstance(value, str) for value in content.values):
        raise pickle.UnpicklingError("expected an array of strings, got other objects")
    return np.array(content.values, np.str_)


def _read_member(file: IO[bytes]) -> np.ndarray:
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    shape, _, dtype = readers[version](file)
    if not dtype.hasobject:
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)
    strings = _read_strings(file)
    if len(shape) != 1 or shape[0] != len(strings):
        raise ValueError(f"its header promises {shape} strings, it holds {len(strings)}")
    return strings


def read_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The named arrays of an npz file; the others (in OpenMIC, hundreds of megabytes of features) are not read.

    Args:
        path: the file.
        names: of arrays of numbers, or of strings, which may be stored as objects.

    Returns:
        Name -> array; strings as a `str_` array.

    Raises:
        UserError: no such file, no npz file, an array is missing or holds anything but numbers or strings.
    """
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for name in names:
                with archive.open(f"{name}.npy") as file:
                    arrays[name] = _read_member(file)
            return arrays
    except FileNotFoundError:
        raise UserError(f"{path}: {wrong_path('file', path)}") from None
    except Exception as error:  # damaged pickles raise about anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}{f', array {name},' if name else ''} cannot be read: {reason}") from None
