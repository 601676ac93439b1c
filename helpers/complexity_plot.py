"""Published PSDS1 over what models cost, as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from helpers.complexity_report import Row
from helpers.label_placement import annotate

CNN, TRANSFORMER = "none", "transformer"  # models without a sequence model
STYLES = {  # colour (after Okabe and Ito, told apart with every kind of colour vision) and marker, as in the legend
    CNN: ("#000000", "o"),
    "tf": ("#0072B2", "s"),
    "hybrid": ("#D55E00", "D"),
    "gru": ("#009E73", "^"),
    "attn": ("#CC79A7", "v"),
    "mamba": ("#B07800", "P"),
    "tcn": ("#3A87B7", "X"),
    TRANSFORMER: ("#666666", "*"),
}
FONT_SIZE = 6.5


def plot(rows: Sequence[Row], path: Path, picture_format: str = "png") -> None:
    """Draw published PSDS1, of the rows that have it, over parameters, MACs and, where measured, throughput."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in rows if row.psds1 is not None]
    panels: dict[str, list[float]] = {
        "parameters": [row.cost.parameters for row in rows],
        "MACs for 10 s": [math.nan if row.cost.macs is None else row.cost.macs for row in rows],
    }
    for setting in dict.fromkeys(measured.setting for row in rows for measured in row.throughput):
        rates = [next((m.clips_per_second for m in row.throughput if m.setting == setting), math.nan) for row in rows]
        panels[f"clips per second ({setting})"] = rates
    figure = Figure(figsize=(6.4 * len(panels), 5.2), layout="constrained", dpi=200)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, values) in zip(all_axes, panels.items(), strict=True):
        _points(axes, rows, values)
        axes.set_xlabel(label)
    all_axes[0].set_ylabel("PSDS1 on AudioSet Strong (%, published)")
    all_axes[0].legend(title="sequence model", fontsize="small", loc="best")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed for the layout as it is now
    for axes, values in zip(all_axes, panels.values(), strict=True):
        shown = [(row, value) for row, value in zip(rows, values, strict=True) if math.isfinite(value)]
        points = np.array([(value, row.psds1) for row, value in shown]).reshape(-1, 2)
        annotate(
            axes, points, [_label(row) for row, _ in shown], [STYLES[_kind(row)][0] for row, _ in shown], FONT_SIZE
        )
    figure.savefig(path, format=picture_format)


def _kind(row: Row) -> str:
    return row.seq_model_type or (TRANSFORMER if row.cost.receptive_field[0] is None else CNN)


def _label(row: Row) -> str:
    return f"{row.backbone}:{row.seq_model_dim}" if row.seq_model_dim else row.backbone


def _points(axes: Any, rows: Sequence[Row], values: Sequence[float]) -> None:
    """One scatter plot of PSDS1 over `values`; models of one backbone and sequence type are joined."""
    for kind, (colour, marker) in STYLES.items():
        series: dict[str, list[tuple[float, float]]] = {}
        for row, value in zip(rows, values, strict=True):
            if _kind(row) == kind and math.isfinite(value):
                series.setdefault(row.backbone if row.seq_model_type else "", []).append((value, float(row.psds1 or 0)))
        for i, points in enumerate(series.values()):
            style: dict[str, Any] = {"color": colour, "marker": marker, "lw": 0 if kind == TRANSFORMER else 0.8}
            axes.plot(*zip(*sorted(points), strict=True), label=None if i else kind, ms=5, **style)
    axes.set_xscale("log")
    axes.margins(0.08)
    axes.grid(alpha=0.3)
