"""What torch can compute on, as JSON: `python -m helpers.device_probe`.

A process of its own for `doctor.py`: a broken build of torch ends this process and not the one that reports it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py  # noqa: F401  with torch the packages that bring libraries of their own, and so break most easily
import numpy as np  # noqa: F401
import soundfile  # noqa: F401
import soxr  # noqa: F401
import torch

from helpers.complexity import processor_name
from json_text import json_text


def probe() -> dict[str, Any]:
    """Build of torch and devices; of each GPU also why it does not compute (`error`), where it does not."""
    return {
        "torch": torch.__version__,
        "cuda_build": torch.version.cuda or torch.version.hip,
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpus": [_gpu(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
        "nvidia_driver": Path("/proc/driver/nvidia/version").exists(),
        "mps_build": torch.backends.mps.is_built(),
        "mps": torch.backends.mps.is_available(),
    }


def _gpu(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    found = {"name": properties.name, "bytes": properties.total_memory, "error": None}
    try:
        torch.ones(8, 8, device=f"cuda:{index}").sum().item()
    except RuntimeError as error:  # no kernel for this GPU in this build, or no memory left
        found["error"] = str(error).strip().splitlines()[0]
    return found


if __name__ == "__main__":
    print(json_text(probe(), ensure_ascii=True))
