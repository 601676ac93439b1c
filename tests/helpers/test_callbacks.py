"""Checkpoints: whole or not at all, the newest kept, never between two halves of an optimiser step."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging

import config
from helpers import callbacks, run, run_folder
from helpers.callbacks import AtomicCheckpoints, KeepBest, PeriodicCheckpoint


class FakeTrainer:
    """What the callback asks of a Trainer."""

    accumulate_grad_batches = 2
    num_training_batches = 10
    world_size = 1
    is_global_zero = True
    global_step = 0

    def __init__(self) -> None:
        self.saved: list[str] = []

    def save_checkpoint(self, path: Path) -> None:
        self.saved.append(path.name)
        path.touch()
        os.utime(path, ns=(self.global_step, self.global_step))  # clocks of file systems take steps of milliseconds


def test_periodic_checkpoints_lie_between_steps_and_the_newest_stay(tmp_path: Path) -> None:
    trainer: Any = FakeTrainer()
    periodic = PeriodicCheckpoint(tmp_path, minutes=0, keep=2)
    for batch in range(10):
        trainer.global_step = (batch + 1) // 2
        periodic.on_train_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]
    assert trainer.saved == [f"step_0000000{n}.ckpt" for n in (1, 2, 3, 4)]  # not at the end of the epoch
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003.ckpt", "step_00000004.ckpt"]


def write_periodic(folder: Path, steps_and_times: dict[int, int]) -> None:
    for step, time_ns in steps_and_times.items():
        path = folder / f"step_{step:08d}.ckpt"
        path.touch()
        os.utime(path, ns=(time_ns, time_ns))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("clock", [1, 0, -1])
def test_periodic_checkpoints_go_by_step_whatever_the_clock_does(tmp_path: Path, clock: int) -> None:
    """Time stands still on some file systems, and goes back where a clock is set."""
    write_periodic(tmp_path, {step: 1_000_000 + clock * step for step in (5, 20, 100_000_000)})
    (tmp_path / "step_mine.ckpt").touch()  # somebody else's
    trainer: Any = FakeTrainer()
    trainer.save_checkpoint = lambda path: write_periodic(tmp_path, {100_000_007: 1_000_000 + clock * 100_000_007})
    trainer.global_step = 100_000_007
    PeriodicCheckpoint(tmp_path, minutes=0, keep=2).on_train_batch_end(trainer, None, None, None, 1)  # type: ignore[arg-type]
    assert names(tmp_path) == ["step_100000000.ckpt", "step_100000007.ckpt", "step_mine.ckpt"]


def test_a_run_that_went_back_keeps_its_own_checkpoints(tmp_path: Path) -> None:
    """Those beyond its step are of the state that was given up; they go first, not the one just written."""
    write_periodic(tmp_path, {200: 10, 300: 11})
    trainer: Any = FakeTrainer()
    periodic = PeriodicCheckpoint(tmp_path, minutes=0, keep=2)
    for step in (150, 170):
        trainer.global_step = step
        periodic.on_train_batch_end(trainer, None, None, None, 1)  # type: ignore[arg-type]
        assert len(names(tmp_path)) == 2 and f"step_00000{step}.ckpt" in names(tmp_path)
    assert names(tmp_path) == ["step_00000150.ckpt", "step_00000170.ckpt"]


def test_of_equal_times_the_latest_step_is_the_newest(tmp_path: Path) -> None:
    for last in (7, 12):
        write_periodic(tmp_path, {1: 5, 9: 5, last: 5})
        assert run_folder.newest_checkpoint(tmp_path) == tmp_path / f"step_{max(9, last):08d}.ckpt"
    (tmp_path / "last.ckpt").touch()
    assert run_folder.newest_checkpoint(tmp_path) == tmp_path / "last.ckpt"
    assert run_folder.newest_checkpoint(tmp_path / "nowhere") is None


def test_periodic_checkpoints_keep_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    trainer: Any = FakeTrainer()
    periodic = PeriodicCheckpoint(tmp_path, minutes=1, keep=9)
    for batch in range(9):
        now[0] += 20
        trainer.global_step = batch
        periodic.on_train_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]
    assert len(trainer.saved) == 2  # after 80 s and 160 s, where a step ends


def test_a_full_disk_leaves_the_old_checkpoint_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, saver = tmp_path / "last.ckpt", AtomicCheckpoints()
    saver.save_checkpoint({"weights": torch.ones(3)}, path)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with caplog.at_level(logging.WARNING):
        saver.save_checkpoint({"weights": torch.zeros(3)}, path)
    assert "No space left on device" in caplog.text
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    saver.save_checkpoint({"weights": torch.full((3,), 2.0)}, tmp_path / "step_00000001.ckpt")
    assert list(saver.unwritten) == [path]  # those of every few minutes are not worth the memory
    monkeypatch.undo()
    saver.retry()
    assert torch.equal(torch.load(path, weights_only=True)["weights"], torch.zeros(3)) and not saver.unwritten
    monkeypatch.setattr(os, "fsync", full)
    saver.save_checkpoint({"weights": torch.full((3,), 3.0)}, path)
    monkeypatch.undo()
    saver.save_checkpoint({"weights": torch.full((3,), 4.0)}, path)  # a newer state takes the place of the lost one
    saver.retry()
    assert torch.load(path, weights_only=True)["weights"][0] == 4 and not saver.unwritten


def test_a_resumed_run_knows_the_best_state_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a better one was lost with the full disk, it must not stand in the way of the next."""
    writer = AtomicCheckpoints()
    best = KeepBest(writer, tmp_path, "best", monitor="f1", mode="max", save_top_k=1, enable_version_counter=False)
    trainer: Any = SimpleNamespace(
        save_checkpoint=lambda path, _: writer.save_checkpoint({"best": best.state_dict()["best_model_score"]}, path),
        strategy=SimpleNamespace(reduce_boolean_decision=bool), global_step=0, is_global_zero=False,
    )  # fmt: skip

    def validate(score: float) -> float | None:
        trainer.global_step += 1
        metrics = {"f1": torch.tensor(score), "epoch": torch.tensor(0), "step": torch.tensor(0)}
        best._save_monitor_checkpoint(trainer, metrics)
        known = best.state_dict()["best_model_score"]
        return None if known is None else round(float(known), 3)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert validate(0.1) is None
    assert validate(0.2) == 0.2
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert validate(0.5) == 0.2
    assert float(torch.load(tmp_path / "best.ckpt", weights_only=True)["best"]) == pytest.approx(0.2)
    resumed = KeepBest(AtomicCheckpoints(), tmp_path, "best", monitor="f1", mode="max")
    resumed.load_state_dict(best.state_dict())
    assert float(resumed.best_model_score) == pytest.approx(0.2)  # type: ignore[arg-type]
    writer.retry()
    assert round(float(best.state_dict()["best_model_score"]), 3) == 0.5
    assert float(torch.load(tmp_path / "best.ckpt", weights_only=True)["best"]) == 0.5  # which says so itself
    (tmp_path / "best.ckpt").unlink()
    lost = KeepBest(AtomicCheckpoints(), tmp_path, "best", monitor="f1", mode="max")
    lost.load_state_dict(best.state_dict())
    assert lost.best_model_score is None


