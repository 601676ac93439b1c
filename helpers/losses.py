"""Losses of the strong stage, the weak stage and online distillation.

All are binary cross-entropies between logits z and targets in [0, 1], averaged over clips, classes and frames. Each
function returns a dict of 0-dimensional tensors: `loss`, which is to be minimised, and its components before
weighting, under the names that are logged. Reductions run in the type of the targets, float32 under autocast too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from errors import UserError


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits with targets in [0, 1] of the same shape, in the type of the targets."""
    return F.binary_cross_entropy_with_logits(logits.to(targets.dtype), targets)


def soft_targets(teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Turn a teacher's logits, of any shape and type, into probabilities; float32 without gradient.

    Args:
        teacher_logits: any shape.
        temperature: > 0, divides the logits of the teacher only, as published.
    """
    return torch.sigmoid(teacher_logits.detach().float() / temperature)


def strong_loss(
    logits: Tensor,
    strong: Tensor,
    pseudo: Tensor | None = None,
    has_pseudo: Tensor | None = None,
    *,
    distillation_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Frame-wise loss w * BCE(z, pseudo) + (1 - w) * BCE(z, strong).

    A clip without a pseudo label learns from its hard labels alone: they stand in for the pseudo label.

    Args:
        logits: z [B, C, T].
        strong: hard labels [B, C, T] in [0, 1].
        pseudo: teacher probabilities [B, C, T] in [0, 1], needed when w > 0.
        has_pseudo: bool [B], which clips `pseudo` knows; None: all.
        distillation_weight: w in [0, 1].

    Returns:
        `loss`, `strong_supervised_loss` and, when w > 0, `strong_distillation_loss`.

    Raises:
        UserError: w outside [0, 1], or above 0 without pseudo labels.
    """
    w = checked_share("distillation_loss_weight", distillation_weight)
    terms = {"strong_supervised_loss": bce(logits, strong)}
    if w == 0:
        return {"loss": terms["strong_supervised_loss"], **terms}
    if pseudo is None:
        raise UserError(f"--distillation_loss_weight is {w}: above 0 it needs pseudo labels (--pseudo_labels_file)")
    if has_pseudo is not None:
        pseudo = torch.where(has_pseudo.bool()[:, None, None], pseudo, strong)
    terms["strong_distillation_loss"] = bce(logits, pseudo)
    loss = w * terms["strong_distillation_loss"] + (1 - w) * terms["strong_supervised_loss"]
    return {"loss": loss, **terms}


def weak_distillation(logits: Tensor, teacher: Tensor, known: Tensor | None = None) -> Tensor:
    """Clip-wise BCE with a teacher's probabilities; a clip counts by the share of it that the teacher knows.

    A mixture of clips i and j with weight l has the targets of both: l * BCE(z, t_i) + (1 - l) * BCE(z, t_j), where
    the term of an unknown clip is zero. It still counts in the mean over clips.

    Args:
        logits: z [B, Cw].
        teacher: probabilities [B, Cw] in [0, 1]; of a mixture, the mean over its known part.
        known: [B], share in [0, 1] of each clip that the teacher knows (bool: all or nothing); None: all of it.
    """
    losses = F.binary_cross_entropy_with_logits(logits.to(teacher.dtype), teacher, reduction="none").mean(1)  # [B]
    return losses.mean() if known is None else (known.to(losses.dtype) * losses).mean()


def weak_loss(
    logits: Tensor,
    weak: Tensor,
    teacher: Tensor | None = None,
    known: Tensor | None = None,
    *,
    distillation_weight: float = 0.0,
) -> dict[str, Tensor]:
    """Clip-wise loss (1 - w) * BCE(z, weak) + w * weak_distillation(z, teacher).

    Args:
        logits: z [B, Cw].
        weak: hard labels [B, Cw] in [0, 1].
        teacher: probabilities [B, Cw], needed when w > 0.
        known: [B], see `weak_distillation`.
        distillation_weight: w in [0, 1]; 0 is labels alone, 1 is the teacher alone (the published kd_lambda is
            1 - w, except that its 0 switches the teacher off).

    Returns:
        `loss`, `weak_supervised_loss` and, when w > 0, `weak_distillation_loss`.

    Raises:
        UserError: w outside [0, 1], or above 0 without a teacher.
    """
    w = checked_share("weak_distillation_loss_weight", distillation_weight)
    terms = {"weak_supervised_loss": bce(logits, weak)}
    if w == 0:
        return {"loss": terms["weak_supervised_loss"], **terms}
    if teacher is None:
        raise UserError(f"--weak_distillation_loss_weight is {w}: above 0 it needs the predictions of a teacher")
    terms["weak_distillation_loss"] = weak_distillation(logits, teacher, known)
    loss = (1 - w) * terms["weak_supervised_loss"] + w * terms["weak_distillation_loss"]
    return {"loss": loss, **terms}


@dataclass(frozen=True)
class OnlineWeights:
    """Weights of the terms of online distillation, as published.

    Args:
        weak_supervised: clip logits of weak clips with their labels; all weights are >= 0.
        weak_distillation: clip logits of weak clips with an offline teacher.
        strong_supervised: frame logits of strong clips with their labels.
        strong_distillation: frame logits of strong clips with pseudo labels.
        online: frame logits of all clips with the online teacher.
        strong_ratio: share of the strong clips in the online term, in [0, 1].

    Raises:
        UserError: a value out of range, or no term at all.
    """

    weak_supervised: float = 0.0
    weak_distillation: float = 0.0
    strong_supervised: float = 0.1
    strong_distillation: float = 0.0
    online: float = 0.9
    strong_ratio: float = 0.5

    def __post_init__(self) -> None:
        checked_share("online_distillation_strong_ratio", self.strong_ratio)
        for field in fields(self):
            weight = getattr(self, field.name)
            if not 0 <= weight < float("inf"):
                raise UserError(f"the loss weight {field.name} is {weight}: must be 0 or more")
        if not any(self.of_terms().values()):
            raise UserError("all loss weights are 0: nothing to train on")

    def of_terms(self) -> dict[str, float]:
        """Return the weight of each term by the name under which the term is logged."""
        return {
            "weak_supervised_loss": self.weak_supervised,
            "weak_distillation_loss": self.weak_distillation,
            "strong_supervised_loss": self.strong_supervised,
            "strong_distillation_loss": self.strong_distillation,
            "strong_online_teacher_loss": self.online * self.strong_ratio,
            "weak_online_teacher_loss": self.online * (1 - self.strong_ratio),
        }


@dataclass(frozen=True)
class StrongBranch:
    """What the loss needs of the strongly labelled clips; all but the logits only where a weight asks for it.

    Args:
        logits: student [B, C, T].
        strong: hard labels [B, C, T].
        pseudo: offline teacher probabilities [B, C, T].
        has_pseudo: bool [B], which clips `pseudo` knows (hard labels stand in for the others); None: all.
        teacher: probabilities [B, C, T] of the online teacher on the same augmented clips.
    """

    logits: Tensor
    strong: Tensor | None = None
    pseudo: Tensor | None = None
    has_pseudo: Tensor | None = None
    teacher: Tensor | None = None

    def filled_pseudo(self) -> Tensor | None:
        """Return the pseudo labels with hard labels for the unknown clips."""
        if self.pseudo is None or self.has_pseudo is None or self.strong is None:
            return self.pseudo
        return torch.where(self.has_pseudo.bool()[:, None, None], self.pseudo, self.strong)


@dataclass(frozen=True)
class WeakBranch:
    """What the loss needs of the weakly labelled clips; each only where a weight asks for it.

    Args:
        frame_logits: student [B, C, T], strong classes.
        clip_logits: student [B, Cw], weak classes.
        weak: hard labels [B, Cw].
        weak_pseudo: offline teacher probabilities [B, Cw].
        weak_known: [B], see `weak_distillation`.
        teacher: probabilities [B, C, T] of the online teacher on the same augmented clips.
    """

    frame_logits: Tensor | None = None
    clip_logits: Tensor | None = None
    weak: Tensor | None = None
    weak_pseudo: Tensor | None = None
    weak_known: Tensor | None = None
    teacher: Tensor | None = None


def online_loss(weights: OnlineWeights, strong: StrongBranch | None, weak: WeakBranch | None) -> dict[str, Tensor]:
    """Weighted sum of the six terms of online distillation; terms of weight 0 are not computed.

    Args:
        weights: one weight per term.
        strong: strongly labelled clips; None when no term needs them.
        weak: weakly labelled clips; None when no term needs them.

    Returns:
        `loss` and every term with a weight above 0, before weighting.

    Raises:
        ValueError: a term has a weight, but what it compares is missing.
    """
    pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {}
    if strong is not None:
        pairs["strong_supervised_loss"] = strong.logits, strong.strong
        pairs["strong_distillation_loss"] = strong.logits, strong.filled_pseudo()
        pairs["strong_online_teacher_loss"] = strong.logits, strong.teacher
    if weak is not None:
        pairs["weak_supervised_loss"] = weak.clip_logits, weak.weak
        pairs["weak_distillation_loss"] = weak.clip_logits, weak.weak_pseudo
        pairs["weak_online_teacher_loss"] = weak.frame_logits, weak.teacher
    used = {term: weight for term, weight in weights.of_terms().items() if weight > 0}
    terms: dict[str, Tensor] = {}
    for term in used:
        logits, targets = pairs.get(term, (None, None))
        if logits is None or targets is None:
            raise ValueError(f"{term} has the weight {used[term]}, but its logits or its targets are missing")
        if term == "weak_distillation_loss" and weak is not None:
            terms[term] = weak_distillation(logits, targets, weak.weak_known)
        else:
            terms[term] = bce(logits, targets)
    return {"loss": weighted_sum(used, terms), **terms}


def weighted_sum(weights: Mapping[str, float], terms: Mapping[str, Tensor]) -> Tensor:
    """Sum the terms by their weights, in the order of the weights."""
    return torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()


def checked_share(option: str, value: float) -> float:
    """Return a value that must lie in [0, 1]; raise UserError naming the option otherwise."""
    if not 0 <= value <= 1:
        raise UserError(f"--{option} is {value}: must lie in [0, 1]")
    return value
