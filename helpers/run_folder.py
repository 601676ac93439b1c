"""The folder of a run: its name, what continues it, and what makes it explain itself."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch

import config
import locks
from atomic import replacing
from helpers.cells import markdown_text
from json_text import json_text
from printable import PrintableFormatter, printable

log = logging.getLogger("efficientsed")

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
ENVIRONMENT_FILE = "environment.json"
HISTORY_FILE = "metrics.csv"
LOG_FILE = "run.log"
CURVES_FILE = "curves.png"
CARD_FILE = "MODEL_CARD.md"
LAST, BEST = "last.ckpt", "best.ckpt"
PERIODIC, SUFFIX = "step_*.ckpt", ".ckpt"
DEEPSPEED_STATE = Path("checkpoint", "mp_rank_00_model_states.pt")  # its checkpoints are folders
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "h5py", "soundfile", "soxr")
AUDIOSET_LIMITS = (
    "classes and recordings are those of the training data (AudioSet: YouTube, labels incomplete and shifted);\n"
    "  scores below are means over classes, and rare classes do worse. AudioSet's labels are CC BY 4.0."
)
OptionsT = TypeVar("OptionsT", bound=config.RunOptions)
# What a resumed run may change: how it is computed and watched, not what is learnt. Paths may change too: files move.
CHANGEABLE = frozenset(
    [
        "n_epochs",
        "save_model",
        "num_workers",
        "accelerator",
        "precision",
        "logger",
        "recorder",
        "check_val_every_n_epoch",
        "checkpoint_minutes",
        "keep_checkpoints",
        "gradient_checkpointing",
        "compile",
        "profile",
        "median_window",
    ]
)


def global_rank() -> int:
    """Rank of this process as its launcher says it (torchrun, SLURM, Lightning); 0 without one."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if os.environ.get(name):
            return int(os.environ[name])
    return 0


def run_dir(options: config.RunOptions) -> Path:
    """The folder of a run: that of the resumed one, or a new OUTPUT_DIR/EXPERIMENT_NAME (NAME-2, ... where it exists).

    Only the first process makes it, and locks it: no other run writes there; the others learn its name when they are
    connected (see `RunRecord`).

    Raises UserError for a name that would leave the folder of all runs, OSError where another process runs in the
    folder that the options name.
    """
    if options.resume is not None:
        if global_rank() == 0:
            locks.hold(options.resume.parent, folder=True)
        return options.resume.parent
    name = options.experiment_name
    if re.search(r"[/\\\0]", name) or name in ("", ".", ".."):
        config.refuse("experiment_name", repr(name), "it must be a plain name, without slashes")
    folder = options.output_dir / name
    if global_rank() > 0:
        return folder
    number = 2
    while not _claimed(folder, options):
        folder = options.output_dir / f"{name}-{number}"
        number += 1
    return folder


def _claimed(folder: Path, options: config.RunOptions) -> bool:
    """Make and lock the folder of a new run; False where another run has it already."""
    if not options.overwrite and folder.exists() and any(folder.iterdir()):
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        locks.hold(folder, folder=True)
    except BlockingIOError:  # begun a moment ago
        if options.overwrite:
            raise
        return False
    except OSError as error:
        config.refuse("output_dir", options.output_dir, f"cannot make the run's folder there ({error.strerror})")
    return True


def resume_checkpoint(options: config.RunOptions) -> Path:
    """The checkpoint that `--resume` means, the newest of its folder; raises UserError if there is none."""
    assert options.resume is not None
    if str(options.resume) == "newest":
        name = options.experiment_name
        folders = options.output_dir.glob("*") if options.output_dir.is_dir() else ()
        runs = [folder for folder in folders if re.fullmatch(rf"{re.escape(name)}(-\d+)?", folder.name)]
        found = [c for folder in runs if (c := newest_checkpoint(folder))]
        if not found:
            config.refuse(
                "resume",
                name,
                f"expected a run of this name with a {LAST} in {options.output_dir}, got none; name its folder",
            )
        return max(found, key=lambda path: path.stat().st_mtime_ns)
    path: Path | None = options.resume
    if options.resume.is_dir() and options.resume.suffix != SUFFIX:
        path = newest_checkpoint(options.resume)
    if path is None or not path.exists():
        config.refuse(
            "resume", options.resume, f"expected a folder with a {LAST} or {PERIODIC}, got none; name another"
        )
    return path


