"""Cells that a spreadsheet opens: shown, and not computed."""

from __future__ import annotations

import csv
import io

import pytest

from helpers.cells import safe_cells


@pytest.mark.parametrize("text", ["=1+1", "+1", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")'])
def test_formulas_become_text(text):
    assert safe_cells([text]) == ["'" + text]


def test_other_cells_stay():
    assert safe_cells(["Dog", "a=b", -1.5, 3, "", "Tab\there", "ü"]) == ["Dog", "a=b", -1.5, 3, "", "Tab\there", "ü"]


def test_a_row_is_a_line():
    text = io.StringIO()
    csv.writer(text).writerow(safe_cells(["a\nb\r", "\x1b[2J", "=cmd\n"]))
    assert text.getvalue().splitlines() == ["a\\nb\\r,\\x1b[2J,'=cmd\\n"]
