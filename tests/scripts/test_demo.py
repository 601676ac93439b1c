"""The demo's verdict on its own result; the demo itself takes minutes and is not run here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import demo

ROOT = Path(__file__).parents[2]


def test_true_events_are_found_by_events_of_their_class_that_overlap() -> None:
    true = [(0.0, 2.0, "a"), (4.0, 5.0, "b"), (6.0, 7.0, "a")]
    assert demo.found(true, [(0.5, 2.0, "a"), (4.0, 5.0, "a"), (6.9, 8.0, "a")]) == 1
    assert demo.found(true, true) == 3


@pytest.mark.parametrize(
    ("before", "after", "missed", "words"),
    [
        (0.01, 0.65, False, None),
        (0.05, 0.65, False, "before training is 0.050"),
        (0.01, 0.59, False, "after training is 0.590"),
        (0.01, 0.65, True, "were not found"),
    ],
)
def test_a_result_that_falls_short_ends_with_code_1(
    before: float,
    after: float,
    missed: bool,
    words: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With commands that write nothing: what they would have written is there."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "run", lambda *command: None)
    monkeypatch.setattr("sys.argv", ["demo.py", "--out", str(tmp_path)])
    for name, value in (("untrained", before), ("evaluated", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps({"val/psds1_macro_averaged": value}))
    (tmp_path / "detections").mkdir()
    detected = tmp_path / "detections" / "example.tsv"
    shutil.copy(ROOT / "test_files" / "example.tsv", detected)
    if missed:
        header, *rows = detected.read_text().splitlines()
        detected.write_text("\n".join([header, *rows[1:]]) + "\n")
    if words is None:
        demo.main()
    else:
        with pytest.raises(SystemExit) as stop:
            demo.main()
        assert words in str(stop.value.code)  # text: Python prints it to stderr and ends with code 1
    assert "PSDS1 after training" in capsys.readouterr().out
