"""A full training step: mel, augmentations, forward, losses, backward, optimiser; ours against a plain formulation.

The plain one is written as the published training does it: NCHW, the mel filters built again in every step, loops over
clips for shifts, one optimiser group per parameter. Both train the same network on the same random clips with pseudo
labels, in one run and in turn. On a GPU also in half precision, with peak memory and the share of time in matrix
products and convolutions. The last line is one JSON object.

Run: python benchmarks/train_step.py [--quick] [--models fmn10+tf-256 ...] [--batch_sizes 16]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from timing import machine, seconds
from torch import Tensor
from torch.nn import functional as F

import config
from helpers import optim, run
from helpers.lit_module import SEDModule, step_generator
from json_text import json_text
from models import SEDModel, create_model
from models.mel import kaldi_mel_bank

MODELS = ("fmn10+tf-256", "fmn10+hybrid-256")
N_SAMPLES, N_CLASSES, N_FRAMES = 160_000, 447, 250
KD_WEIGHT, MAX_LR, LR_DECAY = 0.9, 3e-3, 0.9
MATRIX_KERNELS = ("gemm", "conv", "cutlass", "xmma", "wgrad", "dgrad", "fprop", "implicit", "flash", "fmha")
Step = Callable[[], Any]


def build(name: str) -> SEDModel:
    """A detector named like its checkpoint, e.g. fmn10+tf-256."""
    backbone, _, sequence = name.partition("+")
    seq_type, _, dim = sequence.partition("-")
    return create_model(backbone, seq_model_type=seq_type or None, seq_model_dim=int(dim or 256))


def clips(batch_size: int, device: str) -> dict[str, Tensor]:
    """Random clips as the loader gives them."""
    generator = torch.Generator().manual_seed(0)
    batch = {
        "audio": 0.1 * torch.randn(batch_size, N_SAMPLES, generator=generator),
        "strong": (torch.rand(batch_size, N_CLASSES, N_FRAMES, generator=generator) < 0.01).to(torch.uint8),
        "pseudo_logits": (torch.randn(batch_size, N_CLASSES, N_FRAMES, generator=generator) - 5).half(),
        "has_pseudo": torch.ones(batch_size, dtype=torch.bool),
    }
    return {name: value.to(device) for name, value in batch.items()}


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """Arithmetic of the forward pass."""
    kinds = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    return torch.autocast(device, kinds[precision]) if precision in kinds else nullcontext()


def our_step(name: str, batch: dict[str, Tensor], device: str, precision: str) -> Step:
    """One step of this project, without Lightning around it."""
    options = config.StrongOptions(
        pretrained="weak", distillation_loss_weight=KD_WEIGHT, pseudo_labels_file=Path("-"), max_lr=MAX_LR
    )
    model = build(name)
    module = SEDModule(model, options).to(device)
    if device == "cpu":
        run.prepare_for_cpu(module)
    groups = optim.parameter_groups(model, backbone_lr=MAX_LR, seq_lr=MAX_LR, lr_decay=LR_DECAY)
    optimizer = optim.build_optimizer(groups, adamw=False)
    scaler = torch.amp.GradScaler(device, enabled=precision == "16-mixed")
    number = iter(range(10**9))

    def step() -> None:
        with autocast(device, precision):
            loss = module.loss_terms(batch, step_generator(0, next(number)))["loss"]
        _update(loss, optimizer, scaler)

    return step


def plain_step(name: str, batch: dict[str, Tensor], device: str, precision: str) -> Step:
    """One step as published: see the module."""
    model = build(name).to(device).train()
    model.weak_head.requires_grad_(False)
    groups = []
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        depth = int(key.split("features.")[1].split(".")[0]) if "features." in key else 16
        groups.append({"params": [parameter], "lr": MAX_LR * LR_DECAY ** (16 - depth)})
    optimizer = torch.optim.Adam(groups)
    scaler = torch.amp.GradScaler(device, enabled=precision == "16-mixed")
    rng = np.random.default_rng(0)
    window = torch.hann_window(400, periodic=False, device=device)

    def step() -> None:
        audio, strong, pseudo = plain_wavmix(batch, rng)
        fmin, fmax = rng.uniform(0, 10), 8000 - rng.uniform(0, 2000)
        bank = kaldi_mel_bank(fmin, fmax).to(device)
        x = F.conv1d(audio[:, None], torch.tensor([[[-0.97, 1.0]]], device=device))[:, 0]
        spectrum = torch.stft(x, 512, 160, 400, window, center=True, return_complex=True).abs() ** 2
        mel = ((torch.matmul(bank, spectrum) + 1e-7).log() + 4.5) / 5
        mel, strong, pseudo = plain_shift(mel[:, None], strong, pseudo, rng)
        mel, strong, pseudo = plain_mixup(mel, strong, pseudo, rng)
        with autocast(device, precision):
            logits = model(mel)[0].float()
            soft = F.binary_cross_entropy_with_logits(logits, pseudo, reduction="none").mean()
            hard = F.binary_cross_entropy_with_logits(logits, strong, reduction="none").mean()
            loss = KD_WEIGHT * soft + (1 - KD_WEIGHT) * hard
        _update(loss, optimizer, scaler)

    return step


def plain_wavmix(batch: dict[str, Tensor], rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Clip by clip, as a data set does it: a second clip with probability 1/2."""
    audio, strong, pseudo = [], [], []
    soft = torch.sigmoid(batch["pseudo_logits"].float())
    hard = batch["strong"].float()
    for i in range(len(hard)):
        w, j = 1.0, i
        if rng.random() < 0.5:
            w, j = rng.beta(2, 2), int(rng.integers(len(hard)))
            w = max(w, 1 - w)
        a, b = batch["audio"][i], batch["audio"][j]
        mixed = w * (a - a.mean()) + (1 - w) * (b - b.mean())
        audio.append(mixed - mixed.mean())
        strong.append(w * hard[i] + (1 - w) * hard[j])
        pseudo.append(w * soft[i] + (1 - w) * soft[j])
    return torch.stack(audio), torch.stack(strong), torch.stack(pseudo)


