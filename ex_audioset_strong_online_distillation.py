"""Train a sound event detector on AudioSet Strong and Weak at once, beside a teacher that hears the same clips.

python ex_audioset_strong_online_distillation.py --data_dir=DIR --model_name=fmn10 --seq_model_type=tf --pretrained=weak
python ex_audioset_strong_online_distillation.py --data_dir=DIR --teacher_checkpoint=runs/teacher/best.ckpt
python ex_audioset_strong_online_distillation.py --data_dir=DIR --teacher_pseudo_labels=FILE
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy waiting starves the data workers

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import config
from errors import exit_on_user_error

log = logging.getLogger("efficientsed")


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Options -> data, module, trainer -> fit or evaluate."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = config.parse(config.OnlineOptions, argv)
    from helpers import run, run_folder  # torch is imported from here on: wrong options are refused at once

    run.prepare()
    if options.resume is not None:
        options = run_folder.resumed_options(options, argv)
    run.check_machine(options)
    data_dir = config.data_dir(options.data_dir)
    (evaluate if options.evaluate else train)(options, data_dir)


def train(options: config.OnlineOptions, data_dir: Path) -> None:
    """Train, validate on strong and weak clips now and then, and keep the best and the last checkpoint."""
    from data_util.audioset import AudioSetStrong, AudioSetWeak
    from helpers import run
    from helpers.lit_distillation import OnlineDistillation
    from helpers.online_loader import online_loader

    pseudo_labels = options.pseudo_labels_file if options.strong_distillation_loss_weight > 0 else None
    strong = AudioSetStrong(data_dir, "train", pseudo_labels=pseudo_labels)
    weak = AudioSetWeak(data_dir, "train")
    strong_eval, weak_eval = AudioSetStrong(data_dir, "eval"), AudioSetWeak(data_dir, "eval")
    model = run.build_model(options, n_classes_weak=len(weak.vocabulary))
    live = options.online_distillation_loss_weight > 0 and options.teacher_pseudo_labels is None
    teacher = run.build_teacher(options, "strong_head", options.teacher_temperature) if live else None
    module = OnlineDistillation(model, options, strong_eval.ground_truth(), strong_eval.durations(), teacher)
    loader = online_loader(options, strong, weak)
    trainer, folder = run.start_trainer(
        options, model, len(loader), options.n_epochs, strong, weak, strong_eval, weak_eval
    )
    facts = {
        "training_clips": f"{len(strong):,} strong, {len(weak):,} weak; {len(loader):,} batches per epoch",
        "evaluation_clips": f"{len(strong_eval):,} strong, {len(weak_eval):,} weak",
        "loss": ", ".join(f"{weight:g} {term}" for term, weight in module.weights.of_terms().items() if weight),
        "teacher": describe_teacher(options),
    }
    log.info("%s", run.describe(options, module, trainer, folder, **facts))
    run.fit(trainer, module, loader, [run.eval_loader(s, options) for s in (strong_eval, weak_eval)], options)
    run.report(folder, trainer, module, "last epoch")


def describe_teacher(options: config.OnlineOptions) -> str | None:
    """What is distilled from; None where nothing is."""
    if options.online_distillation_loss_weight == 0:
        return None
    name = f"{options.teacher_model_name} {options.teacher_pretrained}"
    return str(options.teacher_pseudo_labels or options.teacher_checkpoint or name)


def evaluate(options: config.OnlineOptions, data_dir: Path) -> None:
    """Score a checkpoint on strong and weak evaluation clips."""
    from data_util.audioset import AudioSetStrong, AudioSetWeak
    from helpers import run
    from helpers.lit_distillation import OnlineDistillation

    strong, weak = AudioSetStrong(data_dir, "eval"), AudioSetWeak(data_dir, "eval")
    model = run.build_model(options, n_classes_weak=len(weak.vocabulary))
    run.require_trained(model, options, "strong_head")
    module = OnlineDistillation(model, options, strong.ground_truth(), strong.durations())
    trainer, folder = run.start_trainer(options, model, 1, 1, strong, weak)
    trainer.validate(module, [run.eval_loader(s, options) for s in (strong, weak)], verbose=False)
    run.report(folder, trainer, module, "evaluation")


if __name__ == "__main__":
    main()
