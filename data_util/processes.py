"""Worker processes that end with the process that started them."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor


def available_cores() -> int:
    """Cores that this process may use: in a container often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
