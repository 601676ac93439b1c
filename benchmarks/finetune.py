"""From recordings and a table to a detector: minutes and F1 on held-out recordings, with no option but the two paths.

A set with 3 classes and 60 short recordings is generated, `ex_finetune.py` learns from it, and `inference.py` listens
to 20 further recordings with the checkpoint that came out. The last line is one JSON object.
Run: python benchmarks/finetune.py --out runs/finetune_benchmark [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from timing import machine

from data_util.own_data import read_own_data
from helpers.event_counts import event_counts as count_events
from helpers.event_counts import f1, f1_intervals, segment_counts
from json_text import json_text

ROOT = Path(__file__).resolve().parents[1]


def call(*words: str | Path, cwd: Path = ROOT) -> tuple[float, float]:
    """Run a script or module of the project; ends the benchmark where it fails.

    Returns:
        Seconds on the clock, and seconds of all cores together, which other programs on the machine hardly change.
    """
    print(f"$ python {' '.join(map(str, words))}", flush=True)
    script = [str(ROOT / words[0])] if str(words[0]).endswith(".py") else [str(words[0])]
    start, before = time.monotonic(), os.times()
    done = subprocess.run(
        [sys.executable, *script, *map(str, words[1:])],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    after = os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - start, busy


def main() -> None:
    """Generate, fine-tune, listen, score; print a table and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/finetune_benchmark"), help="folder of data and runs")
    parser.add_argument("--quick", action="store_true", help="tiny: only shows that the script works")
    args = parser.parse_args()
    out = args.out.resolve()
    sizes = ["--train=9", "--eval=4", "--seconds=2"] if args.quick else []
    call("-m", "data_util.synthetic", "--layout=own", "--out", out / "data", "--overwrite", *sizes)
    short = ["--n_epochs=1", "--batch_size=4"] if args.quick else []
    data = out / "data"
    shutil.rmtree(out / "runs", ignore_errors=True)
    training, busy = call("ex_finetune.py", "--audio", data / "audio", "--events", data / "events.csv", *short, cwd=out)
    checkpoint = out / "runs" / "finetune" / "best.ckpt"
    heldout, detections = data / "heldout", out / "detections"
    listening, _ = call(
        "inference.py",
        "--checkpoint",
        checkpoint,
        "--audio_file",
        heldout / "audio",
        "--out",
        detections,
        "--overwrite",
    )
    result = score(heldout, detections)
    report = json.loads((out / "runs" / "finetune" / "report.json").read_text())
    result |= {"test_event_f1": report["event_f1"][0], "test_psds1": report["psds1"][0]}
    times = {
        "training_minutes": round(training / 60, 2),
        "training_core_minutes": round(busy / 60, 2),
        "listening_seconds": round(listening, 1),
    }
    print(json_text({"benchmark": "finetune", "quick": args.quick, **machine(), **times, **result}))


def score(heldout: Path, detections: Path) -> dict[str, float | int]:
    """F1 of what `inference.py` wrote, against the table of the held-out recordings."""
    data = read_own_data(heldout / "audio", heldout / "events.csv")
    events, segments = [], []
    for r in data.recordings:
        lines = (detections / f"{Path(r.name).stem}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        rows = [line.split("\t") for line in lines]
        found = [(float(onset), float(offset), label) for _, onset, offset, label in rows]
        events.append(count_events(found, r.events, data.labels))
        segments.append(segment_counts(found, r.events, data.labels, r.duration))
    of_classes, mean = f1_intervals(np.stack(events))
    print(f"\n{'class':<10} {'events':>6} {'event F1':>9} {'95 %':>14} {'segment F1':>11}")
    for c, label in enumerate(data.labels):
        total, estimate = np.sum(events, axis=0)[c], of_classes[c]
        segment = float(f1(np.sum(segments, axis=0)[c]))
        span = f"{estimate.low:.2f} to {estimate.high:.2f}"
        print(f"{label:<10} {total[0] + total[2]:>6} {estimate.value:>9.3f} {span:>14} {segment:>11.3f}")
    segment_f1 = float(np.nanmean(f1(np.sum(segments, axis=0))))
    print(f"{'mean':<10} {'':>6} {mean.value:>9.3f} {f'{mean.low:.2f} to {mean.high:.2f}':>14} {segment_f1:>11.3f}\n")
    return {
        "heldout_recordings": len(data.recordings),
        "heldout_event_f1": round(mean.value, 4),
        "heldout_event_f1_low": round(mean.low, 4),
        "heldout_event_f1_high": round(mean.high, 4),
        "heldout_segment_f1": round(segment_f1, 4),
    }


if __name__ == "__main__":
    main()
