"""TextGrids of Praat: tiers of intervals and points, in the long and the short text format.

Format: https://www.fon.hum.uva.nl/praat/manual/TextGrid_file_formats.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from data_util.annotation_formats.tiers import Tier, chosen_tiers
from data_util.own_annotations import Row, Source, checked_event
from errors import UserError

# Praat itself reads the words in quotes, the numbers and flags between blanks, and nothing else.
_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?<!\S)(<\w+>|[-+]?\.?\d\S*)(?!\S)|!.*')
_INTERVALS, _POINTS = "IntervalTier", "TextTier"


class _Token(NamedTuple):
    text: str
    quoted: bool


def fits(text: str) -> bool:
    """Whether it begins as Praat's text files and holds a TextGrid."""
    return bool(re.match(r'\s*(File type\s*=\s*)?"ooTextFile( short)?"\s*(Object class\s*=\s*)?"TextGrid"', text))


def rows(source: Source) -> list[Row]:
    """Rows of all intervals with text and all points; an interval without text is silence.

    Raises:
        UserError: the file ends within a tier, a word where a number is due, a tier that does not exist, bad times.
    """
    source.refuse_group_column()
    return chosen_tiers(source, list(_tiers(source)))


def _tiers(source: Source) -> Iterator[Tier]:
    tokens = _tokens(source)
    next(tokens), next(tokens)  # "ooTextFile" "TextGrid"
    for _ in range(3):  # begin, end, <exists>
        _text(tokens, source)
    for number in range(1, _count(tokens, source) + 1):
        kind, name = _text(tokens, source, quoted=True), _text(tokens, source, quoted=True).strip()
        if kind not in (_INTERVALS, _POINTS):
            raise UserError(f"{source.path}: tier {number} has the class {kind!r}; expected {_INTERVALS}, {_POINTS}")
        _text(tokens, source), _text(tokens, source)  # begin and end of the tier
        found = []
        for i in range(1, _count(tokens, source) + 1):
            where = f"{source.path}, tier {name!r}, {'interval' if kind == _INTERVALS else 'point'} {i}"
            onset = _text(tokens, source)
            offset = _text(tokens, source) if kind == _INTERVALS else onset
            label = " ".join(_text(tokens, source, quoted=True).split())
            if label:
                found.append(Row(source.name, where, *checked_event(onset, offset, label, where)))
        yield Tier(name, found)


def _tokens(source: Source) -> Iterator[_Token]:
    for match in _TOKEN.finditer(source.text):
        if match[1] is not None:
            yield _Token(match[1].replace('""', '"'), True)
        elif match[2] is not None:
            yield _Token(match[2], False)


def _text(tokens: Iterator[_Token], source: Source, *, quoted: bool = False) -> str:
    """The next token; UserError where it has the wrong kind or there is none."""
    token = next(tokens, None)
    if token is None or token.quoted != quoted:
        got = "the file ends" if token is None else f"got {token.text[:40]!r}"
        wanted = "a text in quotes" if quoted else "a number"
        raise UserError(
            f"{source.path} is a TextGrid with a fault: expected {wanted}, {got}; save it again in Praat as a text file"
        )
    return token.text


def _count(tokens: Iterator[_Token], source: Source) -> int:
    text = _text(tokens, source)
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UserError(f"{source.path} is a TextGrid with a fault: expected a count, got {text[:40]!r}")
    return int(text)
