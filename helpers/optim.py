"""Parameter groups with layer-wise learning rates, optimisers and learning-rate schedules."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from errors import UserError

Factor = Callable[[int], float]  # step (or epoch) -> multiple of a group's learning rate

# Learned tokens and tables of positions (`pos_embed`, `relative_attention_bias`, ...) and the magnitudes of
# weight normalisation: like biases they are not weights of a sum, so decay would only shrink what they say.
NO_DECAY = re.compile(
    r"(^|[._])(\w*_token|mask_embed|\w*pos_embed(ding)?|relative_\w*bias\w*|weight_g|parametrizations\.weight\.original0)"
    r"($|\.)"
)
EXP_GAMMA = 0.999996  # per step, schedule `exp`
MAX_WARMUP_SHARE = 0.45  # of a run; the published strong recipe warms up for 43 %
SHORT_RUN_WARMUP_SHARE = 0.10  # of a run that is too short for its warm-up


class SupportsLayerDecay(Protocol):
    """A backbone that says which depth each of its parameters has."""

    depth_patterns: Any  # tuples (regex, depth or None = number in the first group); the first match wins
    n_depths: int


def depth_of(name: str, patterns: Sequence[tuple[str, int | None]]) -> int:
    """Return the depth of a backbone parameter, 0 = stem.

    Args:
        name: of the parameter inside the backbone.
        patterns: (regex searched in the name, depth); depth None: the number in the first group of the regex.

    Raises:
        ValueError: no pattern matches.
    """
    for pattern, depth in patterns:
        if match := re.search(pattern, name):
            return int(match[1]) if depth is None else depth
    raise ValueError(f"no depth pattern of the backbone matches its parameter {name}; patterns: {list(patterns)}")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Say whether weight decay is meant for a parameter: never biases, norms, tokens or positional tables."""
    exempt = parameter.ndim <= 1 or getattr(parameter, "_no_weight_decay", False) or NO_DECAY.search(name)
    return not exempt


def decayed_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that weight decay is meant for; to be asked before FSDP makes all of them flat."""
    return frozenset(name for name, parameter in model.named_parameters() if decays(name, parameter))


def parameter_groups(
    model: nn.Module,
    *,
    backbone_lr: float,
    seq_lr: float,
    weight_decay: float = 0.0,
    decayed: Collection[str] | None = None,
    lr_decay: float = 0.0,
    scale_last: bool = False,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a model into groups of one learning rate and one weight decay each.

    A backbone parameter of depth d has the learning rate backbone_lr * lr_decay ** (n_depths - 1 - d), so the last
    depth has backbone_lr itself; everything outside the backbone has seq_lr.

    Args:
        model: the backbone is its attribute `model`, with `depth_patterns` and `n_depths`.
        backbone_lr: learning rate of the backbone, > 0.
        seq_lr: learning rate of the sequence model and the heads, > 0.
        weight_decay: for weights of two or more dimensions, >= 0; see `decays`.
        decayed: what `decayed_names` said while the parameters had their shapes; None: they have them now.
        lr_decay: in [0, 1]; both 0 and 1 mean that all depths have the same learning rate.
        scale_last: decay the last depth once, too (exponent n_depths - d), as published for DCASE 2016 task 2.

    Returns:
        Groups for an optimiser with the readable `name`s backbone, backbone.depth_03, head, each followed by
        .no_decay where the weight decay is 0 against the option; stem first, heads last.

    Raises:
        UserError: an option out of its range, or nothing to train.
        ValueError: a backbone parameter without a depth in 0 ... n_depths - 1.

    Source: layer-wise decay as in Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022.
    """
    _check_options(backbone_lr=backbone_lr, seq_lr=seq_lr, weight_decay=weight_decay, lr_decay=lr_decay)
    decayed = decayed_names(model) if decayed is None else decayed
    backbone: Any = model.model
    layer_wise = lr_decay not in (0, 1)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth, lr, label = _HEAD_RANK, seq_lr, "head"
        if name.startswith("model."):
            depth, lr, label = 0, backbone_lr, "backbone"
            if layer_wise:
                depth = _checked_depth(name, backbone)
                lr = backbone_lr * lr_decay ** (backbone.n_depths - 1 - depth + scale_last)
                label = f"backbone.depth_{depth:02d}"
        exempt = weight_decay > 0 and name not in decayed
        group = {"params": [], "lr": lr, "weight_decay": 0.0 if exempt else weight_decay}
        group["name"] = f"{label}.no_decay" if exempt else label
        groups.setdefault((depth, exempt), group)["params"].append(parameter)
    if not groups:
        raise UserError("nothing to train: all parameters of the model are frozen")
    return [groups[key] for key in sorted(groups)]


_HEAD_RANK = 1_000_000  # sorts behind every depth


def _checked_depth(name: str, backbone: SupportsLayerDecay) -> int:
    """Return the depth of the parameter `model.<name inside the backbone>`."""
    depth = depth_of(name.removeprefix("model."), backbone.depth_patterns)
    if not 0 <= depth < backbone.n_depths:
        raise ValueError(f"parameter {name} has depth {depth}, not in 0 ... {backbone.n_depths - 1}")
    return depth


