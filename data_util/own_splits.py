"""Training, validation and test recordings of one's own data, and how the classes are spread over them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_util.own_data import OwnData, Recording
from errors import UserError
from printable import printable

SPLITS = ("train", "val", "test")
LEAST = 0.25  # of the share that was asked for: less would make tuning and testing luck
ALWAYS = 0.99  # of the time: a class that is active so long has no counterexamples
EVERY, SOME, NOTHING = "", "\0some", "\0nothing"  # beside the classes: all recordings, those with events, those without


def split_recordings(
    data: OwnData, *, val_share: float = 0.2, test_share: float = 0.2, seed: int = 0
) -> dict[str, list[Recording]]:
    """Recordings of each split: as given where the annotations say so, else drawn.

    Recordings of one group stay together. Rare classes are dealt out first, so that each class is in training,
    validation and test where it has enough groups; then every split gets what it lacks most (Sechidis et al., "On the
    stratification of multi-label data", 2011). A class of one group alone can be learnt, and neither tuned nor tested:
    its group trains, as long as the others suffice to tune and to test on. Given splits without validation recordings
    get some of the training's; with given splits, recordings without events and without a split are dealt out.

    Args:
        data: the recordings; notes are added where a wish could not be met.
        val_share, test_share: of the recordings, where they are drawn.
        seed: of the draw.

    Raises:
        UserError: some recordings have a split and others have none, or nothing is left to train or to validate on.
    """
    if not any(recording.split for recording in data.recordings):
        splits = _draw(data, data.recordings, {"val": val_share, "test": test_share}, seed)
    else:
        splits = _given(data.recordings, seed)
        if not splits["val"] and splits["train"]:
            data.notes.append("no recording is given for validation: some of the training recordings are taken")
            splits.update(_draw(data, splits["train"], {"val": val_share}, seed))
    for name in ("train", "val"):
        if not any(recording.events for recording in splits[name]):
            raise UserError(f"{len(splits[name])} recordings for {name} hold no event; more recordings are needed")
    splits.setdefault("test", [])
    data.notes += _absent(data, splits)
    return splits


def _given(recordings: Sequence[Recording], seed: int) -> dict[str, list[Recording]]:
    """Recordings by the split that the annotations give; those in which nothing happens may have none."""
    free = [r for r in recordings if not r.split]
    if told := [r.name for r in free if r.events]:
        raise UserError(f"some recordings have a split and others, such as {told[0]}, have none: give all of them one")
    split_of = {r.group: r.split for r in recordings if r.split}
    sizes = Counter(r.split for r in recordings if r.split)
    groups: dict[str, list[Recording]] = defaultdict(list)
    for r in free:
        if r.group not in split_of:
            groups[r.group].append(r)
    shares = {name: sizes[name] / sizes.total() for name in SPLITS if sizes[name]}
    split_of |= deal(groups, shares, seed)
    return {name: [r for r in recordings if (r.split or split_of[r.group]) == name] for name in SPLITS}


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
    splits = {name: [r for r in recordings if chosen[_key(r, groups)] == name] for name in names}
    data.notes += _too_few(splits, wanted)
    return splits


def _too_few(splits: Mapping[str, Sequence[Recording]], shares: Mapping[str, float]) -> list[str]:
    """A note about splits that got less than half of what was asked for, for the sake of classes of one recording."""
    total = sum(map(len, splits.values()))
    few = [f"{len(splits[name])} for {name}" for name in splits if len(splits[name]) < 0.5 * shares[name] * total - 0.5]
    why = "the others hold classes that occur nowhere else, and train; more recordings of these classes would help"
    return [f"few recordings to tune and test on, {', '.join(few)} of {total}: {why}"] if few else []


def _key(recording: Recording, groups: Mapping[str, object]) -> str:
    return recording.group if recording.group in groups else recording.name


def deal(groups: Mapping[str, Sequence[Recording]], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Split of each group.

    Args:
        groups: name -> its recordings.
        shares: split -> share of all recordings it should get; the first is served first, and gets the groups with
            classes that no other group has.
    """
    dealing = _Dealing(groups, shares, seed)
    dealing.spread_classes()
    dealing.keep_lone_classes()
    dealing.share_out()
    return dealing.chosen


class _Dealing:
    """Groups on their way into splits.

    Attributes:
        counts: group -> recordings with each class that other groups have as well, with some event, with none, in all.
        lone: group -> how many classes no other group has.
        holders: class -> groups that have it, in the order of the draw.
        lack: split -> class -> recordings that are missing to its share.
        chosen: group -> its split.
    """

    def __init__(self, groups: Mapping[str, Sequence[Recording]], shares: Mapping[str, float], seed: int) -> None:
        self.shares = shares
        self.counts = {name: _recordings_with(group) for name, group in groups.items()}
        names = sorted(groups)
        order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
        holders: dict[str, list[str]] = defaultdict(list)
        for name in order:
            for label in self.counts[name]:
                holders[label].append(name)
        alone = {label for label, holding in holders.items() if len(holding) == 1} - {EVERY, SOME, NOTHING}
        self.lone = {name: len(alone & count.keys()) for name, count in self.counts.items()}
        self.counts = {
            name: Counter({label: n for label, n in count.items() if label not in alone})
            for name, count in self.counts.items()
        }
        self.holders = {label: holding for label, holding in holders.items() if label not in alone}
        self.totals = {label: sum(self.counts[g][label] for g in held) for label, held in self.holders.items()}
        self.rare_first = sorted(self.totals, key=lambda label: (self.totals[label], label))
        self.lack = {split: {label: share * n for label, n in self.totals.items()} for split, share in shares.items()}
        self.chosen: dict[str, str] = {}

    def give(self, split: str, group: str) -> None:
        self.chosen[group] = split
        for label, n in self.counts[group].items():
            self.lack[split][label] -= n

    def left(self, label: str) -> list[str]:
        """Groups with a class that have no split yet."""
        return [group for group in self.holders.get(label, ()) if group not in self.chosen]

    def spread_classes(self) -> None:
        """Each class once into every split, where there are enough groups; lone classes into the first split."""
        for label in self.rare_first:
            for place, (split, share) in enumerate(self.shares.items()):
                candidates = self.left(label)
                if candidates and self.lack[split][label] == share * self.totals[label]:
                    sign = 1 if place else -1
                    self.give(split, min(candidates, key=lambda g: (sign * self.lone[g], self.counts[g].total())))

    def keep_lone_classes(self) -> None:
        """Groups with lone classes into the first split, but for those without which another one would be too small."""
        first, *others = self.shares
        rest = sorted((g for g in self.left(EVERY) if self.lone[g]), key=lambda g: self.lone[g])
        free = sum(self.counts[g][EVERY] for g in self.left(EVERY) if not self.lone[g])
        for split in sorted(others, key=lambda split: -self.missing(split)):
            while rest and self.missing(split) > 0 and sum(max(0, self.missing(s)) for s in others) > free:
                self.give(split, rest.pop(0))
        for group in rest:
            self.give(first, group)

    def missing(self, split: str) -> int:
        """How many recordings a split lacks to the least that it needs; negative where it has more."""
        share = self.shares[split] * self.totals.get(EVERY, 0)
        return max(1, int(LEAST * share)) - round(share - self.lack[split].get(EVERY, 0))

    def share_out(self) -> None:
        """All other groups to where they are missed most."""
        for label in self.rare_first:
            for group in self.left(label):
                self.give(max(self.shares, key=lambda split: (self.lack[split][label], self.lack[split][EVERY])), group)


def _recordings_with(group: Sequence[Recording]) -> Counter[str]:
    """How many recordings have each class, have some event, have none, are there."""
    counts = Counter(label for r in group for label in {e[2] for e in r.events})
    with_events = sum(bool(r.events) for r in group)
    return counts + Counter({EVERY: len(group), SOME: with_events, NOTHING: len(group) - with_events})


def _absent(data: OwnData, splits: Mapping[str, Sequence[Recording]]) -> list[str]:
    """Notes about classes that a split lacks."""
    groups: dict[str, set[str]] = defaultdict(set)
    for recording in data.recordings:
        for label in {event[2] for event in recording.events}:
            groups[label].add(recording.group)
    lone = {label for label, holding in groups.items() if len(holding) == 1}
    present = {name: {e[2] for r in recordings for e in r.events} for name, recordings in splits.items()}
    found = {
        "classes that occur in one recording train, and cannot be tuned or tested": lone & present["train"],
        "classes without a train recording, cannot be learnt": set(data.labels) - present["train"],
        "classes without a val recording, their thresholds are not tuned": set(data.labels) - present["val"] - lone,
    }
    if splits["test"]:
        found["classes without a test recording, are not scored"] = set(data.labels) - present["test"] - lone
    return [f"{what}: {len(labels)} ({', '.join(sorted(labels))})" for what, labels in found.items() if labels]


def without_counterexamples(splits: Mapping[str, Sequence[Recording]]) -> list[str]:
    """Warnings about classes that are active all the time: where a detector that always says yes is right."""
    places = {"all": [r for recordings in splits.values() for r in recordings]}
    places |= {f"all {name}": list(splits[name]) for name in ("val", "test") if splits.get(name)}
    told: set[str] = set()
    notes = []
    for place, recordings in places.items():
        always = [label for label in _always_active(recordings) if label not in told]
        told.update(always if place == "all" else ())
        if always:
            notes.append(
                f"active all the time in {place} recordings: {', '.join(always)}. A detector that always says yes "
                "would score F1 1.00 there, so such figures say nothing; add recordings in which it does not occur "
                "(--background DIR, or a folder named background)"
            )
    return notes


def _always_active(recordings: Sequence[Recording]) -> list[str]:
    """Classes whose events cover all recordings from end to end."""
    seconds: dict[str, float] = defaultdict(float)
    for recording in recordings:
        for onset, offset, label in recording.events:  # merged: those of one class do not overlap
            seconds[label] += offset - onset
    total = sum(recording.duration for recording in recordings)
    return sorted(label for label, active in seconds.items() if active >= ALWAYS * total)


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
    text = printable(text)
    return text if len(text) <= width else f"{text[: width - 3]}..."
