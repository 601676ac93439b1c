"""A cross-validation that is interrupted says how to resume the whole of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import config
import signals
from config_clipwise import DownstreamOptions
from errors import exit_on_user_error
from helpers.cross_validation import cross_validate


@pytest.mark.parametrize("at_once", [True, False])
def test_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str], at_once: bool) -> None:
    """In a fold, or at the very end of one, when its training has only noted the signal: no other fold begins."""
    place = ["--data_dir=ESC", f"--output_dir={tmp_path}", "--experiment_name=folds", "--fold=all"]
    options = config.parse(DownstreamOptions, ["--task=esc50", *place])
    trained: list[Any] = []

    def train(of_fold: DownstreamOptions) -> dict[str, float]:
        trained.append(of_fold.fold)
        with signals.caught(None if at_once else lambda: None):
            os.kill(os.getpid(), signal.SIGTERM)
        return {options.row.metric: 0.5}

    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        cross_validate(options, train)
    assert stop.value.code == 143 and trained == ["1"]
    assert capsys.readouterr().err == f"terminated: resume with --resume {tmp_path / 'folds'}\n"
