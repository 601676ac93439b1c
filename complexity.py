"""What models cost: parameters, MACs, activation memory, receptive field, throughput; for one model or for all.

Example: python complexity.py --model_name=fmn10 --seq_model_type=tf --seq_model_dim=256 --throughput
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from atomic import replacing
from config import check_output, option, parse, refuse, sequence_models
from errors import exit_on_user_error
from helpers.backends import check_device
from helpers.complexity import N_SAMPLES, clips_per_second, deepspeed_macs, processor_name
from helpers.complexity_plot import plot
from helpers.complexity_report import (
    Model,
    Row,
    Throughput,
    all_models,
    as_csv,
    as_json,
    markdown,
    published_psds1,
    row,
)
from models import SEDModel, create_model
from models.optimize import optimize_for_inference

DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
PICTURES = (".png", ".pdf", ".svg")
THROUGHPUT_ONLY = ("device", "batch_size", "precision", "optimize")


@dataclass
class WhichModels:
    """Which models."""

    model_name: str = option("fmn10", "backbone, e.g. fmn04, fmn10, fmn30 (all: python inference.py --list_models)")
    seq_model_type: str | None = option(None, "sequence model on top of it", choices=sequence_models())
    seq_model_dim: int = option(256, "features of the sequence model", low=1, high=8192)
    all: bool = option(False, "every backbone, and every sequence model that was released or is otherwise unseen")

    @property
    def one(self) -> Model:
        """The model that the options name."""
        return self.model_name, self.seq_model_type, self.seq_model_dim if self.seq_model_type else None


@dataclass
class ThroughputOptions(WhichModels):
    """Throughput, from the mel spectrogram of 10 s to logits."""

    throughput: bool = option(False, "measure it")
    device: str = option("cpu", "cpu, cuda, cuda:1, mps, ...")
    batch_size: list[int] = option([1], "clips at once, one or several numbers", low=1)
    precision: list[str] = option(["32-true"], "arithmetic, one or several", choices=tuple(DTYPES))
    optimize: bool = option(False, "measure the detector after optimize_for_inference()")


@dataclass
class ComplexityOptions(ThroughputOptions):
    """What models cost: parameters, MACs, activation memory, receptive field, throughput."""

    csv: Path | None = option(None, "file for all figures as CSV")
    json: Path | None = option(None, "file for all figures as JSON")
    plot: Path | None = option(None, f"picture of published PSDS1 over cost ({', '.join(PICTURES)})")
    overwrite: bool = option(False, "replace these files if they exist")
    given: ClassVar[frozenset[str]] = frozenset()

    def check(self) -> None:
        """Raise UserError where options contradict each other or files are in the way."""
        for name in ("csv", "json", "plot"):
            path: Path | None = getattr(self, name)
            if path is None:
                continue
            check_output(name, path)
            if path.exists() and not self.overwrite:
                refuse(name, path, "it exists; choose another name or give --overwrite")
        if self.plot is not None and self.plot.suffix not in PICTURES:
            refuse("plot", self.plot, f"the name must end in {', '.join(PICTURES)}")
        for name in THROUGHPUT_ONLY:
            if name in self.given and not self.throughput:
                refuse(name, getattr(self, name), "it says how to measure throughput; add --throughput")
        if self.plot is not None and not self.all and published_psds1(self.one) is None:
            refuse("plot", self.plot, "this model has no published PSDS1; add --all")
        if self.optimize and "16-mixed" in self.precision:
            refuse("precision", "16-mixed", "--optimize computes in float32 or bfloat16")


@exit_on_user_error()
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    options = parse(ComplexityOptions, argv)
    if options.throughput:
        check_device(options.device)
    models = list(all_models()) if options.all else [options.one]
    rows = []
    for i, model in enumerate(models, start=1):
        rows.append(_row(model, options))
        print(f"{i} of {len(models)}: {rows[-1].name}", file=sys.stderr)
    print(markdown(rows))
    for operation in sorted(set().union(*(one.cost.unknown for one in rows))):
        print(f"unknown MACs: nobody has said what {operation} costs (helpers/complexity.py)", file=sys.stderr)
    if options.throughput:
        print(f"\nThroughput: {', '.join(f'{key} {value}' for key, value in _environment(options).items())}")
    _write(rows, options)


def _row(model: Model, options: ComplexityOptions) -> Row:
    result = row(model)
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    if has_deepspeed or options.throughput:
        backbone, seq_type, dim = model
        detector = create_model(backbone, seq_model_type=seq_type, seq_model_dim=dim or 0)
        if has_deepspeed:
            result.deepspeed_macs = deepspeed_macs(detector, _mel(detector, 1))
        if options.throughput:
            result.throughput = list(_measure(detector, options))
    return result


def _mel(model: SEDModel, batch_size: int) -> torch.Tensor:
    return model.mel_forward(0.1 * torch.randn(batch_size, N_SAMPLES))


def _measure(model: SEDModel, options: ComplexityOptions) -> Iterator[Throughput]:
    """Throughput in every setting asked for."""
    device = check_device(options.device)
    mels = [_mel(model, batch_size).to(device) for batch_size in options.batch_size]
    model = model.to(device)
    for precision in options.precision:
        half = DTYPES[precision] != torch.float32
        variant = optimize_for_inference(model, bfloat16=half) if options.optimize else model
        setting = f"{precision}, optimized" if options.optimize else precision
        for mel in mels:
            with torch.autocast(device.type, DTYPES[precision], enabled=half and not options.optimize):
                rate = clips_per_second(variant, mel)
            yield Throughput(options.device, len(mel), setting, rate)


def _environment(options: ComplexityOptions) -> dict[str, object]:
    """What a throughput was measured on."""
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _write(rows: list[Row], options: ComplexityOptions) -> None:
    """Write the files that were asked for."""
    if options.csv is not None:
        with replacing(options.csv) as part:
            part.write_text(as_csv(rows), encoding="utf-8")
    if options.json is not None:
        with replacing(options.json) as part:
            part.write_text(as_json(rows, _environment(options)), encoding="utf-8")
    if options.plot is not None:
        with replacing(options.plot) as part:
            plot(rows, part, options.plot.suffix.lstrip("."))


if __name__ == "__main__":
    main()
