"""Line charts as inline SVG, for pages that need no script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from helpers.cells import html_text

WIDTH, HEIGHT = 460, 216
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 38  # margins


def ticks(low: float, high: float, n: int = 4) -> list[float]:
    """About n round numbers that cover low ... high."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-9) / n))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (step * m) <= n)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def line_chart(lines: Mapping[str, Sequence[tuple[float, float]]], mark: float | None = None, x: str = "epoch") -> str:
    """A chart of one or several lines over one axis from 0.

    Args:
        lines: name -> points (x, y); the name "" gets no entry in the legend.
        mark: x of a vertical line, "kept": the state that was chosen.
        x: name of the horizontal axis.
    """
    lines = {name: [p for p in line if math.isfinite(p[1])] for name, line in lines.items()}  # a loss may be NaN
    points = [point for line in lines.values() for point in line]
    if not points:
        return "<p>no values</p>"
    x_max = max(1.0, *(p[0] for p in points))
    grid = ticks(0.0, max(p[1] for p in points))

    def place(px: float, py: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * px / x_max
        return round(across, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * py / grid[-1], 1)

    parts = []
    for value in grid:
        _, y = place(0, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    for value in (t for t in ticks(0, x_max, 6) if t <= x_max and t == int(t)):
        parts.append(f'<text x="{place(value, 0)[0]}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:g}</text>')
    if mark is not None:
        across = place(mark, 0)[0]
        parts.append(f'<line class="mark" x1="{across}" x2="{across}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
    for i, (name, line) in enumerate(lines.items()):
        path = " ".join(f"{px},{py}" for px, py in (place(*point) for point in line))
        parts.append(f'<polyline class="line{i}" points="{path}"/>')
        if name:
            y = TOP + 6 + 16 * i
            parts.append(f'<line class="line{i}" x1="{WIDTH - 110}" x2="{WIDTH - 90}" y1="{y}" y2="{y}"/>')
            parts.append(f'<text x="{WIDTH - 84}" y="{y + 4}">{html_text(name)}</text>')
    label = html_text(x) + (f", kept: {mark:g}" if mark is not None else "")
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{label}</text>')
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
