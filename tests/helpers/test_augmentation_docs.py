"""The page on augmentations shows every augmentation, and its script still draws every picture."""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.augment import AugmentOptions

DOCS = Path(__file__).parents[2] / "docs"
JITTER = "mel_jitter"  # of the front end: no draw that is applied to a batch


def thumbnail(path: Path) -> np.ndarray:
    """A picture in 240 x 64 colours, so that fonts and versions of Matplotlib hardly show."""
    return np.asarray(Image.open(path).convert("RGB").resize((240, 64))).astype(float)


@pytest.fixture(scope="module")
def script() -> dict:
    return runpy.run_path(str(DOCS / "make_augmentation_pictures.py"))


def test_page_names_every_option_and_shows_every_picture(script: dict) -> None:
    page = (DOCS / "augmentations.md").read_text(encoding="utf-8")
    for field in dataclasses.fields(AugmentOptions):
        assert f"`{field.name}`" in page, field.name
    shown = re.findall(r"\(augmentations/(\w+)\.png\)", page)
    assert (
        sorted(shown)
        == sorted([*script["draws"](), JITTER])
        == sorted(p.stem for p in (DOCS / "augmentations").glob("*.png"))
    )


def test_script_draws_all_pictures(script: dict, tmp_path: Path) -> None:
    script["main"](tmp_path)
    names = {*script["draws"](), JITTER}
    assert {p.stem for p in tmp_path.glob("*.png")} == names
    drawn = {name: thumbnail(tmp_path / f"{name}.png") for name in names}
    shown = {name: thumbnail(DOCS / "augmentations" / f"{name}.png") for name in names}
    for name in names:
        distance = {other: np.abs(drawn[name] - picture).mean() for other, picture in shown.items()}
        assert distance[name] < 4 and min(distance, key=distance.__getitem__) == name, distance
