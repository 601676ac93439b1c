"""What a run computes on: device, arithmetic, and how several devices share the work."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, Strategy
from torch import nn

import config
from errors import UserError


def accelerator(options: config.RunOptions) -> str:
    """`cpu`, `cuda` or `mps`: what the option asks for; raises UserError if the machine has no such device."""
    wanted = "cuda" if options.accelerator == "gpu" else options.accelerator
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[wanted]:
        config.refuse("accelerator", options.accelerator, "this machine, or this build of torch, has no such device")
    return wanted


def precision(options: config.RunOptions, device: str) -> str:
    """Lightning's word for the arithmetic; raises UserError for half precision where the device has none."""
    if options.precision == "16" and device == "cpu":
        return "32-true"
    word = {"16": "16-mixed", "32": "32-true"}.get(options.precision, options.precision)
    if word == "16-mixed" and device == "cpu":
        config.refuse("precision", options.precision, "a CPU has no half precision; use bf16-mixed or 32-true")
    return word


def n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_workers(options: config.RunOptions) -> int:
    """Data loading processes: as asked for, but no more than the process may use cores."""
    return min(options.num_workers, n_cores())


def share_cores(options: config.RunOptions, device: str) -> None:
    """Leave each of several processes on one CPU its share of the cores: more threads than cores wait for each other.

    Lightning does so too, but not where OMP_NUM_THREADS is set.
    """
    if device == "cpu" and options.num_devices > 1:
        torch.set_num_threads(max(1, min(torch.get_num_threads(), n_cores() // options.num_devices)))


def strategy(options: config.RunOptions, device: str, model: nn.Module | None = None) -> Strategy | str:
    """How several devices share the work.

    Args:
        options: of the run; `auto` is one process, or DDP where there are several.
        device: what `accelerator` returned.
        model: is asked whether a training step may leave parameters without gradient (dropped layers).

    Raises:
        UserError: a strategy that this device does not have, or whose package is missing.
    """
    several = options.num_devices * options.num_nodes > 1
    if options.strategy == "auto" and not several:
        return "auto"
    return _STRATEGIES["ddp" if options.strategy == "auto" else options.strategy](options, device, model)


def drops_layers(model: nn.Module) -> bool:
    """Whether training skips some of the layers at random."""
    return any(getattr(module, "layer_drop", 0) > 0 for module in model.modules())


def _ddp(options: config.RunOptions, device: str, model: nn.Module | None) -> Strategy:
    unused = model is not None and drops_layers(model)
    return DDPStrategy(find_unused_parameters=unused, gradient_as_bucket_view=True)


def _fsdp(options: config.RunOptions, device: str, model: nn.Module | None) -> Strategy:
    _only_cuda(options, device)
    _no_ema(options)
    if options.gradient_clip > 0:
        config.refuse("gradient_clip", options.gradient_clip, "no norm over shards; use --strategy ddp")
    return FSDPStrategy(state_dict_type="full")  # one file that every other script reads


def _deepspeed(options: config.RunOptions, device: str, model: nn.Module | None) -> Any:
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(f"--strategy {options.strategy} needs a package: pip install deepspeed")
    _only_cuda(options, device)
    _no_ema(options)
    return options.strategy


def _no_ema(options: config.RunOptions) -> None:
    if options.ema > 0:
        config.refuse("ema", options.ema, "averaged weights cannot be sharded; use --strategy ddp")


def _only_cuda(options: config.RunOptions, device: str) -> None:
    if device != "cuda":
        config.refuse("strategy", options.strategy, f"it works on CUDA devices only, not on {device}; use ddp")


_STRATEGIES: dict[str, Callable[[config.RunOptions, str, nn.Module | None], Strategy | str]] = {
    "ddp": _ddp,
    "fsdp": _fsdp,
    "deepspeed_stage_1": _deepspeed,
    "deepspeed_stage_2": _deepspeed,
}
