"""Labels beside the points of a scatter plot that cover neither each other nor the points."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

# Where a label may stand: directions from its point (right first), distances in points.
_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)]
_DISTANCES = (5, 8, 12, 18, 26, 36)
_LED = 12  # from this distance on, a thin line leads from the point to its label
_SWEEPS = 3
_OUTSIDE, _ON_LABEL, _ON_LINE, _PER_POINT = 1e5, 30.0, 3.0, 2.0  # what makes a place worse


def candidates(point: np.ndarray, size: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The places of one label.

    Args:
        point: [2] pixels.
        size: [2] width and height of the label, pixels.
        scale: pixels per typographic point.

    Returns:
        Boxes [n, 4] (left, bottom, right, top; pixels) and their distances from the point [n] (points).
    """
    boxes, distances = [], []
    for distance in _DISTANCES:
        for x, y in _DIRECTIONS:
            reach = distance * scale / np.hypot(x, y)
            left = point[0] + x * reach + size[0] * (x - 1) / 2
            bottom = point[1] + y * reach + size[1] * (y - 1) / 2
            boxes.append((left, bottom, left + size[0], bottom + size[1]))
            distances.append(distance)
    return np.array(boxes), np.array(distances, float)


def overlap(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area that each box [n, 4] shares with all of `others` [m, 4] together, [n]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=-1).sum(axis=1)


def choose(places: Sequence[np.ndarray], costs: Sequence[np.ndarray]) -> list[int]:
    """For each label the place of least cost, labels in one another's way included.

    Args:
        places: of each label, boxes [n, 4].
        costs: of each label, what its places cost by themselves, [n].
    """
    chosen = [int(np.argmin(cost)) for cost in costs]
    for _ in range(_SWEEPS):
        for i in range(len(places)):
            others = np.array([places[j][chosen[j]] for j in range(len(places)) if j != i]).reshape(-1, 4)
            chosen[i] = int(np.argmin(costs[i] + _ON_LABEL * overlap(places[i], others)))
    return chosen


def annotate(axes: Any, points: np.ndarray, labels: Sequence[str], colours: Sequence[str], font_size: float) -> None:
    """Write the labels of the points [n, 2] (data coordinates) into finished axes, which must not change afterwards.

    Labels keep clear of each other, the points, the lines and the legend of the axes as far as there is room.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    renderer = figure.canvas.get_renderer()
    at = axes.transData.transform(points)
    texts = [axes.text(0, 0, label, fontsize=font_size) for label in labels]
    extents = [text.get_window_extent(renderer) for text in texts]
    for text in texts:
        text.remove()
    radius = 4.5 * scale
    obstacles = np.concatenate([at - radius, at + radius], axis=1)
    if axes.get_legend() is not None:
        obstacles = np.vstack([obstacles, axes.get_legend().get_window_extent(renderer).extents])
    lines, frame = _along_lines(axes, scale), np.array(axes.get_window_extent(renderer).extents)
    places, costs = [], []
    for point, extent in zip(at, extents, strict=True):
        boxes, distances = candidates(point, np.array([extent.width, extent.height]), scale)
        outside = (boxes[:, :2] < frame[:2]).any(axis=1) | (boxes[:, 2:] > frame[2:]).any(axis=1)
        blocked = _ON_LABEL * overlap(boxes, obstacles) + _ON_LINE * overlap(boxes, lines)
        places.append(boxes)
        costs.append(blocked + _OUTSIDE * outside + _PER_POINT * scale**2 * distances)
    for i, k in enumerate(choose(places, costs)):
        distance = _DISTANCES[k // len(_DIRECTIONS)]
        x, y = _DIRECTIONS[k % len(_DIRECTIONS)]
        length = distance / float(np.hypot(x, y))
        axes.annotate(
            labels[i],
            points[i],
            xytext=(x * length, y * length),
            textcoords="offset points",
            ha={1: "left", 0: "center", -1: "right"}[x],
            va={1: "bottom", 0: "center", -1: "top"}[y],
            fontsize=font_size,
            color=colours[i],
            arrowprops={"arrowstyle": "-", "lw": 0.4, "color": colours[i], "shrinkA": 0, "shrinkB": 3}
            if distance >= _LED
            else None,
        )


def _along_lines(axes: Any, scale: float) -> np.ndarray:
    """Small boxes along the lines of the axes, [n, 4] pixels."""
    found = [np.empty((0, 2))]
    for line in axes.get_lines():
        if line.get_linewidth() == 0 or len(line.get_xdata()) < 2:
            continue
        corners = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))
        for a, b in itertools.pairwise(corners):
            steps = np.linspace(0, 1, max(2, int(np.hypot(*(b - a)) / (3 * scale))))[:, None]
            found.append(a + (b - a) * steps)
    middles = np.concatenate(found)
    return np.concatenate([middles - scale, middles + scale], axis=1)
