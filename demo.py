"""The whole path in a few minutes: make a data set, train a detector from scratch, evaluate it, run it on a file.

Runs the same commands that a user would type and prints each of them: `make demo`, or `python demo.py --out DIR`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

MODEL = ["--model_name=fmn04"]
# Unlike the published recipe: a few hundred steps from scratch need small batches and one learning rate.
SHORT_TRAINING = [
    "--batch_size=4",
    "--accumulate_grad_batches=1",
    "--n_epochs=6",
    "--max_lr=3e-3",
    "--lr_decay=0",
    "--wavmix_p=0",
    "--mixup_p=0",
    "--frame_shift_range=0",
]
THRESHOLD = 0.5
LEARNT, CHANCE = 0.60, 0.05  # PSDS1 that the training must reach, and that random weights must stay below
MIN_OVERLAP = 0.5  # intersection over union of a true event and the detection that finds it


def run(*command: str | Path) -> None:
    """Print a command, run it, and stop the demo if it fails."""
    words = [str(word) for word in command]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    code = subprocess.call([sys.executable, *words], env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"})
    if code:
        sys.exit(code)


def psds1(folder: Path) -> float:
    """PSDS1 (macro average) that a run wrote."""
    return json.loads((folder / "metrics.json").read_text())["val/psds1_macro_averaged"]


def read_events(path: Path) -> list[tuple[float, float, str]]:
    """Events (onset s, offset s, label) of a TSV in DCASE form."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [(float(row["onset"]), float(row["offset"]), row["event_label"]) for row in rows]


def overlap(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two intervals (s)."""
    intersection = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    return intersection / (a[1] - a[0] + b[1] - b[0] - intersection)


def found(true: list[tuple[float, float, str]], detected: list[tuple[float, float, str]]) -> int:
    """Number of true events that a detection of the same class overlaps well enough."""
    return sum(
        any(label == d[2] and overlap((onset, offset), d[:2]) >= MIN_OVERLAP for d in detected)
        for onset, offset, label in true
    )


def shortfalls(before: float, after: float, n_found: int, n_true: int) -> list[str]:
    """What the demo was to show and did not: PSDS1 before and after training, true events found of those there are."""
    checks = {
        f"PSDS1 before training is {before:.3f}, not below {CHANCE:.2f}": before < CHANCE,
        f"PSDS1 after training is {after:.3f}, not {LEARNT:.2f} or more": after >= LEARNT,
        f"{n_true - n_found} of {n_true} true events of the test file were not found": n_found == n_true,
    }
    return [words for words, fine in checks.items() if not fine]


def main() -> None:
    """Run the demo into a folder; exit code 1 if its result falls short."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything [default: demo]")
    out: Path = parser.parse_args().out
    started = time.monotonic()
    data, audio = out / "data", Path("test_files/example.wav")  # held out: no training clip has its random numbers
    truth = audio.with_suffix(".tsv")
    runs = [f"--data_dir={data}", f"--output_dir={out}", "--overwrite", "--logger=csv"]
    best = f"--checkpoint={out / 'trained' / 'best.ckpt'}"
    script = "ex_audioset_strong.py"

    run("-m", "data_util.synthetic", "--out", data, "--train", "480", "--eval", "96", "--seed", "1", "--overwrite")
    run(script, *MODEL, "--pretrained=scratch", "--evaluate", *runs, "--experiment_name=untrained")
    run(script, *MODEL, "--pretrained=scratch", *SHORT_TRAINING, *runs, "--experiment_name=trained")
    run(script, best, "--evaluate", *runs, "--experiment_name=evaluated")
    thresholds = ["--detection_thresholds", str(THRESHOLD)]
    results = [f"--out={out / 'detections'}", "--plot", f"--true_events={truth}", "--overwrite"]
    run("inference.py", best, f"--audio_file={audio}", *thresholds, *results)

    true, detected = read_events(truth), read_events(out / "detections" / "example.tsv")
    before, after, n_found = psds1(out / "untrained"), psds1(out / "evaluated"), found(true, detected)
    print(f"""
Done in {(time.monotonic() - started) / 60:.1f} minutes.
  PSDS1 before training   {before:.3f}
  PSDS1 after training    {after:.3f}  (macro average over the classes of the evaluation clips)
  {audio}  {n_found} of {len(true)} true events found, {len(detected)} detected
  data set                {data}
  run, checkpoints        {out / "trained"}
  events                  {out / "detections" / "example.tsv"}
  picture                 {out / "detections" / "example.png"}""")
    if short := shortfalls(before, after, n_found, len(true)):
        sys.exit("error: " + "; ".join(short))


if __name__ == "__main__":
    main()
