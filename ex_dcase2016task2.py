"""Train or evaluate a sound event detector on DCASE 2016 task 2, in HEAR's packaging.

python ex_dcase2016task2.py --task_path=DIR --model_name=fmn10 --pretrained=strong
python ex_dcase2016task2.py --task_path=DIR --model_name=ATST-F --pretrained=strong --lr_decay=0.95
python ex_dcase2016task2.py --task_path=DIR --checkpoint=runs/DCASE2016Task2/best.ckpt --evaluate
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy waiting starves the data workers

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from config_downstream import DcaseOptions, task_path
from errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from data_util.dcase2016task2 import Pieces
    from helpers.lit_dcase import DcaseModule
    from models.sed_model import SEDModel

log = logging.getLogger("efficientsed")


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Options -> data, module, trainer -> fit or evaluate."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = config.parse(DcaseOptions, argv)
    from helpers import run, run_folder  # torch is imported from here on: wrong options are refused at once

    run.prepare()
    if options.resume is not None:
        options = run_folder.resumed_options(options, argv)
    run.check_machine(options)
    (evaluate if options.evaluate else train)(options, task_path(options.task_path))


def train(options: DcaseOptions, folder: Path) -> None:
    """Train, validate now and then, and test the best (or the last) checkpoint."""
    from data_util.dcase2016task2 import Crops, CropSampler, Pieces
    from helpers import run
    from helpers.lit_dcase import DcaseModule
    from helpers.run_folder import BEST
    from models.checkpoints import load_weights

    crops = Crops(folder, seed=options.seed)
    valid, test = Pieces(folder, "valid"), Pieces(folder, "test")
    model = build_model(options, valid)
    module = DcaseModule(model, options, valid, test)
    loader = run.train_loader(crops, CropSampler(len(crops), seed=options.seed), options)
    trainer, run_dir = run.start_trainer(options, model, len(loader), options.n_epochs, crops, valid, test)
    facts = {
        "training_files": f"{len(crops.recordings):,}, {len(crops):,} crops of 10 s per epoch",
        "other_files": f"{len(valid.names):,} for validation, {len(test.names):,} for the test",
        "classes": ", ".join(crops.labels),
    }
    log.info("%s", run.describe(options, module, trainer, run_dir, **facts))
    run.fit(trainer, module, loader, run.eval_loader(valid, options), options)
    best = run_dir / BEST
    if options.test_with == "best" and best.is_file():
        load_weights(model, best)
    score(options, trainer, module, run_dir, f"{options.test_with} checkpoint")


def evaluate(options: DcaseOptions, folder: Path) -> None:
    """Score a checkpoint on the validation and test files."""
    from data_util.dcase2016task2 import Pieces
    from helpers import run
    from helpers.lit_dcase import DcaseModule

    valid, test = Pieces(folder, "valid"), Pieces(folder, "test")
    model = build_model(options, valid)
    module = DcaseModule(model, options, valid, test)
    trainer, run_dir = run.start_trainer(options, model, 1, 1, valid, test)
    score(options, trainer, module, run_dir, "evaluation")


def build_model(options: DcaseOptions, files: Pieces) -> SEDModel:
    """The detector with a head for the classes of the task; raises UserError where their number or order differs."""
    from data_util.hear_files import LABELS_FILE
    from helpers import run
    from models.checkpoints import read_checkpoint

    if options.n_classes != len(files.labels):
        config.refuse("n_classes", options.n_classes, f"{LABELS_FILE} has {len(files.labels)} classes")
    if options.evaluate and options.checkpoint is not None:
        labels = read_checkpoint(options.checkpoint)[1].get("labels")
        if labels != files.labels:
            raise UserError(
                f"--checkpoint {options.checkpoint}: its classes are not those of {LABELS_FILE}; train first"
            )
    return run.build_model(options, labels=files.labels)


def score(options: DcaseOptions, trainer: Any, module: DcaseModule, run_dir: Path, title: str) -> None:
    """Score the weights at hand on the validation and test files; write figures and events."""
    from helpers import run
    from helpers.event_predictions import write_predictions
    from helpers.run_folder import write_metrics

    figures: dict[str, float] = {}
    per_class: dict[str, dict[str, float]] = {}
    for act, files in ((trainer.validate, module.splits["val"]), (trainer.test, module.splits["test"])):
        act(module, run.eval_loader(files, options), verbose=False)
        figures |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        per_class |= module.per_class
    if trainer.is_global_zero:
        log.info("%s", run.table(figures, f"{title} ({run_dir})"))
        write_metrics(run_dir, {**figures, **per_class})
        for stage, files in module.splits.items():
            write_predictions(run_dir / f"{files.split}_predictions", module.events[stage])


if __name__ == "__main__":
    main()
