"""The LightningModule that fine-tunes and scores a clip classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from data_util.downstream import Task
from helpers import augment
from helpers.clip_losses import LOSSES, votes
from helpers.clip_scores import SCORES
from helpers.lit_module import SEDModule
from models.checkpoints import METADATA_KEY
from models.sed_model import SEDModel


class ClipModule(SEDModule):
    """Training and validation of the clip logits (weak head) on a task of `data_util.downstream`.

    Args:
        model: with as many weak classes as the task has.
        options: of the experiment.
        task: row of the table of tasks.
        classes: names of its classes.
        groups: names of the groups that clips are scored by as well, in the order of their numbers.
    """

    def __init__(
        self, model: SEDModel, options: Any, task: Task, classes: Sequence[str], groups: Sequence[str] = ()
    ) -> None:
        super().__init__(model, options)
        self.classes, self.groups = tuple(classes), tuple(groups)
        self.loss, self.scores = LOSSES[task.loss], SCORES[task.metric]()

    def to_batch(self, batch: dict[str, Any]) -> augment.Batch:
        """Loader batch to augmentation batch; partly known targets become votes, see `helpers.clip_losses`."""
        return augment.Batch(batch["audio"], weak=loss_targets(batch))

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of a batch of the loader, with all augmentations."""
        prepared = self.augmented(self.to_batch(batch), self.augmentations, generator)
        assert prepared.weak is not None
        return {"loss": self.loss(self.model(prepared.x)[1], prepared.weak)}

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        readable = batch["valid"].nonzero().flatten()
        if len(readable) == 0:
            return
        batch = {name: value[readable] for name, value in batch.items() if isinstance(value, Tensor)}
        logits = self.model(self.model.mel_forward(batch["audio"]))[1].float()
        n_terms = float(batch["known"].sum() if "known" in batch else len(readable))  # that the loss is a mean of
        # no whole number: Lightning rounds the mean of those over processes down
        how: dict[str, Any] = {"batch_size": max(1.0, n_terms), "sync_dist": True}
        self.log("val/loss", self.loss(logits, loss_targets(batch)), **how)
        self.scores.update(logits, batch["weak"], **{name: batch[name] for name in ("known", "group") if name in batch})

    def on_validation_epoch_end(self) -> None:
        figures: dict[str, Any] = self.scores.compute()
        for name, value in figures.items():
            if not isinstance(value, dict):
                self.log(f"val/{name}", value)
            elif value:  # number -> figure
                labels = self.groups if name.endswith("per_group") else self.classes
                self.per_class[name] = {labels[number]: v for number, v in value.items()}
        self.scores.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[METADATA_KEY]["weak_labels"] = list(self.classes)


def loss_targets(batch: dict[str, Any]) -> Tensor:
    """The targets of a loader batch as the task's loss takes them."""
    return votes(batch["weak"], batch["known"]) if "known" in batch else batch["weak"]
