"""The LightningModule that trains and validates every detector."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

import config
from data_util.labels import load_vocabulary
from errors import UserError
from helpers import augment, losses, optim
from helpers.event_scores import Event, StrongEvaluator
from helpers.tagging_scores import TaggingScores
from helpers.teacher import Teacher
from models.checkpoints import METADATA_KEY
from models.sed_model import SEDModel

log = logging.getLogger("efficientsed")

HEADS = frozenset({"strong_head", "weak_head"})
SUMS_KEY = "losses_of_the_epoch"  # in a checkpoint within an epoch
NEVER = torch.iinfo(torch.int64).max
LOUDEST_AUDIO = 100.0  # peak of a training waveform, full scale 1; augmentations stay far below
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
    """Training and validation of a detector on strongly labelled clips, or of a tagger on weakly labelled ones.

    What a batch holds decides: `strong` labels train and score the frame logits, `weak` labels the clip logits. Heads
    that no loss reaches are frozen.

    Args:
        model: the detector.
        options: of the experiment.
        ground_truth: events of the evaluation clips, clip -> (onset s, offset s, class name).
        durations: seconds of the evaluation clips.
        teacher: of the clip logits, where the data set does not bring a teacher's predictions.
    """

    def __init__(
        self,
        model: SEDModel,
        options: Any,
        ground_truth: Mapping[str, Sequence[Event]] | None = None,
        durations: Mapping[str, float] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.model = model.train()  # Lightning keeps the mode that it finds
        if options.backbone_frozen:
            freeze_backbone(self.model, options)
        self.decayed = optim.decayed_names(model)
        self.options = options
        self.ground_truth = ground_truth or {}
        self.durations = durations or {}
        self.teacher = teacher
        self.augmentations = augment_options(options)
        self.responses = None
        if self.augmentations.dir_p > 0:
            self.responses = augment.load_impulse_responses(options.impulse_responses)
        self.event_scores = StrongEvaluator(
            model.labels, median_window=getattr(options, "median_window", 1), all_durations=self.durations.values()
        )
        self.tagging_scores = TaggingScores()
        self.per_class: dict[str, dict[str, float]] = {}
        self._sums: dict[str, list[Tensor]] = {}
        self._diverged_at, self._loudest = torch.tensor(NEVER), torch.tensor(0.0)
        for head in HEADS - options.trained_heads:
            getattr(self.model, head).requires_grad_(False)
        set_bn_momentum(model, bn_momentum(options))

    def on_fit_start(self) -> None:
        if self.teacher is not None:
            self.teacher.to(self.device)

    # ---- training -------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        generator = step_generator(self.options.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.manual_seed(generator.initial_seed())  # dropout
        terms = self.loss_terms(batch, generator)
        self.watch(terms["loss"], batch["audio"])
        for name, value in terms.items():
            self._sums.setdefault(name, []).append(value.detach())
        how: dict[str, Any] = {"batch_size": len(batch["audio"]), "sync_dist": self.trainer.world_size > 1}
        self.log("train/loss", terms["loss"], prog_bar=True, **how)
        self.log_dict({f"train/{name}": value for name, value in terms.items() if name != "loss"}, **how)
        return terms["loss"]

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Loss and its components for a batch of the loader, with all augmentations."""
        prepared = self.augmented(self.to_batch(batch), self.augmentations, generator)
        strong, weak = self.model(prepared.x)
        share = self.options.distillation_loss_weight
        if prepared.strong is not None:
            return losses.strong_loss(strong, prepared.strong, prepared.pseudo, distillation_weight=share)
        assert prepared.weak is not None
        return losses.weak_loss(
            weak, prepared.weak, prepared.weak_pseudo, prepared.weak_known, distillation_weight=share
        )

    def to_batch(self, batch: dict[str, Any]) -> augment.Batch:
        """Loader batch to augmentation batch; a teacher's logits become probabilities on the device."""
        audio, learns = batch["audio"], self.options.distillation_loss_weight > 0
        if "strong" in batch:
            pseudo = losses.soft_targets(batch["pseudo_logits"]) if learns and "pseudo_logits" in batch else None
            return augment.Batch(audio, batch["strong"].float(), pseudo, batch.get("has_pseudo"))
        teacher, known = None, batch.get("weak_known")
        if learns and self.teacher is not None:
            teacher = self.teacher.tags(audio)
        elif learns and "weak_logits" in batch:
            teacher = losses.soft_targets(batch["weak_logits"], self.options.teacher_temperature)
        return augment.Batch(audio, weak=batch["weak"].float(), weak_pseudo=teacher, weak_known=known)

    def augmented(
        self, batch: augment.Batch, augmentations: augment.AugmentOptions, generator: torch.Generator
    ) -> augment.Batch:
        """The mel spectrogram of a batch of waveforms, with all augmentations of both."""
        batch = augment.augment_waveform(batch, augmentations, generator, responses=self.responses)
        return augment.augment_mel(replace(batch, x=self.training_mel(batch.x, generator)), augmentations, generator)

    def training_mel(self, waveform: Tensor, generator: torch.Generator) -> Tensor:
        """The student's mel; the range of its filters is drawn where model and options allow it."""
        mel_range: dict[str, float] = {}
        if self.options.mel_jitter and self.model.model.has_mel_range:
            mel_range = dict(zip(("fmin", "fmax"), augment.draw_mel_range(generator), strict=True))
        return self.model.mel_forward(waveform, **mel_range)

    def take_means(self) -> dict[str, float]:
        """Mean of the loss and its components since the last call, over all processes; every process has to call it."""
        device = self.device  # losses of a resumed epoch lie on the CPU
        means = {
            name: torch.stack([v.to(device) for v in values]).float().mean() for name, values in self._sums.items()
        }
        self._sums = {}
        return {name: float(self.trainer.strategy.reduce(value, reduce_op="mean")) for name, value in means.items()}

    def watch(self, loss: Tensor, audio: Tensor) -> None:
        """Remember on the device the first step whose loss is not finite, and how loud its audio [B, N] was.

        On a GPU, looking costs a wait: `check_divergence` looks now and then.
        """
        finite = loss.detach().isfinite()
        if loss.device.type == "cpu" and finite:
            return
        first = finite.logical_not() & (self._diverged_at.to(loss.device) == NEVER)
        self._diverged_at = torch.where(first, self.global_step, self._diverged_at.to(loss.device))
        self._loudest = torch.where(first, audio.detach().abs().amax().float(), self._loudest.to(loss.device))
        if loss.device.type == "cpu":
            self.check_divergence()

    def check_divergence(self) -> None:
        """Raise TrainingDivergedError if a loss so far was not a finite number; waits for the device."""
        step = int(self._diverged_at)
        if step != NEVER:
            what = f"the loss is not a finite number since optimiser step {step} (epoch {self.current_epoch})"
            raise TrainingDivergedError(f"{what}: {self._likely_cause(float(self._loudest))}")

    def _likely_cause(self, loudest: float) -> str:
        if not loudest <= LOUDEST_AUDIO:  # NaN, too
            return (
                f"the audio of this step reaches {loudest:.1e} where 1 is full scale; find the damaged files "
                "(python -m data_util.check --decode all for packed data) and replace them"
            )
        rates = ", ".join(f"--{n} {getattr(self.options, n):g}" for n in ("max_lr", "seq_lr") if self._has_rate(n))
        return (
            f"its audio is as it should be, so the learning rate is probably too high ({rates}); lower it, lengthen "
            "--warmup_steps, or try --precision 32-true; then --resume"
        )

    def _has_rate(self, name: str) -> bool:
        return isinstance(getattr(self.options, name, None), (int, float))

    def on_validation_model_eval(self) -> None:
        # before any callback saves what the last step before a validation may have spoilt
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self._check_weights()
        super().on_validation_model_eval()

    def _check_weights(self) -> None:
        """Raise TrainingDivergedError if a loss or a weight is not a finite number."""
        self.check_divergence()
        if not all(bool(weight.isfinite().all()) for weight in self.parameters()):
            step = self.global_step
            raise TrainingDivergedError(
                f"weights are not finite numbers after optimiser step {step} (epoch {self.current_epoch}): "
                + self._likely_cause(0.0)
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
            decayed=self.decayed,
            lr_decay=o.lr_decay,
        )
        optimizer = optim.build_optimizer(groups, adamw=o.adamw)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule(optimizer)}

    def schedule(self, optimizer: torch.optim.Optimizer) -> LRSchedulerConfigType:
        """Learning rate per epoch in the weak stage, else per optimiser step."""
        o = self.options
        if isinstance(o, config.WeakOptimizerOptions):
            lengths = {n: getattr(o, n) for n in ("warm_up_len", "ramp_down_start", "ramp_down_len", "last_lr_value")}
            return {"scheduler": LambdaLR(optimizer, optim.weak_schedule(**lengths)), "interval": "epoch"}
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warmup_steps, shortened = optim.effective_warmup(o.warmup_steps, total)
        if shortened:
            shorter = f"shortened to {warmup_steps}" if warmup_steps else "left out"
            log.info("warm-up of %d steps %s: the run has only %d", o.warmup_steps, shorter, total)
        scheduler = optim.build_scheduler(
            optimizer, o.schedule_mode, warmup_steps=warmup_steps, total_steps=total, lr_end=o.lr_end
        )
        return {"scheduler": scheduler, "interval": "step"}

    # ---- validation -----------------------------------------------------------------------------------------

    def validation_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        readable = batch["valid"].nonzero().flatten().tolist()
        if not readable:
            return
        strong, weak = self.model(self.model.mel_forward(batch["audio"][readable]))
        n_clips = float(len(readable))  # Lightning rounds the mean of whole numbers over processes down
        how: dict[str, Any] = {"batch_size": n_clips, "sync_dist": True, "add_dataloader_idx": False}
        if "strong" in batch:
            target = batch["strong"][readable].float()
            self.log("val/loss", losses.bce(strong.float(), target), **how)
            clip_ids = [batch["clip_id"][i] for i in readable]
            self.event_scores.update(strong.float(), clip_ids, self.ground_truth, self.durations)
        else:
            target = batch["weak"][readable].float()
            self.log("val/weak_loss", losses.bce(weak.float(), target), **how)
            self.tagging_scores.update(weak, target)

    def on_validation_epoch_end(self) -> None:
        if "strong" in self.options.validated:
            figures = self.event_scores.compute_over_processes()
            self.per_class["psds1_per_class"] = figures["psds1_per_class"]
            self.log_dict({f"val/{name}": float(figures[name]) for name in ("psds1", "psds1_macro_averaged", "pauroc")})
            self.event_scores.reset()
        if "weak" in self.options.validated:
            figures = self.tagging_scores.compute()
            self.per_class["ap_per_class"] = {weak_labels()[i]: v for i, v in figures["ap_per_class"].items()}
            self.log_dict({f"val/{name}": figures[name] for name in ("mAP", "auroc", "d_prime")})
            self.tagging_scores.reset()

    # ---- checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        untrained = self.model.untrained - self.options.trained_heads - {"seq_model"}
        about = {**self.model.metadata(), "untrained": sorted(untrained)}
        checkpoint[METADATA_KEY] = {**about, "options": config.as_dict(self.options)}
        checkpoint[SUMS_KEY] = {name: torch.stack(values) for name, values in self._sums.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._sums = {name: list(values) for name, values in checkpoint.get(SUMS_KEY, {}).items()}


@functools.cache
def weak_labels() -> list[str]:
    """Names of the 527 classes of AudioSet Weak, in the order of the clip logits."""
    return list(load_vocabulary("weak").names)


def augment_options(options: Any) -> augment.AugmentOptions:
    """The augmentations that an experiment's options ask for."""
    names = augment.AugmentOptions.__dataclass_fields__
    return augment.AugmentOptions(**{n: getattr(options, n) for n in names if hasattr(options, n)})


def bn_momentum(options: Any) -> float | None:
    """Momentum for the batch-norm layers; None leaves the published one."""
    if options.bn_momentum is not None:
        return options.bn_momentum
    from_scratch = options.pretrained == "scratch" and options.checkpoint is None
    return SCRATCH_BN_MOMENTUM if from_scratch else None


def freeze_backbone(model: SEDModel, options: Any) -> None:
    """Keep the weights of the backbone; in evaluation mode batch-norm statistics and dropout rest as well."""
    model.model.requires_grad_(False).eval()
    if options.pretrained == "scratch" and options.checkpoint is None and options.resume is None:
        log.warning("--backbone_frozen: the backbone starts from random weights and will never learn")


def set_bn_momentum(model: nn.Module, momentum: float | None) -> None:
    """Set the momentum of all batch-norm layers, if one is given."""
    for module in model.modules():
        if momentum is not None and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
