"""Equality that a constant cannot pass: outputs agree, and other input gives other outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

MARGIN = 1000  # least difference between the outputs of two inputs, in tolerances
EXACT_MARGIN = 1e-3  # the same where the tolerance is 0
Tolerance = float | tuple[float, ...]  # absolute; one for all outputs, or one for each


def arrays(outputs: Any) -> list[np.ndarray]:
    """Outputs (a tensor, an array, or several) as a list of arrays."""
    if isinstance(outputs, (tuple, list)):
        return [array for part in outputs for array in arrays(part)]
    return [outputs.detach().numpy() if isinstance(outputs, torch.Tensor) else np.asarray(outputs)]


def pairs(first: Any, second: Any, tolerance: Tolerance) -> Iterator[tuple[np.ndarray, np.ndarray, float]]:
    """The arrays of two outputs side by side, each pair with its tolerance."""
    ours, theirs = arrays(first), arrays(second)
    tolerances = tolerance if isinstance(tolerance, tuple) else (tolerance,) * len(ours)
    return zip(ours, theirs, tolerances, strict=True)


def of_spread(parts: Tolerance, expected: Any) -> tuple[float, ...]:
    """Tolerances of each output of `expected`, given in parts of its spread (largest minus smallest value)."""
    return tuple(part * float(np.ptp(array)) for array, _, part in pairs(expected, expected, parts))


def assert_close_outputs(got: Any, expected: Any, tolerance: Tolerance) -> None:
    """Each output has the shape expected, and differs by at most its tolerance."""
    for ours, theirs, bound in pairs(got, expected, tolerance):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=bound)


def assert_different_outputs(first: Any, second: Any, tolerance: Tolerance) -> None:
    """Each output differs somewhere by at least 1,000 times the tolerance of an equality test."""
    for ours, theirs, bound in pairs(first, second, tolerance):
        assert ours.shape == theirs.shape
        largest = np.abs(ours - theirs).max()
        least = MARGIN * bound if bound else EXACT_MARGIN
        assert largest >= least, f"two inputs differ by {largest:.2g}: equality to {bound:.2g} proves nothing"


def assert_equal_outputs(
    f: Callable[[Any], Any],
    g: Callable[[Any], Any],
    input_a: Any,
    input_b: Any,
    tolerance: Tolerance,
    relative: bool = False,
) -> None:
    """`f` equals `g` on `input_a`, and what `f` gives for `input_b`, of the same shape, is clearly different.

    Args:
        tolerance: absolute; 0 means exactly. `relative`: in parts of the spread of each output.

    Raises AssertionError when an output is off, or when the outputs for the two inputs differ by less than 1,000
    times the tolerance, so that the equality would say nothing about the input.
    """
    with torch.no_grad():
        ours, expected, others = f(input_a), g(input_a), f(input_b)
    bounds = of_spread(tolerance, expected) if relative else tolerance
    assert_close_outputs(ours, expected, bounds)
    assert_different_outputs(ours, others, bounds)
