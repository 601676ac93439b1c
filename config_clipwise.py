"""Options of `ex_downstream.py`: the clip-wise tasks, with the defaults that were published for each of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import config
from command_line import option, refuse
from data_util.downstream import TASKS, Task
from errors import UserError

ALL_FOLDS = "all"


@dataclass
class ClipDataOptions:
    """The task and its data."""

    task: str | None = option(None, "what to train for", choices=tuple(TASKS))
    data_dir: Path | None = option(None, "folder that holds the data in its official layout")
    fold: str = option(ALL_FOLDS, "fold to test on, 1 to 5 for esc50, or all: one training for each")
    batch_size: int | None = option(None, "clips per batch and device (default: the task's)", low=1)
    clip_seconds: float | None = option(None, "seconds of a training clip (default: the task's)", low=1, high=60)


@dataclass
class DownstreamOptions(
    config.WeakAugmentOptions, config.WeakOptimizerOptions, config.RunOptions, ClipDataOptions, config.ModelOptions
):
    """Fine-tune or evaluate a clip classifier on ESC-50, TAU 2020 Mobile, FSD50K or OpenMIC."""

    trained_heads: ClassVar[frozenset[str]] = frozenset({"weak_head"})

    experiment_name: str = option("downstream", "name of the run: its folder and its name in W&B")
    accumulate_grad_batches: int = option(1, "batches whose gradients are summed for one step", low=1)
    n_epochs: int = option(80, "epochs", low=1)
    max_lr: float | None = option(  # type: ignore[assignment]
        None, "peak learning rate of the backbone (default: the task's)", above=0
    )
    warm_up_len: int = option(10, "epochs of rising learning rate", low=0)
    ramp_down_start: int = option(10, "last epoch at the peak learning rate", low=0)
    ramp_down_len: int = option(65, "epochs of falling learning rate", low=0)
    wavmix_p: float = option(0.5, "probability per clip of mixing in another clip's waveform", low=0, high=1)
    roll_seconds: float = option(0.125, "largest circular shift of the waveform", low=0, high=10)
    gain_db: int = option(12, "largest change of level per clip, decibels", low=0, high=60)

    @property
    def row(self) -> Task:
        """The row of the table of tasks."""
        assert self.task is not None
        return TASKS[self.task]

    @property
    def folds(self) -> list[int]:
        """The folds to test on, one training each."""
        return list(range(1, self.row.folds + 1)) if self.fold == ALL_FOLDS else [int(self.fold)]

    @property
    def monitor(self) -> str:
        """Figure that chooses the best checkpoint."""
        return f"val/{self.row.metric}"

    def check(self) -> None:
        """Fill in what the task says; raise UserError where options contradict each other."""
        config.check_common(self)
        if self.resume is not None and self.task is None:
            return  # the resumed run says which task it is
        if self.task is None:
            raise UserError(f"no task: name it with --task ({', '.join(TASKS)})")
        if self.data_dir is None:
            raise UserError(f"no data folder: name the one that holds {self.row.title} with --data_dir")
        known = [str(number) for number in range(1, self.row.folds + 1)]
        if self.fold not in (ALL_FOLDS, *known):
            refuse("fold", self.fold, f"{self.task} has {', '.join(known)}, or {ALL_FOLDS}")
        if self.evaluate and len(self.folds) > 1:
            refuse("fold", self.fold, "to evaluate, name the one fold that the checkpoint was not trained on")
        if self.evaluate and self.checkpoint is None:
            raise UserError("--evaluate needs the --checkpoint of a training on this task")
        if max(self.mixstyle_p, self.freq_mixstyle_p) > 0 and "mixup_p" not in self.given:
            self.mixup_p = 0.0  # as published: one or the other
        for name, value in {"clip_seconds": self.row.seconds, **self.row.defaults}.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
