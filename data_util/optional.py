"""Packages that do a job better or reach more formats, where they are installed."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType


@cache
def optional(package: str) -> ModuleType | None:
    """The package, or None where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        return None
