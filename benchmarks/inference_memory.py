"""Peak memory of inference.py over one long file, and over a folder of many short ones: it must not grow with them.

Each size in a process of its own, the smallest as baseline; random weights that hear one class in fifty. Words that
this script does not know go to inference.py. The last line is one JSON object.
Run: python benchmarks/inference_memory.py [--quick] [--hours 0.1 2 10] [--files 100 10000] [--backend=openvino ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import torch
from forward import build
from timing import machine

from json_text import json_text

ROOT = Path(__file__).resolve().parents[1]
LONG_RATE, SHORT_RATE, SHORT_SECONDS = 44_100, 16_000, 0.2
WATCHED = """
import sys
import inference
from benchmarks.peak_memory import peak_rss
code = inference.main(sys.argv[1:])
print(peak_rss() / 1e6)
sys.exit(code)
"""


def noise(seconds: float, rate: int) -> np.ndarray:
    """Noise whose level changes every quarter of a second or more often, float64 [n]."""
    rng = np.random.default_rng(0)
    n, step = round(seconds * rate), rate // 4
    return (rng.standard_normal(n) * np.repeat(rng.uniform(0.005, 0.2, -(-n // step)), step)[:n]).clip(-1, 1)


def write_long(path: Path, hours: float) -> Path:
    """A 16-bit WAV file, the same minute again and again."""
    minute = noise(60, LONG_RATE)
    with soundfile.SoundFile(path, "w", LONG_RATE, 1, "PCM_16") as file:
        for _ in range(max(1, round(hours * 60))):
            file.write(minute)
    return path


def write_short(folder: Path, n_files: int) -> Path:
    """A folder of equal 16-bit WAV files."""
    folder.mkdir()
    soundfile.write(folder / "0.wav", noise(SHORT_SECONDS, SHORT_RATE), SHORT_RATE, "PCM_16")
    content = (folder / "0.wav").read_bytes()
    for i in range(1, n_files):
        (folder / f"{i}.wav").write_bytes(content)
    return folder


def peak(audio: Path, options: list[str]) -> dict[str, float]:
    """Peak memory (MB) and seconds of a process that runs inference.py."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", WATCHED, f"--audio_file={audio}", f"--out={out}", *options]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return {"peak_mb": round(float(done.stdout.split()[-1])), "seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Measure every size and print the figures, and the JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that the script works")
    parser.add_argument("--model", default="fmn04", help="a backbone")
    parser.add_argument("--hours", nargs="*", type=float, default=[0.1, 2.0], help="of one file; 10: 3.2 GB of disk")
    parser.add_argument("--files", nargs="*", type=int, default=[100, 10_000], help=f"of {SHORT_SECONDS} s each")
    args, options = parser.parse_known_args()
    if args.quick:
        args.hours, args.files = [1 / 60], [2]
    torch.manual_seed(0)
    model = build(args.model)
    with torch.no_grad():
        model.strong_head.bias -= 2.5  # type: ignore[misc]
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        torch.save(model.state_dict(), folder / "weights.pt")
        options += [f"--model_name={args.model}", f"--checkpoint={folder / 'weights.pt'}"]
        sizes = [(f"{hours:g} h", write_long, hours) for hours in args.hours]
        sizes += [(f"{n} files", write_short, n) for n in args.files]  # type: ignore[misc]
        peak(write_short(folder / "first", 1), options)  # may export the model
        for i, (name, write, size) in enumerate(sizes):
            results[name] = peak(write(folder / f"{i}.wav", size), options)
            print(f"{name:>12}: {results[name]['peak_mb']} MB, {results[name]['seconds']} s", flush=True)
    print(json_text({"benchmark": "inference_memory", "model": args.model, **machine(), "results": results}))


if __name__ == "__main__":
    main()
