"""Rows of each class, kept only as long as they can still matter."""

from __future__ import annotations

import numpy as np

FEW_ROWS = 4096


class Pool:
    """Growing table per class: columns of equal length, the first one holds scores.

    Args:
        dtypes: type of each column.
        floor: score of each class below which rows are dropped [C]; shared with whoever raises it.
    """

    def __init__(self, floor: np.ndarray, *dtypes: type) -> None:
        self.floor, self.dtypes = floor, dtypes
        self.parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in floor]
        self.sizes = np.zeros(len(floor), np.int64)
        self.limits = np.full(len(floor), FEW_ROWS)

    def add(self, c: int, columns: tuple[np.ndarray, ...]) -> None:
        """Appends rows to class c; now and then, all rows below the floor are dropped."""
        self.parts[c].append(columns)
        self.sizes[c] += len(columns[0])
        if self.sizes[c] > self.limits[c]:
            self.shrink(c)

    def shrink(self, c: int) -> None:
        """Drops the rows of class c below the floor."""
        self.keep(c, self.rows(c)[0] >= self.floor[c])
        self.limits[c] = max(FEW_ROWS, 2 * self.sizes[c])

    def keep(self, c: int, chosen: np.ndarray) -> None:
        """Keeps the chosen rows (mask or index) of class c."""
        self.parts[c] = [tuple(column[chosen] for column in self.rows(c))]
        self.sizes[c] = len(self.parts[c][0][0])

    def rows(self, c: int) -> tuple[np.ndarray, ...]:
        """All rows of class c, in the order of their arrival."""
        if not self.parts[c]:
            return tuple(np.empty(0, dtype) for dtype in self.dtypes)
        if len(self.parts[c]) > 1:
            self.parts[c] = [tuple(np.concatenate(column) for column in zip(*self.parts[c], strict=True))]
        return self.parts[c][0]


class TopPool(Pool):
    """A pool that keeps the `top` rows of highest score of each class and raises the floor to the lowest of them.

    Pools that share this floor shrink with it when they are listed in `followers`.

    Args:
        n_classes: number of classes C.
        dtypes: type of each column.
        top: number of rows to keep; None keeps all.
    """

    def __init__(self, n_classes: int, *dtypes: type, top: int | None) -> None:
        super().__init__(np.full(n_classes, -np.inf), *dtypes)
        self.top = top
        self.followers: list[Pool] = []
        if top is not None:
            self.limits[:] = top

    def shrink(self, c: int) -> None:
        """Drops all but the highest rows of class c."""
        if self.top is None:
            self.rows(c)
            self.limits[c] = max(FEW_ROWS, 2 * self.sizes[c])
            return
        scores = self.rows(c)[0]
        first = len(scores) - self.top
        self.keep(c, np.argpartition(scores, first)[first:])
        self.floor[c] = max(self.floor[c], float(self.rows(c)[0].min()))
        self.limits[c] = self.top + max(64, self.top // 4)
        for pool in self.followers:
            pool.shrink(c)
