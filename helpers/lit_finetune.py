"""Fine-tuning on one's own classes: where the network starts, how it learns, and which of its states is kept."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor

from config_finetune import SCRATCH_MODEL, FinetuneOptions
from data_util.audio import SAMPLE_RATE
from data_util.own_data import OwnData, Recording, group_of
from data_util.own_splits import SPLITS, balance, balance_table, split_recordings, without_counterexamples
from data_util.own_windows import OwnWindows, window_seconds
from data_util.samplers import BalancedSampler, EpochSampler, ShuffleSampler
from errors import UserError
from helpers import losses
from helpers.event_scores import StrongEvaluator
from helpers.lit_module import SEDModule
from models.cards import RESOURCES, Card, cards, find_card
from models.checkpoints import METADATA_KEY, fetch, read_checkpoint
from models.sed_model import SEDModel

log = logging.getLogger("efficientsed")

Splits = dict[str, list[Recording]]

LOSS_SHARE = 1e-3  # of the validation loss in the choice of the best state: it only decides between equals


def choose_start(options: FinetuneOptions) -> list[str]:
    """Settle which weights the network starts from, unless the user has said so; returns notes about it.

    The released strong weights; where they cannot be downloaded, other released ones that are on this machine;
    where there are none, random ones, and then of the smallest model unless another one was asked for.
    """
    if options.checkpoint is not None or options.resume is not None or "pretrained" in options.given:
        return []
    card = find_card(options.model_name, options.pretrained, options.seq_model_type, options.seq_model_dim)
    try:
        fetch(card)
        return []
    except UserError as error:
        other = _on_disk(options)
        if other is not None:
            options.model_name, options.pretrained = other.backbone, other.name
            return [f"{error}; starting from {other.name}, which is here"]
        options.pretrained = "scratch"
        if "model_name" not in options.given:
            options.model_name = SCRATCH_MODEL
        return [f"{error}; starting {options.model_name} from scratch, which needs more recordings"]


def _on_disk(options: FinetuneOptions) -> Card | None:
    """The best released weights on this machine that the options allow."""
    wanted = (options.seq_model_type, options.seq_model_dim if options.seq_model_type else None)
    here = [
        card
        for card in cards().values()
        if card.stage in ("strong", "weak")
        and (card.backbone == options.model_name or "model_name" not in options.given)
        and ((card.seq_model_type, card.seq_model_dim) == wanted or card.stage == "weak")
        and (RESOURCES / card.file_name).is_file()
    ]
    return max(here, key=lambda card: (card.backbone == options.model_name, card.psds1 or 0.0), default=None)


def pooled(logits: Tensor) -> Tensor:
    """Logits of clips [B, C] from those of their frames [B, C, T]: linear softmax, in which loud frames weigh more.

    Source: Wang et al., "A Comparison of Five Multiple Instance Learning Pooling Functions", ICASSP 2019.
    """
    p = logits.float().sigmoid()
    return torch.logit((p.square().sum(-1) / p.sum(-1).clamp(min=1e-6)), eps=1e-6)


class FinetuneModule(SEDModule):
    """Training and validation on windows of one's own recordings.

    The frames learn the events, and the head for whole clips learns which classes are there. With labels of clips the
    frames learn them through `pooled`, and in validation all frames of a window have its one score. In the first
    epochs, or with `--backbone_frozen` in all, the backbone is frozen.

    Args:
        model: the detector.
        options: of the experiment.
        validation: windows that are scored.
        clip_labels: only the class of a recording is known.
        splits: what checkpoints remember, so that no later report takes a recording that was learnt for a test.
    """

    def __init__(
        self, model: SEDModel, options: FinetuneOptions, validation: OwnWindows, clip_labels: bool, splits: Splits
    ) -> None:
        super().__init__(model, options, validation.ground_truth(), validation.durations())
        self.clip_labels, self.splits = clip_labels, splits
        if "strong_head" in model.untrained:
            model.strong_head.expect_rare_events()
        self.event_scores = StrongEvaluator(
            model.labels,
            median_window=options.median_window,
            keep_empty_clips=True,  # what is detected in silence counts
            all_durations=self.durations.values(),
        )
        self._val_losses: list[Tensor] = []

    def on_train_epoch_start(self) -> None:
        frozen = self.options.backbone_frozen or self.current_epoch < self.options.frozen_epochs
        backbone = self.model.model
        backbone.requires_grad_(not frozen)
        backbone.train(not frozen)  # batch norm keeps its statistics as well

    on_train_start = on_train_epoch_start  # a run that is resumed within an epoch does not start that one

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss of the frames and loss of the clips, with all augmentations."""
        prepared = self.augmented(self.to_batch(batch), self.augmentations, generator)
        assert prepared.strong is not None
        strong, weak = self.model(prepared.x)
        present = prepared.strong.amax(-1)
        terms = {
            "frame_loss": self.frame_loss(strong.float(), prepared.strong),
            "clip_loss": losses.bce(weak.float(), present),
        }
        return {"loss": terms["frame_loss"] + terms["clip_loss"], **terms}

    def frame_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of frame logits [B, C, T]; from labels of clips, through the pooled logits."""
        return losses.bce(pooled(logits), target.amax(-1)) if self.clip_labels else losses.bce(logits, target)

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        readable = batch["valid"].nonzero().flatten().tolist()
        if not readable:
            return
        strong = self.model(self.model.mel_forward(batch["audio"][readable]))[0].float()
        loss = self.frame_loss(strong, batch["strong"][readable].float())
        self._val_losses.append(loss)
        self.log("val/loss", loss, batch_size=len(readable))
        if self.clip_labels:
            strong = pooled(strong)[..., None].expand_as(strong)
        self.event_scores.update(strong, [batch["clip_id"][i] for i in readable], self.ground_truth, self.durations)

    def on_validation_epoch_end(self) -> None:
        """PSDS1, and the figure that chooses: PSDS1, which little data soon brings to 1, and then the loss."""
        super().on_validation_epoch_end()
        psds1 = float(np.mean(list(self.per_class["psds1_per_class"].values())))
        loss = torch.stack(self._val_losses).mean()
        self._val_losses = []
        self.log(self.options.monitor, psds1 - LOSS_SHARE * loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        splits = {r.name: split for split, recordings in self.splits.items() for r in recordings}
        checkpoint[METADATA_KEY] |= {"sample_rate": SAMPLE_RATE, "clip_labels": self.clip_labels, "splits": splits}


def splits_of(data: OwnData, options: FinetuneOptions) -> Splits:
    """Splits of the recordings, as the options ask for.

    A checkpoint that was fine-tuned and is evaluated, or is resumed and knows any of the recordings, keeps those of
    its training: new pieces of what it knows go where that is, other new recordings are for the test. With
    `--evaluate --test_share 1` all are. Notes tell of classes without counterexamples, and count the test recordings
    that the network has already learnt.
    """
    origin = options.resume or options.checkpoint
    known = _splits_in(origin) if origin else {}
    pieces = _new_pieces(data, known)
    if options.evaluate and options.test_share == 1:
        splits = _grouped(data, {})
    elif known and (options.evaluate or (options.resume and any(r.name in known for r in data.recordings))):
        splits = _grouped(data, pieces | {r.name: r.split for r in data.recordings if r.split} | known)
    else:
        splits = split_recordings(data, val_share=options.val_share, test_share=options.test_share, seed=options.seed)
    data.notes[:0] = without_counterexamples(splits)
    learnt = sum((known | pieces).get(r.name, "test") != "test" for r in splits["test"])
    if learnt:
        data.notes.append(
            f"{learnt} of the {len(splits['test'])} test recordings bear names of those that {origin} was trained or "
            "tuned on, or of pieces of them: where they are the same, the figures are too good"
        )
    return splits


def _splits_in(checkpoint: Path) -> dict[str, str]:
    """Name -> split of the recordings that a checkpoint was fine-tuned on; empty for others."""
    return read_checkpoint(checkpoint)[1].get("splits", {})


def _new_pieces(data: OwnData, known: dict[str, str]) -> dict[str, str]:
    """Name -> split of unknown recordings in one group with known ones; of several splits the first of `SPLITS`."""
    groups = {r.name: r.group for r in data.recordings}
    split_by_group: dict[str, str] = {}
    for split in reversed(SPLITS):
        split_by_group |= {groups.get(name) or group_of(name): split for name, s in known.items() if s == split}
    return {name: split_by_group[g] for name, g in groups.items() if name not in known and g in split_by_group}


def _grouped(data: OwnData, chosen: dict[str, str]) -> Splits:
    """Recordings by split; those without one are for the test."""
    return {name: [r for r in data.recordings if chosen.get(r.name, "test") == name] for name in SPLITS}


def log_data(data: OwnData, splits: Splits) -> None:
    """Put into the log what is in the splits, and what was noted on the way."""
    sizes = ", ".join(f"{len(recordings)} {name}" for name, recordings in splits.items())
    minutes = sum(recording.duration for recording in data.recordings) / 60
    log.info("%d recordings, %.1f minutes: %s", len(data.recordings), minutes, sizes)
    log.info("%s", balance_table(balance(data, splits)))
    for note in data.notes:
        log.warning("note: %s", note)


def windows_of(data: OwnData, splits: Splits) -> tuple[OwnWindows, OwnWindows]:
    """Windows for training, which overlap by half, and for validation, side by side."""
    seconds = window_seconds(data.recordings)
    return (
        OwnWindows(splits["train"], data.labels, seconds, hop=seconds / 2),
        OwnWindows(splits["val"], data.labels, seconds, hop=seconds),
    )


def train_sampler(windows: OwnWindows, options: FinetuneOptions) -> EpochSampler:
    """All windows equally often, or rare classes more often, where the classes differ much."""
    weights, n_samples = windows.sampling_weights(), options.windows_per_epoch(len(windows))
    if weights is None:
        return ShuffleSampler(len(windows), n_samples, seed=options.seed)
    return BalancedSampler(weights, n_samples, seed=options.seed)


def stop_early(trainer: pl.Trainer, options: FinetuneOptions) -> None:
    """Let a training end after `--patience` validations without a better one."""
    if options.patience > 0:
        stop = EarlyStopping(options.monitor, mode="max", patience=options.patience, check_on_train_epoch_end=False)
        trainer.callbacks.append(stop)  # type: ignore[attr-defined]
