"""The formats of annotations: one table; a new one is a module with `fits` and `rows`, and one entry.

`read_events` reads a file that the user names, `read_beside` one beside a recording, `files_beside` finds those.
"""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_util.annotation_formats import audacity, elan, label_studio, praat, raven
from data_util.own_annotations import Row, Source, is_table, table_rows
from errors import UserError, reading

__all__ = ["FORMATS", "AnnotationFormat", "files_beside", "read_beside", "read_events"]


@dataclass(frozen=True)
class AnnotationFormat:
    """A format.

    Attributes:
        name: for people.
        endings: of files beside a recording, after its name with or without its own ending; `{n}` is any number, and
            capital letters do not matter. Empty: such files are about many recordings.
        fits: text -> whether it is this format.
        rows: source -> what it says.
    """

    name: str
    endings: tuple[str, ...]
    fits: Callable[[str], bool]
    rows: Callable[[Source], list[Row]]


# The first that fits reads a file; of several files beside a recording, that of the first ending counts.
FORMATS = (
    AnnotationFormat("Praat TextGrid", (".TextGrid",), praat.fits, praat.rows),
    AnnotationFormat("ELAN", (".eaf",), elan.fits, elan.rows),
    AnnotationFormat("Label Studio JSON", (), label_studio.fits, label_studio.rows),
    AnnotationFormat("Audacity label track", (".txt", ".audacity.txt"), audacity.fits, audacity.rows),
    AnnotationFormat(
        "Raven selection table",
        (".raven.txt", ".selections.txt", ".Table.{n}.selections.txt", ".BirdNET.selection.table.txt"),
        raven.fits,
        raven.rows,
    ),
    AnnotationFormat("Label Studio CSV", (), label_studio.fits_csv, label_studio.rows_csv),
    AnnotationFormat("table", (".BirdNET.results.csv",), is_table, table_rows),
)
AUDACITY, TABLE = FORMATS[3], FORMATS[-1]
_ENDINGS = [
    re.compile(re.escape(ending).replace(r"\{n\}", r"\d+") + r"\Z", re.I) for form in FORMATS for ending in form.endings
]


def read_events(path: Path, what: str = "--events", **options: object) -> list[Row]:
    """Read a file that the user names.

    Args:
        path: of a file of any format.
        what: it, for messages.
        options: further fields of `Source`.

    Raises:
        UserError: missing file, other encoding, no annotations, or what the reader of its format refuses.
    """
    with reading(path, what):
        source = Source(path, _text(path), **{"name": _stem(path), **options})  # type: ignore[arg-type]
        rows = _format(source.text, TABLE).rows(source)
    if not rows:
        raise UserError(f"{path} holds no annotations")
    return rows


def read_beside(path: Path, name: str, **options: object) -> list[Row]:
    """Read what lies beside a recording; an empty file, or a table without lines, says that nothing happens in it.

    Args:
        path: of the label file.
        name: of the recording.
        options: further fields of `Source`.

    Raises:
        UserError: as `read_events`.
    """
    with reading(path, "the labels"):
        source = Source(path, _text(path), name, beside=True, **options)  # type: ignore[arg-type]
        rows = _format(source.text, AUDACITY).rows(source) if source.text.strip() else []
    return [Row(name, str(path)), *rows]


def _format(text: str, otherwise: AnnotationFormat) -> AnnotationFormat:
    return next((form for form in FORMATS if form.fits(text)), otherwise)


def _text(path: Path) -> str:
    """Text in UTF-8, or in UTF-16 with a mark at its beginning, as Praat and Excel write it."""
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def _stem(path: Path) -> str:
    """Name of the recording that a file would be beside."""
    found = [match.start() for ending in _ENDINGS if (match := ending.search(path.name))]
    return path.name[: min(found)] if found else path.stem


def files_beside(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """Label files beside recordings, the one that counts first; without recordings that have none."""
    stems: dict[Path, dict[str, list[tuple[int, Path]]]] = {}
    for folder in {file.parent for file in files}:
        by_stem: dict[str, list[tuple[int, Path]]] = defaultdict(list)
        for path in folder.iterdir():
            for rank, ending in enumerate(_ENDINGS):
                match = ending.search(path.name)
                if match and match.start() and path.is_file():
                    by_stem[path.name[: match.start()]].append((rank, path))
        stems[folder] = by_stem
    found = {f: stems[f.parent].get(f.stem, []) + stems[f.parent].get(f.name, []) for f in files}
    return {file: [path for _, path in sorted(paths)] for file, paths in found.items() if paths}
