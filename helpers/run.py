"""What happens around an experiment: its folder, its log, its devices, its Trainer."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader

import config
from data_util.audioset import AudioSetStrong
from data_util.samplers import BalancedSampler, EpochSampler, EvalSampler, ShuffleSampler, strong_weights
from errors import UserError
from helpers.callbacks import GracefulInterrupt, ValidateLastEpoch
from helpers.lit_module import SEDModule
from models.checkpoints import read_checkpoint
from models.sed_model import SEDModel, create_model

log = logging.getLogger("efficientsed")

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
LAST, BEST = "last.ckpt", "best.ckpt"
MONITOR = "val/psds1_macro_averaged"
WANDB_PROJECT = "EfficientSED"
OptionsT = TypeVar("OptionsT", bound=config.RunOptions)


def prepare() -> None:
    """Quieten the libraries and set up the log; call it once at the start of a script."""
    for noise in ("does not have many workers", "pkg_resources", "Checkpoint directory", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{noise}.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning.*")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if int(os.environ.get("LOCAL_RANK", "0")) == 0 else logging.ERROR)
    torch.set_float32_matmul_precision("high")


# ---- folders --------------------------------------------------------------------------------------------------


def run_dir(options: config.RunOptions) -> Path:
    """The folder of a run: that of the resumed one, or a new OUTPUT_DIR/EXPERIMENT_NAME (NAME-2, ... where it exists).

    Raises UserError for a name that would leave the folder of all runs.
    """
    if options.resume is not None:
        return options.resume.parent
    name = options.experiment_name
    if re.search(r"[/\\\0]", name) or name in ("", ".", ".."):
        config.refuse("experiment_name", repr(name), "it must be a plain name, without slashes")
    folder = options.output_dir / name
    number = 2
    while folder.exists() and any(folder.iterdir()) and not options.overwrite:
        folder = options.output_dir / f"{name}-{number}"
        number += 1
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        config.refuse("output_dir", options.output_dir, f"cannot make the run's folder there ({error.strerror})")
    return folder


def resume_checkpoint(options: config.RunOptions) -> Path:
    """The checkpoint that `--resume` means; raises UserError if there is none."""
    assert options.resume is not None
    if str(options.resume) == "newest":
        pattern = f"{options.experiment_name}*/{LAST}"
        found = sorted(options.output_dir.glob(pattern), key=lambda p: p.stat().st_mtime)
        if not found:
            config.refuse("resume", options.experiment_name, f"no {LAST} in {options.output_dir}/{pattern}")
        return found[-1]
    path = options.resume / LAST if options.resume.is_dir() else options.resume
    if not path.is_file():
        config.refuse("resume", options.resume, f"there is no checkpoint {path}")
    return path


def resumed_options(options: OptionsT, argv: Sequence[str]) -> OptionsT:
    """The options of the run that `--resume` continues, with those of the command line on top."""
    checkpoint = resume_checkpoint(options)
    saved = checkpoint.parent / CONFIG_FILE
    if saved.is_file():
        options = config.parse(type(options), ["--config", str(saved), *argv])
    options.resume = checkpoint
    return options


def resume_position(checkpoint: Path) -> tuple[int, int]:
    """Epoch and number of batches in it that a training checkpoint has behind it."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    loops = content["loops"]["fit_loop"]
    epoch = loops["epoch_progress"]["current"]["completed"]
    batches = loops["epoch_loop.batch_progress"]["current"]["processed"]
    ended = loops["epoch_progress"]["current"]["processed"] > epoch  # saved at the end of an epoch
    return (epoch + 1, 0) if ended else (epoch, batches)


# ---- devices --------------------------------------------------------------------------------------------------


def accelerator(options: config.RunOptions) -> str:
    """`cpu`, `cuda` or `mps`: what the option asks for; raises UserError if the machine has no such device."""
    wanted = "cuda" if options.accelerator == "gpu" else options.accelerator
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[wanted]:
        config.refuse("accelerator", options.accelerator, "this machine, or this build of torch, has no such device")
    return wanted


def precision(options: config.RunOptions, device: str) -> str:
    """Lightning's word for the arithmetic; raises UserError for half precision where the device has none."""
    if options.precision == "16" and device == "cpu":
        return "32-true"
    word = {"16": "16-mixed", "32": "32-true"}.get(options.precision, options.precision)
    if word == "16-mixed" and device == "cpu":
        config.refuse("precision", options.precision, "a CPU has no half precision; use bf16-mixed or 32-true")
    return word


