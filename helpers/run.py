"""What happens around an experiment: its folder, its log, its devices, its Trainer."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.profilers import SimpleProfiler
from torch.utils.data import DataLoader

import config
import signals
from data_util.loaders import Loader
from data_util.samplers import BalancedSampler, EpochSampler, EvalSampler, ShuffleSampler
from errors import UserError
from helpers import teacher as teachers
from helpers.callbacks import (
    AtomicCheckpoints,
    GracefulInterrupt,
    KeepBest,
    PeriodicCheckpoint,
    ReportCorruptClips,
    RetryCheckpoints,
    ValidateLastEpoch,
    unwritten,
)
from helpers.devices import accelerator, n_workers, precision, share_cores, strategy
from helpers.half_precision import avoid_slow_gradients
from helpers.lit_module import SEDModule
from helpers.run_folder import (
    BEST,
    LAST,
    RunRecord,
    global_rank,
    newest_checkpoint,
    open_log,
    resume_position,
    run_dir,
    validation_figures,
    write_metrics,
)
from helpers.sync_batchnorm import synchronise
from helpers.teacher import Teacher
from helpers.trackers import make_loggers, require_packages
from helpers.validation_views import ShowValidation
from models.checkpoints import read_checkpoint
from models.sed_model import SEDModel, create_model
from printable import PrintableFormatter, printable

log = logging.getLogger("efficientsed")


def prepare() -> None:
    """Quieten the libraries and set up the log; call it once at the start of a script."""
    for noise in ("does not have many workers", "pkg_resources", "Checkpoint directory", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{noise}.*")
    warnings.filterwarnings("ignore", category=UserWarning, module="pytorch_lightning.*")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PrintableFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if global_rank() == 0 else logging.ERROR)
    torch.set_float32_matmul_precision("high")


def check_machine(options: Any) -> None:
    """Raise UserError where this machine has not what the options ask for; call it before any work starts."""
    device = accelerator(options)
    precision(options, device)
    strategy(options, device)
    require_packages(options)


# ---- trainer --------------------------------------------------------------------------------------------------


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

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the bars, which would be drawn below the last line otherwise."""
        for bar in (self._val_progress_bar, self._train_progress_bar, self._predict_progress_bar):
            if bar is not None:
                bar.close()


