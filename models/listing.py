"""What can be built and loaded, with what it costs and what it reached.

Costs stand in `resources/complexity.csv`, which `python complexity.py --all --csv resources/complexity.csv --overwrite`
writes, so that listing the models builds none of them.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass

from models.cards import RESOURCES, cards
from models.registry import backbone_names


@dataclass(frozen=True)
class ModelInfo:
    """A model that can be built, or a released checkpoint that can be loaded.

    Attributes:
        name: of a backbone, alone or with a sequence model (`fmn10+tf:256`), or of a checkpoint (`fmn10_strong`).
        parameters: with heads of 447 classes; None where nobody has counted.
        macs: multiply-accumulates for 10 s of audio; None where nobody has counted.
        psds1: published, on AudioSet Strong, in percent; None where nothing was published.
        is_checkpoint: whether it comes with trained weights (`pretrained=name`).
    """

    name: str
    parameters: int | None = None
    macs: int | None = None
    psds1: float | None = None
    is_checkpoint: bool = False

    def cells(self) -> tuple[str, str, str, str]:
        """Name, parameters, GMACs and PSDS1 as text, as in `HEADER`."""
        parameters = "" if self.parameters is None else f"{self.parameters:,}"
        gmacs = "" if self.macs is None else f"{self.macs / 1e9:.3f}"
        return self.name, parameters, gmacs, "" if self.psds1 is None else f"{self.psds1:.2f}"


HEADER = ("model", "parameters", "GMACs", "PSDS1")


class ModelList(list[ModelInfo]):
    """Models that print as a table."""

    def __str__(self) -> str:
        rows = [HEADER, *(info.cells() for info in self)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
        return "\n".join(
            "  ".join([f"{row[0]:<{widths[0]}}", *(f"{row[i]:>{widths[i]}}" for i in (1, 2, 3))]) for row in rows
        )


def list_models() -> ModelList:
    """All backbones, the combinations with sequence models that have been counted, and all released checkpoints."""
    models = {name: ModelInfo(name) for name in backbone_names()}
    with (RESOURCES / "complexity.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            psds1 = float(row["psds1"]) if row["psds1"] else None
            models[row["model"]] = ModelInfo(row["model"], int(row["parameters"]), int(row["macs"]), psds1)
    checkpoints = []
    for card in cards().values():
        sequence = f"+{card.seq_model_type}:{card.seq_model_dim}" if card.seq_model_type else ""
        model = models[card.backbone + sequence]
        checkpoints.append(ModelInfo(card.name, model.parameters, model.macs, card.psds1, is_checkpoint=True))
    return ModelList([*models.values(), *checkpoints])
