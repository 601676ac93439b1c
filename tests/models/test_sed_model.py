"""The detector itself: its labels."""

from __future__ import annotations

import csv

from models import create_model
from models.cards import RESOURCES


def test_labels_are_in_the_order_of_the_published_outputs() -> None:
    """Output i is the class whose train_index is i: each name is looked up by itself."""
    with (RESOURCES / "audioset_strong_classes.csv").open(encoding="utf-8", newline="") as file:
        index = {row["name"]: row["train_index"] for row in csv.DictReader(file)}
    labels = create_model("fmn01").labels
    assert len(labels) == 447
    assert [index[name] for name in labels] == [str(i) for i in range(447)]
