"""Fine-tune a sound event detector on your own recordings and classes.

python ex_finetune.py --audio DIR --events FILE.csv
python ex_finetune.py --audio DIR                       # label files beside the recordings, or a folder per class
python inference.py --checkpoint runs/finetune/best.ckpt --audio_file FILE
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy waiting starves the data workers

import logging
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import config
import signals
from config_finetune import FinetuneOptions
from errors import UserError, exit_on_user_error

if TYPE_CHECKING:
    from data_util.own_data import OwnData

log = logging.getLogger("efficientsed")


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Options -> recordings, their splits -> training, or a checkpoint -> report."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = config.parse(FinetuneOptions, argv)
    from data_util.own_data import read_own_data
    from helpers import run, run_folder  # torch is imported from here on: wrong options are refused at once

    run.prepare()
    if options.resume is not None:
        options = run_folder.resumed_options(options, argv)
    run.check_machine(options)
    if options.audio is None:
        raise UserError("--audio is missing: the run that is to go on does not name it")
    channel = 0 if options.channels == "first" else None
    data = read_own_data(
        options.audio,
        options.events,
        options.group_column,
        label_column=options.label_column,
        background=options.background,
        channel=channel,
        strict=options.strict,
    )
    (evaluate if options.evaluate else train)(options, data)


def train(options: FinetuneOptions, data: OwnData) -> None:
    """Train, keep the best state, tune its decisions on the validation recordings, report on the test recordings."""
    from helpers import run
    from helpers.finetune_report import report_on
    from helpers.lit_finetune import (
        FinetuneModule,
        choose_start,
        log_data,
        splits_of,
        stop_early,
        train_sampler,
        windows_of,
    )
    from helpers.run_folder import BEST
    from helpers.tuning import tune_checkpoint

    splits = splits_of(data, options)
    train_set, val_set = windows_of(data, splits)
    data.notes += choose_start(options)
    options.settle(len(train_set))
    model = run.build_model(options, labels=data.labels)
    module = FinetuneModule(model, options, val_set, data.clip_labels, splits)
    loader = run.train_loader(train_set, train_sampler(train_set, options), options)
    trainer, folder = run.start_trainer(options, model, len(loader), options.n_epochs, train_set, val_set)
    stop_early(trainer, options)
    log_data(data, splits)
    windows = f"{len(train_set):,} of {train_set.seconds:g} s"
    length = f"at most {options.n_epochs}, of {len(loader)} steps each; {options.frozen_epochs} with a frozen backbone"
    log.info("%s", run.describe(options, module, trainer, folder, training_windows=windows, epochs=length))
    run.fit(trainer, module, loader, run.eval_loader(val_set, options), options)
    run.report(folder, trainer, module, "last epoch")
    device, best = str(trainer.strategy.root_device), folder / BEST
    with signals.telling(lambda: f"{best} is trained; report on it with --evaluate --checkpoint {best}"):
        tune_checkpoint(best, splits["val"], device)
        report_on(best, folder, data, splits, device, n_bootstrap=options.n_bootstrap)


def evaluate(options: FinetuneOptions, data: OwnData) -> None:
    """Report with a fine-tuned checkpoint on what it has not learnt from; with `--test_share 1` on all recordings."""
    from helpers.devices import accelerator
    from helpers.finetune_report import report_on
    from helpers.lit_finetune import log_data, splits_of
    from helpers.run_folder import open_log, run_dir

    assert options.checkpoint is not None
    splits = splits_of(data, options)
    if not any(r.events for name in ("val", "test") for r in splits[name]):
        raise UserError(
            f"--checkpoint {options.checkpoint} was trained on all recordings with events in {options.audio}; to "
            "report on them nevertheless: --test_share 1"
        )
    folder = run_dir(options)
    open_log(folder)
    log_data(data, splits)
    report_on(options.checkpoint, folder, data, splits, accelerator(options), n_bootstrap=options.n_bootstrap)


if __name__ == "__main__":
    main()
