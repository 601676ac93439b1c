"""Model cards: which weights have been released for which model, and what they reached.

The cards stand in `resources/model_cards/*.yaml`, one file per family. Names, addresses, classes, learning
rates and published results are read from there by the checkpoint loader, the listings and the README's tables.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from errors import UserError
from models import registry

RESOURCES = Path(__file__).resolve().parent.parent / "resources"


@dataclass(frozen=True)
class Card:
    """One released checkpoint."""

    name: str  # file name without ending, e.g. fmn10+tf-256_strong
    backbone: str  # registered backbone that it belongs to
    stage: str  # value of --pretrained: ssl, weak, strong, advanced-kd-weak-strong, or clipwise
    url: str
    family: str
    paper: str
    licence: str
    seq_model_type: str | None = None
    seq_model_dim: int | None = None
    strong_classes: int | None = None  # None: no such head, or not published
    weak_classes: int | None = None
    max_lr: float | None = None  # of the published training
    seq_lr: float | None = None
    psds1: float | None = None  # on AudioSet Strong, in percent
    map: float | None = None  # mean average precision on AudioSet, in percent
    note: str = ""

    @property
    def file_name(self) -> str:
        """Name of the file in `resources/`."""
        return self.url.rsplit("/", 1)[-1]


@functools.cache
def cards() -> dict[str, Card]:
    """All cards by name, in the order of the files."""
    found: dict[str, Card] = {}
    for path in sorted((RESOURCES / "model_cards").glob("*.yaml")):
        for card in _read_family(path):
            if card.name in found:
                raise ValueError(f"{path}: '{card.name}' has a card already")
            found[card.name] = card
    return found


def _read_family(path: Path) -> list[Card]:
    family: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    common = {key: family[key] for key in ("family", "paper", "licence")}
    cards_of_family = []
    for entry in family["checkpoints"]:
        url = f"{entry.pop('release', family['release'])}/{entry.pop('file', entry['name'] + '.pt')}"
        cards_of_family.append(Card(**{**common, **entry}, url=url))
    return cards_of_family


def find_card(
    model_name: str, pretrained: str, seq_model_type: str | None = None, seq_model_dim: int | None = None
) -> Card:
    """The card that `--pretrained` means for a model: a stage such as `weak`, or a card's own name.

    A strong checkpoint must have the sequence model asked for; an earlier stage (ssl, weak, clipwise) never has
    one, so the sequence model on top of it starts fresh. Raises UserError that lists what there is.
    """
    own = [card for card in cards().values() if card.backbone == model_name]
    for card in own:
        if card.name == pretrained:
            return card
    stages = [card for card in own if card.stage == pretrained]
    if not stages:
        known = sorted({card.stage for card in own} | {card.name for card in own})
        raise registry.unknown_name(f"weights for {model_name} (option --pretrained)", pretrained, known)
    wanted = (seq_model_type, seq_model_dim if seq_model_type else None)
    for card in stages:
        if (card.seq_model_type, card.seq_model_dim) == wanted or pretrained in ("ssl", "weak", "clipwise"):
            return card
    sequence = f"sequence model {seq_model_type}-{seq_model_dim}" if seq_model_type else "no sequence model"
    raise UserError(
        f"no '{pretrained}' weights were released for {model_name} with {sequence}; "
        f"there are: {', '.join(card.name for card in stages)}"
    )
