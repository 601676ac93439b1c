"""The heat map of confusions: order, shares, words, and names that stay text."""

from __future__ import annotations

import re
from dataclasses import astuple

import numpy as np
import pytest

from helpers.confusion_map import MAX_NUMBERED, cells, confusion_map, hardest_first, mistakes

LABELS = ["dog", "siren", "rain", "never"]
COUNTS = [
    [6, 3, 0, 0, 1],  # dog: 6 of 10
    [0, 9, 0, 0, 1],  # siren: 9 of 10
    [1, 1, 2, 0, 16],  # rain: 2 of 20
    [0, 0, 0, 0, 0],  # never happens
    [3, 0, 0, 2, 0],  # detections where nothing was
]


def test_the_hardest_classes_come_first_and_those_without_events_last() -> None:
    assert [LABELS[c] for c in hardest_first(COUNTS, LABELS)] == ["rain", "dog", "siren", "never"]
    easy = [[1, 0, 0], [0, 0, 4], [0, 0, 0]]
    assert hardest_first(easy, ["a", "b"]) == [1, 0]


def test_rows_are_shares_of_events_and_the_last_row_of_detections() -> None:
    table = cells(COUNTS, LABELS)
    shares = np.array([[cell.share for cell in row] for row in table])
    counts = np.array(COUNTS)
    np.testing.assert_allclose(shares[:3], counts[:3] / counts[:3].sum(1, keepdims=True))
    np.testing.assert_allclose(shares[4, [0, 1, 2, 3]], [3 / 10, 0, 0, 1])  # 10 detections of dog, 3 of them of nothing
    assert (shares[3] == 0).all()


def test_mistakes_are_listed_most_often_first() -> None:
    assert [astuple(m) for m in mistakes(COUNTS, LABELS)] == [
        ("dog", "siren", 3, 10),
        ("rain", "dog", 1, 20),
        ("rain", "siren", 1, 20),
    ]
    assert "No class was taken for another" in confusion_map([[2, 0], [0, 0]], ["a"])


def test_counts_are_in_words_and_only_cells_that_hold_some_are_coloured() -> None:
    page = confusion_map(COUNTS, LABELS)
    text = re.sub(r"<[^>]+>", "", page.replace("&nbsp;", " "))
    for words in (
        "dog taken for siren: 3 of 10 events (30 %)",
        "rain missed: 16 of 20 events (80 %)",
        "siren recognised: 9 of 10 events (90 %)",
        "never detected where nothing was: 2 of 2 detections (100 %)",
    ):
        assert words in text
    assert len(re.findall("<td class=", page)) == np.count_nonzero(COUNTS)
    assert page.count("<td") == len(COUNTS) ** 2


@pytest.mark.parametrize("name", ["nothing", "<script>alert(1)</script>", '" onmouseover="x'])
def test_names_are_text_and_may_be_nothing(name: str) -> None:
    page = confusion_map([[1, 1], [1, 0]], [name])
    assert "<script" not in page and '" onmouseover="' not in page
    assert page.count('<tr class="nothing">') == 1 and page.count('<th scope="col" class="nothing"') == 1
    assert "recognised: 1 of 2 events" in page and "detected where nothing was: 1 of 2 detections" in page


@pytest.mark.parametrize(("n", "numbered"), [(3, True), (MAX_NUMBERED, True), (50, False)])
def test_numbers_stand_in_the_cells_while_there_is_room(n: int, numbered: bool) -> None:
    page = confusion_map(np.eye(n + 1, dtype=int).tolist(), [f"class {i}" for i in range(n)])
    assert ("confusion numbered" in page) == numbered and f"--n:{n + 1}" in page
