"""What pretraining is worth on DCASE 2016 task 2: fmn04 from a synthetic AudioSet checkpoint against from scratch.

On a generated set in HEAR's packaging; both runs have equal steps, options, seeds. The checkpoint is `--checkpoint`, or
it is trained first as `make demo` trains it. The last line is one JSON object.
Run: python benchmarks/dcase2016task2.py --out runs/dcase2016task2 [--checkpoint demo/trained/best.ckpt] [--quick]
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

from distillation_study import call
from timing import machine

from demo import MODEL, SHORT_TRAINING
from json_text import json_text

FIGURES = ("onset_fms", "onset_fms_50", "segment_1s_er")
# Unlike the published recipe: a hundred steps need small batches, a high learning rate and quick batch-norm statistics.
SHORT = [
    *MODEL,
    "--batch_size=8",
    "--max_lr=3e-3",
    "--bn_momentum=0.1",
    "--wavmix_p=0",
    "--mixup_p=0",
    "--check_val_every_n_epoch=4",
    "--logger=none",
    "--checkpoint_minutes=0",
    "--overwrite",
]


def pretrain(out: Path, quick: bool) -> Path:
    """Train the detector of `make demo` on synthetic AudioSet; returns its best checkpoint."""
    train, evaluation, shorter = (16, 4, ["--n_epochs=1"]) if quick else (480, 96, [])
    call("-m", "data_util.synthetic", "--out", out / "audioset", "--train", train, "--eval", evaluation, "--seed", "1")
    where = [f"--data_dir={out / 'audioset'}", f"--output_dir={out}", "--experiment_name=pretrained", "--overwrite"]
    call("ex_audioset_strong.py", *MODEL, "--pretrained=scratch", *SHORT_TRAINING, *shorter, *where, "--logger=none")
    return out / "pretrained" / "best.ckpt"


def main() -> None:
    """Run both, print the figures and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/dcase2016task2"), help="folder of data and runs")
    parser.add_argument("--checkpoint", type=Path, help="fmn04 from synthetic AudioSet (default: train one)")
    parser.add_argument("--quick", action="store_true", help="tiny: only shows that the script works")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    args = parser.parse_args()
    files, others, length, epochs = (2, 1, 20, 1) if args.quick else (10, 12, 60, args.epochs)
    out = args.out.resolve()
    checkpoint = args.checkpoint.resolve() if args.checkpoint else pretrain(out, args.quick)
    sizes = ["--train", files, "--eval", others, "--seconds", length, "--seed", 1]
    call("-m", "data_util.synthetic", "--layout", "dcase2016task2", "--out", out / "task", *sizes)
    starts = {"pretrained": f"--checkpoint={checkpoint}", "scratch": "--pretrained=scratch"}
    runs: dict[str, dict[str, float]] = {}
    for seed in args.seeds:
        for name, start in starts.items():
            where = [f"--task_path={out / 'task'}", f"--output_dir={out}", f"--experiment_name={name}_{seed}"]
            started = time.monotonic()
            call("ex_dcase2016task2.py", *SHORT, start, f"--n_epochs={epochs}", f"--seed={seed}", *where)
            minutes = (time.monotonic() - started) / 60
            figures = json.loads((out / f"{name}_{seed}" / "metrics.json").read_text())
            test = {f: round(figures[f"test/{f}"], 4) for f in FIGURES}
            runs[f"{name}_{seed}"] = test | {"minutes": round(minutes, 2)}
    print(f"{'start, seed':<14}" + "".join(f"{name:>16}" for name in (*FIGURES, "minutes")))
    for name, row in runs.items():
        print(f"{name:<14}" + "".join(f"{value:>16.4f}" for value in row.values()))
    print(json_text({"benchmark": "dcase2016task2", "quick": args.quick, "epochs": epochs, **machine(), "runs": runs}))


if __name__ == "__main__":
    main()
