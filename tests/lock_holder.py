"""Another process that is writing an output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = "import sys, time, locks; locks.hold(sys.argv[1], folder=bool(sys.argv[2])); print(flush=True); time.sleep(60)"


@contextmanager
def written_by_another(output: Path, *, folder: bool = False) -> Iterator[str]:
    """Hold the lock of an output; gives the beginning of the line that a command must end in."""
    command = [sys.executable, "-c", CODE, str(output), "folder" if folder else ""]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield f"error: {output}: process {process.pid} on "
        finally:
            process.kill()
