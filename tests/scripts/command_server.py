"""Runs commands in forked processes, so that tests of signals import torch once: a JSON object per line, in and out.

`start` forks a command into a process group of its own, as a shell does, and tells its process id; `wait` tells its
exit code (negative: the signal that killed it). No network runs in this process: threads of OpenMP would not survive.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

for name in ("ex_audioset_strong", "make_pseudo_labels", "inference", "data_util.pack", "data_util.synthetic"):
    importlib.import_module(name)
for name in ("data_util.audioset", "helpers.run", "helpers.lit_module", "helpers.pseudo_labelling", "helpers.results"):
    importlib.import_module(name)  # which the scripts import only when they have read their options


def slowed(owner: Any, name: str, seconds: float, first: bool = True) -> Callable[[Path], None]:
    """A hook: a function waits before (or after) its work, and leaves a mark each time it begins to wait."""

    def hook(mark: Path) -> None:
        original = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            result = None if first else original(*args, **kwargs)
            mark.touch()
            time.sleep(seconds)
            return original(*args, **kwargs) if first else result

        setattr(owner, name, slow)

    return hook


def hooks() -> dict[str, Callable[[Path], None]]:
    """What makes the moment of a signal certain."""
    from data_util import pack
    from helpers.lit_module import SEDModule
    from helpers.results import ResultWriter

    return {
        "training_step": slowed(SEDModule, "training_step", 0.2),
        "validation_step": slowed(SEDModule, "validation_step", 1.0),
        "fsync": slowed(os, "fsync", 3.0),  # the checkpoint is written, but under its temporary name
        "_write_part": slowed(pack, "_write_part", 0.3, first=False),
        "write": slowed(ResultWriter, "write", 0.3, first=False),
    }


def start(module: str, argv: list[str], log: str, hook: str | None, mark: str, set_up: str) -> int:
    """Fork a command; its process id. It returns in the child as well, by `SystemExit`."""
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if hook is not None:
        hooks()[hook](Path(mark))
    exec(set_up)
    sys.exit(importlib.import_module(module).main(argv))


def wait(pid: int, seconds: float) -> int | None:
    """Exit code of a command; None if it is still there after so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def serve() -> None:
    """Answer until the input ends."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"start": start, "wait": wait}[request.pop("do")](**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