def test_checkpoints_that_are_folders_are_removed_too(tmp_path: Path) -> None:
    """DeepSpeed writes folders."""
    trainer: Any = FakeTrainer()

    def save(path: Path) -> None:
        (path / "checkpoint").mkdir(parents=True)
        (path / "checkpoint" / "mp_rank_00_model_states.pt").touch()

    trainer.save_checkpoint = save
    periodic = PeriodicCheckpoint(tmp_path, minutes=0, keep=2)
    for batch in range(10):
        trainer.global_step = (batch + 1) // 2
        periodic.on_train_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000003.ckpt", "step_00000004.ckpt"]


class Ramp(pl.LightningModule):
    """One weight that every step raises by 1."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return -self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_averaged_weights_by_hand(tmp_path):
    """--ema=0.9: after each step the average moves a tenth of the way to the weight; the run ends with it."""
    options = config.parse(config.StrongOptions, ["--ema=0.9"])
    used = run._callbacks(options, tmp_path, AtomicCheckpoints(), logs=False)
    (average,) = (c for c in used if isinstance(c, EMAWeightAveraging))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, callbacks=[average], enable_model_summary=False, **quiet)
    model = Ramp()
    trainer.fit(model, torch.utils.data.DataLoader(torch.zeros(4)))
    assert model.weight.item() == pytest.approx(1.561)  # after 1, 1.1 and 1.29
