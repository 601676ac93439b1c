"""Labels beside points: none on another, none on a point, none outside."""

from __future__ import annotations

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from helpers.label_placement import annotate, candidates, choose, overlap


def test_overlap_equals_counting_pixels() -> None:
    rng = np.random.default_rng(0)
    low = rng.integers(0, 30, (12, 2))
    boxes = np.concatenate([low, low + rng.integers(1, 15, (12, 2))], axis=1)

    def pixels(box: np.ndarray) -> set[tuple[int, int]]:
        return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}

    expected = [sum(len(pixels(box) & pixels(other)) for other in boxes[6:]) for box in boxes[:6]]
    assert overlap(boxes[:6], boxes[6:]).tolist() == expected


def test_places_lie_beside_their_point_at_their_distance() -> None:
    point, scale = np.array([100.0, 50.0]), 2.0
    boxes, distances = candidates(point, np.array([40.0, 10.0]), scale)
    nearest = np.clip(point, boxes[:, :2], boxes[:, 2:])
    np.testing.assert_allclose(np.hypot(*(nearest - point).T), distances * scale)
    np.testing.assert_allclose(boxes[:, 2:] - boxes[:, :2], np.broadcast_to([40.0, 10.0], (len(boxes), 2)))


def test_labels_give_way_to_each_other() -> None:
    places = [np.array([[0, 0, 2, 1], [0, 1, 2, 2]], float)] * 2
    assert sorted(choose(places, [np.array([0.0, 1.0])] * 2)) == [0, 1]


def test_crowded_labels_are_all_legible() -> None:
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(0, 1, (14, 2)), rng.uniform(0.45, 0.55, (6, 2))])
    figure = Figure(figsize=(6, 5), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot(*points.T, "o", label="a")
    axes.legend()
    axes.margins(0.1)
    annotate(axes, points, [f"model{i}:256" for i in range(len(points))], ["#000000"] * len(points), 6.5)
    figure.draw_without_rendering()
    boxes = np.array([text.get_window_extent().extents for text in axes.texts])
    assert len(boxes) == len(points)
    own_area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    np.testing.assert_allclose(overlap(boxes, boxes), own_area)  # each shares area with itself alone
    at = axes.transData.transform(points)
    assert not overlap(boxes, np.concatenate([at - 3, at + 3], axis=1)).any()
    frame = axes.get_window_extent().extents
    assert (boxes[:, :2] >= frame[:2]).all() and (boxes[:, 2:] <= frame[2:]).all()
