"""Options of the downstream script for DCASE 2016 task 2; see `config` for how options work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from config import FROZEN_HELP, STAGES, AugmentOptions, ModelOptions, RunOptions, check_common, option, refuse
from errors import UserError, wrong_path


@dataclass
class DcaseDataOptions:
    """Data of DCASE 2016 task 2."""

    task_path: Path | None = option(None, "folder of the task in HEAR's packaging (required)")
    batch_size: int = option(256, "crops of 10 s per batch and device", low=1)
    n_classes: int = option(11, "classes of the task, as many as labelvocabulary.csv has", low=1)


@dataclass
class DcaseScoringOptions:
    """From logits to events, and which weights are tested."""

    threshold: float = option(0.5, "above this a frame is active: a probability, see --threshold_on")
    threshold_on: str = option(
        "probability",
        "what it is compared with; the published scores used 0.5 on logits",
        choices=("probability", "logits"),
    )
    median_filter_ms: float = option(250.0, "length of the median filter, milliseconds", low=40, high=10_000)
    min_duration_ms: float = option(125.0, "shorter events are left out, milliseconds", low=0, high=10_000)
    test_with: str = option(
        "best", "checkpoint of the final test; best: on the validation files", choices=("best", "last")
    )


@dataclass
class DcaseOptimizerOptions:
    """Optimiser and learning-rate schedule."""

    n_epochs: int = option(300, "epochs of 12 crops per file", low=1)
    adamw: bool = option(True, "AdamW in place of Adam")
    weight_decay: float = option(1e-3, "weight decay, never on biases and norms; needs AdamW", low=0)
    backbone_frozen: bool = option(False, FROZEN_HELP)
    max_lr: float = option(1.06e-4, "peak learning rate of sequence model and head", above=0)
    backbone_lr: float | None = option(None, "peak learning rate of the backbone (default: max_lr)", above=0)
    lr_decay: float = option(
        1.0, "factor on the learning rate per layer of the backbone from top to bottom; 0 or 1: off", low=0, high=1
    )
    schedule_mode: str = option("cos", "shape of the learning rate", choices=("cos", "cosine", "linear", "exp"))
    warmup_steps: int = option(100, "optimiser steps of rising learning rate; scaled down on short runs", low=0)
    lr_end: float = option(1e-7, "last learning rate (linear schedule only)", low=0)
    bn_momentum: float | None = option(
        None, "momentum of batch-norm statistics (default: 0.1 from scratch, else 0.01)", above=0, high=1
    )


@dataclass
class DcaseOptions(
    AugmentOptions, DcaseOptimizerOptions, DcaseScoringOptions, RunOptions, DcaseDataOptions, ModelOptions
):
    """Train or evaluate a sound event detector on DCASE 2016 task 2."""

    monitor: ClassVar[str] = "val/onset_fms"
    validated: ClassVar[frozenset[str]] = frozenset({"strong"})
    trained_heads: ClassVar[frozenset[str]] = frozenset({"strong_head"})
    wandb_project: ClassVar[str] = "EfficientSED_DCASE2016Task2"
    limits: ClassVar[str] = "isolated office sounds mixed over one background; other rooms and microphones do worse."
    distillation_loss_weight: ClassVar[float] = 0.0
    wavmix_alpha: ClassVar[float] = 0.2

    experiment_name: str = option("DCASE2016Task2", "name of the run: its folder and its name in W&B")
    pretrained: str = option("strong", f"weights to start from: {', '.join(STAGES)}, or a released checkpoint's name")
    check_val_every_n_epoch: int = option(10, "epochs between validations; the last epoch is always validated", low=1)
    accumulate_grad_batches: int = option(1, "batches whose gradients are summed for one step", low=1)
    frame_shift_range: float = option(
        0.0, "standard deviation of the circular shift in time, as share of the clip", low=0, high=1
    )
    mixup_p: float = option(0.5, "probability per batch of mixing spectrograms", low=0, high=1)

    @property
    def data_dir(self) -> Path | None:
        """Where the data is, under the name that the records of a run use."""
        return self.task_path

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        check_common(self)
        if self.threshold_on == "probability" and not 0 <= self.threshold <= 1:
            refuse("threshold", self.threshold, "a probability lies between 0 and 1; for logits: --threshold_on=logits")
        if self.evaluate and self.checkpoint is None:
            raise UserError("--evaluate needs the weights of a detector of these classes: name them with --checkpoint")


def task_path(option_value: Path | None) -> Path:
    """The folder of the task; raises UserError if it is not named or not there."""
    if option_value is None:
        raise UserError("no data folder: name HEAR's folder of the task with --task_path")
    if not option_value.is_dir():
        refuse("task_path", option_value, wrong_path("folder", option_value))
    return option_value
