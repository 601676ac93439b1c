"""Steps of a run on a clip-wise task that its script puts together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from config_clipwise import DownstreamOptions
from data_util.downstream import ClipList
from data_util.downstream_clips import TaskClips
from data_util.samplers import EvalSampler
from helpers import run
from helpers.callbacks import ReportCorruptClips
from helpers.lit_clipwise import ClipModule
from helpers.run_folder import BEST, write_metrics
from models.checkpoints import load_weights, read_checkpoint
from models.sed_model import SEDModel

log = logging.getLogger("efficientsed")


def eval_batches(options: DownstreamOptions, clips: ClipList) -> tuple[Any, Any]:
    """Data set and loader of a split that is scored; files heard as a whole come one by one."""
    whole = options.row.whole_clips
    dataset = TaskClips(clips, options.clip_seconds or options.row.seconds, whole=whole)
    batch_size = 1 if whole else options.batch_size
    return dataset, run.make_loader(dataset, options, EvalSampler(len(dataset)), batch_size=batch_size)


def forget_other_classes(model: SEDModel, options: DownstreamOptions, classes: Sequence[str]) -> None:
    """Start the head anew where the checkpoint's has as many classes by chance, but others."""
    if options.checkpoint is None or options.resume is not None:
        return
    metadata = read_checkpoint(options.checkpoint)[1]
    if metadata.get("n_classes_weak") == len(classes) and metadata.get("weak_labels") != list(classes):
        model.weak_head.reset_parameters()
        log.info("%s: weak_head not taken, its %d classes are others", options.checkpoint, len(classes))


def score_test_clips(
    options: DownstreamOptions, clips: ClipList, module: ClipModule, folder: Path
) -> tuple[Trainer, str]:
    """Score test clips with the best checkpoint, or with the last weights where none was kept.

    Returns:
        The Trainer that did so, as the averaged weights and trackers of the training are not wanted here; and what was
        scored, in words.
    """
    kept = options.save_model and (folder / BEST).is_file()
    if kept:
        load_weights(module.model, folder / BEST)
    dataset, loader = eval_batches(options, clips)
    quiet = dataclasses.replace(options, logger="none", recorder="none", ema=0.0, save_model=False, profile=False)
    trainer = run.make_trainer(quiet, folder, 1, 1, ReportCorruptClips(dataset))
    trainer.validate(module, loader, verbose=False)
    return trainer, f"test clips, {'best checkpoint' if kept else 'last epoch'}"


def report(trainer: Trainer, module: ClipModule, folder: Path, title: str) -> dict[str, float]:
    """Print, write and return the figures of the last validation; those of each class and group are written, too."""
    figures = {name.removeprefix("val/"): value for name, value in run.validation_figures(trainer).items()}
    if trainer.is_global_zero:
        by_group = {f"accuracy, {name}": v for name, v in module.per_class.get("accuracy_per_group", {}).items()}
        log.info("%s", run.table({**figures, **by_group}, f"{title} ({folder})"))
        write_metrics(folder, {**figures, **module.per_class})
    return figures
