"""The peak that a process reports is its own, not that of the process that started it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import json, resource
from benchmarks.peak_memory import peak_rss
before = peak_rss()
held = bytearray(100_000_000)
held[::4096] = b"x" * len(held[::4096])
print(json.dumps([before, peak_rss(), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system's own figure is right")
def test_a_child_does_not_report_the_peak_of_its_parent() -> None:
    parent = (
        "import subprocess, sys; held = bytearray(400_000_000); held[::4096] = b'x' * len(held[::4096]); "
        "subprocess.run([sys.executable, '-c', sys.argv[1]], check=True)"
    )
    done = subprocess.run([sys.executable, "-c", parent, CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    before, after, of_the_system = json.loads(done.stdout)
    assert before < 60_000_000 and 90_000_000 < after - before < 130_000_000
    assert of_the_system > 400_000_000  # what was reported before


def test_no_benchmark_asks_the_system_itself() -> None:
    users = [p.name for p in (ROOT / "benchmarks").glob("*.py") if "ru_maxrss" in p.read_text()]
    assert users == ["peak_memory.py"]
