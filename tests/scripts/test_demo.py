"""The demo's verdict on its own result; the demo itself takes minutes and is not run here."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

import demo
from data_util.synthetic import make_example

ROOT = Path(__file__).parents[2]


def test_true_events_are_found_by_events_of_their_class_that_overlap() -> None:
    true = [(0.0, 2.0, "a"), (4.0, 5.0, "b"), (6.0, 7.0, "a")]
    assert demo.found(true, [(0.5, 2.0, "a"), (4.0, 5.0, "a"), (6.9, 8.0, "a")]) == 1
    assert demo.found(true, true) == 3


def pretend_a_run(out: Path, before: float, after: float, loss: tuple[float, ...], rows: int) -> None:
    """What the commands of the demo write: figures before and after, losses, the first of the true events."""
    for name, value in (("untrained", before), ("trained", after)):
        (out / name).mkdir()
        (out / name / "metrics.json").write_text(json.dumps({"val/psds1_macro_averaged": value}))
    lines = ["epoch,train/loss,val/loss", *(f"{i},{value}," for i, value in enumerate(loss)), "9,,0.1"]
    (out / "trained" / "metrics.csv").write_text("\n".join(lines) + "\n")
    (out / "detections").mkdir()
    true = (ROOT / "test_files" / "example.tsv").read_text().splitlines(keepends=True)
    (out / "detections" / "example.tsv").write_text("".join(true[: 1 + rows]))


@pytest.mark.parametrize(
    ("before", "after", "loss", "rows", "note", "error"),
    [
        (0.01, 0.85, (0.3, 0.2, 0.1), 3, None, None),
        (0.01, 0.65, (0.3, 0.2, 0.1), 3, "PSDS1 is below 0.80", None),
        (0.01, 0.85, (0.3, 0.2, 0.1), 2, "1 of 3 true events were missed", None),
        (0.01, 0.29, (0.3, 0.2, 0.1), 3, "PSDS1 is below 0.80", "PSDS1 rose from 0.010 to 0.290 only"),
        (0.60, 0.85, (0.3, 0.2, 0.1), 3, None, "PSDS1 rose from 0.600 to 0.850 only"),
        (0.01, 0.85, (0.3, 0.4), 3, None, "the training loss did not fall"),
        (0.01, 0.85, (0.3, 0.2, 0.1), 0, "3 of 3 true events were missed", "no events were detected"),
    ],
)
def test_a_broken_step_ends_with_code_1_and_a_weaker_figure_is_told(
    before: float,
    after: float,
    loss: tuple[float, ...],
    rows: int,
    note: str | None,
    error: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With commands that write nothing: what they would have written is there."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(demo, "run", lambda *command: None)
    monkeypatch.setattr("sys.argv", ["demo.py", "--out", str(tmp_path)])
    pretend_a_run(tmp_path, before, after, loss, rows)
    if error is None:
        demo.main()
    else:
        with pytest.raises(SystemExit) as stop:
            demo.main()
        assert error in str(stop.value.code)  # text: Python prints it to stderr and ends with code 1
    printed = capsys.readouterr().out
    assert "PSDS1 after training" in printed
    assert note in printed if note else "note:" not in printed


def test_the_example_file_is_the_one_that_the_generator_makes(tmp_path: Path) -> None:
    """And its events come one after the other."""
    events = make_example(tmp_path / "example.wav", seed=1)
    for name in ("example.wav", "example.tsv"):
        assert (tmp_path / name).read_bytes() == (ROOT / "test_files" / name).read_bytes()
    assert len(events) == 3 and all(a[1] < b[0] for a, b in itertools.pairwise(events))