def make_trainer(
    options: Any,
    folder: Path,
    n_batches: int = 1,
    n_epochs: int = 1,
    *extra_callbacks: pl.Callback,
    model: torch.nn.Module | None = None,
) -> pl.Trainer:
    """The Trainer of an experiment.

    Args:
        options: of the run.
        folder: of the run, for checkpoints and logs.
        n_batches: training batches per epoch.
        n_epochs: epochs.
        extra_callbacks: beside those that every run has.
        model: that is trained, where several devices share the work.
    """
    device = accelerator(options)
    share_cores(options, device)
    loggers = make_loggers(options, folder) if global_rank() == 0 else []
    writer = AtomicCheckpoints()
    return pl.Trainer(
        accelerator=device,
        devices=options.num_devices,
        num_nodes=options.num_nodes,
        strategy=strategy(options, device, model),
        precision=precision(options, device),  # type: ignore[arg-type]
        max_epochs=n_epochs,
        accumulate_grad_batches=min(options.accumulate_grad_batches, max(n_batches, 1)),
        gradient_clip_val=options.gradient_clip or None,
        check_val_every_n_epoch=options.check_val_every_n_epoch,
        num_sanity_val_steps=0,
        log_every_n_steps=max(1, min(50, n_batches // 10)),
        logger=loggers or False,
        callbacks=[RunRecord(folder, options), *_callbacks(options, folder, writer, bool(loggers)), *extra_callbacks],
        plugins=[] if options.strategy not in ("auto", "ddp") else [writer],
        profiler=SimpleProfiler(folder, "profile") if options.profile else None,
        use_distributed_sampler=False,  # ours know their rank
        enable_model_summary=False,
        enable_checkpointing=options.save_model,
        default_root_dir=folder,
    )


def _callbacks(options: Any, folder: Path, writer: AtomicCheckpoints, logs: bool) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = [ProgressBar(), ValidateLastEpoch()]
    if options.ema > 0:
        callbacks.append(EMAWeightAveraging(decay=options.ema))
    callbacks += [GracefulInterrupt(folder, options.save_model), ShowValidation(folder)]
    if logs:
        callbacks.append(LearningRateMonitor(logging_interval="step"))
    if options.save_model:
        best = KeepBest(writer, folder, BEST.removesuffix(".ckpt"), monitor=options.monitor, mode="max", **_SINGLE)
        last = ModelCheckpoint(folder, LAST.removesuffix(".ckpt"), save_on_train_epoch_end=True, **_SINGLE)
        callbacks += [RetryCheckpoints(), best, last]  # in this order: the last one holds what the best has been
        if options.checkpoint_minutes > 0:
            callbacks.append(PeriodicCheckpoint(folder, options.checkpoint_minutes, options.keep_checkpoints))
    return callbacks


_SINGLE: dict[str, Any] = {"save_top_k": 1, "enable_version_counter": False}


# ---- loaders --------------------------------------------------------------------------------------------------


def make_sampler(n_clips: int, weights: Callable[[], np.ndarray] | None, options: Any) -> EpochSampler:
    """The training sampler: balanced by `weights` where the options ask for it, else shuffled."""
    if options.use_balanced_sampler and weights is not None:
        return BalancedSampler(weights(), options.epoch_len, seed=options.seed)
    return ShuffleSampler(n_clips, seed=options.seed)


def train_loader(dataset: Any, sampler: EpochSampler, options: Any) -> DataLoader[Any]:
    """Loader of the training clips, which goes on where a resumed run stopped."""
    if options.resume is not None:
        sampler.epoch, batches = resume_position(options.resume)
        sampler.position = batches * options.batch_size
    n_clips = -(-sampler.n_samples // (options.num_devices * options.num_nodes))  # of each device
    drop_last = n_clips >= options.batch_size  # a last batch of one or two clips upsets batch norm
    return make_loader(dataset, options, sampler, drop_last=drop_last)


def eval_loader(dataset: Any, options: Any) -> DataLoader[Any]:
    """Loader of the evaluation clips, each exactly once."""
    return make_loader(dataset, options, EvalSampler(len(dataset)))


def make_loader(
    dataset: Any, options: Any, sampler: Any, drop_last: bool = False, batch_size: int | None = None
) -> DataLoader[Any]:
    """A loader of the run's batch size (or `batch_size`) and processes."""
    workers = n_workers(options)
    return Loader.make(
        dataset,
        batch_size=batch_size or options.batch_size,
        sampler=sampler,
        num_workers=workers,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
    )


# ---- models ---------------------------------------------------------------------------------------------------


def build_model(options: Any, n_classes_weak: int | None = None, labels: Sequence[str] | None = None) -> SEDModel:
    """The detector that the options name; a checkpoint of our own says itself which model it holds.

    `labels`: classes in place of those of AudioSet Strong.

    What is not loaded starts from random numbers that `--seed` determines.

    Raises UserError for unknown names and unsuitable or missing weights.
    """
    model_type = {"model_name", "seq_model_type", "seq_model_dim"}
    resuming = getattr(options, "resume", None) is not None  # its weights come with the checkpoint
    if options.checkpoint is not None and not resuming:
        _, metadata = read_checkpoint(options.checkpoint)
        for name in (model_type - options.given) & metadata.keys():
            setattr(options, name, metadata[name])
    torch.manual_seed(getattr(options, "seed", 0))
    model = create_model(
        options.model_name,
        seq_model_type=options.seq_model_type,
        seq_model_dim=options.seq_model_dim,
        pretrained=None if resuming else options.pretrained,
        checkpoint=None if resuming else options.checkpoint,
        n_classes_weak=n_classes_weak,
        labels=labels,
    )
    if options.pretrained == "scratch" and options.checkpoint is None:
        model.strong_head.expect_rare_events()
        if n_classes_weak is not None:
            model.weak_head.expect_rare_events()
    if options.gradient_checkpointing:
        enable_gradient_checkpointing(model, options)
    return model


def require_trained(model: SEDModel, options: Any, head: str) -> None:
    """Raise UserError where an evaluation would score noise, unless it is asked for with `--pretrained=scratch`."""
    if options.pretrained != "scratch" or options.checkpoint is not None:
        model.require_trained(head)


def enable_gradient_checkpointing(model: SEDModel, options: Any) -> None:
    """Let the backbone compute activations again; raises UserError for one that cannot."""
    switch: Any = getattr(model.model, "set_gradient_checkpointing", None)
    if switch is None:
        config.refuse("gradient_checkpointing", True, f"{options.model_name} has no such mode; the transformers have")
    switch(True)


def build_teacher(options: config.TeacherOptions, head: str, temperature: float = 1.0) -> Teacher | None:
    """The teacher network that the options name, if any; see `helpers.teacher.build_teacher`."""
    if not (options.teacher_checkpoint or options.teacher_pretrained):
        return None
    return teachers.build_teacher(
        options.teacher_model_name,
        head=head,
        seq_model_type=options.teacher_seq_model_type,
        seq_model_dim=options.teacher_seq_model_dim,
        pretrained=options.teacher_pretrained,
        checkpoint=options.teacher_checkpoint,
        temperature=temperature,
    )


def start_trainer(
    options: Any, model: SEDModel, n_batches: int, n_epochs: int, *datasets: Any
) -> tuple[pl.Trainer, Path]:
    """Folder and Trainer of a run, its options written; `datasets` report clips that cannot be decoded."""
    folder = run_dir(options)
    if global_rank() == 0:
        open_log(folder)
    trainer = make_trainer(options, folder, n_batches, n_epochs, ReportCorruptClips(*datasets), model=model)
    return trainer, folder


def prepare_for_cpu(module: pl.LightningModule) -> None:
    """What makes training faster on a CPU: memory layout and gradients of depthwise convolutions."""
    module.to(memory_format=torch.channels_last)
    avoid_slow_gradients(module)


def fit(trainer: pl.Trainer, module: SEDModule, train_batches: Any, eval_batches: Any, options: Any) -> None:
    """Train from the start or from the resumed checkpoint; raises KeyboardInterrupt after Ctrl-C or SIGTERM.

    Raises UserError at the end where the best or the last state is not on disk.
    """
    checkpoint = str(options.resume) if options.resume else None
    if trainer.strategy.root_device.type == "cpu":
        prepare_for_cpu(module)
    if options.sync_batchnorm:
        synchronise(module.model, trainer.strategy.root_device.type)
    if options.compile:
        torch._dynamo.config.suppress_errors = True  # what this machine's compiler refuses runs as it is
        module.model.compile()  # in place: names of weights stay as they are
    try:
        trainer.fit(module, train_batches, eval_batches, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stop:  # how Lightning ends after a KeyboardInterrupt
        raise (signals.interruption(stop) or stop) from None
    if lost := trainer.strategy.broadcast(_what_is_lost(trainer)):
        log.info("%s", table(validation_figures(trainer), "last epoch"))
        raise UserError(lost)


def _what_is_lost(trainer: pl.Trainer) -> str:
    """Which states are not on disk after a training, and what to do; empty where all are."""
    lost = unwritten(trainer)
    if not lost:
        return ""
    folder = Path(trainer.default_root_dir)
    rest = "make room and train again"
    if newest_checkpoint(folder) is not None:
        rest = f"make room and go on from the state before with --resume {folder}"
    if LAST not in {path.name for path in lost}:
        rest = f"the last state is in {folder / LAST}"
    names = " and ".join(sorted(path.name for path in lost))
    reason = next(iter(lost.values())).strerror
    return f"the training has ended, but {names} could not be written to {folder} ({reason}); {rest}"


# ---- reports --------------------------------------------------------------------------------------------------


def table(rows: dict[str, Any], title: str) -> str:
    """Names and values as an aligned table."""
    shown = {
        printable(name): f"{value:.4f}" if isinstance(value, float) else printable(str(value))
        for name, value in rows.items()
    }
    width = max(map(len, shown))
    return "\n".join([printable(title), *(f"  {name:<{width}}  {value}" for name, value in shown.items())])


def describe(options: Any, module: SEDModule, trainer: pl.Trainer, folder: Path, **more: Any) -> str:
    """What is about to happen, as a table; `more` rows stand in the middle."""
    n_parameters = sum(p.numel() for p in module.model.parameters())
    sequence = f" + {options.seq_model_type}:{options.seq_model_dim}" if options.seq_model_type else ""
    device = trainer.strategy.root_device
    rows = {
        "model": f"{options.model_name}{sequence}, {n_parameters:,} parameters",
        "starts from": str(options.resume or options.checkpoint or options.pretrained),
        **{name.replace("_", " "): value for name, value in more.items() if value is not None},
        "device": f"{device}, precision {trainer.precision}, {n_workers(options)} loading processes",
        "one step": f"{options.batch_size} clips x {trainer.accumulate_grad_batches} x {trainer.world_size} devices",
        "folder": str(folder),
    }
    return table(rows, options.experiment_name)


def report(folder: Path, trainer: pl.Trainer, module: SEDModule, title: str) -> None:
    """Print the validation figures, and write them with those of each class."""
    if trainer.is_global_zero:
        figures = validation_figures(trainer)
        log.info("%s", table(figures, f"{title} ({folder})"))
        write_metrics(folder, {**figures, **module.per_class})
