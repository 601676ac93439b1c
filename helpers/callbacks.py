"""Callbacks of the training loop."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl

log = logging.getLogger("efficientsed")


class ValidateLastEpoch(pl.Callback):
    """Validate after the last epoch, whatever `check_val_every_n_epoch` is."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.max_epochs is not None and trainer.current_epoch + 1 >= trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


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
    """On the first Ctrl-C, finish the optimiser step at hand, save a checkpoint that `--resume` continues, and end.

    A second Ctrl-C ends at once.

    Args:
        path: of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requested = False
        self._previous: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._previous = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._request)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _request(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        log.info("\nstopping after this step (Ctrl-C again: at once) ...")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # only between optimiser steps: gradients that wait for more batches are not part of a checkpoint
        if self.requested and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.path)
            log.info("saved %s; continue with --resume %s", self.path, self.path.parent)
            raise KeyboardInterrupt

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if self.requested:
            raise KeyboardInterrupt  # the last epoch's checkpoint is there