def newest_checkpoint(folder: Path) -> Path | None:
    """The latest of the checkpoints from which a run can go on: `last.ckpt` and those written every few minutes."""
    found = [path for path in (*periodic_checkpoints(folder), folder / LAST) if path.exists()]
    found.reverse()  # of equal times the first wins, then: the last state, or the latest step
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def periodic_checkpoints(folder: Path, now: int | None = None) -> list[Path]:
    """The checkpoints written every few minutes, from the oldest to the newest: by step, then by time.

    Clocks go back and have coarse steps, numbers of steps do not: but for a run that went on from an earlier state. Its
    checkpoints beyond the present are of a run that was given up, and count as the oldest.

    Args:
        folder: of the run.
        now: the present optimiser step; None: no checkpoint is beyond it.
    """
    found = []
    for path in folder.glob(PERIODIC):
        number = path.name.removeprefix(PERIODIC.partition("*")[0]).removesuffix(SUFFIX)
        if number.isdecimal():  # others are not ours
            step = int(number)
            found.append((now is None or step <= now, step, path.stat().st_mtime_ns, path))
    return [path for *_, path in sorted(found)]


def resumed_options(options: OptionsT, argv: Sequence[str]) -> OptionsT:
    """The options of the run that `--resume` continues, with those of the command line on top.

    Raises UserError for a checkpoint from which no training can go on, for a run that has all its epochs, and for an
    option with another value than the run's, unless it says how or where the run is computed.
    """
    checkpoint = resume_checkpoint(options)
    epoch, _ = resume_position(checkpoint)
    saved = checkpoint.parent / CONFIG_FILE
    if saved.is_file():
        options = continued_options(options, config.read_yaml(saved), checkpoint)
    options.resume = checkpoint
    if epoch >= options.n_epochs:  # type: ignore[attr-defined]
        advice = "name a larger --n_epochs to go on, or evaluate it with --evaluate --checkpoint"
        config.refuse("resume", checkpoint, f"the run has all its {epoch} epochs; {advice}")
    return options


def continued_options(options: OptionsT, saved: dict[str, Any], checkpoint: Path) -> OptionsT:
    """The saved options with those on top that were named now."""
    named = {name: getattr(options, name) for name in options.given - {"resume"}}  # type: ignore[attr-defined]
    kept = {name: value for name, value in saved.items() if name not in ("resume", "evaluate", "overwrite")}
    # Files move: where they are now goes before where they were, whose checks would find nothing there.
    moved = {name: value for name, value in named.items() if isinstance(value, Path) and name != "checkpoint"}
    run = config.build(type(options), {**kept, **moved, "resume": str(checkpoint)})
    for name, value in named.items():
        if value != getattr(run, name) and name not in CHANGEABLE:
            why = f"the run has {getattr(run, name)}, which --resume cannot change; leave it out, or start a new run"
            config.refuse(name, value, why)
    options = config.build(type(options), {**kept, **named, "resume": str(checkpoint)})
    options.given = frozenset(kept) | frozenset(named)  # type: ignore[attr-defined]
    return options


def resume_position(checkpoint: Path) -> tuple[int, int]:
    """Epoch and number of batches in it that a training checkpoint has behind it.

    Raises UserError for a file that is no checkpoint of a training.
    """
    file = checkpoint / DEEPSPEED_STATE if checkpoint.is_dir() else checkpoint
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        loops = content["loops"]["fit_loop"]
        epoch: int = loops["epoch_progress"]["current"]["completed"]
        batches: int = loops["epoch_loop.batch_progress"]["current"]["processed"]
        ended = loops["epoch_progress"]["current"]["processed"] > epoch  # saved at the end of an epoch
    except (KeyError, TypeError, IndexError):
        config.refuse("resume", checkpoint, "it holds no state of a training; to start from its weights: --checkpoint")
    except Exception:  # whatever the unpickler meets in a damaged file
        config.refuse("resume", checkpoint, "it cannot be read as a checkpoint: it is none, or it is damaged")
    return (epoch + 1, 0) if ended else (epoch, batches)