def n_workers(options: config.RunOptions) -> int:
    """Data loading processes: as asked for, but no more than the process may use cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(options.num_workers, cores)


# ---- logger and trainer ---------------------------------------------------------------------------------------


def make_logger(options: config.RunOptions, folder: Path, project: str = WANDB_PROJECT) -> Logger | bool:
    """The experiment tracker; W&B records offline, and says so, when nobody is logged in."""
    return _LOGGERS[options.logger](options, folder, project)


def _wandb(options: config.RunOptions, folder: Path, project: str) -> Logger:
    os.environ.setdefault("WANDB_SILENT", "true")  # before the import
    import wandb

    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    if mode == "offline":
        log.info("W&B: not logged in, recording offline in %s/wandb (later: wandb sync)", folder)
    return WandbLogger(name=options.experiment_name, project=project, save_dir=folder, mode=mode)


def _tensorboard(options: config.RunOptions, folder: Path, project: str) -> Logger:
    try:
        return TensorBoardLogger(folder, name="tensorboard")
    except ModuleNotFoundError as error:
        raise UserError("--logger tensorboard needs a package: pip install tensorboard") from error


_LOGGERS: dict[str, Callable[[config.RunOptions, Path, str], Logger | bool]] = {
    "wandb": _wandb,
    "tensorboard": _tensorboard,
    "csv": lambda options, folder, project: CSVLogger(folder, name="csv"),
    "none": lambda options, folder, project: False,
}


class ProgressBar(TQDMProgressBar):
    """Lightning's bar with loss and learning rate; rare lines instead of redrawing where there is no terminal."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 50)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        if trainer.optimizers:
            items["lr"] = f"{max(group['lr'] for group in trainer.optimizers[0].param_groups):.1e}"
        return items


def make_trainer(
    options: config.RunOptions, folder: Path, n_batches: int = 1, n_epochs: int = 1, *extra_callbacks: pl.Callback
) -> pl.Trainer:
    """The Trainer of an experiment.

    Args:
        options: of the run.
        folder: of the run, for checkpoints and logs.
        n_batches: training batches per epoch.
        n_epochs: epochs.
        extra_callbacks: beside those that every run has.
    """
    device = accelerator(options)
    callbacks: list[pl.Callback] = [ProgressBar(), ValidateLastEpoch(), GracefulInterrupt(folder / LAST)]
    callbacks += extra_callbacks
    logger = make_logger(options, folder)
    if logger:
        callbacks.append(LearningRateMonitor(logging_interval="step"))
    if options.save_model:
        callbacks += [
            ModelCheckpoint(folder, LAST.removesuffix(".ckpt"), save_on_train_epoch_end=True, **_SINGLE),
            ModelCheckpoint(folder, BEST.removesuffix(".ckpt"), monitor=MONITOR, mode="max", **_SINGLE),
        ]
    return pl.Trainer(
        accelerator=device,
        devices=options.num_devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=precision(options, device),  # type: ignore[arg-type]
        max_epochs=n_epochs,
        accumulate_grad_batches=min(options.accumulate_grad_batches, max(n_batches, 1)),
        check_val_every_n_epoch=options.check_val_every_n_epoch,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, min(50, n_batches // 10)),
        logger=logger,
        callbacks=callbacks,
        use_distributed_sampler=False,  # ours know their rank
        enable_model_summary=False,
        default_root_dir=folder,
    )


_SINGLE: dict[str, Any] = {"save_top_k": 1, "enable_version_counter": False}


def train_loader(dataset: AudioSetStrong, options: config.StrongOptions) -> DataLoader[Any]:
    """Loader of the training clips, shuffled or balanced, which goes on where a resumed run stopped."""
    sampler: EpochSampler
    if options.use_balanced_sampler:
        sampler = BalancedSampler(strong_weights(dataset.events), options.epoch_len, seed=options.seed)
    else:
        sampler = ShuffleSampler(len(dataset), seed=options.seed)
    if options.resume is not None:
        sampler.epoch, batches = resume_position(options.resume)
        sampler.position = batches * options.batch_size
    drop_last = len(sampler) >= options.batch_size  # a last batch of one or two clips upsets batch norm
    return _loader(dataset, options, sampler, drop_last=drop_last)


def eval_loader(dataset: AudioSetStrong, options: config.StrongOptions) -> DataLoader[Any]:
    """Loader of the evaluation clips, each exactly once."""
    return _loader(dataset, options, EvalSampler(len(dataset)))


def _loader(dataset: Any, options: config.StrongOptions, sampler: Any, drop_last: bool = False) -> DataLoader[Any]:
    workers = n_workers(options)
    return DataLoader(
        dataset,
        batch_size=options.batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


def build_model(options: config.ModelOptions) -> SEDModel:
    """The detector that the options name; a checkpoint of our own says itself which model it holds.

    What is not loaded starts from random numbers that `--seed` determines.

    Raises UserError for unknown names and unsuitable or missing weights.
    """
    model_type = {"model_name", "seq_model_type", "seq_model_dim"}
    if options.checkpoint is not None:
        _, metadata = read_checkpoint(options.checkpoint)
        for name in (model_type - options.given) & metadata.keys():
            setattr(options, name, metadata[name])
    torch.manual_seed(getattr(options, "seed", 0))
    resuming = getattr(options, "resume", None) is not None  # its weights come with the checkpoint
    model = create_model(
        options.model_name,
        seq_model_type=options.seq_model_type,
        seq_model_dim=options.seq_model_dim,
        pretrained=None if resuming else options.pretrained,
        checkpoint=None if resuming else options.checkpoint,
    )
    if options.pretrained == "scratch" and options.checkpoint is None:
        model.strong_head.expect_rare_events()
    return model


def fit(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    train_batches: DataLoader[Any],
    eval_batches: DataLoader[Any],
    options: config.RunOptions,
) -> None:
    """Train from the start or from the resumed checkpoint; raises KeyboardInterrupt after Ctrl-C."""
    checkpoint = str(options.resume) if options.resume else None
    if trainer.strategy.root_device.type == "cpu":
        module.to(memory_format=torch.channels_last)  # depthwise convolutions are faster so
    try:
        trainer.fit(module, train_batches, eval_batches, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:  # how Lightning ends after Ctrl-C
        raise KeyboardInterrupt from error


# ---- reports --------------------------------------------------------------------------------------------------


def table(rows: dict[str, Any], title: str) -> str:
    """Names and values as an aligned table."""
    width = max(len(name) for name in rows)
    shown = {name: f"{value:.4f}" if isinstance(value, float) else str(value) for name, value in rows.items()}
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in shown.items())])


