"""Worker processes: they end with the process that started them, and keep the memory that they free."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, TypeVar

import signals

T = TypeVar("T")
R = TypeVar("R")
_IN_FLIGHT = 4  # items per worker that are computed or wait for their turn to be handed out
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_KEPT_BYTES = 1 << 30


def available_cores() -> int:
    """Cores that this process may use: in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory(worker: int | None = None) -> None:
    """Let this process reuse the memory of freed arrays, in place of handing it back and faulting in new pages.

    Meant for loader processes (`worker_init_fn`), which free and allocate the same megabytes for every clip: new pages
    were measured to cost them a tenth of their time. Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def leave_interrupts(worker: int) -> None:
    """Set up a loader's process (`worker_init_fn`) that leaves signals to the main process, ends with it, and keeps
    freed memory."""
    signals.leave_signals_to_parent()
    keep_freed_memory()


class WorkerPool(ProcessPoolExecutor):
    """Processes that leave signals to this one and end with it; an interruption drops the tasks that wait."""

    def __init__(self, count: int) -> None:
        super().__init__(count, initializer=signals.leave_signals_to_parent)

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        """As that of the base class."""
        with signals.held():  # it may start processes
            return super().submit(*args, **kwargs)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown(cancel_futures=kind is not None)


def worker_pool(workers: int | None, n_tasks: int) -> WorkerPool:
    """A pool of `workers` processes (None: one per core), no more than there are tasks."""
    return WorkerPool(max(1, min(workers or available_cores(), n_tasks)))


def map_in_processes(
    function: Callable[[T], R], items: Sequence[T], workers: int | None, crashed: Callable[[T], R]
) -> Iterator[R]:
    """Results of a function, in the order of the items, computed in worker processes.

    Args:
        function: can be pickled.
        items: its arguments; few are in flight at a time, however many there are.
        workers: processes; None: one per core.
        crashed: gives the result of an item whose process dies (out of memory, a decoder that crashes) when it is
            alone with it; called in this process.
    """
    count, start = max(1, min(workers or available_cores(), len(items))), 0
    while start < len(items):
        try:
            for result in _map(function, items[start:], count):
                start += 1
                yield result
        except BrokenProcessPool:  # which item it was, nobody tells
            for item in items[start : start + _IN_FLIGHT * count]:
                start += 1
                yield _alone(function, item, crashed)


def _map(function: Callable[[T], R], items: Sequence[T], count: int) -> Iterator[R]:
    pool, flying = worker_pool(count, len(items)), deque[Future[R]]()
    try:
        for item in items:
            flying.append(pool.submit(function, item))
            if len(flying) == _IN_FLIGHT * count:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _alone(function: Callable[[T], R], item: T, crashed: Callable[[T], R]) -> R:
    try:
        with worker_pool(1, 1) as pool:
            return pool.submit(function, item).result()
    except BrokenProcessPool:
        return crashed(item)
