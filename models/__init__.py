"""Sound event detection models: `create_model`, `load_model`, `list_models`."""

from __future__ import annotations

from models import sequence, transformers  # noqa: F401  (registration)
from models.cards import Card, cards
from models.fmn import model as _fmn  # noqa: F401  (registration)
from models.listing import ModelInfo, list_models
from models.registry import backbone_names, sequence_model_names
from models.sed_model import SEDModel, audioset_strong_labels, create_model, load_model

__all__ = [
    "Card",
    "ModelInfo",
    "SEDModel",
    "audioset_strong_labels",
    "backbone_names",
    "cards",
    "create_model",
    "list_models",
    "load_model",
    "sequence_model_names",
]
