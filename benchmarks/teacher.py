"""The pass of a teacher: BEATs on a batch of 10 s clips, ours against plain attention with all scores in memory.

The plain formulation uses the same weights and the same layers around the attention. Both run in one process, in
turn, in float32 and under bfloat16 autocast, on the CPU and on a CUDA device if there is one. Peak memory is what
tensors of the pass hold beyond the weights; the share of the machine is against its own largest matrix product.
The last line is one JSON object. Run: python benchmarks/teacher.py [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from timing import machine, seconds
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from json_text import json_text
from models.transformers.beats import BeatsBackbone, beats
from models.transformers.beats_blocks import RESIDUAL_SCALE, BeatsLayer, GatedAttention, relative_buckets

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
N_SAMPLES = 160_000


def plain_attention(attn: GatedAttention, x: Tensor, bias: Tensor) -> Tensor:
    """Gated attention with scores, gated bias and probabilities of the whole batch written out."""
    B, T, D = x.shape
    q, k, v = (proj(x).view(B, T, attn.n_heads, -1).transpose(1, 2) for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
    a, b = attn.grep_linear(q).view(B, attn.n_heads, T, 2, 4).sum(-1).sigmoid().chunk(2, -1)
    gate = a * (b * attn.grep_a - 1.0) + 2.0
    scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]) + gate * bias
    y = scores.softmax(-1).to(v.dtype) @ v
    return attn.out_proj(y.transpose(1, 2).reshape(B, T, D))


def plain_layer(layer: BeatsLayer, x: Tensor, bias: Tensor) -> Tensor:
    """One post-norm layer around `plain_attention`."""
    x = layer.self_attn_layer_norm(x * RESIDUAL_SCALE + plain_attention(layer.self_attn, x, bias))
    return layer.final_layer_norm(x * RESIDUAL_SCALE + layer.fc2(F.gelu(layer.fc1(x))))


def plain_forward(backbone: BeatsBackbone, mel: Tensor) -> Tensor:
    """The network's embedding [B, T, 768] by the plain formulation, in evaluation mode."""
    encoder = backbone.beats.encoder
    x = encoder.positioned(backbone.beats.tokens(mel))
    index = torch.arange(x.shape[1], device=x.device)
    bias = F.embedding(relative_buckets(index[None, :] - index[:, None]), encoder.bias_table).permute(2, 0, 1)
    for layer in encoder.layers:
        x = plain_layer(layer, x, bias)  # type: ignore[arg-type]
    return x


def peak_bytes(function: Callable[[], object], device: torch.device) -> int:
    """Most bytes that tensors made by `function` hold at one time."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def synchronised(function: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """`function`, finished on the device when it returns."""
    if device.type != "cuda":
        return function

    def run() -> None:
        function()
        torch.cuda.synchronize()

    return run


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """FLOP per second of one large matrix product."""
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    time = seconds({"matmul": synchronised(lambda: a @ b, device)}, 5)["matmul"]
    return 2 * size**3 / time


def compare(backbone: BeatsBackbone, mel: Tensor, precision: str, repeats: int, matmul_size: int) -> dict[str, Any]:
    """Seconds, peak memory, share of the matrix throughput, and error against float32 of both ways."""
    device, dtype = mel.device, PRECISIONS[precision]
    autocast: Callable[[], Any] = contextlib.nullcontext
    if dtype != torch.float32:
        autocast = partial(torch.autocast, device.type, dtype)

    def ours() -> Tensor:
        with autocast():
            return backbone(mel)

    def plain() -> Tensor:
        with autocast():
            return plain_forward(backbone, mel)

    with FlopCounterMode(display=False) as counter:
        exact = plain_forward(backbone, mel)
    flops = counter.get_total_flops()
    result: dict[str, Any] = {"device": device.type, "precision": precision, "batch": mel.shape[0]}
    result["gflop"] = round(flops / 1e9, 1)
    rate = matmul_rate(dtype, device, matmul_size)
    result["matmul_gflop_per_s"] = round(rate / 1e9, 1)
    ways = {"ours": ours, "plain": plain}
    times = seconds({name: synchronised(way, device) for name, way in ways.items()}, repeats)
    for name, way in ways.items():
        result[f"{name}_s"] = round(times[name], 4)
        result[f"{name}_peak_mb"] = round(peak_bytes(way, device) / 1e6, 1)
        result[f"{name}_share_of_matmul"] = round(flops / times[name] / rate, 3)
        result[f"{name}_error"] = float(f"{(way() - exact).std() / exact.std():.2g}")
    result["speedup"] = round(times["plain"] / times["ours"], 2)
    result["memory_ratio"] = round(result["plain_peak_mb"] / result["ours_peak_mb"], 2)
    return result


def main() -> None:
    """Run all comparisons, print a line for each and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that the script works")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    batch, repeats, matmul_size = (2, 1, 256) if args.quick else (args.batch, args.repeats, 4096)
    torch.manual_seed(0)
    backbone = (beats(depth=2, dim=64, n_heads=4) if args.quick else beats()).eval()
    clips = 0.1 * torch.randn(batch, N_SAMPLES // 5 if args.quick else N_SAMPLES)
    results = []
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        backbone.to(device)
        with torch.no_grad():
            mel = backbone.mel_forward(clips.to(device))
            for precision in PRECISIONS:
                results.append(compare(backbone, mel, precision, repeats, matmul_size))
                print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    print(json_text({"benchmark": "teacher", "model": "BEATs", **machine(), "gpu": gpu, "results": results}))


if __name__ == "__main__":
    main()
