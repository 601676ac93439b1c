"""Figures of many models side by side: as a table, CSV, JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from helpers.complexity import Complexity, analyse
from json_text import json_text
from models import backbone_names, cards, create_model, sequence_model_names

Model = tuple[str, str | None, int | None]  # backbone, sequence model, its dimension
CLIP_SECONDS = 10.0
UNKNOWN = "unknown"
DASH = "–"  # noqa: RUF001  (nothing to show)


@dataclass(frozen=True)
class Throughput:
    """One measurement; the forward pass from mel to logits, on clips of 10 s."""

    device: str
    batch_size: int
    precision: str
    clips_per_second: float

    @property
    def setting(self) -> str:
        """Under what it was measured."""
        return f"{self.device}, batch {self.batch_size}, {self.precision}"

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing per second of audio."""
        return 1.0 / (self.clips_per_second * CLIP_SECONDS)


@dataclass
class Row:
    """One model: what it costs and what it reaches."""

    backbone: str
    seq_model_type: str | None
    seq_model_dim: int | None
    cost: Complexity
    psds1: float | None = None  # published, in percent
    deepspeed_macs: int | None = None
    throughput: list[Throughput] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As in the papers, e.g. fmn10+tf:256."""
        return f"{self.backbone}+{self.seq_model_type}:{self.seq_model_dim}" if self.seq_model_type else self.backbone

    def figures(self) -> dict[str, Any]:
        """All figures in plain units by name, in one level."""
        bins, frames = self.cost.receptive_field
        flat: dict[str, Any] = {"model": self.name, "parameters": self.cost.parameters}
        flat.update({f"parameters_{name}": part.parameters for name, part in self.cost.parts.items()})
        flat["macs"] = _or_unknown(self.cost.macs)
        flat.update({f"macs_{name}": _or_unknown(part.total_macs) for name, part in self.cost.parts.items()})
        kinds = ("convolution", "linear", "attention", "recurrence")
        flat.update({f"macs_{kind}": sum(p.macs[kind] for p in self.cost.parts.values()) for kind in kinds})
        flat["macs_by_deepspeed"] = self.deepspeed_macs
        flat["peak_activation_bytes"] = self.cost.peak_bytes
        flat["receptive_field_mel_bins"] = "clip" if bins is None else bins
        flat["receptive_field_mel_frames"] = "clip" if frames is None else frames
        flat["psds1"] = self.psds1
        return flat


def _or_unknown(macs: int | None) -> int | str:
    return UNKNOWN if macs is None else macs


def _giga(macs: int | None) -> str:
    return UNKNOWN if macs is None else f"{macs / 1e9:.3f}"


def row(model: Model) -> Row:
    """A model's cost and its published PSDS1, without throughput."""
    backbone, seq_type, dim = model
    cost = analyse(lambda: create_model(backbone, seq_model_type=seq_type, seq_model_dim=dim or 0))
    return Row(backbone, seq_type, dim, cost, published_psds1(model))


def published_psds1(model: Model) -> float | None:
    """PSDS1 (percent) of the released strong checkpoint; None where there is none."""
    of_model = (c for c in cards().values() if (c.backbone, c.seq_model_type, c.seq_model_dim) == model)
    return next((card.psds1 for card in of_model if card.stage == "strong"), None)


def all_models() -> Iterator[Model]:
    """Every backbone alone; released combinations; on fmn10, the sequence models of which none was released."""
    yield from ((name, None, None) for name in sorted(backbone_names()))
    released = dict.fromkeys(
        (card.backbone, card.seq_model_type, card.seq_model_dim) for card in cards().values() if card.seq_model_type
    )
    yield from released
    seen = {seq_type for _, seq_type, _ in released}
    yield from (("fmn10", name, 256) for name in sequence_model_names() if name not in seen)


# ---- table and files ------------------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; columns that no row fills are left out."""
    cells = [_cells(row) for row in rows]
    names = list(dict.fromkeys(name for row in cells for name in row))
    names = [name for name in names if any(row.get(name, DASH) != DASH for row in cells)]
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *([row.get(name, DASH) for name in names] for row in cells)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Row) -> dict[str, str]:
    cost, parts = row.cost, row.cost.parts
    bins, frames = ("clip" if size is None else str(size) for size in cost.receptive_field)
    cells = {
        "model": row.name,
        "parameters": f"{cost.parameters:,}",
        "backbone / sequence / heads (M)": " / ".join(f"{p.parameters / 1e6:.2f}" for p in parts.values()),
        "GMACs": _giga(cost.macs),
        "of these": " / ".join(_giga(p.total_macs) for p in parts.values()),
        "by DeepSpeed": DASH if row.deepspeed_macs is None else f"{row.deepspeed_macs / 1e9:.3f}",
        "activations (MB)": f"{cost.peak_bytes / 1e6:.1f}",
        "sees (bins x frames)": f"{bins} x {frames}",
        "PSDS1": DASH if row.psds1 is None else f"{row.psds1:.2f}",
    }
    for measured in row.throughput:
        cells[f"clips/s ({measured.setting})"] = f"{measured.clips_per_second:.1f}"
        cells[f"RTF ({measured.setting})"] = f"{measured.real_time_factor:.4f}"
    return cells


def as_csv(rows: Sequence[Row]) -> str:
    """The rows as CSV, one line per model; throughput in one column per setting."""
    lines = []
    for row in rows:
        line = row.figures()
        for measured in row.throughput:
            line[f"clips_per_second ({measured.setting})"] = round(measured.clips_per_second, 3)
            line[f"real_time_factor ({measured.setting})"] = round(measured.real_time_factor, 6)
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def as_json(rows: Sequence[Row], environment: dict[str, Any]) -> str:
    """The rows as JSON, with what the throughput was measured on."""
    models = [
        {
            **row.figures(),
            "throughput": [
                {**vars(measured), "real_time_factor": measured.real_time_factor} for measured in row.throughput
            ],
        }
        for row in rows
    ]
    return json_text({"clip_seconds": CLIP_SECONDS, "environment": environment, "models": models}, indent=1)
