"""The listed costs are those of the models."""

from __future__ import annotations

import csv

import pytest

from helpers.complexity_report import all_models, row
from helpers.model_table import listing, model_rows
from models import cards
from models.cards import RESOURCES

with (RESOURCES / "complexity.csv").open(newline="") as _file:
    WRITTEN = {line["model"]: line for line in csv.DictReader(_file)}


def _is_written(model: tuple[str, str | None, int | None]) -> bool:
    """All are, but a sequence model that is new and of which nothing was released; it needs no line of its own."""
    backbone, seq_type, dim = model
    released = any(card.seq_model_type == seq_type for card in cards().values())
    return seq_type is None or released or f"{backbone}+{seq_type}:{dim}" in WRITTEN


@pytest.mark.parametrize("model", filter(_is_written, all_models()), ids=str)
def test_written_figures_are_up_to_date(model: tuple[str, str | None, int | None]) -> None:
    """If this fails: python complexity.py --all --csv resources/complexity.csv --overwrite"""
    current = row(model)
    figures = {name: "" if value is None else str(value) for name, value in current.figures().items()}
    figures.pop("macs_by_deepspeed")  # where it is installed
    written = WRITTEN[current.name]
    assert {name: written[name] for name in figures} == figures


def test_listing_names_everything() -> None:
    text = listing()
    assert all(name in text for name in cards())
    assert {line.split()[0] for line in text.splitlines()[1 : 1 + len(WRITTEN)]} == set(WRITTEN)
    assert len(model_rows()) == len(list(filter(_is_written, all_models())))
