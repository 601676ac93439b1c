"""Fine-tune or evaluate a clip classifier on ESC-50, TAU 2020 Mobile, FSD50K or OpenMIC, in their official layouts.

python ex_downstream.py --task=esc50 --data_dir=ESC-50-master --model_name=fmn10 --pretrained=weak
python ex_downstream.py --task=openmic --data_dir=openmic-2018 --checkpoint=runs/as_weak/best.ckpt
python ex_downstream.py --task=esc50 --data_dir=ESC-50-master --fold=1 --evaluate --checkpoint=FILE
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy waiting starves the data workers

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import config
from config_clipwise import DownstreamOptions
from errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from data_util.downstream import TaskData

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
    run.check_machine(options)
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


def train(options: DownstreamOptions) -> dict[str, float]:
    """Train and validate on one fold, test where there are test clips of their own; returns the final figures."""
    from data_util.downstream_clips import EpochCuts, TaskClips
    from helpers import clip_run, run
    from helpers.clip_card import clip_card
    from helpers.lit_clipwise import ClipModule
    from helpers.run_folder import CARD_FILE, write_text

    data, task = read_data(options), options.row
    train_set = TaskClips(data.train, options.clip_seconds or task.seconds, seed=options.seed)
    eval_set, eval_loader = clip_run.eval_batches(options, data.validation)
    model = run.build_model(options, n_classes_weak=len(data.classes))
    clip_run.forget_other_classes(model, options, data.classes)
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
    scored = "last epoch"
    if data.test is not None:
        trainer, scored = clip_run.score_test_clips(options, data.test, module, folder)
    figures = clip_run.report(trainer, module, folder, scored)
    if trainer.is_global_zero:
        write_text(folder / CARD_FILE, clip_card(options, data.classes, figures, scored))
    return figures


def evaluate(options: DownstreamOptions) -> None:
    """Score a checkpoint on the test clips, or on the tested fold."""
    from helpers import clip_run, run
    from helpers.lit_clipwise import ClipModule
    from models.checkpoints import read_checkpoint

    data = read_data(options)
    assert options.checkpoint is not None
    metadata = read_checkpoint(options.checkpoint)[1]
    if metadata.get("weak_labels") != list(data.classes):
        raise UserError(f"--checkpoint {options.checkpoint} was not trained on these {len(data.classes)} classes")
    fold = metadata.get("options", {}).get("fold", options.fold)
    if options.row.folds > 1 and fold != options.fold:
        config.refuse("fold", options.fold, f"--checkpoint {options.checkpoint} was trained on it; it left out {fold}")
    dataset, loader = clip_run.eval_batches(options, data.test or data.validation)
    model = run.build_model(options, n_classes_weak=len(data.classes))
    module = ClipModule(model, options, options.row, data.classes, dataset.groups)
    trainer, folder = run.start_trainer(options, model, 1, 1, dataset)
    trainer.validate(module, loader, verbose=False)
    clip_run.report(trainer, module, folder, "evaluation")


if __name__ == "__main__":
    main()
