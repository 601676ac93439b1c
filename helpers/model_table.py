"""The models and released checkpoints as tables, from `resources/complexity.csv` and the model cards.

The CSV is written by `python complexity.py --all --csv resources/complexity.csv --overwrite`, so that listing the
models neither builds them nor imports torch.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

RESOURCES = Path(__file__).resolve().parent.parent / "resources"
HEADER = ("model", "parameters", "GMACs", "PSDS1")


def model_rows() -> list[tuple[str, str, str, str]]:
    """Name, parameters, GMACs for 10 s and published PSDS1 (percent) of every model that has been counted."""
    with (RESOURCES / "complexity.csv").open(encoding="utf-8", newline="") as file:
        return [
            (row["model"], f"{int(row['parameters']):,}", f"{int(row['macs']) / 1e9:.3f}", row["psds1"])
            for row in csv.DictReader(file)
        ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns but the first are aligned to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listing() -> str:
    """What `--list_models` prints: models with their cost, and the checkpoints that load by name."""
    from models.cards import cards

    rows = [HEADER, *model_rows()]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    names = [f"  {card.name}" for card in cards().values()]
    return "\n".join(
        [
            *lines,
            "",
            "Any backbone takes any sequence model: --seq_model_type {tf,attn,gru,tcn,mamba,hybrid} --seq_model_dim N.",
            "Released checkpoints (--pretrained with their stage or their name):",
            *names,
        ]
    )
