"""The LightningModule that trains and validates every detector."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

import config
from errors import UserError
from helpers import augment, losses, optim
from helpers.event_scores import Event, StrongEvaluator
from models.checkpoints import METADATA_KEY
from models.sed_model import SEDModel

log = logging.getLogger("efficientsed")

NEVER = torch.iinfo(torch.int64).max
SCRATCH_BN_MOMENTUM = 0.1  # the published 0.01 lags behind for the first hundreds of steps


class TrainingDivergedError(UserError):
    """The loss stopped being a number."""


def step_generator(seed: int, *position: int) -> torch.Generator:
    """Random numbers of one training step, a function of the seed and of its position in the run alone.

    A resumed run so draws exactly what the uninterrupted one would have drawn.

    Args:
        seed: of the run.
        position: epoch, batch and rank.
    """
    state = np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) >> 1)


class SEDModule(pl.LightningModule):
    """Training and validation of a detector on strongly labelled clips.

    Args:
        model: the detector.
        options: of the experiment.
        ground_truth: events of the evaluation clips, clip -> (onset s, offset s, class name).
        durations: seconds of the evaluation clips.
    """

    def __init__(
        self,
        model: SEDModel,
        options: config.StrongOptions,
        ground_truth: Mapping[str, Sequence[Event]] | None = None,
        durations: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.model = model.train()  # Lightning keeps the mode that it finds
        self.options = options
        self.ground_truth = ground_truth or {}
        self.durations = durations or {}
        self.augmentations = augment_options(options)
        self.evaluator = StrongEvaluator(
            model.labels, median_window=options.median_window, all_durations=self.durations.values()
        )
        self._diverged_at = torch.tensor(NEVER)
        self.model.weak_head.requires_grad_(False)  # no loss reaches it here
        set_bn_momentum(model, bn_momentum(options))

    # ---- training -------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        generator = step_generator(self.options.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(generator.initial_seed())  # dropout
        prepared = self.augmented(self.to_batch(batch), generator)
        assert prepared.strong is not None
        strong, _ = self.model(prepared.x)
        terms = losses.strong_loss(
            strong, prepared.strong, prepared.pseudo, distillation_weight=self.options.distillation_loss_weight
        )
        self.watch(terms["loss"])
        self.log("train/loss", terms["loss"], prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items() if name != "loss"})
        return terms["loss"]

    def to_batch(self, batch: dict[str, Any]) -> augment.Batch:
        """Loader batch to augmentation batch; a teacher's logits become probabilities on the device."""
        pseudo = None
        if self.options.distillation_loss_weight > 0 and "pseudo_logits" in batch:
            pseudo = losses.soft_targets(batch["pseudo_logits"])
        return augment.Batch(batch["audio"], batch["strong"].float(), pseudo, batch.get("has_pseudo"))

    def augmented(self, batch: augment.Batch, generator: torch.Generator) -> augment.Batch:
        """The mel spectrogram of a batch of waveforms, with all augmentations of both."""
        batch = augment.augment_waveform(batch, self.augmentations, generator)
        mel_range: dict[str, float] = {}
        if self.options.mel_jitter and self.model.model.has_mel_range:
            mel_range = dict(zip(("fmin", "fmax"), augment.draw_mel_range(generator), strict=True))
        mel = self.model.mel_forward(batch.x, **mel_range)
        return augment.augment_mel(replace(batch, x=mel), self.augmentations, generator)

    def watch(self, loss: Tensor) -> None:
        """Remember on the device the first step whose loss is not finite; looked at now and then, see `check`."""
        self._diverged_at = self._diverged_at.to(loss.device)
        step = torch.where(loss.detach().isfinite(), NEVER, self.global_step)
        self._diverged_at = torch.minimum(self._diverged_at, step)
        if loss.device.type == "cpu":
            self.check_divergence()

    def check_divergence(self) -> None:
        """Raise TrainingDivergedError if a loss so far was not a finite number; waits for the device."""
        step = int(self._diverged_at)
        if step != NEVER:
            raise TrainingDivergedError(
                f"the loss is not a finite number since optimiser step {step} (epoch {self.current_epoch}); lower "
                "--max_lr or --seq_lr, lengthen --warmup_steps, or try --precision 32-true; then --resume"
            )

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx % 50 == 49:  # on a GPU, looking costs a wait
            self.check_divergence()

    def on_train_epoch_end(self) -> None:
        self.check_divergence()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        o = self.options
        groups = optim.parameter_groups(
            self.model,
            backbone_lr=o.max_lr,
            seq_lr=o.max_lr if o.seq_lr is None else o.seq_lr,
            weight_decay=o.weight_decay,
            lr_decay=o.lr_decay,
        )
        optimizer = optim.build_optimizer(groups, adamw=o.adamw)
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warmup_steps, shortened = optim.effective_warmup(o.warmup_steps, total)
        if shortened:
            log.info("warm-up of %d steps shortened to %d: the run has only %d", o.warmup_steps, warmup_steps, total)
        scheduler = optim.build_scheduler(
            optimizer, o.schedule_mode, warmup_steps=warmup_steps, total_steps=total, lr_end=o.lr_end
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # ---- validation -----------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        readable = batch["valid"].nonzero().flatten().tolist()
        if not readable:
            return
        strong, _ = self.model(self.model.mel_forward(batch["audio"][readable]))
        target = batch["strong"][readable].float()
        self.log("val/loss", losses.bce(strong.float(), target), batch_size=len(target), sync_dist=True)
        clip_ids = [batch["clip_id"][i] for i in readable]
        self.evaluator.update(strong.float(), clip_ids, self.ground_truth, self.durations)

    def on_validation_epoch_end(self) -> None:
        figures = self.evaluator.compute()
        self.psds1_per_class: dict[str, float] = figures["psds1_per_class"]
        scores = {f"val/{name}": float(figures[name]) for name in ("psds1", "psds1_macro_averaged", "pauroc")}
        self.log_dict(scores, prog_bar=False)
        self.evaluator.reset()

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[METADATA_KEY] = {**self.model.metadata(), "options": config.as_dict(self.options)}


def augment_options(options: config.StrongOptions) -> augment.AugmentOptions:
    """The augmentations that an experiment's options ask for."""
    names = augment.AugmentOptions.__dataclass_fields__
    return augment.AugmentOptions(**{n: getattr(options, n) for n in names if hasattr(options, n)})


def bn_momentum(options: config.StrongOptions) -> float | None:
    """Momentum for the batch-norm layers; None leaves the published one."""
    if options.bn_momentum is not None:
        return options.bn_momentum
    from_scratch = options.pretrained == "scratch" and options.checkpoint is None
    return SCRATCH_BN_MOMENTUM if from_scratch else None


def set_bn_momentum(model: nn.Module, momentum: float | None) -> None:
    """Set the momentum of all batch-norm layers, if one is given."""
    for module in model.modules():
        if momentum is not None and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
