"""Worker processes: they end with the process that started them, and keep the memory that they free."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

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


def worker_pool(workers: int | None, n_tasks: int) -> ProcessPoolExecutor:
    """A pool of `workers` processes (None: one per core), no more than there are tasks.

    The workers leave Ctrl-C to the main process, and end on their own when that is killed.
    """
    count = max(1, min(workers or available_cores(), n_tasks))
    return ProcessPoolExecutor(count, initializer=_follow_parent, initargs=(os.getpid(),))


def _follow_parent(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
