"""Entry points of torch.hub: every backbone and every released checkpoint, under its own name.

Examples, after `torch.hub.load(REPOSITORY, ...)` with a GitHub name, or a folder and `source="local"`:

- `torch.hub.load(REPOSITORY, "fmn10", seq_model_type="tf", seq_model_dim=256)`: random weights
- `torch.hub.load(REPOSITORY, "fmn10+tf-256_strong")`: that model with its released weights
"""

from __future__ import annotations

import functools

import models as _models  # torch.hub lists whatever is callable here and has no leading underscore

dependencies = ["numpy", "torch", "tqdm", "yaml"]


def _backbone_entry(name: str) -> functools.partial[_models.SEDModel]:
    entry = functools.partial(_models.create_model, name)
    entry.__doc__ = f"A detector on the backbone {name}; the options are those of models.create_model."
    return entry


def _card_entry(card: _models.Card) -> functools.partial[_models.SEDModel]:
    sizes = {
        "seq_model_type": card.seq_model_type,
        "seq_model_dim": card.seq_model_dim,
        "n_classes_strong": card.strong_classes,
        "n_classes_weak": card.weak_classes,
    }
    known = {name: value for name, value in sizes.items() if value is not None}
    entry = functools.partial(_models.create_model, card.backbone, pretrained=card.name, **known)  # type: ignore[arg-type]
    entry.__doc__ = f"{card.backbone} with the released weights {card.name}. {card.paper}. {card.note}".strip()
    return entry


globals().update({name: _backbone_entry(name) for name in _models.backbone_names()})
globals().update({card.name: _card_entry(card) for card in _models.cards().values()})
