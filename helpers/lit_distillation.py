"""Online distillation: strong and weak clips in one step, and a teacher that hears the same augmented clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import config
from data_util.labels import CLIP_FRAMES
from helpers import augment, losses
from helpers.event_scores import Event
from helpers.lit_module import SEDModule
from helpers.teacher import Teacher
from models.sed_model import SEDModel


class OnlineDistillation(SEDModule):
    """Training of a detector beside a teacher.

    A batch holds strong and weak clips in turn (see `data_util.mixed`), or one kind alone where the loss has no term
    for the other. Teacher and student get the same waveforms, and the same draws for their own spectrograms.

    Args:
        model: the student, with a weak head of AudioSet's 527 classes.
        options: of the experiment.
        ground_truth: events of the evaluation clips, clip -> (onset s, offset s, class name).
        durations: seconds of the evaluation clips.
        teacher: None where the data set brings `teacher_logits`, or where no term needs a teacher.

    Source: Morocutti et al., "EfficientSED" (advanced knowledge distillation), the published training script.
    """

    def __init__(
        self,
        model: SEDModel,
        options: config.OnlineOptions,
        ground_truth: Mapping[str, Sequence[Event]] | None = None,
        durations: Mapping[str, float] | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__(model, options, ground_truth, durations, teacher)
        self.weights = losses.OnlineWeights(
            weak_supervised=options.weak_supervised_loss_weight,
            weak_distillation=options.weak_distillation_loss_weight,
            strong_supervised=options.strong_supervised_loss_weight,
            strong_distillation=options.strong_distillation_loss_weight,
            online=options.online_distillation_loss_weight,
            strong_ratio=options.online_distillation_strong_ratio,
        )
        self.weak_augmentations = augment.AugmentOptions(
            mixup_p=options.as_weak_mixup_p,
            mixup_alpha=options.as_weak_mixup_alpha,
            mixup_folded=True,
            freq_warp_p=options.as_weak_freq_warp_p,
            per_clip=options.per_clip,
        )

    def loss_terms(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """The weighted sum of all terms; each kind of clips goes through the student by itself, as published."""
        o = self.options
        step = int(o.uses_strong) + int(o.uses_weak)  # clips of both kinds come in turn
        strong = self.strong_branch(every(batch, 0, step), generator) if o.uses_strong else None
        weak = self.weak_branch(every(batch, step - 1, step), generator) if o.uses_weak else None
        return losses.online_loss(self.weights, strong, weak)

    def strong_branch(self, clips: dict[str, Any], generator: torch.Generator) -> losses.StrongBranch:
        """Student, labels and teacher of the strongly labelled clips."""
        offline = self.weights.strong_distillation > 0
        pseudo = losses.soft_targets(clips["pseudo_logits"]) if offline else None
        batch = augment.Batch(clips["audio"], clips["strong"].float(), pseudo, clips["has_pseudo"] if offline else None)
        online = self.weights.online * self.weights.strong_ratio > 0
        batch, teacher = self.heard_by_both(batch, clips, self.augmentations, generator, online)
        return losses.StrongBranch(self.model(batch.x)[0], batch.strong, batch.pseudo, None, teacher)

    def weak_branch(self, clips: dict[str, Any], generator: torch.Generator) -> losses.WeakBranch:
        """Student, labels and teachers of the weakly labelled clips."""
        tags, known = None, None
        if self.weights.weak_distillation > 0:
            tags = losses.soft_targets(clips["weak_logits"], self.options.teacher_temperature)
            known = clips["weak_known"]
        batch = augment.Batch(clips["audio"], weak=clips["weak"].float(), weak_pseudo=tags, weak_known=known)
        online = self.options.uses_weak_frames
        batch, teacher = self.heard_by_both(batch, clips, self.weak_augmentations, generator, online)
        frames, clip = self.model(batch.x)
        return losses.WeakBranch(frames, clip, batch.weak, batch.weak_pseudo, batch.weak_known, teacher)

    def heard_by_both(
        self,
        batch: augment.Batch,
        clips: dict[str, Any],
        augmentations: augment.AugmentOptions,
        generator: torch.Generator,
        online: bool,
    ) -> tuple[augment.Batch, Tensor | None]:
        """Augment a batch of waveforms to mels, and let the teacher listen.

        Args:
            batch: waveforms with their labels.
            clips: what the loader brought, with `teacher_logits` where a file stands in for the teacher.
            augmentations: of these clips.
            generator: of the draws.
            online: whether the teacher is asked.

        Returns:
            The batch with the student's augmented mel, and the teacher's probabilities [B, C, T] or None.
        """
        n_clips, n_samples = batch.x.shape
        sound = augment.draw_waveform(augmentations, n_clips, n_samples, generator, responses=self.responses)
        batch = augment.apply(batch, sound)
        mel = self.training_mel(batch.x, generator)
        n_frames = clips["strong"].shape[-1] if "strong" in clips else CLIP_FRAMES
        draws = augment.draw_mel(augmentations, mel.shape, n_frames, generator)
        teacher: Tensor | None = None
        if online and "teacher_logits" in clips:
            teacher = losses.soft_targets(clips["teacher_logits"], self.options.teacher_temperature)
            for draw in (*sound, *draws):
                teacher = draw.frames(teacher)
        elif online and self.teacher is not None:
            teacher = self.teacher.frames(augment.apply_signal(self.teacher.mel(batch.x), draws), n_frames)
        return augment.apply(replace(batch, x=mel), draws), teacher


def every(batch: dict[str, Any], first: int, step: int) -> dict[str, Any]:
    """Every `step`-th clip of a batch, from the `first` on."""
    return {name: values[first::step] for name, values in batch.items()}