def plain_shift(mel: Tensor, strong: Tensor, pseudo: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Roll mel, labels and pseudo labels of one clip after another."""
    rolled = []
    for i in range(len(mel)):
        shift = int(rng.normal(0, 125))
        rolled.append(
            (
                torch.roll(mel[i], shift, -1),
                torch.roll(strong[i], round(shift / 4), -1),
                torch.roll(pseudo[i], round(shift / 4), -1),
            )
        )
    first, second, third = zip(*rolled, strict=True)
    return torch.stack(first), torch.stack(second), torch.stack(third)


def plain_mixup(mel: Tensor, strong: Tensor, pseudo: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The whole batch with probability 0.3."""
    if rng.random() >= 0.3:
        return mel, strong, pseudo
    order = torch.randperm(len(mel)).to(mel.device)
    w = torch.from_numpy(rng.beta(0.2, 0.2, len(mel))).float().to(mel.device)
    mel = mel * w[:, None, None, None] + mel[order] * (1 - w[:, None, None, None])
    strong, pseudo = ((y * w[:, None, None] + y[order] * (1 - w[:, None, None])).clamp(0, 1) for y in (strong, pseudo))
    return mel, strong, pseudo


def _update(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    if loss.device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory(step: Step) -> float | None:
    """Largest GPU memory of a step, MiB."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    step()
    return round(torch.cuda.max_memory_allocated() / 2**20)


def matrix_share(step: Step) -> float | None:
    """Share of the GPU's busy time in matrix products and convolutions."""
    if not torch.cuda.is_available():
        return None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
    times = {event.key: event.self_device_time_total for event in profile.key_averages()}
    matrix = sum(t for key, t in times.items() if any(word in key.lower() for word in MATRIX_KERNELS))
    return round(matrix / max(sum(times.values()), 1), 3)


def compare(name: str, batch_size: int, device: str, precision: str, repeats: int) -> dict[str, Any]:
    """Clips per second of both formulations, speed-up, memory; half precision on a CPU also against plain float32."""
    batch = clips(batch_size, device)
    steps = {
        "plain": plain_step(name, batch, device, precision),
        "ours": our_step(name, batch, device, precision),
    }
    if device == "cpu" and precision != "32-true":
        steps["plain_32"] = plain_step(name, batch, device, "32-true")
    times = seconds(steps, repeats)
    result: dict[str, Any] = {f"{key}_clips_per_second": round(batch_size / times[key], 2) for key in steps}
    result |= {f"speedup_over_{key}": round(times[key] / times["ours"], 2) for key in steps if key != "ours"}
    for key in ("plain", "ours"):
        if (memory := peak_memory(steps[key])) is not None:
            result[f"{key}_peak_mib"] = memory
            result[f"{key}_matrix_share"] = matrix_share(steps[key])
    return result


def main() -> None:
    """Run all comparisons, print a line for each and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small model: only shows that the script works")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch_sizes", nargs="+", type=int, help="default: 16 on a CPU, 64 and 256 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precisions = ("32-true", "bf16-mixed") if device == "cpu" else ("32-true", "16-mixed", "bf16-mixed")
    sizes = args.batch_sizes or ((16,) if device == "cpu" else (64, 256))
    names, repeats = args.models, args.repeats
    if args.quick:
        names, sizes, repeats = ("fmn04",), (2,), 1
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # as the scripts do
    results = []
    for name in names:
        for batch_size in sizes:
            for precision in precisions:
                figures = compare(name, batch_size, device, precision, repeats)
                results.append({"model": name, "batch": batch_size, "precision": precision, **figures})
                print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    gpu = torch.cuda.get_device_name() if device == "cuda" else None
    print(json_text({"benchmark": "train_step", "gpu": gpu, **machine(), "results": results}))


if __name__ == "__main__":
    main()
