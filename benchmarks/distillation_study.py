"""Does distillation help where labels are as imperfect as AudioSet's? A table of all runs, whatever it shows.

On a synthetic set whose training labels miss a share of the events and shift as many (the evaluation labels are
exact), teachers are trained on these labels, their mean logits become pseudo labels, and for each seed one small
student learns from the labels and another one, with everything else equal, from the pseudo labels. All of it once with
short and once with long trainings. Finished runs are kept: the same command again goes on where it was stopped. The
last line is one JSON object.

Run: python benchmarks/distillation_study.py --out study [--quick]; writes docs/distillation_study.md unless --quick
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from timing import machine

from json_text import json_text

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "distillation_study.md"
TEACHER_SEEDS, SEEDS = (101, 102, 103), (0, 1, 2)
NOISE, KD_WEIGHT = 0.5, 0.9
STUDENT, TEACHER = ["--model_name=fmn04"], ["--model_name=fmn06"]
# from scratch in few steps: small batches, one learning rate, light augmentation
TRAINING = [
    "--pretrained=scratch",
    "--batch_size=4",
    "--accumulate_grad_batches=1",
    "--max_lr=3e-3",
    "--lr_decay=0",
    "--warmup_steps=100",
    "--wavmix_p=0",
    "--mixup_p=0.3",
    "--frame_shift_range=0.125",
    "--check_val_every_n_epoch=1000",
    "--checkpoint_minutes=0",
    "--logger=none",
]
FIGURE = "val/psds1_macro_averaged"


def call(*words: str | int | Path) -> None:
    """Run a script of the project; stops the study where it fails."""
    print(f"$ python {' '.join(map(str, words))}", flush=True)
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])


def psds1(out: Path, name: str, *options: str | Path) -> float:
    """PSDS1 after the last epoch of a run, which is made if it is not there yet."""
    figures = out / name / "metrics.json"
    if not figures.is_file():
        here = [f"--output_dir={out}", f"--experiment_name={name}", "--overwrite"]
        call("ex_audioset_strong.py", *here, *TRAINING, *options)
    return float(json.loads(figures.read_text())[FIGURE])


def study(
    out: Path, data: Path, epochs: int, teacher_seeds: tuple[int, ...], seeds: tuple[int, ...]
) -> dict[str, list[float]]:
    """PSDS1 of all runs of one length: teachers, students on labels, students on pseudo labels."""
    always = [f"--data_dir={data}", f"--n_epochs={epochs}"]
    teachers = [psds1(out, f"teacher_{s}", *TEACHER, *always, f"--seed={s}") for s in teacher_seeds]
    store = out / "teachers.hdf"
    if not store.is_file():
        files = [out / f"teacher_{s}" / "last.ckpt" for s in teacher_seeds]
        call("make_pseudo_labels.py", f"--data_dir={data}", "--teachers", *files, f"--out={store}")
    taught = [f"--pseudo_labels_file={store}", f"--distillation_loss_weight={KD_WEIGHT}"]
    hard, soft = [], []
    for s in seeds:
        hard.append(psds1(out, f"labels_{s}", *STUDENT, *always, f"--seed={s}"))
        soft.append(psds1(out, f"distilled_{s}", *STUDENT, *always, f"--seed={s}", *taught))
    return {"teacher": teachers, "student_on_labels": hard, "student_distilled": soft}


def table(results: dict[str, list[float]], epochs: int) -> str:
    """The runs of one length as Markdown."""
    rows = []
    for name, values in results.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        runs = ", ".join(f"{v:.3f}" for v in values)
        rows.append(f"| {name.replace('_', ' ')} | {runs} | {statistics.mean(values):.3f} | {spread:.3f} |")
    pairs = zip(results["student_distilled"], results["student_on_labels"], strict=True)
    differences = [a - b for a, b in pairs]
    listed = ", ".join(f"{d:+.3f}" for d in differences)
    body = "\n".join(rows)
    return f"""## {epochs} epochs

| | PSDS1 of the runs | mean | standard deviation |
| --- | --- | --- | --- |
{body}

Distilled minus on labels, seed by seed: {listed}; mean {statistics.mean(differences):+.3f}.
"""


def report(results: dict[int, dict[str, list[float]]], args: argparse.Namespace) -> str:
    """The study as Markdown."""
    here, tables = machine(), "\n".join(table(runs, epochs) for epochs, runs in results.items())
    return f"""# Distillation where labels are imperfect

Made by `python benchmarks/distillation_study.py`; every run is in the tables.

- Data: synthetic, {args.train} training and {args.eval} evaluation clips. {NOISE:.0%} of the training events are
  disturbed: half of these are left out, half are shifted by up to a second. Evaluation labels are exact.
- Teachers: fmn06, trained on the disturbed labels; the mean of their logits is the pseudo label.
- Students: fmn04. The two kinds differ in `--distillation_loss_weight` (0 and {KD_WEIGHT}) alone, seed by seed.
- All from scratch, batch 4, teachers and students for the same number of epochs; PSDS1 (macro average) after the last
  epoch.

{tables}
{here["cpu"]}, {here["cores"]} cores, torch {here["torch"]}.
"""


def main() -> None:
    """Run the study, print and write its tables, and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation_study"), help="folder of data and runs")
    parser.add_argument("--quick", action="store_true", help="tiny: only shows that the script works")
    parser.add_argument("--train", type=int, default=240, help="training clips")
    parser.add_argument("--eval", type=int, default=120, help="evaluation clips")
    parser.add_argument("--epochs", type=int, nargs="+", default=[10, 25], help="lengths of the trainings")
    args = parser.parse_args()
    teacher_seeds: tuple[int, ...] = TEACHER_SEEDS
    seeds: tuple[int, ...] = SEEDS
    if args.quick:
        args.train, args.eval, args.epochs = 12, 4, [1]
        teacher_seeds, seeds = TEACHER_SEEDS[:1], SEEDS[:1]
    out = args.out.resolve()
    sizes = ["--train", str(args.train), "--eval", str(args.eval), "--seed", "0", "--label_noise", str(NOISE)]
    call("-m", "data_util.synthetic", "--out", out / "data", *sizes)
    results = {n: study(out / f"{n}_epochs", out / "data", n, teacher_seeds, seeds) for n in args.epochs}
    text = report(results, args)
    print(text)
    if not args.quick:
        TABLE.write_text(text, encoding="utf-8")
    print(json_text({"benchmark": "distillation_study", "quick": args.quick, **machine(), "runs": results}))


if __name__ == "__main__":
    main()
