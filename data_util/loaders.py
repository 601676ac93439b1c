"""Loaders whose processes leave signals to the main process, and end with it."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

import signals
from data_util.processes import leave_interrupts


class Loader(DataLoader[Any]):
    """A DataLoader that starts its processes so that a signal to all of them is heeded by the main process alone.

    Built by `make`; the constructor is that of torch, as Lightning calls it anew for predictions.
    """

    @classmethod
    def make(cls, dataset: Any, **options: Any) -> Loader:
        """A loader with the options of torch's."""
        return cls(dataset, worker_init_fn=leave_interrupts, **options)

    def __iter__(self) -> Any:
        with signals.held():
            return super().__iter__()
