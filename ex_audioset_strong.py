"""Train or evaluate a sound event detector on AudioSet Strong.

python ex_audioset_strong.py --data_dir=DIR --model_name=fmn10 --seq_model_type=tf --pretrained=weak
python ex_audioset_strong.py --data_dir=DIR --checkpoint=runs/as_strong/best.ckpt --evaluate
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
    options = config.parse(config.StrongOptions, argv)
    from helpers import run, run_folder  # torch is imported from here on: wrong options are refused at once

    run.prepare()
    if options.resume is not None:
        options = run_folder.resumed_options(options, argv)
    run.check_machine(options)
    data_dir = config.data_dir(options.data_dir)
    (evaluate if options.evaluate else train)(options, data_dir)


def train(options: config.StrongOptions, data_dir: Path) -> None:
    """Train, validate now and then, and keep the best and the last checkpoint."""
    from data_util.audioset import AudioSetStrong
    from data_util.samplers import strong_weights
    from helpers import run
    from helpers.lit_module import SEDModule

    pseudo_labels = options.pseudo_labels_file if options.distillation_loss_weight > 0 else None
    train_set = AudioSetStrong(data_dir, "train", pseudo_labels=pseudo_labels)
    eval_set = AudioSetStrong(data_dir, "eval")
    model = run.build_model(options)
    module = SEDModule(model, options, eval_set.ground_truth(), eval_set.durations())
    sampler = run.make_sampler(len(train_set), lambda: strong_weights(train_set.events), options)
    loader = run.train_loader(train_set, sampler, options)
    trainer, folder = run.start_trainer(options, model, len(loader), options.n_epochs, train_set, eval_set)
    weight, missing = options.distillation_loss_weight, train_set.without_pseudo
    facts = {
        "training_clips": f"{len(train_set):,}",
        "evaluation_clips": f"{len(eval_set):,}, {len(eval_set.class_names_present())} classes",
        "pseudo_labels": f"{pseudo_labels}, weight {weight}, {missing:,} clips without" if pseudo_labels else None,
    }
    log.info("%s", run.describe(options, module, trainer, folder, **facts))
    run.fit(trainer, module, loader, run.eval_loader(eval_set, options), options)
    run.report(folder, trainer, module, "last epoch")


def evaluate(options: config.StrongOptions, data_dir: Path) -> None:
    """Score a checkpoint on the evaluation clips."""
    from data_util.audioset import AudioSetStrong
    from helpers import run
    from helpers.lit_module import SEDModule

    eval_set = AudioSetStrong(data_dir, "eval")
    model = run.build_model(options)
    run.require_trained(model, options, "strong_head")
    module = SEDModule(model, options, eval_set.ground_truth(), eval_set.durations())
    trainer, folder = run.start_trainer(options, model, 1, 1, eval_set)
    trainer.validate(module, run.eval_loader(eval_set, options), verbose=False)
    run.report(folder, trainer, module, "evaluation")


if __name__ == "__main__":
    main()
