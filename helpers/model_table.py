"""What `--list_models` prints, and the README's table of models."""

from __future__ import annotations

from collections.abc import Sequence

from models.listing import ModelList, list_models
from models.registry import sequence_model_names


def model_rows() -> list[tuple[str, str, str, str]]:
    """Name, parameters, GMACs and PSDS1 of every model, checkpoints left out."""
    return [info.cells() for info in list_models() if not info.is_checkpoint]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns but the first are aligned to the right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listing() -> str:
    """Models with their cost, and the checkpoints that load by name with theirs."""
    everything = list_models()
    return f"""{ModelList(info for info in everything if not info.is_checkpoint)}

Any backbone takes any sequence model: --seq_model_type {{{",".join(sequence_model_names())}}} --seq_model_dim N.
Released checkpoints (--pretrained with their stage or their name):

{ModelList(info for info in everything if info.is_checkpoint)}"""
