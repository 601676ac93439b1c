"""The folder of a run explains itself, and records that cannot be written do not end it."""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

import config
import locks
from config_downstream import DcaseOptions
from errors import UserError
from helpers import run_folder
from helpers.trackers import Unfailing, make_loggers
from tests.lock_holder import written_by_another


def test_the_newest_checkpoint_continues_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "name"
    folder.mkdir(parents=True)
    options = config.StrongOptions(output_dir=tmp_path / "runs", experiment_name="name", resume=Path("newest"))
    with pytest.raises(UserError, match="--resume is name"):
        run_folder.resume_checkpoint(options)
    for name in ("step_00000009.ckpt", "last.ckpt", "step_00000010.ckpt", "best.ckpt"):
        (folder / name).touch()
        time.sleep(0.02)
    assert run_folder.resume_checkpoint(options) == folder / "step_00000010.ckpt"
    for other in ("name2", "name-new", "name-10"):  # the last one is of the same name
        (tmp_path / "runs" / other).mkdir()
        (tmp_path / "runs" / other / "last.ckpt").touch()
        time.sleep(0.02)
        (tmp_path / "runs" / "name2" / "last.ckpt").touch()
    assert run_folder.resume_checkpoint(options) == tmp_path / "runs" / "name-10" / "last.ckpt"
    options.resume = folder
    assert run_folder.resume_checkpoint(options) == folder / "step_00000010.ckpt"
    options.resume = folder / "last.ckpt"
    assert run_folder.resume_checkpoint(options) == folder / "last.ckpt"
    options.resume = tmp_path
    with pytest.raises(UserError, match=r"expected a folder with a last.ckpt or step_.*, got none"):
        run_folder.resume_checkpoint(options)


def test_two_processes_never_write_one_run(tmp_path: Path) -> None:
    folder = tmp_path / "name"
    options = config.StrongOptions(output_dir=tmp_path, experiment_name="name")
    with written_by_another(folder, folder=True), locks.scope():
        assert run_folder.run_dir(options) == tmp_path / "name-2"  # begun at the same moment
        (tmp_path / "name-2" / "run.log").touch()
        for change in ({"resume": folder / "last.ckpt"}, {"overwrite": True}):
            with pytest.raises(BlockingIOError, match="process"):
                run_folder.run_dir(dataclasses.replace(options, **change))  # type: ignore[arg-type]
        with locks.scope():
            assert run_folder.run_dir(options) == tmp_path / "name-3"
    with locks.scope():
        assert run_folder.run_dir(dataclasses.replace(options, resume=folder / "last.ckpt")) == folder


def test_a_checkpoint_may_be_a_folder(tmp_path: Path) -> None:
    """DeepSpeed's are: they are found, read, and removed by a run that overwrites theirs."""
    old, new = tmp_path / "last.ckpt", tmp_path / "step_00000003.ckpt"
    progress = {"current": {"completed": 2, "processed": 2}}
    batches = {"current": {"processed": 5}}
    state = {"loops": {"fit_loop": {"epoch_progress": progress, "epoch_loop.batch_progress": batches}}}
    for path in (old, new):
        (path / run_folder.DEEPSPEED_STATE).parent.mkdir(parents=True)
        torch.save(state, path / run_folder.DEEPSPEED_STATE)
        time.sleep(0.02)
    for named, found in ((tmp_path, new), (old, old)):
        options = config.StrongOptions(resume=named)
        assert run_folder.resume_checkpoint(options) == found
        assert run_folder.resume_position(found) == (2, 5)
    run_folder.remove_checkpoints(tmp_path, keep=new)
    assert list(tmp_path.iterdir()) == [new]


def test_environment_names_commit_and_versions() -> None:
    found = json.loads(json.dumps(run_folder.environment()))
    assert found["packages"]["torch"] and found["python"] and "commit" in found


def test_records_that_cannot_be_written_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        run_folder.write_text(tmp_path / "file" / "metrics.json", "{}")
    assert "was not written" in caplog.text


def test_a_tracker_that_fails_is_told_once_and_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    class Lost:
        def log_metrics(self, *args: Any) -> None:
            raise ConnectionError("no route")

        save = finalize = log_hyperparams = log_metrics

    logger = Unfailing(Lost())  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            logger.log_metrics({"a": 1.0}, step)
        logger.save()
        logger.finalize("success")
        logger.log_hyperparams({})
    assert caplog.text.count("no route") == 1