# ---- what is written ------------------------------------------------------------------------------------------


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; on a full disk, warn and go on: the run is worth more than its records."""
    try:
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        log.warning("%s was not written: %s", path, error.strerror or error)


def write_checkpoint(path: Path, data: bytes | memoryview) -> None:
    """Write a checkpoint that `torch.save` has put into memory; whole or not at all, and on the disk when this returns.

    torch itself would not say why a file cannot be written.

    Raises:
        OSError: the disk is full, or the folder has gone.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_metrics(folder: Path, figures: Mapping[str, Any]) -> None:
    """Write the final figures of a run as JSON."""
    content = {**figures, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    write_text(folder / METRICS_FILE, json_text(content, indent=2) + "\n")


class _RunLog(logging.FileHandler):
    """A log file whose trouble, such as a full disk, is told once and in one line."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        if not self._told:
            print(printable(f"{self.baseFilename} is not complete: {sys.exc_info()[1]}"), file=sys.stderr)
        self._told = True


def open_log(folder: Path) -> None:
    """Let the log of this process go to the run's folder as well."""
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, logging.FileHandler)]:
        root.removeHandler(handler)
        handler.close()
    try:
        handler = _RunLog(folder / LOG_FILE, encoding="utf-8")
    except OSError as error:
        log.warning("no log file: %s", error)
        return
    handler.setFormatter(PrintableFormatter("%(asctime)s %(message)s"))
    root.addHandler(handler)


