"""Forward pass on the CPU: the plain detector against `optimize_for_inference`, in float32 and in bfloat16.

From mel spectrograms of 10 s to logits, in one run and in turn. The last line is one JSON object.
Run: python benchmarks/forward.py [--quick] [--models fmn10+tf-256 ...] [--batch_sizes 1 8]
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
from torch import Tensor, nn

from json_text import json_text
from models import SEDModel, create_model
from models.optimize import optimize_for_inference

MODELS = ("fmn04", "fmn10", "fmn10+tf-256", "fmn10+hybrid-256")
MEL_SHAPE = (1, 128, 1000)  # of one clip of 10 s


def build(name: str) -> SEDModel:
    """A detector named like its checkpoint, e.g. fmn10+tf-256, random weights that keep activations at their size."""
    backbone, _, sequence = name.partition("+")
    seq_type, _, dim = sequence.partition("-")
    model = create_model(backbone, seq_model_type=seq_type or None, seq_model_dim=int(dim or 256))
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        elif weight.requires_grad:
            weight.data += 0.1 * torch.randn_like(weight)
    return model


def compare(model: SEDModel, batch_size: int, repeats: int) -> dict[str, float]:
    """Clips per second of each variant, speed-ups over the plain one, largest differences of the strong logits."""
    variants = {
        "plain": model,
        "optimized": optimize_for_inference(model),
        "optimized_bf16": optimize_for_inference(model, bfloat16=True),
    }
    mel = torch.randn(batch_size, *MEL_SHAPE)

    def forward(variant: nn.Module) -> Callable[[], tuple[Tensor, Tensor]]:
        return lambda: variant(mel)

    result: dict[str, float] = {}
    with torch.inference_mode():
        times = seconds({name: forward(variant) for name, variant in variants.items()}, repeats)
        expected = model(mel)[0]
        for name, variant in variants.items():
            result[f"{name}_clips_per_second"] = round(batch_size / times[name], 1)
            if name != "plain":
                result[f"{name}_speedup"] = round(times["plain"] / times[name], 2)
                result[f"{name}_max_difference"] = float((variant(mel)[0] - expected).abs().max())
    result["std_of_logits"] = round(float(expected.std()), 4)
    return result


def main() -> None:
    """Run all comparisons, print a line for each and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small model: only shows that the script works")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    names, sizes, repeats = (("fmn04",), (1,), 1) if args.quick else (args.models, args.batch_sizes, args.repeats)
    torch.manual_seed(0)
    results = []
    for name in names:
        model = build(name)
        for batch_size in sizes:
            results.append({"model": name, "batch": batch_size, **compare(model, batch_size, repeats)})
            print(", ".join(f"{key} {value}" for key, value in results[-1].items()), flush=True)
    print(json_text({"benchmark": "forward", "input": "mel of 10 s", **machine(), "results": results}))


if __name__ == "__main__":
    main()