def test_a_missing_recorder_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "sacred", None)
        with pytest.raises(UserError, match="pip install sacred"):
            make_loggers(config.StrongOptions(logger="none", recorder="sacred"), tmp_path)


def test_rank_comes_from_any_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert run_folder.global_rank() == 0
    for name, value in (("LOCAL_RANK", "1"), ("SLURM_PROCID", "2"), ("RANK", "3")):
        monkeypatch.setenv(name, value)
        assert run_folder.global_rank() == int(value)


@pytest.mark.parametrize(("status", "told"), [("success", "COMPLETED"), ("failed", "INTERRUPTED")])
def test_sacred_records_options_sources_and_metrics(status: str, told: str, tmp_path: Path) -> None:
    """Runs where Sacred is installed."""
    pytest.importorskip("sacred", reason="optional: pip install sacred")
    (logger,) = make_loggers(config.StrongOptions(logger="none", recorder="sacred", max_lr=0.5), tmp_path)
    logger.log_metrics({"train/loss": 1.5}, 7)
    logger.finalize(status)
    folder = tmp_path / "sacred" / "1"
    content = json.loads((folder / "run.json").read_text())
    assert content["status"] == told and content["host"]["hostname"]
    assert any("config.py" in name for name, _ in content["experiment"]["sources"])
    assert json.loads((folder / "config.json").read_text())["options"]["max_lr"] == 0.5
    assert json.loads((folder / "metrics.json").read_text())["train/loss"]["values"] == [1.5]


def test_the_card_speaks_of_the_task_at_hand(tmp_path: Path) -> None:
    options = DcaseOptions(task_path=tmp_path)
    card = run_folder.model_card(options, {"val/onset_fms": 0.5}, 123)
    assert (
        str(tmp_path) in card and "office" in card and "AudioSet" not in card and "| val/onset_fms | 0.5000 |" in card
    )
    assert "AudioSet" in run_folder.model_card(config.StrongOptions(data_dir=tmp_path), {}, 123)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_curves_have_no_empty_axes(n: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    rows = [{"epoch": float(e), "step": 0.0, **{f"val/{i}": float(e + i) for i in range(n)}} for e in range(3)]
    run_folder.draw_curves(
        [{**rows[0], "val/never": float("nan")}, {**rows[1], "val/0": float("nan")}, rows[2]], tmp_path / "c.png"
    )
    axes = figures[0].axes
    assert [a.get_title() for a in axes] == [f"val/{i} (last: {2 + i})" for i in range(n)]
    assert figures[0].get_suptitle() == f"{tmp_path.name}: figures per epoch"
    assert [len(a.lines[0].get_xdata()) for a in axes] == [2] + [3] * (n - 1)
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_curves_share_their_epochs_and_these_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a figure has one value, at the end."""
    figures: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), save(self, *a, **k)))
    rows = [{"epoch": float(e), "step": 0.0, "train/loss": 1 / (e + 1)} for e in range(10)]
    for n in (1, 10):
        part = rows[-n:]
        run_folder.draw_curves([*part[:-1], {**part[-1], "val/loss": 0.5}], tmp_path / "c.png")
        for axes in figures[-1].axes:
            assert axes.get_xlim() == (part[0]["epoch"] - 0.5, 9.5)
            shown = [t for t in axes.get_xticks() if axes.get_xlim()[0] <= t <= axes.get_xlim()[1]]
            assert shown and all(t == int(t) for t in shown)


def test_a_run_without_figures_gets_no_picture(tmp_path: Path) -> None:
    run_folder.draw_curves([{"epoch": 0.0, "val/loss": float("inf")}], tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_a_run_that_has_no_figures_yet_has_lost_none(tmp_path, caplog):
    """Interrupted in its first epoch, or the validation after it."""
    assert run_folder.read_history(tmp_path / "metrics.csv", 0) == [] and not caplog.messages
    assert run_folder.read_history(tmp_path / "metrics.csv", 3) == []
    assert "the figures so far are lost" in caplog.text
