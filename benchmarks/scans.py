"""The parallel scans of mamba and hybrid against their recurrences, one frame at a time.

Forward and backward pass on the CPU, batch 8, 250 and 2500 frames, 256 features; both ways in one run, with the
difference of their outputs. The last line is one JSON object. Run: python benchmarks/scans.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from timing import machine, seconds
from torch import Tensor
from torch.nn import functional as F

from json_text import json_text
from models.sequence import mamba, min_gru

Scan = Callable[..., Tensor]


def ssd_steps(x: Tensor, log_decay: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """`mamba.ssd_scan` by its recurrence, with as few operations per frame as there can be."""
    state, outputs = x.new_zeros(*x[:, 0].shape, b.shape[-1]), []  # [B, H, P, N]
    frames = zip(x.unbind(1), log_decay.exp().unbind(1), b.unbind(1), c.unbind(1), strict=True)
    for x_t, decay_t, b_t, c_t in frames:
        state = torch.addcmul(x_t[..., None] * b_t[:, None, None], decay_t[..., None, None], state)
        outputs.append((state @ c_t[:, None, :, None]).squeeze(-1))
    return torch.stack(outputs, dim=1)


def min_gru_steps(hidden: Tensor, gate: Tensor) -> Tensor:
    """`min_gru.min_gru_scan` as the formula stands: gate, candidate and state of one frame after the other."""
    state, states = torch.zeros_like(hidden[:, 0]), []
    for hidden_t, gate_t in zip(hidden.unbind(1), gate.unbind(1), strict=True):
        z = gate_t.sigmoid()
        candidate = torch.where(hidden_t >= 0, F.relu(hidden_t) + 0.5, hidden_t.sigmoid())
        state = (1 - z) * state + z * candidate
        states.append(state)
    return torch.stack(states, dim=1)


def mamba_inputs(batch: int, n_frames: int, dim: int) -> tuple[Tensor, ...]:
    """Inputs of `mamba.ssd_scan` as the block makes them, with step sizes of its initialisation."""
    head_dim = mamba.head_dim(dim)
    n_heads = mamba.EXPAND * dim // head_dim
    dt = torch.empty(batch, n_frames, n_heads).uniform_(1e-3, 0.1)
    x = torch.randn(batch, n_frames, n_heads, head_dim) * dt.unsqueeze(-1)
    b, c = torch.randn(2, batch, n_frames, mamba.D_STATE)
    return x, -dt * torch.empty(n_heads).uniform_(1, 16), b, c


def min_gru_inputs(batch: int, n_frames: int, dim: int) -> tuple[Tensor, ...]:
    """Inputs of `min_gru.min_gru_scan`."""
    return tuple(torch.randn(2, batch, n_frames, dim))


def compare(steps: Scan, scans: dict[str, Scan], inputs: tuple[Tensor, ...], repeats: int) -> dict[str, float]:
    """Milliseconds of forward and backward pass of each way, speed-ups over `steps`, largest difference of outputs."""
    inputs = tuple(v.requires_grad_() for v in inputs)

    def train_step(scan: Scan) -> Callable[[], object]:
        return lambda: torch.autograd.grad(scan(*inputs).sum(), inputs)

    ways = {"steps": steps, **scans}
    times = seconds({name: train_step(scan) for name, scan in ways.items()}, repeats)
    result = {f"{name}_ms": round(1e3 * times[name], 2) for name in ways}
    with torch.no_grad():
        truth = steps(*inputs)
        for name, scan in scans.items():
            result[f"{name}_speedup"] = round(times["steps"] / times[name], 2)
            result[f"{name}_max_difference"] = float((scan(*inputs) - truth).abs().max())
    return result


def main() -> None:
    """Run all comparisons, print a line for each and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that the script works")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    batch, dim, repeats = (1, 64, 1) if args.quick else (args.batch, args.dim, args.repeats)
    torch.manual_seed(0)
    results = []
    for n_frames in (50, 100) if args.quick else (250, 2500):
        cases: dict[str, tuple[Scan, dict[str, Scan], Callable[..., tuple[Tensor, ...]]]] = {
            "mamba": (ssd_steps, {"scan": mamba.ssd_scan}, mamba_inputs),
            "hybrid": (
                min_gru_steps,
                {"scan": min_gru.product_scan, "log_space": min_gru.log_space_scan},
                min_gru_inputs,
            ),
        }
        for model, (steps, scans, make_inputs) in cases.items():
            figures = compare(steps, scans, make_inputs(batch, n_frames, dim), repeats)
            results.append({"model": model, "batch": batch, "frames": n_frames, "dim": dim, **figures})
            print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    print(json_text({"benchmark": "scans", "pass": "forward and backward", **machine(), "results": results}))


if __name__ == "__main__":
    main()
