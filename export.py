"""Write a detector as ONNX, OpenVINO or TorchScript, mel front end inside, and compare it with PyTorch on real audio.

Example: python export.py --checkpoint best.ckpt --format onnx openvino --audio_file test_files/example.wav
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import ModelOptions, check_output, option, parse
from errors import UserError, exit_on_user_error
from helpers.audio_reader import SAMPLE_RATE, read_blocks
from helpers.outputs import OutputFolder
from printable import printable

FORMATS = ("onnx", "openvino", "torchscript")
EXAMPLE = Path("test_files/example.wav")
THRESHOLD = 0.5
LARGEST_DIFFERENCE = 0.02  # of a probability, float16 weights included
# (clips, seconds) that every exported model is tried on: one, several, and lengths that no window has
TRIALS = ((1, 10.0), (3, 10.0), (2, 4.21), (1, 13.7))

Scores = Callable[[np.ndarray], np.ndarray]


@dataclass
class ExportOptions(ModelOptions):
    """Write a detector as ONNX, OpenVINO or TorchScript, and compare it with PyTorch on real audio."""

    pretrained: str = option("strong", "released weights: strong, advanced-kd-weak-strong, scratch or a card's name")
    checkpoint: Path | None = option(None, "weights file; one of our own training names its model itself")
    format: list[str] = option(["onnx", "openvino"], "one or several", choices=FORMATS)
    half: bool = option(False, "store weights in float16 (half the size); the front end stays in float32")
    out: Path = option(Path("exports"), "folder for the files")
    overwrite: bool = option(False, "replace even files that this program did not write, or that were changed since")
    audio_file: Path | None = option(None, "recording to compare on (default: the example in test_files)")

    def check(self) -> None:
        """Raise UserError where nothing can be written."""
        check_output("out", self.out, folder=True)


@exit_on_user_error()
def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(ExportOptions, argv)
    audio = _recording(options.audio_file)
    from helpers.backends import load_torch_model, model_title

    model = load_torch_model(
        options.model_name,
        seq_model_type=options.seq_model_type,
        seq_model_dim=options.seq_model_dim,
        pretrained=options.pretrained,
        checkpoint=options.checkpoint,
    )
    stem = model_title(model).replace(":", "-")
    files = _export(model, stem, options)
    print(
        f"\n{model_title(model)}: largest difference of any probability from PyTorch, and of decisions at {THRESHOLD}"
    )
    worst = 0.0
    for file in files:
        worst = max(worst, _compare(model, file, audio))
    if worst > LARGEST_DIFFERENCE:
        raise UserError(f"an exported file differs by {worst:.2g}: use it only for the sizes that are right above")
    return 0


def _recording(path: Path | None) -> np.ndarray:
    """The audio to compare on, repeated to the length of the trials."""
    chosen = path or EXAMPLE
    if path is None and not EXAMPLE.is_file():
        raise UserError("--audio_file is missing: name a recording to compare the exported model on")
    samples = np.concatenate(list(read_blocks(chosen)))
    needed = int(max(seconds for _, seconds in TRIALS) * SAMPLE_RATE) + 3 * SAMPLE_RATE
    return np.resize(samples, max(needed, len(samples)))


def _export(model, stem: str, options: ExportOptions) -> list[Path]:  # type: ignore[no-untyped-def]
    """Write all formats; returns their files."""
    from helpers.exporting import export_onnx, export_openvino, export_torchscript

    folder = OutputFolder(options.out, overwrite=options.overwrite)
    files = []
    if {"onnx", "openvino"} & set(options.format):
        print("exporting to ONNX (a minute or so) ...", flush=True)
        onnx = folder.write(f"{stem}.onnx", lambda path: _report_length(export_onnx(model, path, half=options.half)))
        files += [onnx] if "onnx" in options.format else []
        if "openvino" in options.format:
            with folder.staged(f"{stem}.bin") as weights, folder.staged(f"{stem}.xml") as graph:
                export_openvino(onnx, graph)
                graph.with_suffix(".bin").rename(weights)
            files.append(folder.path / f"{stem}.xml")
    if "torchscript" in options.format:
        files.append(folder.write(f"{stem}.torchscript.pt", lambda path: export_torchscript(model, path)))
    return files


def _report_length(any_length: bool) -> None:
    if not any_length:
        print("note: this network takes windows of 10 s only, in batches of any size")


def _runners(file: Path) -> dict[str, Scores]:
    """What can run an exported file, by name."""
    from helpers.runtimes import ENDINGS, RUNTIMES

    if file.suffix == ".pt":
        import torch

        traced = torch.jit.load(str(file))
        return {"torchscript": lambda x: traced(torch.from_numpy(x))[0].detach().numpy()}
    runners: dict[str, Scores] = {}
    for name in ENDINGS[file.suffix]:
        try:
            backend = RUNTIMES[name](file)
        except UserError as error:
            print(f"  {name}: {error}")
            continue
        runners[name] = lambda x, run=backend: run(x)[0]  # type: ignore[misc]
    return runners


def _compare(model, file: Path, audio: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    """Print one line for each runtime and trial; returns the largest difference."""
    from helpers.backends import TorchBackend

    reference, worst = TorchBackend(model), 0.0
    size = file.stat().st_size + (file.with_suffix(".bin").stat().st_size if file.suffix == ".xml" else 0)
    print(f"  {printable(str(file))} ({size / 1e6:.1f} MB)")
    for name, run in _runners(file).items():
        for n_clips, seconds in TRIALS:
            n = round(seconds * SAMPLE_RATE)
            clips = np.stack([audio[i * SAMPLE_RATE :][:n] for i in range(n_clips)])
            expected = reference(clips)[0]
            trial = f"    {name}, {n_clips} x {seconds:g} s:"
            try:
                difference = run(clips) - expected
            except Exception as error:  # whatever a runtime raises for a size that a graph cannot take
                print(f"{trial} not possible ({type(error).__name__})")
                continue
            flips = int(((difference + expected > THRESHOLD) != (expected > THRESHOLD)).sum())
            largest = float(np.abs(difference).max())
            active = int((expected > THRESHOLD).sum())
            print(f"{trial} {largest:.1e}, {flips} of {active} active frames differ")
            worst = max(worst, largest)
    return worst


if __name__ == "__main__":
    sys.exit(main())
