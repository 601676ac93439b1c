"""Training, validation and test recordings of one's own data, and how the classes are spread over them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_util.own_data import OwnData, Recording
from errors import UserError

SPLITS = ("train", "val", "test")
MIN_GROUPS = 3  # to have one for each split


def split_recordings(
    data: OwnData, *, val_share: float = 0.2, test_share: float = 0.2, seed: int = 0
) -> dict[str, list[Recording]]:
    """Recordings of each split: as given where the annotations say so, else drawn.

    Recordings of one group stay together. Rare classes are dealt out first, so that each class is in training,
    validation and test where it has enough groups; then every split gets what it lacks most (Sechidis et al., "On the
    stratification of multi-label data", 2011). Given splits without validation recordings get some of the training's.

    Args:
        data: the recordings; notes are added where a wish could not be met.
        val_share, test_share: of the recordings, where they are drawn.
        seed: of the draw.

    Raises:
        UserError: some recordings have a split and others have none, or nothing is left to train or to validate on.
    """
    given = {recording.split for recording in data.recordings}
    if "" in given and len(given) > 1:
        name = next(r.name for r in data.recordings if not r.split)
        raise UserError(f"some recordings have a split and others, such as {name}, have none: give all of them one")
    if "" in given:
        splits = _draw(data, data.recordings, {"val": val_share, "test": test_share}, seed)
    else:
        splits = {name: [r for r in data.recordings if r.split == name] for name in SPLITS}
        if not splits["val"] and splits["train"]:
            data.notes.append("no recording is given for validation: some of the training recordings are taken")
            splits.update(_draw(data, splits["train"], {"val": val_share}, seed))
    for name in ("train", "val"):
        if not any(recording.events for recording in splits[name]):
            raise UserError(f"{len(splits[name])} recordings for {name} hold no event; more recordings are needed")
    splits.setdefault("test", [])
    data.notes += _absent(data.labels, splits)
    return splits


def _draw(
    data: OwnData, recordings: Sequence[Recording], shares: Mapping[str, float], seed: int
) -> dict[str, list[Recording]]:
    """Deal the groups out to train and the splits of `shares`."""
    groups: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        groups[recording.group].append(recording)
    names = ["train", *(name for name, share in shares.items() if share > 0)]
    if len(groups) < len(names) <= len(recordings):
        data.notes.append(
            f"all recordings seem to come from {len(groups)}: pieces of one stand in several splits, so the figures "
            "will be too good"
        )
        groups = {recording.name: [recording] for recording in recordings}
    if len(groups) < len(names):
        names.remove("test" if "test" in names else names[-1])
    if len(groups) < 2:
        why = "".join(f"; {note}" for note in data.notes)
        raise UserError(f"one recording is not enough: one is needed to train on and another one to validate on{why}")
    wanted = {name: shares.get(name, 1 - sum(shares.values())) for name in names}
    chosen = deal(groups, wanted, seed)
    return {name: [r for r in recordings if chosen[_key(r, groups)] == name] for name in names}


def _key(recording: Recording, groups: Mapping[str, object]) -> str:
    return recording.group if recording.group in groups else recording.name


def deal(groups: Mapping[str, Sequence[Recording]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Split of each group.

    Args:
        groups: name -> its recordings.
        shares: split -> share of all recordings it should get; the first is served first.
    """
    counts = {
        name: Counter(label for r in group for label in {e[2] for e in r.events}) for name, group in groups.items()
    }
    for name, recordings in groups.items():
        counts[name][""] = len(recordings)  # the recordings themselves count like a class that all have
    names = sorted(groups)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    holders: dict[str, list[str]] = defaultdict(list)  # groups with a class, in the order of the draw
    for name in order:
        for label in counts[name]:
            holders[label].append(name)
    totals = {label: sum(counts[name][label] for name in holding) for label, holding in holders.items()}
    lack = {split: {label: share * n for label, n in totals.items()} for split, share in shares.items()}
    chosen: dict[str, str] = {}

    def give(split: str, group: str) -> None:
        chosen[group] = split
        for label, n in counts[group].items():
            lack[split][label] -= n

    rare_first = sorted(totals, key=lambda label: (totals[label], label))
    for label in rare_first:  # once into every split, where there are enough
        for split, share in shares.items():
            candidates = [g for g in holders[label] if g not in chosen]
            if candidates and lack[split][label] == share * totals[label]:
                give(split, min(candidates, key=lambda g: sum(counts[g].values())))
    for label in rare_first:
        for group in holders[label]:
            if group not in chosen:
                give(max(shares, key=lambda split: (lack[split][label], lack[split][""])), group)
    return chosen


def _absent(labels: Sequence[str], splits: Mapping[str, Sequence[Recording]]) -> list[str]:
    """Notes about classes that a split lacks."""
    notes = []
    told = {"train": "cannot be learnt", "val": "their thresholds are not tuned", "test": "are not scored"}
    for split, consequence in told.items():
        present = {label for recording in splits[split] for *_, label in recording.events}
        absent = [label for label in labels if label not in present]
        if absent and splits[split]:
            notes.append(f"classes without a {split} recording, {consequence}: {len(absent)} ({', '.join(absent)})")
    return notes


def balance(data: OwnData, splits: Mapping[str, Sequence[Recording]]) -> list[dict[str, Any]]:
    """One row per class: recordings, events and seconds in all, events in each split."""
    empty: dict[str, Any] = {"recordings": 0, "events": 0, "seconds": 0.0, **dict.fromkeys(splits, 0)}
    rows = {label: {"label": label, **empty} for label in data.labels}
    for name, recordings in splits.items():
        for recording in recordings:
            for label in {event[2] for event in recording.events}:
                rows[label]["recordings"] += 1
            for onset, offset, label in recording.events:
                rows[label]["events"] += 1
                rows[label]["seconds"] += offset - onset
                rows[label][name] += 1
    return [{**row, "seconds": round(row["seconds"], 1)} for row in rows.values()]


def balance_table(rows: Sequence[Mapping[str, object]], width: int = 32) -> str:
    """The balance as an aligned table for the screen."""
    header = list(rows[0])
    cells = [header, *([_short(str(row[name]), width) for name in header] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        first, *rest = (
            f"{cell:>{w}}" if i else f"{cell:<{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  " + "  ".join([first, *rest]))
    return "\n".join(lines)


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 3]}..."
