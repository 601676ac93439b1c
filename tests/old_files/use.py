"""What users do with the old files, through scripts, modules and public names alone.

`make.py` calls it with the code that wrote the files, to note what comes out; `tests/test_old_files.py` with the code
of today. All paths are those of the archive, from the working folder.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from . import recipe
else:  # beside `make.py`
    import recipe

PLAIN = ("--num_workers=0", "--logger=none", "--accelerator=cpu", "--precision=32-true")
LABELS = ("--ground_truth=labels/audioset_eval_strong.tsv", "--durations=labels/eval_durations.csv")
INPUTS = ([(0.2, 0.9, 500)], [(1.0, 1.6, 2000)])  # two inputs of 2 s
MOMENT = "EFFICIENTSED.mtime_ns"  # key of the time of change in the archive
EVERY = (slice(None, None, 8), slice(None, None, 5))  # of classes and frames, what is kept of scores


def unpack(archive: Path, folder: Path) -> None:
    """Put the files of the archive into a folder, with their times of change to the nanosecond."""
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(archive.read_bytes()))) as tar:
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None and not member.name.startswith(("/", "..")), member.name
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())
            moment = int(member.pax_headers[MOMENT])
            os.utime(path, ns=(moment, moment))


def waveform(which: int) -> np.ndarray:
    """[1, 32000] one of two test inputs."""
    return recipe.tones(INPUTS[which], 2.0)[None]


def scores(checkpoint: str, which: int) -> np.ndarray:
    """Frame logits [C, T] of a checkpoint, thinned out."""
    import torch

    from models import load_model

    model = load_model(checkpoint).eval()
    with torch.no_grad():
        logits, _ = model(model.mel_forward(torch.from_numpy(waveform(which))))
    kept: np.ndarray = logits[0].numpy()[EVERY if logits.shape[1] > 8 else (slice(None), EVERY[1])]
    return kept


def exported_scores(which: int) -> np.ndarray:
    """Probabilities of the exported network for the input, thinned out."""
    import onnxruntime

    (file,) = Path("export").glob("*.onnx")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), settings)
    samples = np.pad(waveform(which), ((0, 0), (0, 160_000 - waveform(which).shape[1])))
    kept: np.ndarray = session.run(None, {session.get_inputs()[0].name: samples})[0][0][EVERY]
    return kept


def figures(folder: str) -> dict[str, float]:
    """Numbers of the `metrics.json` of a run."""
    content = json.loads(Path(folder, "metrics.json").read_text(encoding="utf-8"))
    return {name: value for name, value in content.items() if isinstance(value, (int, float))}


def losses(folder: str) -> list[dict[str, float]]:
    """The rows of the `metrics.csv` of a run, without the learning rates' rounding."""
    with Path(folder, "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def evaluate(root: Path) -> dict[str, float]:
    """Score the checkpoint of the strong run."""
    words = ("--data_dir=data", "--checkpoint=runs/strong/best.ckpt", "--evaluate", "--experiment_name=evaluated")
    recipe.run(root, "ex_audioset_strong.py", *words, *PLAIN)
    return figures("runs/evaluated")


def resume(root: Path, run: str, *words: str) -> list[dict[str, float]]:
    """Resume a run to its end."""
    recipe.run(root, "ex_audioset_strong.py", f"--resume={run}", *words)
    return losses(run)


def finetuned_report(root: Path) -> dict[str, float]:
    """Report with the fine-tuned checkpoint on its test recording: figures, thresholds and windows of the classes."""
    words = ("--audio=audio", "--events=labels/events.csv", "--evaluate", "--n_bootstrap=100")
    checkpoint = ("--checkpoint=runs/own/best.ckpt", "--experiment_name=reported")
    recipe.run(root, "ex_finetune.py", *words, *checkpoint, *PLAIN)
    report = json.loads(Path("runs/reported/report.json").read_text(encoding="utf-8"))
    assert report["splits"]["test"] == ["tone0000005.wav"]
    return numbers({name: report[name] for name in ("event_f1", "segment_f1", "psds1", "classes", "confusion")})


def step_on_pseudo_labels(root: Path, file: str) -> list[dict[str, float]]:
    """Train one epoch, and see its losses, on the packed clips with pseudo labels."""
    name = Path(file).stem
    words = ("--data_dir=data", "--checkpoint=runs/strong/best.ckpt", f"--model_name={recipe.MODEL}", "--n_epochs=1")
    words += ("--batch_size=4", "--accumulate_grad_batches=1", "--no_save_model", f"--pseudo_labels_file={file}")
    words += ("--distillation_loss_weight=0.9", f"--experiment_name={name}", "--overwrite")
    recipe.run(root, "ex_audioset_strong.py", *words, *PLAIN)
    return losses(f"runs/{name}")


def psds(root: Path, source: str) -> dict[str, Any]:
    """The figures of score files."""
    recipe.run(root, "helpers.psds", f"--scores={source}", *LABELS, "--out=figures", "--overwrite", "--f1")
    content: dict[str, Any] = json.loads(Path("figures", "results.json").read_text())
    return numbers(content)


def numbers(content: Any, name: str = "") -> dict[str, float]:
    """The numbers of a nested JSON by their path, without times."""
    if isinstance(content, dict):
        return {k: v for key, value in content.items() for k, v in numbers(value, f"{name}/{key}").items()}
    if isinstance(content, list):
        return {k: v for i, value in enumerate(content) for k, v in numbers(value, f"{name}/{i}").items()}
    counts = isinstance(content, (int, float)) and not isinstance(content, bool) and "seconds" not in name
    return {name: content} if counts else {}


def finish_inference(root: Path) -> dict[str, str]:
    """Go on with the half-done inference; the events of each recording."""
    words = ("--checkpoint=runs/own/best.ckpt", "--audio_file=audio", "--out=half_done", "--skip_existing")
    recipe.run(root, "inference.py", *words, "--format", "tsv", "json", "--num_readers=1")
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path("half_done").glob("tone*.tsv"))}


def all_figures(root: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What comes out of everything above."""
    arrays = {}
    for which in (0, 1):
        arrays[f"strong_{which}"] = scores("runs/strong/best.ckpt", which)
        arrays[f"own_{which}"] = scores("runs/own/best.ckpt", which)
        arrays[f"onnx_{which}"] = exported_scores(which)
    figures = {
        "evaluate": evaluate(root),
        "finetuned": finetuned_report(root),
        "dense": step_on_pseudo_labels(root, "teacher.hdf"),
        "compact": step_on_pseudo_labels(root, "compact.hdf"),
        "psds_hdf5": psds(root, "scores.hdf"),
        "psds_tsv": psds(root, "scores"),
        "events": finish_inference(root),
    }
    figures["resumed"] = resume(root, "runs/stopped")
    figures["lengthened"] = resume(root, "runs/strong", "--n_epochs=2")
    return figures, arrays