def describe(
    options: config.StrongOptions,
    module: SEDModule,
    trainer: pl.Trainer,
    folder: Path,
    train_set: AudioSetStrong,
    eval_set: AudioSetStrong,
) -> str:
    """What is about to happen, as a table."""
    n_parameters = sum(p.numel() for p in module.model.parameters())
    sequence = f" + {options.seq_model_type}:{options.seq_model_dim}" if options.seq_model_type else ""
    device = trainer.strategy.root_device
    start = str(options.resume or options.checkpoint or options.pretrained)
    rows = {
        "model": f"{options.model_name}{sequence}, {n_parameters:,} parameters",
        "starts from": start,
        "training clips": f"{len(train_set):,}",
        "evaluation clips": f"{len(eval_set):,}, {len(eval_set.class_names_present())} classes",
        "device": f"{device}, precision {trainer.precision}, {n_workers(options)} loading processes",
        "one step": f"{options.batch_size} clips x {trainer.accumulate_grad_batches} x {trainer.world_size} devices",
        "folder": str(folder),
    }
    if options.distillation_loss_weight > 0:
        missing = f", {train_set.without_pseudo:,} clips without" if train_set.without_pseudo else ""
        rows["pseudo labels"] = f"{options.pseudo_labels_file}, weight {options.distillation_loss_weight}{missing}"
    return table(rows, options.experiment_name)


def report(folder: Path, trainer: pl.Trainer, module: SEDModule, title: str) -> None:
    """Print the validation figures, and write them with those of each class."""
    figures = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
    log.info("%s", table(figures, f"{title} ({folder})"))
    write_metrics(folder, {**figures, "psds1_per_class": module.psds1_per_class})


def write_metrics(folder: Path, figures: dict[str, Any]) -> Path:
    """Write the figures of a run as JSON, whole or not at all."""
    path = folder / METRICS_FILE
    part = path.with_suffix(".part")
    part.write_text(json.dumps({**figures, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, indent=2) + "\n")
    part.replace(path)
    return path
