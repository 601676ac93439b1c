"""Pictures of PSDS: curves of several models over each other, and bars per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from printable import printable

# Okabe and Ito's palette: told apart with every kind of colour vision
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
CLASSES_PER_COLUMN = 110


def plot_psd_roc(
    path: str | Path, curves: Mapping[str, tuple[np.ndarray, np.ndarray, float]], max_efpr: float, title: str = ""
) -> None:
    """Draws the PSD-ROC curves of several models (or classes) over each other.

    Args:
        path: picture to write; the ending chooses the format.
        curves: legend text -> (effective true positive rates, effective false positives per hour, PSDS).
        max_efpr: right end of the axis, false positives per hour.
        title: above the picture.
    """
    figure, axes = _figure((7.0, 5.0))
    axes = axes[0]
    for (name, (tpr, efpr, psds)), colour in zip(curves.items(), _colours(len(curves)), strict=True):
        x, y = np.append(efpr, max_efpr), np.append(tpr, tpr[-1:])
        axes.step(x, y, where="post", color=colour, linewidth=1.8, label=f"{_plain(name)}: {100 * psds:.2f}")
        if len(curves) == 1:
            axes.fill_between(x, y, step="post", color=colour, alpha=0.15, linewidth=0)
    axes.set_xlim(0, max_efpr)
    axes.set_ylim(0, 1)
    axes.set_xlabel("effective false positives per hour")
    axes.set_ylabel("effective true positive rate")
    axes.grid(alpha=0.3)
    axes.legend(title="PSDS (%)", frameon=False)
    _save(figure, path, title)


def plot_classes(path: str | Path, values: Mapping[str, Mapping[str, float]], title: str = "") -> None:
    """Draws one bar per class and model, classes in descending order of the first model.

    Args:
        path: picture to write; the ending chooses the format.
        values: model -> class -> PSDS as a share; a class that only some models have is drawn for those.
        title: above the picture.
    """
    names = sorted({name for of_model in values.values() for name in of_model})
    first = next(iter(values.values()))
    names.sort(key=lambda name: -first.get(name, -1.0))
    n_columns = -(-len(names) // CLASSES_PER_COLUMN)
    rows = -(-len(names) // n_columns)
    figure, columns = _figure((4.6 * n_columns, 1.2 + 0.19 * rows), n_columns)
    height = 0.8 / len(values)
    for i, axes in enumerate(columns):
        part = names[i * rows : (i + 1) * rows]
        for k, (of_model, colour) in enumerate(zip(values.values(), _colours(len(values)), strict=True)):
            places = np.arange(len(part)) + (k - (len(values) - 1) / 2) * height
            axes.barh(places, [100 * of_model.get(name, np.nan) for name in part], height, color=colour)
        axes.set_yticks(range(len(part)), [_plain(name[:34]) for name in part], fontsize=7)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel("PSDS (%)")
    if len(values) > 1:
        handles = [columns[0].barh(0, 0, color=colour) for colour in _colours(len(values))]
        figure.legend(handles, map(_plain, values), loc="outside upper right", ncols=len(values), frameon=False)
    _save(figure, path, title)


def _figure(size: tuple[float, float], n_columns: int = 1):  # type: ignore[no-untyped-def]
    """A figure that needs no screen, and its axes from left to right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, n_columns, squeeze=False)[0]


def _save(figure, path: str | Path, title: str) -> None:  # type: ignore[no-untyped-def]
    if title:
        figure.suptitle(_plain(title), x=0.01, ha="left", fontsize=11)
    figure.savefig(path)


def _colours(n: int) -> Sequence[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def _plain(text: str) -> str:
    """Text that matplotlib does not take for a formula."""
    return printable(text).replace("$", r"\$")
