"""From frame-wise scores to smooth scores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch

from errors import UserError
from helpers.score_tables import plan_windows

Scores = TypeVar("Scores", torch.Tensor, np.ndarray)


def check_windows(window: int | Sequence[int], n_classes: int) -> np.ndarray:
    """Checks median windows and returns one length per class.

    Args:
        window: odd length in frames, for all classes or one per class.
        n_classes: number of classes C.

    Returns:
        int64 array [C].

    Raises:
        UserError: a length is even or below 1, or there are not C of them.
    """
    windows = np.asarray(window)
    if windows.ndim == 0:
        windows = np.full(n_classes, windows)
    if windows.shape != (n_classes,):
        raise UserError(f"median_window: {windows.size} lengths given for {n_classes} classes; give one or {n_classes}")
    if windows.dtype.kind not in "iu" or (windows < 1).any() or (windows % 2 == 0).any():
        wrong = next((w for w in windows.tolist() if not isinstance(w, int) or w < 1 or w % 2 == 0), window)
        raise UserError(f"median_window {wrong}: a window is an odd number of frames, 1 or more")
    return windows.astype(np.int64)


def median_filter(scores: Scores, window: int | Sequence[int]) -> Scores:
    """Median filter along time, equal to `scipy.ndimage.median_filter` with its mirrored edges (mode "reflect").

    Args:
        scores: [..., C, T] (or [T]) of any float type; a tensor may lie on any device.
        window: odd length in frames, for all classes or one per class (C lengths).

    Returns:
        The filtered scores: same shape, type and device. On the CPU compiled code runs in `torch.get_num_threads()`
        threads; the first call on a machine compiles it (some seconds, kept on disk).

    Raises:
        UserError: a window is even, below 1, or their number is not C.
    """
    if scores.ndim == 1:
        return median_filter(scores[None], window)[0]
    windows = check_windows(window, scores.shape[-2])
    if isinstance(scores, torch.Tensor):
        if scores.device.type != "cpu":
            return _median_filter_device(scores, windows)
        dtype = scores.dtype
        wide = scores.detach().to(torch.float64 if dtype == torch.float64 else torch.float32)
        return torch.from_numpy(_median_filter_numpy(wide.numpy(), windows)).to(dtype)
    wide_type = np.float64 if scores.dtype == np.float64 else np.float32  # half floats fit into float32 without loss
    return _median_filter_numpy(scores.astype(wide_type, copy=False), windows).astype(scores.dtype, copy=False)


def _median_filter_numpy(scores: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """[..., C, T] float32 or float64; whole multiples of C rows go to each thread."""
    from helpers.score_kernels import median_rows  # numba is imported only when something is filtered

    n_classes, n_frames = scores.shape[-2:]
    if scores.size == 0:
        return scores.copy()
    rows = np.ascontiguousarray(scores).reshape(-1, n_frames)
    out, plan = np.empty_like(rows), plan_windows(windows)
    n_threads = max(1, min(torch.get_num_threads(), len(rows) // n_classes))
    step = -(-len(rows) // n_classes // n_threads) * n_classes
    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(lambda i: median_rows(rows[i : i + step], plan, out[i : i + step]), range(0, len(rows), step)))
    return out.reshape(scores.shape)


def _median_filter_device(scores: torch.Tensor, windows: np.ndarray) -> torch.Tensor:
    """[..., C, T] on an accelerator: mirrored index, gather, median; one pass per distinct window."""
    out = torch.empty_like(scores)
    n_frames = scores.shape[-1]
    for length in np.unique(windows).tolist():
        classes = torch.from_numpy(np.flatnonzero(windows == length)).to(scores.device)
        position = torch.arange(n_frames)[:, None] + torch.arange(length)[None] - length // 2
        position = position.remainder(2 * n_frames)
        position = torch.minimum(position, 2 * n_frames - 1 - position).to(scores.device)  # [T, window]
        rows = scores.index_select(-2, classes)
        flat = rows.reshape(-1, n_frames)
        # a piece at a time: the windows take `length` times the memory of the scores
        pieces = [piece[:, position].median(-1).values for piece in flat.split(max(1, 2**25 // position.numel()))]
        out.index_copy_(out.ndim - 2, classes, torch.cat(pieces).reshape(rows.shape))
    return out
