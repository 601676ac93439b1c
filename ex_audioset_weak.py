"""Train or evaluate a tagger on AudioSet Weak: the stage between ImageNet or self-supervision and AudioSet Strong.

python ex_audioset_weak.py --data_dir=DIR --model_name=fmn10 --teacher_predictions=LOGITS.npy --teacher_names=NAMES.csv
python ex_audioset_weak.py --data_dir=DIR --checkpoint=runs/as_weak/best.ckpt --evaluate
python ex_audioset_strong.py --data_dir=DIR --model_name=fmn10 --checkpoint=runs/as_weak/best.ckpt
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy waiting starves the data workers

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import config
from errors import exit_on_user_error

log = logging.getLogger("efficientsed")


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Options -> data, module, trainer -> fit or evaluate."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = config.parse(config.WeakOptions, argv)
    from helpers import run, run_folder  # torch is imported from here on: wrong options are refused at once

    run.prepare()
    if options.resume is not None:
        options = run_folder.resumed_options(options, argv)
    run.check_machine(options)
    data_dir = config.data_dir(options.data_dir)
    (evaluate if options.evaluate else train)(options, data_dir)


def train(options: config.WeakOptions, data_dir: Path) -> None:
    """Train, validate now and then, and keep the best and the last checkpoint."""
    from data_util.audioset import AudioSetWeak
    from data_util.samplers import weak_weights
    from data_util.weak_teacher import WeakTeacher, WithWeakTeacher
    from helpers import run
    from helpers.lit_module import SEDModule

    clips, eval_set = AudioSetWeak(data_dir, "train"), AudioSetWeak(data_dir, "eval")
    train_set: Any = clips
    if options.teacher_predictions and options.teacher_names:
        tags = WeakTeacher(options.teacher_predictions, options.teacher_names)
        train_set = WithWeakTeacher(clips, tags, clips.clip_ids)
    model = run.build_model(options, n_classes_weak=len(clips.vocabulary))
    teacher = run.build_teacher(options, "weak_head", options.teacher_temperature)
    module = SEDModule(model, options, teacher=teacher)
    sampler = run.make_sampler(len(clips), lambda: weak_weights(clips.targets()), options)
    loader = run.train_loader(train_set, sampler, options)
    trainer, folder = run.start_trainer(options, model, len(loader), options.n_epochs, clips, eval_set)
    facts = {
        "training_clips": f"{len(clips):,}, {sampler.n_samples:,} draws per epoch",
        "evaluation_clips": f"{len(eval_set):,}",
        "teacher": describe_teacher(options, train_set),
    }
    log.info("%s", run.describe(options, module, trainer, folder, **facts))
    run.fit(trainer, module, loader, run.eval_loader(eval_set, options), options)
    run.report(folder, trainer, module, "last epoch")


def describe_teacher(options: config.WeakOptions, train_set: Any) -> str | None:
    """Teacher, its weight, and how many clips it does not know; None without one."""
    if options.teacher_predictions:
        unknown = f", {train_set.unknown_clips:,} clips unknown"
        return f"{options.teacher_predictions}, weight {options.distillation_loss_weight}{unknown}"
    source = options.teacher_checkpoint or options.teacher_pretrained
    return f"{source}, weight {options.distillation_loss_weight}" if source else None


def evaluate(options: config.WeakOptions, data_dir: Path) -> None:
    """Score a checkpoint on the evaluation clips."""
    from data_util.audioset import AudioSetWeak
    from helpers import run
    from helpers.lit_module import SEDModule

    eval_set = AudioSetWeak(data_dir, "eval")
    model = run.build_model(options, n_classes_weak=len(eval_set.vocabulary))
    run.require_trained(model, options, "weak_head")
    module = SEDModule(model, options)
    trainer, folder = run.start_trainer(options, model, 1, 1, eval_set)
    trainer.validate(module, run.eval_loader(eval_set, options), verbose=False)
    run.report(folder, trainer, module, "evaluation")


if __name__ == "__main__":
    main()
