"""What the weak stage is worth: mAP of a tagger from scratch, and the strong stage from it against from scratch.

On the synthetic set; both strong runs of a seed have equal steps and options. The last line is one JSON object.
Run: python benchmarks/weak_stage.py --out runs/weak_stage [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distillation_study import FIGURE, call
from timing import machine

from json_text import json_text

COMMON = [
    "--model_name=fmn04",
    "--accumulate_grad_batches=1",
    "--lr_decay=0",
    "--logger=none",
    "--checkpoint_minutes=0",
]
WEAK = ["--pretrained=scratch", "--batch_size=8", "--max_lr=3e-3", "--warm_up_len=1", "--check_val_every_n_epoch=1000"]
STRONG = ["--batch_size=8", "--max_lr=2e-3", "--wavmix_p=0", "--mixup_p=0", "--frame_shift_range=0"]


def figure(folder: Path, name: str) -> float:
    """A figure that a run wrote."""
    return float(json.loads((folder / "metrics.json").read_text())[name])


def main() -> None:
    """Run both stages, print the figures and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/weak_stage"), help="folder of data and runs")
    parser.add_argument("--quick", action="store_true", help="tiny: only shows that the script works")
    parser.add_argument("--weak_epochs", type=int, default=12)
    parser.add_argument("--strong_epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the strong stage")
    args = parser.parse_args()
    train, evaluation, weak_epochs, strong_epochs = 480, 96, args.weak_epochs, args.strong_epochs
    if args.quick:
        train, evaluation, weak_epochs, strong_epochs = 16, 4, 1, 1
    out = args.out.resolve()
    call("-m", "data_util.synthetic", "--out", out / "data", "--train", train, "--eval", evaluation, "--seed", "0")
    here = [*COMMON, f"--data_dir={out / 'data'}", f"--output_dir={out}", "--overwrite"]
    ramp = [f"--ramp_down_start={weak_epochs // 2}", f"--ramp_down_len={max(1, weak_epochs // 2)}"]
    started = time.monotonic()
    lengths = [f"--n_epochs={weak_epochs}", f"--epoch_len={train}"]
    call("ex_audioset_weak.py", *here, *WEAK, *ramp, *lengths, "--experiment_name=weak")
    minutes = (time.monotonic() - started) / 60
    starts = {"scratch": "--pretrained=scratch", "weak": f"--checkpoint={out / 'weak' / 'last.ckpt'}"}
    strong: dict[str, list[float]] = {f"psds1_from_{name}": [] for name in starts}
    for seed in args.seeds[:1] if args.quick else args.seeds:
        for name, start in starts.items():
            run = f"strong_from_{name}_{seed}"
            length = [f"--n_epochs={strong_epochs}", f"--seed={seed}"]
            call("ex_audioset_strong.py", *here, *STRONG, start, *length, f"--experiment_name={run}")
            strong[f"psds1_from_{name}"].append(round(figure(out / run, FIGURE), 4))
    result = {"mAP": round(figure(out / "weak", "val/mAP"), 4), "weak_minutes": round(minutes, 1), **strong}
    print(", ".join(f"{key} {value}" for key, value in result.items()))
    print(json_text({"benchmark": "weak_stage", "quick": args.quick, **machine(), **result}))


if __name__ == "__main__":
    main()
