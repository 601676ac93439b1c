"""The LightningModule of DCASE 2016 task 2: pieces of files in, events of whole files out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig

from data_util.dcase2016task2 import FRAME_MS, Pieces
from helpers import losses, optim
from helpers.lit_module import SEDModule
from helpers.onset_scores import Event, find_events, score_events, smooth_activity
from models.sed_model import SEDModel


class DcaseModule(SEDModule):
    """Training of a detector on crops; its events are scored on whole files.

    Args:
        model: the detector, with the classes of the task.
        options: of the experiment.
        valid: files of the validation.
        test: files of the test.

    Attributes:
        events: split -> file name -> events (onset s, offset s, class name) that the last evaluation found.
    """

    def __init__(self, model: SEDModel, options: Any, valid: Pieces, test: Pieces) -> None:
        super().__init__(model, options)
        self.splits = {"val": valid, "test": test}
        self.events: dict[str, dict[str, list[Event]]] = {}
        self._pieces: dict[tuple[int, int], np.ndarray] = {}  # (file, first frame) -> logits [C, 250]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        o = self.options
        groups = optim.parameter_groups(
            self.model,
            backbone_lr=o.max_lr if o.backbone_lr is None else o.backbone_lr,
            seq_lr=o.max_lr,
            weight_decay=o.weight_decay,
            decayed=self.decayed,
            lr_decay=o.lr_decay,
            scale_last=True,
        )
        optimizer = optim.build_optimizer(groups, adamw=o.adamw)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}

    # ---- evaluation -----------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.collect(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.collect(batch, "test")

    def collect(self, batch: dict[str, Any], stage: str) -> None:
        """Keep the logits of the pieces that could be read."""
        readable = batch["valid"].nonzero().flatten().tolist()
        if not readable:
            return
        logits = self.model(self.model.mel_forward(batch["audio"][readable]))[0].float()
        n_pieces = float(len(readable))  # Lightning rounds the mean of whole numbers over processes down
        how: dict[str, Any] = {"batch_size": n_pieces, "sync_dist": True}
        self.log(f"{stage}/loss", losses.bce(logits, batch["target"][readable].float()), **how)
        places = zip(batch["file"][readable].tolist(), batch["first_frame"][readable].tolist(), strict=True)
        self._pieces.update(zip(places, logits.cpu().numpy(), strict=True))

    def on_validation_epoch_end(self) -> None:
        self.score("val")

    def on_test_epoch_end(self) -> None:
        self.score("test")

    def score(self, stage: str) -> None:
        """Join the pieces of all processes, find the events of each file, and log their scores."""
        pieces, self._pieces = gathered(self._pieces), {}
        files = self.splits[stage]
        joined = {name: logits for i, name in enumerate(files.names) if (logits := files.join(i, pieces)) is not None}
        self.events[stage] = {name: self.find_events(logits, files.labels) for name, logits in joined.items()}
        truth = {name: events for name, events in files.ground_truth().items() if name in joined}
        scores = score_events(truth, self.events[stage], files.labels)
        self.per_class = {f"{stage}_{figure}_per_class": values for figure, values in scores.per_class.items()}
        self.log_dict({f"{stage}/{figure}": value for figure, value in scores.overall.items()})

    def find_events(self, logits: np.ndarray, labels: Sequence[str]) -> list[Event]:
        """Events of a file out of its logits [C, T]."""
        o = self.options
        window = max(1, round(o.median_filter_ms / FRAME_MS))
        active = smooth_activity(logits > logit_threshold(o.threshold, o.threshold_on), window)
        return find_events(active, labels, frame_ms=FRAME_MS, min_ms=o.min_duration_ms)


def logit_threshold(threshold: float, on: str) -> float:
    """The logit that a threshold means, which is given as a probability or as a logit."""
    return threshold if on == "logits" else float(torch.tensor(threshold, dtype=torch.float64).logit())


def gathered(pieces: dict[tuple[int, int], np.ndarray]) -> dict[tuple[int, int], np.ndarray]:
    """The pieces of all processes."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return pieces
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, pieces)
    return {place: logits for part in parts for place, logits in part.items()}
