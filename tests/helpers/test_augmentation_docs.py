"""The page on augmentations shows every augmentation, and its script still draws every picture."""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path

import pytest

from helpers.augment import AugmentOptions

DOCS = Path(__file__).parents[2] / "docs"
JITTER = "mel_jitter"  # of the front end: no draw that is applied to a batch


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
    pictures = {p.stem: p.stat().st_size for p in tmp_path.glob("*.png")}
    assert set(pictures) == {*script["draws"](), JITTER}
    assert all(5_000 < size < 100_000 for size in pictures.values())
