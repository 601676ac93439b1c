"""Names of classes, their identifiers, and choosing some of them by name, MID or group of the ontology."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_util.labels import load_vocabulary
from errors import UserError

_OUTLINE = Path(__file__).resolve().parent.parent / "resources" / "audioset_ontology.txt"


class ClassName(NamedTuple):
    """What a class is called: its display name and its machine identifier ("" when it has none)."""

    label: str
    mid: str


@functools.cache
def _mids() -> dict[str, str]:
    """MID of every AudioSet class by lower-case name; where its two lists differ, both names are known."""
    vocabularies = load_vocabulary("weak"), load_vocabulary("strong")
    return {name.lower(): mid for v in vocabularies for name, mid in zip(v.names, v.mids, strict=True)}


def class_names(labels: Sequence[str]) -> list[ClassName]:
    """Names with their AudioSet MIDs; the MID is empty for a class that AudioSet does not have."""
    return [ClassName(label, _mids().get(label.lower(), "")) for label in labels]


def tag_names(n_tags: int, classes: Sequence[ClassName]) -> list[ClassName]:
    """Names of the outputs of a weak head: AudioSet's 527 classes, or as many as the strong ones."""
    if n_tags == len(classes):
        return list(classes)
    weak = load_vocabulary("weak")
    if n_tags == len(weak):
        return class_names(weak.names)
    return [ClassName(f"tag {i}", "") for i in range(n_tags)]


def _key(name: str) -> str:
    """One key for all names of a class: its MID, or the name in lower case."""
    return _mids().get(name.lower(), name.lower())


@functools.cache
def _outline() -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Name of every node of AudioSet's ontology, and the keys of itself and all beneath it, both by its key."""
    names: dict[str, str] = {}
    members: dict[str, set[str]] = {}
    path: list[str] = []
    for line in _OUTLINE.read_text(encoding="utf-8").splitlines():
        name = line.strip()
        path[(len(line) - len(name)) // 2 :] = [_key(name)]
        names.setdefault(_key(name), name)
        for node in path:
            members.setdefault(node, set()).add(_key(name))
    return names, {node: frozenset(keys) for node, keys in members.items()}


def select_classes(
    classes: Sequence[ClassName], include: Sequence[str] | None, exclude: Sequence[str] | None
) -> np.ndarray:
    """Indices of the classes to keep, in order.

    Arguments:
        classes: all classes of a model.
        include: names (with everything beneath them in AudioSet's ontology), groups, or just one class by its
            MID or `=Name`; in any case; None: all.
        exclude: the same, to leave out.
    Raises:
        UserError: a word fits no class (with the nearest names), or nothing is left.
    """
    keep = np.ones(len(classes), bool)
    if include:
        keep = np.any([_members(classes, word, "include") for word in include], axis=0)
    for word in exclude or ():
        keep &= ~_members(classes, word, "exclude")
    if not keep.any():
        raise UserError("--include and --exclude leave no class to detect")
    return np.flatnonzero(keep)


def _members(classes: Sequence[ClassName], word: str, option: str) -> np.ndarray:
    """Which classes a word means."""
    names, members = _outline()
    word = word.strip()
    key = _key(word.removeprefix("=").strip())
    wanted = {key} if word.startswith(("=", "/")) else members.get(key, frozenset()) | {key}
    found = np.array([_key(name.label) in wanted or name.mid.lower() == key for name in classes])
    if not key or not found.any():
        known = {name.lower(): name for name in [*names.values(), *(c.label for c in classes)]}
        near = [known[n] for n in difflib.get_close_matches(key, known, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(near)}?" if near else "name a class, a MID or a group of AudioSet's ontology"
        raise UserError(f"--{option} {word}: not one of the {len(classes)} classes of the model; {hint}")
    return found
