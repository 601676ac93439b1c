"""Callbacks of the training loop."""

from __future__ import annotations

import io
import logging
import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

import signals
from errors import describe
from helpers.run_folder import LAST, PERIODIC, periodic_checkpoints, remove, write_checkpoint

log = logging.getLogger("efficientsed")

AGREE_EVERY = 20  # optimiser steps


class ValidateLastEpoch(pl.Callback):
    """Validate after the last epoch, whatever `check_val_every_n_epoch` is."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    on_train_start = on_train_epoch_start  # a run that is resumed within its last epoch does not start that one


class ReportCorruptClips(pl.Callback):
    """At the end of each epoch, one line about the clips that could not be decoded.

    Args:
        datasets: whose `new_corrupt_report` is asked.
    """

    def __init__(self, *datasets: Any) -> None:
        self.datasets = datasets

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for dataset in self.datasets:
            if line := dataset.new_corrupt_report():
                log.warning("%s", line)

    on_train_epoch_end = on_validation_epoch_end = _report


class GracefulInterrupt(pl.Callback):
    """On the first Ctrl-C or SIGTERM, finish the optimiser step at hand, save a checkpoint that `--resume` continues,
    and end. A second one ends the process at once (`signals`).

    A validation is not finished: the checkpoint is written before it starts, and the resumed run begins with it.

    Args:
        folder: of the run.
        before_validation: write that checkpoint; without it, what an interrupted validation follows is lost.
    """

    def __init__(self, folder: Path, before_validation: bool = True) -> None:
        self.folder, self.before_validation = folder, before_validation
        self.requested = False
        self._validation_is_due = False
        self._catching = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # not earlier: Lightning sets its own handlers just before
        self._catching.enter_context(signals.caught(self._request))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._catching.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._catching.close()

    def _request(self) -> None:
        self.requested = True
        with suppress(OSError):  # not by the log: it may be in the middle of a line
            os.write(2, b"\nstopping after this step (a second signal: at once) ...\n")

    def _stop(self, trainer: pl.Trainer) -> NoReturn:
        path = self.folder / LAST
        if trouble := unwritten(trainer).get(_real(path)):
            older = f"; --resume {path.parent} goes on from the state before" if path.exists() else ""
            raise KeyboardInterrupt(f"{describe(trouble)}{older}")
        raise KeyboardInterrupt(*[f"saved {path}; resume with --resume {path.parent}"] * path.exists())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if between_steps(trainer, batch_idx) and agreed(trainer, self.requested):
            trainer.save_checkpoint(self.folder / LAST)
            self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            signals.reinstall()  # Lightning has set its own
            return
        wanted = agreed(trainer, self.requested, every=1)
        if wanted or self.before_validation:
            self._validation_is_due = True
            trainer.save_checkpoint(self.folder / LAST)
            self._validation_is_due = False
        if wanted:
            self._stop(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._validation_is_due:
            # Lightning takes up a validation again whose first batch has begun, and skips one that has not
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            progress["total"] = {"ready": 1, "started": 1, "processed": 0, "completed": 0}

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if self.requested and trainer.state.fn == TrainerFn.FITTING:
            self._stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        over = trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs
        if not over and agreed(trainer, self.requested, every=1):
            trainer.save_checkpoint(self.folder / LAST)
            self._stop(trainer)


class KeepSignals(pl.Callback):
    """Let signals do in a prediction what they do elsewhere; Lightning has handlers of its own."""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        signals.reinstall()


class PeriodicCheckpoint(pl.Callback):
    """A checkpoint every few minutes, between two optimiser steps; the newest ones are kept.

    Args:
        folder: of the run.
        minutes: between two checkpoints.
        keep: how many are kept.
    """

    def __init__(self, folder: Path, minutes: float, keep: int) -> None:
        self.folder, self.seconds, self.keep = folder, 60 * minutes, keep
        self._saved_at = time.monotonic()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not between_steps(trainer, batch_idx):
            return
        if not agreed(trainer, time.monotonic() - self._saved_at >= self.seconds):
            return
        trainer.save_checkpoint(self.folder / PERIODIC.replace("*", f"{trainer.global_step:08d}"))
        self._saved_at = time.monotonic()
        if trainer.is_global_zero:
            for old in periodic_checkpoints(self.folder, trainer.global_step)[: -self.keep]:
                remove(old)


def between_steps(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a checkpoint can be taken: no gradients wait for more batches, and the epoch is not about to end."""
    last = batch_idx + 1 >= trainer.num_training_batches
    return not last and (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def agreed(trainer: pl.Trainer, wanted: bool, every: int = AGREE_EVERY) -> bool:
    """Whether any of the processes wants it; all of them ask, and all get the same answer.

    Several processes agree once in `every` optimiser steps only: each time they wait for each other.
    """
    if trainer.world_size == 1:
        return wanted
    if trainer.global_step % every:
        return False
    votes = torch.tensor(float(wanted), device=trainer.strategy.root_device)
    return float(trainer.strategy.reduce(votes, reduce_op="sum")) > 0


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints appear under their name only when they are whole. Where one cannot be written, as on a full disk, the
    older one stays, the run goes on, and the state is kept in memory until it is on disk (`RetryCheckpoints`).

    Attributes:
        unwritten: the checkpoints that are not on disk, and why.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unwritten: dict[Path, OSError] = {}
        self._states: dict[Path, io.BytesIO] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        path = _real(path)
        self._states[path] = buffer
        self._write(path)

    def retry(self) -> None:
        """Try again to write what is not on disk yet."""
        for path in list(self._states):
            self._write(path)

    def _write(self, path: Path) -> None:
        try:
            write_checkpoint(path, self._states[path].getbuffer())
        except OSError as error:
            if path not in self.unwritten:
                log.warning("checkpoint %s was not written: %s; the run tries again", path, error.strerror or error)
            self.unwritten[path] = error
            if path.match(PERIODIC):  # the next one takes its place
                del self._states[path], self.unwritten[path]
            return
        del self._states[path]
        if self.unwritten.pop(path, None) is not None:
            log.info("checkpoint %s is written now", path)


class RetryCheckpoints(pl.Callback):
    """Write checkpoints that could not be written, at each validation and at the end."""

    def _retry(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if (checkpoints := writer_of(trainer)) is not None:
            checkpoints.retry()

    on_validation_end = on_train_epoch_end = on_train_end = _retry


def writer_of(trainer: pl.Trainer) -> AtomicCheckpoints | None:
    """What writes the checkpoints of a run; None where a strategy has its own way."""
    writer = trainer.strategy.checkpoint_io
    return writer if isinstance(writer, AtomicCheckpoints) else None


def unwritten(trainer: pl.Trainer) -> dict[Path, OSError]:
    """The checkpoints of a run that are not on disk, and why."""
    checkpoints = writer_of(trainer)
    return checkpoints.unwritten if checkpoints is not None and trainer.is_global_zero else {}


class KeepBest(ModelCheckpoint):
    """`ModelCheckpoint` that tells a resumed run about the best state that is on disk, where a better one is not yet.

    Args:
        writer: of the run.
    """

    def __init__(self, writer: AtomicCheckpoints, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._writer, self._saving = writer, False
        self._on_disk = super().state_dict()

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        self._saving = True
        try:
            super()._save_checkpoint(trainer, filepath)
        finally:
            self._saving = False
        self.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says about the best one; the best one itself is right about that as soon as it is there."""
        if not self._saving and _real(self.best_model_path) in self._writer.unwritten:
            return self._on_disk
        state = {**super().state_dict(), "best_k_models": dict(self.best_k_models)}
        if not self._saving:
            self._on_disk = state
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best score so far, if its state is there."""
        if Path(state_dict["best_model_path"] or "nowhere").exists():
            super().load_state_dict(state_dict)


def _real(path: str | Path) -> Path:
    return Path(os.path.realpath(path))
