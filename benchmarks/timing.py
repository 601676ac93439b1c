"""What the benchmarks share: timing of two things in one run, and the line that names the machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable

import torch

from helpers.complexity import processor_name


def seconds(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Shortest of `repeats` runs of each function, in seconds, taken in turn so that all meet the same machine.

    One run of each before the first timed one is not counted.
    """
    for function in functions.values():
        function()
    best = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def machine() -> dict[str, object]:
    """Processor, threads and versions that a figure belongs to."""
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
