"""Fine-tune or evaluate a clip classifier on ESC-50, TAU 2020 Mobile, FSD50K or OpenMIC, in their official layouts.

python ex_downstream.py --task=esc50 --data_dir=ESC-50-master --model_name=fmn10 --pretrained=weak
python ex_downstream.py --task=openmic --data_dir=openmic-2018 --checkpoint=runs/as_weak/best.ckpt
python ex_downstream.py --task=esc50 --data_dir=ESC-50-master --fold=1 --evaluate --checkpoint=FILE
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy waiting starves the data workers

import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import config
from config_clipwise import DownstreamOptions
from errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from pathlib import Path

    from pytorch_lightning import Trainer

    from data_util.downstream import ClipList, TaskData
    from helpers.lit_clipwise import ClipModule
    from models.sed_model import SEDModel

log = logging.getLogger("efficientsed")


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Options -> data, module, trainer -> fit or evaluate; once per fold."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = config.parse(DownstreamOptions, argv)
    from helpers import cross_validation, run  # torch is imported from here on: wrong options are refused at once

    run.prepare()
    if options.resume is not None:
        options = cross_validation.resumed_options(options, argv)
    if options.evaluate:
        evaluate(options)
    elif len(options.folds) > 1:
        cross_validation.cross_validate(options, train)
    else:
        train(options)


def read_data(options: DownstreamOptions) -> TaskData:
    """The splits of the one fold that the options name."""
    from data_util.downstream import read_task

    assert options.task is not None and options.data_dir is not None
    return read_task(options.task, options.data_dir, options.folds[0])


def eval_batches(options: DownstreamOptions, clips: ClipList) -> tuple[Any, Any]:
    """Data set and loader of a split that is scored; files heard as a whole come one by one."""
    from data_util.downstream_clips import TaskClips
    from data_util.samplers import EvalSampler
    from helpers import run

    whole = options.row.whole_clips
    dataset = TaskClips(clips, options.clip_seconds or options.row.seconds, whole=whole)
    batch_size = 1 if whole else options.batch_size
    return dataset, run.make_loader(dataset, options, EvalSampler(len(dataset)), batch_size=batch_size)


def train(options: DownstreamOptions) -> dict[str, float]:
    """Train and validate on one fold, test where there are test clips of their own; returns the final figures."""
    from data_util.downstream_clips import EpochCuts, TaskClips
    from helpers import run
    from helpers.clip_card import clip_card
    from helpers.lit_clipwise import ClipModule
    from helpers.run_folder import CARD_FILE, write_text

    data, task = read_data(options), options.row
    train_set = TaskClips(data.train, options.clip_seconds or task.seconds, seed=options.seed)
    eval_set, eval_loader = eval_batches(options, data.validation)
    model = run.build_model(options, n_classes_weak=len(data.classes))
    forget_other_classes(model, options, data.classes)
    module = ClipModule(model, options, task, data.classes, eval_set.groups)
    loader = run.train_loader(train_set, EpochCuts(len(train_set), seed=options.seed), options)
    trainer, folder = run.start_trainer(options, model, len(loader), options.n_epochs, train_set, eval_set)
    facts = {
        "task": f"{task.title}, fold {options.folds[0]} of {task.folds}, {len(data.classes)} classes",
        "training_clips": f"{len(train_set):,} of {options.clip_seconds:g} s",
        "evaluation_clips": f"{len(eval_set):,}" + (f", and {len(data.test):,} for the test" if data.test else ""),
    }
    log.info("%s", run.describe(options, module, trainer, folder, **facts))
    run.fit(trainer, module, loader, eval_loader, options)
    if data.test is not None:
        trainer = test(options, data.test, module, folder)
    scored = "last epoch" if data.test is None else "test clips, best checkpoint"
    figures = report(trainer, module, folder, scored)
    if trainer.is_global_zero:
        write_text(folder / CARD_FILE, clip_card(options, data.classes, figures, scored))
    return figures


def forget_other_classes(model: SEDModel, options: DownstreamOptions, classes: Sequence[str]) -> None:
    """Start the head anew where the checkpoint's has as many classes by chance, but others."""
    from models.checkpoints import read_checkpoint

    if options.checkpoint is None or options.resume is not None:
        return
    metadata = read_checkpoint(options.checkpoint)[1]
    if metadata.get("n_classes_weak") == len(classes) and metadata.get("weak_labels") != list(classes):
        model.weak_head.reset_parameters()
        log.info("%s: weak_head not taken, its %d classes are others", options.checkpoint, len(classes))


def test(options: DownstreamOptions, clips: ClipList, module: ClipModule, folder: Path) -> Trainer:
    """Score test clips with the best checkpoint (the last weights where none was kept), by a Trainer of its own."""
    from helpers import run
    from helpers.callbacks import ReportCorruptClips
    from helpers.run_folder import BEST
    from models.checkpoints import load_weights

    if options.save_model and (folder / BEST).is_file():
        load_weights(module.model, folder / BEST)
    dataset, loader = eval_batches(options, clips)
    quiet = dataclasses.replace(options, logger="none", recorder="none", ema=0.0, save_model=False, profile=False)
    trainer = run.make_trainer(quiet, folder, 1, 1, ReportCorruptClips(dataset))
    trainer.validate(module, loader, verbose=False)
    return trainer


def evaluate(options: DownstreamOptions) -> None:
    """Score a checkpoint on the test clips, or on the tested fold."""
    from helpers import run
    from helpers.lit_clipwise import ClipModule
    from models.checkpoints import read_checkpoint

    data = read_data(options)
    assert options.checkpoint is not None
    if read_checkpoint(options.checkpoint)[1].get("weak_labels") != list(data.classes):
        raise UserError(f"--checkpoint {options.checkpoint} was not trained on these {len(data.classes)} classes")
    dataset, loader = eval_batches(options, data.test or data.validation)
    model = run.build_model(options, n_classes_weak=len(data.classes))
    module = ClipModule(model, options, options.row, data.classes, dataset.groups)
    trainer, folder = run.start_trainer(options, model, 1, 1, dataset)
    trainer.validate(module, loader, verbose=False)
    report(trainer, module, folder, "evaluation")


def report(trainer: Trainer, module: ClipModule, folder: Path, title: str) -> dict[str, float]:
    """Print, write and return the figures of the last validation; those of each class and group are written, too."""
    from helpers import run
    from helpers.run_folder import write_metrics

    figures = {name.removeprefix("val/"): value for name, value in run.validation_figures(trainer).items()}
    if trainer.is_global_zero:
        by_group = {f"accuracy, {name}": v for name, v in module.per_class.get("accuracy_per_group", {}).items()}
        log.info("%s", run.table({**figures, **by_group}, f"{title} ({folder})"))
        write_metrics(folder, {**figures, **module.per_class})
    return figures


if __name__ == "__main__":
    main()
