"""Which class was taken for which, as a heat map in HTML that needs no script and reads at 3 classes and at 50."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helpers.cells import html_text

NOTHING = "nothing"
MAX_MISTAKES = 12  # pairs that are listed in words
MAX_NUMBERED = 24  # classes up to which cells have room for a number
DEEP = 0.93  # share from which a cell is so dark that a white number is the easier one to read


@dataclass(frozen=True)
class Mistake:
    """Events of one class that were taken for another, or for nothing; or detections where nothing was."""

    true: str | None  # None: nothing
    detected: str | None
    count: int
    total: int  # events of the true class; where nothing was: detections of the detected class

    @property
    def share(self) -> float:
        """Of the total, 0 to 1."""
        return self.count / self.total if self.total else 0.0


def hardest_first(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[int]:
    """Order of the classes: the smallest share of recognised events first, those without events last.

    Args:
        counts: [C + 1, C + 1], true by detected; the last row and column are "nothing".
        labels: the C classes.
    """

    def key(c: int) -> tuple[bool, float, int, str]:
        total = sum(counts[c])
        return not total, counts[c][c] / total if total else 0.0, -total, labels[c]

    return sorted(range(len(labels)), key=key)


def cells(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[list[Mistake]]:
    """The table [C + 1, C + 1] with the totals that its counts are shares of, in the order given.

    A row is a share of the events of its class. The last row, detections where nothing was, has no such total:
    each is a share of all detections of its class.
    """
    names = [*labels, None]
    detections = [sum(row[j] for row in counts) for j in range(len(names))]
    return [
        [Mistake(name, names[j], count, sum(row) if i < len(labels) else detections[j]) for j, count in enumerate(row)]
        for i, (name, row) in enumerate(zip(names, counts, strict=True))
    ]


def mistakes(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> list[Mistake]:
    """One class taken for another, most often first; what was missed or made up stands in the table of classes."""
    table = cells(counts, labels)
    pairs = [table[i][j] for i in range(len(labels)) for j in range(len(labels)) if i != j and table[i][j].count]
    return sorted(pairs, key=lambda pair: (-pair.count, -pair.share, str(pair.true), str(pair.detected)))


def confusion_map(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """The heat map: rows are what happened, columns what was detected; pointing at a cell shows its counts."""
    if not counts:
        return "<p>Nothing was scored.</p>"
    order = hardest_first(counts, labels)
    every = [*order, len(labels)]
    table = cells([[counts[i][j] for j in every] for i in every], [labels[c] for c in order])
    head = "".join(_heading(cell.detected, "col") for cell in table[0])
    rows = "".join(_row(i, row, len(labels)) for i, row in enumerate(table))
    numbered = " numbered" if len(labels) <= MAX_NUMBERED else ""
    return (
        f'<div class="confusion{numbered}" style="--n:{len(every)}">'
        '<p class="readout">Point at a cell, or tap it, to see its counts.</p><div class="scroll">'
        f'<table><thead><tr><th class="corner"><span>detected →</span><span>true ↓</span></th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>{_listed(mistakes(counts, labels))}"
    )


def _heading(name: str | None, scope: str) -> str:
    text = _text(name)
    kind = ' class="nothing"' if name is None else ""
    return f'<th scope="{scope}"{kind} title="{text}"><span>{text}</span></th>'


def _text(name: str | None) -> str:
    return html_text(NOTHING if name is None else name)


def _row(i: int, row: Sequence[Mistake], n_classes: int) -> str:
    body = "".join(_cell(cell, i == j) for j, cell in enumerate(row))
    last = ' class="nothing"' if i == n_classes else ""
    return f"<tr{last}>{_heading(row[0].true, 'row')}{body}</tr>"


def _cell(cell: Mistake, right: bool) -> str:
    if not cell.count:
        return "<td></td>"
    kind = f"{'good' if right else 'bad'}{' deep' if cell.share >= DEEP else ''}"
    number = f"<b>{round(100 * cell.share)}</b>"
    return f'<td class="{kind}" style="--share:{cell.share:.3f}">{number}<em>{_in_words(cell)}</em></td>'


def _in_words(cell: Mistake) -> str:
    true, detected = (f"<strong>{_text(name)}</strong>" for name in (cell.true, cell.detected))
    noun = "detection" if cell.true is None else "event"
    of = f"{cell.count} of {cell.total} {noun}{'' if cell.total == 1 else 's'} ({100 * cell.share:.0f}&nbsp;%)"
    if cell.true is None:
        return f"{detected} detected where nothing was: {of}"
    if cell.detected is None:
        return f"{true} missed: {of}"
    if cell.true == cell.detected:
        return f"{true} recognised: {of}"
    return f"{true} taken for {detected}: {of}"


def _listed(pairs: Sequence[Mistake]) -> str:
    if not pairs:
        return "<p>No class was taken for another.</p>"
    rest = sum(pair.count for pair in pairs[MAX_MISTAKES:])
    items = "".join(f"<li>{_in_words(pair)}</li>" for pair in pairs[:MAX_MISTAKES])
    more = f"<li>and {rest} more</li>" if rest else ""
    return f'<h3>Taken for another class, most often first</h3><ul class="pairs">{items}{more}</ul>'
