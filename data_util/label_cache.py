"""Keeps parsed strong labels, so that the next run starts without parsing the table again."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from atomic import replacing
from data_util.label_files import read_strong_tsv
from data_util.labels import Events, Vocabulary
from errors import reading

CACHE_DIR = Path(__file__).resolve().parent.parent / "resources" / "cache"
_FORMAT = 2  # raise it when the same table gives other events
_COLUMNS = ("clip_ids", "starts", "onset", "offset", "class_index")


def cache_key(path: Path, vocabulary: Vocabulary) -> str:
    """Hash of all that the events depend on: the bytes of the table, the classes, the format."""
    digest = hashlib.sha256(path.read_bytes())
    known = (*vocabulary.mids, "", *vocabulary.names)
    ignored = (*sorted(vocabulary.ignored_mids), "", *sorted(vocabulary.ignored_names))
    digest.update("\n".join(("", str(_FORMAT), *known, "", *ignored)).encode())
    return digest.hexdigest()[:32]


def load_strong_events(path: str | Path, vocabulary: Vocabulary, cache_dir: Path | None = None) -> Events:
    """`read_strong_tsv`, from the cache where this very table was read before.

    A folder that cannot be written, or a damaged cache file, costs time and nothing else.

    Args:
        path: the table.
        vocabulary: the classes.
        cache_dir: folder of the cache; None = resources/cache.

    Raises:
        UserError: as `read_strong_tsv`.
    """
    path = Path(path)
    with reading(path, "the labels"):
        cached = (cache_dir or CACHE_DIR) / f"strong_{cache_key(path, vocabulary)}.npz"
    try:
        with np.load(cached, allow_pickle=False) as columns:
            return Events(*(columns[name] for name in _COLUMNS))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        events = read_strong_tsv(path, vocabulary)
    try:
        with replacing(cached) as part, part.open("wb") as file:
            np.savez(file, **{name: getattr(events, name) for name in _COLUMNS})  # type: ignore[arg-type]
    except OSError:
        pass
    return events
