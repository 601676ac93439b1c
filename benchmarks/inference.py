"""From WAV files to events: the plain PyTorch formulation against the detector with each of its backends.

Decoding, resampling, mel, network, median filter and events of clips of 10 s, in one run and in turn; then the cold
start of the command line against `import torch`. The last line is one JSON object.
Run: python benchmarks/inference.py [--quick] [--clips 64] [--model fmn10+tf-256] [--backends torch openvino ...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import soundfile
import soxr
import torch
from forward import build
from scipy import ndimage
from timing import machine, seconds

from errors import UserError
from helpers.detector import Detector
from helpers.exporting import cached_onnx
from helpers.pipeline import Job, in_one_list
from helpers.runtimes import RUNTIMES
from json_text import json_text
from models import SEDModel

ROOT = Path(__file__).resolve().parents[1]
VARIANTS = {
    "torch": ("torch", "32-true"),
    "torch_bf16": ("torch", "bf16-mixed"),
    "onnxruntime": ("onnxruntime", "32-true"),
    "openvino": ("openvino", "32-true"),
    "openvino_bf16": ("openvino", "bf16-mixed"),
}
THRESHOLDS = [0.1, 0.2, 0.5]
SECONDS, RATE = 10, 32_000
BATCH_SIZE, MEDIAN_WINDOW = 8, 9
Events = list[tuple[int, int, int]]


def make_files(folder: Path, n_clips: int) -> list[Path]:
    """Clips of noise with bursts, 16-bit WAV at the rate that AudioSet is kept in."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(n_clips):
        audio = rng.standard_normal(SECONDS * RATE) * np.repeat(rng.uniform(0.005, 0.2, SECONDS * 4), RATE // 4)
        paths.append(folder / f"clip{i:04d}.wav")
        soundfile.write(paths[-1], audio.clip(-1, 1), RATE, "PCM_16")
    return paths


def quiet(model: SEDModel) -> SEDModel:
    """The model with so low biases that about one class in fifty is heard, as in real recordings."""
    with torch.no_grad():
        model.strong_head.bias -= 2.5  # type: ignore[misc]
    return model


def plain(model: SEDModel, paths: list[Path]) -> int:
    """The published formulation: read, batch, network, SciPy's median filter, runs of each class; counts events."""
    n_events = 0
    for start in range(0, len(paths), BATCH_SIZE):
        clips = []
        for path in paths[start : start + BATCH_SIZE]:
            audio, rate = soundfile.read(path, dtype="float32")
            clips.append(soxr.resample(audio, rate, 16_000))
        with torch.no_grad():
            strong, _ = model(model.mel_forward(torch.from_numpy(np.stack(clips))))
            scores = strong.sigmoid().numpy()
        for clip in scores:
            smooth = ndimage.median_filter(clip, (1, MEDIAN_WINDOW))
            for threshold in THRESHOLDS:
                n_events += sum(ndimage.label(row > threshold)[1] for row in smooth)
    return n_events


def through(detector: Detector, paths: list[Path]) -> int:
    """All files through a detector; counts events."""
    results = detector.detect_many(in_one_list([Job(str(path)) for path in paths]), n_threads=2)
    return sum(len(table) for _, result in results for table in result.tables.values())  # type: ignore[union-attr, misc]


def make_detector(model: SEDModel, backend: str, precision: str) -> Detector:
    """A detector with that backend; UserError where it is not installed."""
    options: dict[str, Any] = {
        "batch_size": BATCH_SIZE,
        "detection_thresholds": THRESHOLDS,
        "median_window": MEDIAN_WINDOW,
    }
    if backend == "torch":
        return Detector(model, precision=precision, **options)
    return Detector(RUNTIMES[backend](cached_onnx(model), precision=precision), **options)


def throughput(model: SEDModel, paths: list[Path], backends: list[str], repeats: int) -> dict[str, float]:
    """Clips per second of each variant, and how many times that of the plain formulation."""
    functions: dict[str, Callable[[], object]] = {"plain": lambda: plain(model, paths)}
    events = {"plain": plain(model, paths)}
    for name in backends:
        try:
            detector = make_detector(model, *VARIANTS[name])
        except UserError as error:
            print(f"{name}: left out ({error})")
            continue
        functions[name] = lambda detector=detector: through(detector, paths)  # type: ignore[misc]
        events[name] = through(detector, paths)
    times = seconds(functions, repeats)
    result: dict[str, float] = {}
    for name, took in times.items():
        result[f"{name}_clips_per_second"] = round(len(paths) / took, 1)
        result[f"{name}_speedup"] = round(times["plain"] / took, 2)
        print(f"{name:>15}: {len(paths) / took:6.1f} clips/s, {times['plain'] / took:5.2f} x, {events[name]} events")
    return result


def cold_start(model: SEDModel, name: str, path: Path, repeats: int) -> dict[str, float]:
    """Seconds of whole processes: `import torch`, and inference.py on one file with PyTorch and with OpenVINO."""
    backbone, _, sequence = name.partition("+")
    seq_type, _, dim = sequence.partition("-")
    folder = path.parent
    torch.save(model.state_dict(), folder / "weights.pt")
    options = [f"--model_name={backbone}", f"--checkpoint={folder / 'weights.pt'}"]
    options += [f"--seq_model_type={seq_type}", f"--seq_model_dim={dim}"] if seq_type else []
    script = [sys.executable, str(ROOT / "inference.py"), f"--audio_file={path}", f"--out={folder / 'out'}"]
    commands = {
        "import_torch": [sys.executable, "-c", "import torch"],
        "inference_torch": [*script, *options],
        "inference_openvino": [*script, f"--checkpoint={cached_onnx(model)}", "--backend=openvino"],
    }
    best = dict.fromkeys(commands, float("inf"))
    for _ in range(repeats):
        for key, command in commands.items():
            start = time.perf_counter()
            code = subprocess.run(command, capture_output=True).returncode
            best[key] = min(best[key], time.perf_counter() - start) if code == 0 else best[key]
    result = {f"{key}_seconds": round(value, 2) for key, value in best.items() if np.isfinite(value)}
    for key, value in result.items():
        print(f"{key:>26}: {value:5.2f} s, {value / result['import_torch_seconds']:4.2f} x import torch")
    return result


def main() -> None:
    """Run everything and print the figures, and the JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few clips, one backend: only shows that the script works")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--model", default="fmn10+tf-256")
    parser.add_argument("--backends", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.clips, args.model, args.backends, args.repeats = 4, "fmn04", ["torch"], 1
    torch.manual_seed(0)
    model = quiet(build(args.model)).eval()
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder), args.clips)
        results = throughput(model, paths, args.backends, args.repeats)
        if not args.quick:
            results |= cold_start(model, args.model, paths[0], min(3, args.repeats))
    about = {"benchmark": "inference", "model": args.model, "clips": args.clips, "batch": BATCH_SIZE}
    print(json_text({**about, **machine(), **results}))


if __name__ == "__main__":
    main()