def git_commit() -> str | None:
    """Commit of the source code, with `+changes` where files differ from it; None outside a repository."""
    try:
        git = ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
        return subprocess.run(git, capture_output=True, text=True, timeout=20, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def environment() -> dict[str, Any]:
    """Where and with what a run happens: command line, commit, host, devices, versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": sys.argv,
        "commit": git_commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "packages": versions,
    }


def draw_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """One small plot per figure that has values over the epochs, all over the same epochs, and no axes without one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = sorted({name for row in rows for name in row} - {"epoch", "step"})
    curves = {n: [(r["epoch"], r[n]) for r in rows if n in r and math.isfinite(r[n])] for n in names}
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return
    n_columns = min(3, len(curves))
    n_rows = -(-len(curves) // n_columns)
    figure = Figure(figsize=(4 * n_columns, 2.6 * n_rows), layout="constrained", dpi=110)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{path.parent.name}: figures per epoch".replace("$", r"\$"), fontsize=10)
    epochs = [epoch for points in curves.values() for epoch, _ in points]
    for i, (name, points) in enumerate(curves.items(), start=1):
        axes = figure.add_subplot(n_rows, n_columns, i)
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 40 else "", linewidth=1.2)
        axes.set_title(f"{name} (last: {points[-1][1]:.4g})", fontsize=9)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        axes.set_xlabel("epoch", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#dddddd", linewidth=0.5)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with replacing(path) as part:
        part.write_bytes(buffer.getvalue())


def model_card(options: Any, figures: Mapping[str, float], n_parameters: int) -> str:
    """A page about the trained model: what it is, how it was made, how well it does, how to use it."""
    sequence = f" + {options.seq_model_type}:{options.seq_model_dim}" if options.seq_model_type else ""
    start = markdown_text(options.checkpoint or options.pretrained)
    data = markdown_text(getattr(options, "data_dir", None) or getattr(options, "task_path", None) or "AUDIOSET_DIR")
    scores = "\n".join(f"| {markdown_text(name)} | {value:.4f} |" for name, value in figures.items()) or "| none | |"
    return f"""# {markdown_text(options.experiment_name)}

{options.model_name}{sequence}, {n_parameters:,} parameters; sound events at 25 frames per second from 16 kHz audio.

- Training: {type(options).__doc__} {options.n_epochs} epochs from {start}; data: {data}
- Options: `{CONFIG_FILE}`; software and machine: `{ENVIRONMENT_FILE}`; course of the figures: `{HISTORY_FILE}`
- Limits: {getattr(options, "limits", AUDIOSET_LIMITS)}

| figure | last validation |
| --- | --- |
{scores}

Use: `python inference.py --checkpoint={BEST} --audio_file=FILE`
"""


def remove_checkpoints(folder: Path, keep: Path | None) -> None:
    """Remove what an overwritten run left, so that `--resume` never mixes two runs; not the weights to start from."""
    for path in (folder / LAST, folder / BEST, *folder.glob(PERIODIC)):
        if path.exists() and not (keep is not None and path.samefile(keep)):
            remove(path)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, which DeepSpeed writes as a folder; one that is gone already is no error."""
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint, ignore_errors=True)
    else:
        checkpoint.unlink(missing_ok=True)


def read_history(path: Path, epoch: int) -> list[dict[str, float]]:
    """The rows of `metrics.csv` before an epoch; none if the file is missing or damaged."""
    if epoch == 0 and not path.exists():
        return []  # interrupted in its first epoch, or the validation after it: there were none yet
    try:
        with path.open(encoding="utf-8", newline="") as file:
            read = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        rows = [{**row, "epoch": int(row["epoch"]), "step": int(row["step"])} for row in read]
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("the figures so far are lost: %s cannot be read (%s)", path, error)
        return []
    return [row for row in rows if row["epoch"] < epoch]


class RunRecord(pl.Callback):
    """Keeps the records of a run up to date: environment, metrics per epoch, curves, model card.

    It comes first among the callbacks: its `setup` tells all processes the folder that the first one made.

    Args:
        folder: of the run, as this process knows it.
        options: of the run.
    """

    def __init__(self, folder: Path, options: Any) -> None:
        self.folder, self.options = folder, options
        self.rows: list[dict[str, float]] = []
        self._validated = -1

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.folder = trainer.strategy.broadcast(self.folder)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "folder"):
                callback.folder = self.folder
        if trainer.is_global_zero and stage != "fit":
            self._explain()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # not earlier: now a resumed checkpoint is known to fit, and the epoch is that of the checkpoint
        if not trainer.is_global_zero:
            return
        if self.options.resume is None:
            remove_checkpoints(self.folder, keep=self.options.checkpoint)
        else:
            self.rows = read_history(self.folder / HISTORY_FILE, trainer.current_epoch)
        self._explain()

    def _explain(self) -> None:
        write_text(self.folder / ENVIRONMENT_FILE, json_text(environment(), ensure_ascii=True, indent=2) + "\n")
        try:
            config.write_yaml(self.options, self.folder / CONFIG_FILE)
        except OSError as error:
            log.warning("%s was not written: %s", CONFIG_FILE, error.strerror or error)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = trainer.current_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # the validation of an epoch comes before its end
        means: dict[str, float] = pl_module.take_means()  # type: ignore[operator]
        figures = {f"train/{name}": value for name, value in means.items()}
        if self._validated == trainer.current_epoch:
            figures |= validation_figures(trainer)
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **figures})
        if trainer.is_global_zero:
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, names)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.folder / HISTORY_FILE, text.getvalue())
        try:
            draw_curves(self.rows, self.folder / CURVES_FILE)
        except OSError as error:
            log.warning("no curves: %s", error)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            model: Any = pl_module.model
            n_parameters = sum(p.numel() for p in model.parameters())
            write_text(self.folder / CARD_FILE, model_card(self.options, validation_figures(trainer), n_parameters))


def validation_figures(trainer: pl.Trainer) -> dict[str, float]:
    """What the last validation logged."""
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
