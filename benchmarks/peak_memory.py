"""Peak memory of a process itself; imports nothing of the project, so that it adds nothing to what is measured."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


def peak_rss() -> int:
    """Most bytes of memory that this process has held since its program started.

    On Linux not `ru_maxrss`: that survives the start of another program, so that a child reports the peak of the
    parent that started it, wherever that was higher.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
