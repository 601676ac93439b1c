"""The whole path in a few minutes: make a data set, train a detector from scratch, evaluate it, run it on a file.

Runs the same commands that a user would type and prints each of them: `make demo`, or `python demo.py --out DIR`. The
exit code is 0 when every step has done its work; how good the detector is, which differs a little from one processor to
another, is told in words.
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
# Unlike the published recipe: less than a thousand steps from scratch need small batches, one learning rate and no
# augmentations. Averaged weights make the result depend little on the seed and on the processor (docs/benchmarks.md).
SHORT_TRAINING = [
    "--accelerator=cpu",
    "--num_devices=2",  # the network is too small for a second thread to help; a second process does
    "--batch_size=2",
    "--accumulate_grad_batches=1",
    "--n_epochs=10",
    "--check_val_every_n_epoch=10",  # a validation takes a third of an epoch
    "--max_lr=2e-3",
    "--ema=0.99",
    "--lr_decay=0",
    "--no_mel_jitter",
    "--wavmix_p=0",
    "--mixup_p=0",
    "--frame_shift_range=0",
]
THRESHOLD = 0.5
MIN_GAIN = 0.3  # PSDS1 that the training must add to that of random weights: far less means that a step is broken
USUAL = 0.80  # PSDS1 that every run on which the figures of the README rest has reached
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


def losses(folder: Path) -> list[float]:
    """Training loss of each epoch that a run wrote."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def failures(before: float, after: float, loss: list[float], n_detected: int) -> list[str]:
    """Steps that did not do their work, in words: PSDS1 before and after training, loss per epoch, events written."""
    checks = {
        f"PSDS1 rose from {before:.3f} to {after:.3f} only: expected {MIN_GAIN} more": after >= before + MIN_GAIN,
        f"the training loss did not fall: {loss}": len(loss) > 1 and loss[-1] < loss[0],
        "no events were detected in the test file": n_detected > 0,
    }
    return [words for words, fine in checks.items() if not fine]


def remarks(after: float, n_found: int, n_true: int) -> list[str]:
    """What is weaker than usual, although every step worked."""
    notes = [f"PSDS1 is below {USUAL:.2f}, which other machines reach"] if after < USUAL else []
    return notes + ([f"{n_true - n_found} of {n_true} true events were missed"] if n_found < n_true else [])


def main() -> None:
    """Run the demo into a folder; exit code 1 if a step did not do its work."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything [default: demo]")
    parser.add_argument("--seed", type=int, default=1, help="seed of data and training [default: 1]")
    args = parser.parse_args()
    out, seed = args.out, f"--seed={args.seed}"
    started = time.monotonic()
    data, audio = out / "data", Path("test_files/example.wav")  # held out: no training clip has its random numbers
    truth = audio.with_suffix(".tsv")
    runs = [f"--data_dir={data}", f"--output_dir={out}", "--overwrite", "--logger=csv"]
    best = f"--checkpoint={out / 'trained' / 'best.ckpt'}"
    script = "ex_audioset_strong.py"

    run("-m", "data_util.synthetic", "--out", data, "--train", "480", "--eval", "96", seed, "--overwrite")
    run(script, *MODEL, "--pretrained=scratch", "--evaluate", *runs, "--experiment_name=untrained")
    run(script, *MODEL, "--pretrained=scratch", *SHORT_TRAINING, seed, *runs, "--experiment_name=trained")
    thresholds = ["--detection_thresholds", str(THRESHOLD)]
    results = [f"--out={out / 'detections'}", "--plot", f"--true_events={truth}", "--overwrite"]
    run("inference.py", best, f"--audio_file={audio}", *thresholds, *results)

    true, detected = read_events(truth), read_events(out / "detections" / "example.tsv")
    before, after, n_found = psds1(out / "untrained"), psds1(out / "trained"), found(true, detected)
    print(f"""
Done in {(time.monotonic() - started) / 60:.1f} minutes.
  PSDS1 before training   {before:.3f}
  PSDS1 after training    {after:.3f}  (macro average over the classes of the evaluation clips)
  {audio}  {n_found} of {len(true)} true events found, {len(detected)} detected
  data set                {data}
  run, checkpoints        {out / "trained"}
  events                  {out / "detections" / "example.tsv"}
  picture                 {out / "detections" / "example.png"}""")
    for remark in remarks(after, n_found, len(true)):
        print(f"  note: {remark}")
    if failed := failures(before, after, losses(out / "trained"), len(detected)):
        sys.exit("error: " + "; ".join(failed))


if __name__ == "__main__":
    main()
