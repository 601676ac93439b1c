"""Compiled sliding medians of one score curve; compiled on first use and cached on disk by numba."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def reflect_pad(x: np.ndarray, half: int, padded: np.ndarray) -> None:
    """Copies x into the middle of `padded` [len(x) + 2 * half] and mirrors it at both ends (d c b a | a b c d)."""
    length = len(x)
    period = 2 * length
    for i in range(length):
        padded[half + i] = x[i]
    for i in range(half):
        j = (-1 - i) % period
        padded[half - 1 - i] = x[j] if j < length else x[period - 1 - j]
        j = (length + i) % period
        padded[half + length + i] = x[j] if j < length else x[period - 1 - j]


@njit(nogil=True, cache=True, inline="always")
def _min(a, b):  # type: ignore[no-untyped-def]  # numba infers the types
    return a if a < b else b


@njit(nogil=True, cache=True, inline="always")
def _max(a, b):  # type: ignore[no-untyped-def]
    return b if a < b else a


@njit(nogil=True, cache=True, inline="always")
def _median3(a, b, c):  # type: ignore[no-untyped-def]
    return _max(_min(a, b), _min(_max(a, b), c))


@njit(nogil=True, cache=True)
def _median9(p: np.ndarray, out: np.ndarray) -> None:
    """Median of 9 neighbours without branches, so that the compiler can use vector instructions.

    Consecutive triples are sorted; the median of nine is the median of (largest minimum, median of the medians,
    smallest maximum) of three disjoint triples (Paeth, "Median finding on a 3x3 grid", Graphics Gems I, 1990).
    """
    for i in range(len(out)):
        a, b, c = p[i], p[i + 1], p[i + 2]
        d, e, f = p[i + 3], p[i + 4], p[i + 5]
        g, h, k = p[i + 6], p[i + 7], p[i + 8]
        low = _max(_max(_min(_min(a, b), c), _min(_min(d, e), f)), _min(_min(g, h), k))
        high = _min(_min(_max(_max(a, b), c), _max(_max(d, e), f)), _max(_max(g, h), k))
        mid = _median3(_median3(a, b, c), _median3(d, e, f), _median3(g, h, k))
        out[i] = _median3(low, mid, high)


@njit(nogil=True, cache=True)
def _sliding_median(p: np.ndarray, window: int, out: np.ndarray) -> None:
    """Keeps the window sorted while it slides: one removal and one insertion per frame."""
    ordered = np.sort(p[:window])
    half = window // 2
    out[0] = ordered[half]
    for i in range(1, len(out)):
        old, new = p[i - 1], p[i + window - 1]
        j = np.searchsorted(ordered, old)
        while j + 1 < window and ordered[j + 1] < new:
            ordered[j] = ordered[j + 1]
            j += 1
        while j > 0 and ordered[j - 1] > new:
            ordered[j] = ordered[j - 1]
            j -= 1
        ordered[j] = new
        out[i] = ordered[half]


@njit(nogil=True, cache=True)
def median_row(x: np.ndarray, window: int, padded: np.ndarray, out: np.ndarray) -> None:
    """Median filter of one curve x [T] into out [T]; `padded` is scratch of at least T + window - 1 values."""
    if window == 1:
        out[:] = x
        return
    half = window // 2
    p = padded[: len(x) + 2 * half]
    reflect_pad(x, half, p)
    if window == 9:
        _median9(p, out)
    else:
        _sliding_median(p, window, out)


@njit(nogil=True, cache=True)
def median_rows(x: np.ndarray, windows: np.ndarray, out: np.ndarray) -> None:
    """Median filter of the rows of x [N, T] into out [N, T]; row n uses windows[n % len(windows)]."""
    padded = np.empty(x.shape[1] + windows.max() - 1, x.dtype)
    for n in range(x.shape[0]):
        median_row(x[n], windows[n % len(windows)], padded, out[n])
