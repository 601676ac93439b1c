"""Small synthetic data sets in the official layouts of downstream tasks: one table of layouts, one way to make them.

A layout is a function that fills an empty folder, registered under its name on the command line of
`python -m data_util.synthetic --layout NAME`. The same request again finds its files and does nothing; the same
seed gives the same bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from atomic import naming, replacing, unfinished
from errors import UserError
from json_text import json_text
from locks import FOLDER_LOCK

MANIFEST = "synthetic.json"
# Where layouts are registered; a new module is one more line.
MODULES = (
    "data_util.synthetic_dcase2016task2",
    "data_util.synthetic_own",
    "data_util.synthetic_clipwise",
)


@dataclass(frozen=True)
class LayoutRequest:
    """What a set is made from; equal requests give equal files.

    Attributes:
        layout: name in `LAYOUTS`.
        train: training files.
        eval: files of each other split (of a fold, where the task has folds).
        seconds: of each file.
        seed: of all random numbers.
        format: raised when the same request gives other bytes.
    """

    layout: str
    train: int
    eval: int
    seconds: float
    seed: int = 0
    format: int = 1


@dataclass(frozen=True)
class Layout:
    """A function that fills an empty folder, and its default sizes.

    Attributes:
        make: (empty folder, request) -> None.
        train: default number of training files.
        eval: default number of files in each other split.
        seconds: default length of a file.
    """

    make: Callable[[Path, LayoutRequest], None]
    train: int
    eval: int
    seconds: float


LAYOUTS: dict[str, Layout] = {}


def register_layout(
    name: str, *, train: int, eval: int, seconds: float
) -> Callable[[Callable[[Path, LayoutRequest], None]], Callable[[Path, LayoutRequest], None]]:
    """Decorator that puts a function into `LAYOUTS`, with its default sizes; arguments as in `Layout`."""

    def register(make: Callable[[Path, LayoutRequest], None]) -> Callable[[Path, LayoutRequest], None]:
        if name in LAYOUTS:
            raise ValueError(f"there is a layout {name} already")
        LAYOUTS[name] = Layout(make, train, eval, seconds)
        return make

    return register


def find_layout(name: str) -> Layout:
    """The layout of this name; raises UserError with the known names."""
    for module in MODULES:
        importlib.import_module(module)
    if name not in LAYOUTS:
        raise UserError(f"--layout {name}: must be one of audioset, {', '.join(sorted(LAYOUTS))}")
    return LAYOUTS[name]


def make_layout(out: Path, request: LayoutRequest, *, overwrite: bool = False) -> bool:
    """Write a data set, unless this very one is there already.

    It is made beside `out` and moved there when it is whole.

    Args:
        out: folder; is made.
        request: what to make.
        overwrite: replace another synthetic set (what its manifest lists; other files stay).

    Returns:
        Whether anything was written.

    Raises:
        UserError: an unknown layout, or the folder holds other data.
    """
    layout = find_layout(request.layout)
    held = _read_manifest(out)
    if held is not None and held.get("request") == asdict(request):
        return False
    if out.exists() and (not out.is_dir() or any(path.name != FOLDER_LOCK for path in out.iterdir())):
        if held is None:
            raise UserError(f"--out {out} holds files that this command did not write; choose another folder")
        if not overwrite:
            raise UserError(f"--out {out} holds another synthetic set; choose another folder or add --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    place = tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
    with unfinished(Path(place)) as part, naming(part, out):
        layout.make(part, request)
        names = sorted(path.name for path in part.iterdir())
        (out / MANIFEST).unlink(missing_ok=True)  # comes back last: a set without it is not whole
        for name in {*names, *_entries(held)}:
            _remove(out / name)
        for name in names:
            os.replace(part / name, out / name)
    with replacing(out / MANIFEST) as temporary:
        manifest = {"request": asdict(request), "entries": names}
        temporary.write_text(json_text(manifest, ensure_ascii=True, indent=2) + "\n", encoding="utf-8")
    return True


def _read_manifest(out: Path) -> dict | None:
    try:
        held = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return held if isinstance(held, dict) and "entries" in held else None


def _entries(held: dict | None) -> set[str]:
    """What a manifest lists, as far as these are plain names: they are going to be deleted."""
    listed = held["entries"] if held is not None and isinstance(held["entries"], list) else []
    return {name for name in listed if isinstance(name, str) and name == Path(name).name not in ("", "..")}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
