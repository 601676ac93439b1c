"""Options of fine-tuning on one's own classes; see `config`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from config import (
    STAGES,
    AugmentOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    check_common,
    option,
    refuse,
)
from errors import UserError, wrong_path

EPOCHS = 25  # so many validations are enough to choose from
EPOCH_STEPS, SCRATCH_EPOCH_STEPS = 20, 24  # at least; little data is repeated within an epoch
FROZEN_SHARE = 0.1  # of the epochs
BATCHES = 16  # of a pass over the data, at least, as long as batches are larger than the smallest
MIN_BATCH, MAX_BATCH = 8, 64
SCRATCH_MODEL = "fmn04"  # on little data the smallest learns as much, three times as fast
SCRATCH_LR = 2e-3


@dataclass
class OwnDataOptions:
    """Your recordings."""

    audio: Path | None = option(None, "folder of the recordings: any length, rate and format, also in folders beneath")
    events: Path | None = option(
        None,
        "CSV or TSV with the columns filename, onset, offset, label and, to give the splits, split; or a file of "
        "Raven, BirdNET, Label Studio, ELAN, Praat or Audacity (default: label files of these beside the recordings, "
        "or one folder per class)",
    )
    background: Path | None = option(
        None,
        "folder of recordings in which nothing happens (besides those in a folder of --audio named background, noise "
        "or negative)",
    )
    channels: str = option("mix", "use the mean of all channels, or the first one", choices=("mix", "first"))
    strict: bool = option(False, "refuse recordings whose end is missing (default: use what is there)")
    label_column: str | None = option(
        None,
        "column that holds the labels; of ELAN and Praat the tier, of Label Studio the control (default: a column of a "
        "known name, such as label, Annotation, Call Type, Common Name, Species; all tiers and controls)",
    )
    group_column: str | None = option(None, "column of --events: recordings of one value stay in one split")
    val_share: float = option(0.2, "share of the recordings that thresholds are tuned on", above=0, below=1)
    test_share: float = option(0.2, "share of the recordings that the report is about", low=0, high=1)
    batch_size: int | None = option(None, "windows per step (default: from the size of the data)", low=1)
    median_window: int = option(
        9, "frames of the median filter in validation, odd; tuned per class at the end", low=1, high=9999
    )


@dataclass
class FinetuneOptions(AugmentOptions, OptimizerOptions, RunOptions, OwnDataOptions, ModelOptions):
    """Fine-tune a sound event detector on your own recordings and classes."""

    monitor: ClassVar[str] = "val/choice"
    validated: ClassVar[frozenset[str]] = frozenset({"strong"})
    trained_heads: ClassVar[frozenset[str]] = frozenset({"strong_head", "weak_head"})
    distillation_loss_weight: ClassVar[float] = 0.0

    pretrained: str = option(
        "strong", f"weights to start from: {', '.join(STAGES)}, or a released checkpoint's name; scratch where none"
    )
    experiment_name: str = option("finetune", "name of the run: its folder and its name in W&B")
    logger: str = option("none", "where figures go", choices=("wandb", "tensorboard", "csv", "none"))
    num_workers: int = option(2, "data loading processes, at most one per core; 0: none", low=0)
    accumulate_grad_batches: int = option(1, "batches whose gradients are summed for one step", low=1)
    check_val_every_n_epoch: int = option(1, "epochs between validations", low=1)
    n_epochs: int = option(EPOCHS, "passes over the data; little data is repeated within each", low=1)
    frozen_epochs: int | None = option(
        None, "epochs in which only the heads learn (default: a tenth; none from scratch)", low=0
    )
    patience: int = option(8, "validations without a better one after which the training ends; 0: never", low=0)
    max_lr: float = option(5e-4, f"peak learning rate of the backbone (from scratch: {SCRATCH_LR:g})", above=0)
    seq_lr: float | None = option(2e-3, "peak learning rate of sequence model and heads", above=0)
    warmup_steps: int = option(50, "optimiser steps of rising learning rate", low=0)
    bn_momentum: float | None = option(
        0.1, "momentum of batch-norm statistics, which must follow the weights within few steps", above=0, high=1
    )
    gain_db: int = option(6, "largest change of level per window in training, decibels", low=0)
    n_bootstrap: int = option(1000, "draws of the test recordings behind the confidence intervals", low=100)

    @property
    def data_dir(self) -> Path | None:
        """Where the recordings are, under the name that other experiments have for it."""
        return self.audio

    @property
    def from_scratch(self) -> bool:
        """Whether the network starts from random numbers."""
        return self.pretrained == "scratch" and self.checkpoint is None

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        check_common(self)
        if not self.save_model:
            refuse("no_save_model", True, "thresholds are tuned for the best checkpoint, and stored in it")
        if self.audio is None:
            if self.resume is not None:
                return  # the run that goes on knows it
            raise UserError("--audio is missing: name the folder of your recordings")
        if not self.audio.is_dir():
            refuse("audio", self.audio, wrong_path("folder", self.audio))
        if self.events is not None and not self.events.is_file():
            refuse("events", self.events, wrong_path("file", self.events))
        if self.background is not None and not self.background.is_dir():
            refuse("background", self.background, wrong_path("folder", self.background))
        if self.group_column is not None and self.events is None:
            refuse("group_column", self.group_column, "it is a column of --events, which is missing")
        if self.val_share + self.test_share >= 1 and not self.evaluate:
            refuse("test_share", self.test_share, f"with --val_share {self.val_share:g} nothing is left to train on")
        if self.evaluate and self.checkpoint is None:
            raise UserError("--evaluate needs --checkpoint: the file that was fine-tuned")
        if self.from_scratch and self.frozen_epochs:
            refuse("frozen_epochs", self.frozen_epochs, "from scratch the backbone must learn: leave it out")
        if self.num_devices * self.num_nodes > 1:
            refuse("num_devices", self.num_devices, "fine-tuning works on one device")

    def settle(self, n_windows: int) -> None:
        """Choose what was left open, from the number of training windows and from where the network starts."""
        if self.from_scratch:
            self.frozen_epochs = 0  # also where no weights could be had
            for name, value in (("max_lr", SCRATCH_LR), ("lr_decay", 0.0)):
                if name not in self.given:
                    setattr(self, name, value)
        if self.batch_size is None:
            size = MIN_BATCH
            while size < MAX_BATCH and 2 * size * BATCHES <= n_windows:
                size *= 2
            self.batch_size = min(size, n_windows)
        if self.frozen_epochs is None:
            self.frozen_epochs = round(FROZEN_SHARE * self.n_epochs)
        if self.backbone_frozen:
            self.frozen_epochs = self.n_epochs

    def windows_per_epoch(self, n_windows: int) -> int:
        """How many training windows an epoch draws: all of them, little data several times."""
        steps = SCRATCH_EPOCH_STEPS if self.from_scratch else EPOCH_STEPS
        assert self.batch_size is not None, "settle comes first"
        return max(n_windows, steps * self.batch_size)
