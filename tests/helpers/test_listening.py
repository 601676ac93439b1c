"""What a run over several recordings says at its end."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from helpers import listening


@pytest.mark.parametrize(
    ("n_classes", "last"), [(10, None), (11, "11  of 1 more class"), (13, "36  of 3 more classes")]
)
def test_the_counts_on_the_screen_add_up(
    n_classes: int, last: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The most frequent classes by name, the events of the others as one sum."""
    counts = Counter({f"class {i}": 100 - i if i < 10 else i + 1 for i in range(n_classes)})
    summary = SimpleNamespace(n_skipped=0, n_done=3, seconds=6.0, classes=counts, notes=[], failures=[])
    listening._report(summary, SimpleNamespace(elapsed=1.0, speed=6.0), tmp_path)  # type: ignore[arg-type]
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()[1:-1]]
    assert sum(int(line.split()[0]) for line in lines) == counts.total()
    assert (lines[10] if len(lines) > 10 else None) == last and len(lines) == min(n_classes, 11)