def _check_options(*, backbone_lr: float, seq_lr: float, weight_decay: float, lr_decay: float) -> None:
    for option, lr in (("backbone learning rate", backbone_lr), ("seq_lr", seq_lr)):
        if not 0 < lr < math.inf:
            raise UserError(f"--{option} is {lr}: must be positive")
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"--weight_decay is {weight_decay}: must be 0 or more")
    if not 0 <= lr_decay <= 1:
        raise UserError(f"--lr_decay is {lr_decay}: must lie in [0, 1]; 0 and 1 both switch it off")


def build_optimizer(groups: Iterable[dict[str, Any]], *, adamw: bool) -> torch.optim.Optimizer:
    """Build Adam or AdamW with betas (.9, .999).

    Args:
        groups: what `parameter_groups` returned; they carry learning rates and weight decays.
        adamw: AdamW, which weight decay needs: Adam would add it to the gradient, where the step sizes of Adam
            rescale it.

    Raises:
        UserError: weight decay without AdamW.
    """
    groups = list(groups)
    strongest = max(group["weight_decay"] for group in groups)
    if strongest > 0 and not adamw:
        raise UserError(f"--weight_decay is {strongest}: above 0 it needs --adamw")
    optimizer = torch.optim.AdamW if adamw else torch.optim.Adam
    return optimizer(groups, betas=(0.9, 0.999), weight_decay=0.0)  # every group names its own weight decay


def effective_warmup(warmup_steps: int, total_steps: int) -> tuple[int, bool]:
    """Shorten a warm-up that a short run would never get out of.

    A warm-up of up to 45 % of the run is kept as given, which covers the published recipes (20000 of 46920 steps); a
    longer one becomes 10 % of the run.

    Args:
        warmup_steps: as asked for, >= 0.
        total_steps: optimiser steps of the run, > 0.

    Returns:
        The number of warm-up steps, and whether it was shortened.

    Raises:
        UserError: a negative warm-up.
        ValueError: a run without steps.
    """
    if warmup_steps < 0:
        raise UserError(f"--warmup_steps is {warmup_steps}: must be 0 or more")
    if total_steps <= 0:
        raise ValueError(f"a run needs at least one optimiser step, got {total_steps}")
    if warmup_steps <= MAX_WARMUP_SHARE * total_steps:
        return warmup_steps, False
    return round(SHORT_RUN_WARMUP_SHARE * total_steps), True


def _cosine(progress: float, end: float) -> float:
    return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))


def _linear(progress: float, end: float) -> float:
    return (1 - end) * (1 - progress) + end


SCHEDULES: dict[str, Callable[[float, float], float] | None] = {
    "cos": _cosine,
    "cosine": _cosine,
    "linear": _linear,
    "exp": None,  # by the step alone: no warm-up, no end
}


def schedule(mode: str, *, warmup_steps: int, total_steps: int, end_factor: float = 0.0) -> Factor:
    """Return the multiple of the learning rate as a function of the optimiser step.

    Args:
        mode: cos or cosine (linear warm-up, then half a cosine to 0), linear (linear warm-up, then a line to
            end_factor), exp (.999996 per step from the start).
        warmup_steps: steps from 0 to the full learning rate; not used by exp.
        total_steps: optimiser steps of the run, > 0; the factor stays at its end beyond them.
        end_factor: last factor of linear, in [0, 1].

    Raises:
        UserError: an unknown mode.
    """
    if mode not in SCHEDULES:
        raise UserError(f"--schedule_mode is {mode}: must be one of {', '.join(SCHEDULES)}")
    shape = SCHEDULES[mode]

    def factor(step: int) -> float:
        if shape is None:
            return EXP_GAMMA**step
        if step < warmup_steps:
            return step / warmup_steps
        return shape(min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0), end_factor)

    return factor


def build_scheduler(
    optimizer: torch.optim.Optimizer, mode: str, *, warmup_steps: int, total_steps: int, lr_end: float = 0.0
) -> LambdaLR:
    """Build the scheduler that is stepped after every optimiser step; arguments as for `schedule`.

    Args:
        optimizer: its groups keep the ratio of their learning rates.
        mode: see `schedule`.
        warmup_steps: see `effective_warmup`.
        total_steps: optimiser steps of the run.
        lr_end: learning rate at which `linear` ends, in every group (at most the group's own).
    """
    factors = [
        schedule(
            mode,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
            end_factor=min(lr_end / group["lr"], 1.0),
        )
        for group in optimizer.param_groups
    ]
    return LambdaLR(optimizer, factors)


def weak_schedule(
    *, warm_up_len: int = 8, ramp_down_start: int = 80, ramp_down_len: int = 95, last_lr_value: float = 0.01
) -> Factor:
    """Return the multiple of the learning rate as a function of the epoch, for the weak stage.

    Exponential warm-up, a plateau, then a line down to last_lr_value.

    Args:
        warm_up_len: epochs of warm-up, >= 0.
        ramp_down_start: last epoch of the plateau.
        ramp_down_len: epochs of the way down, >= 0.
        last_lr_value: last factor, in [0, 1].
    """

    def factor(epoch: int) -> float:
        up = 1.0
        if epoch < warm_up_len:
            up = math.exp(-5 * (1 - max(epoch, 0.5) / warm_up_len) ** 2)
        late = epoch - ramp_down_start
        if late <= 0:
            return up
        if late >= ramp_down_len:
            return up * last_lr_value
        return up * (last_lr_value + (1 - last_lr_value) * (ramp_down_len - late) / ramp_down_len)

    return factor
