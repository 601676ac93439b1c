"""One training per fold, and the figures of all of them; a resumed cross-validation goes on with the fold at hand."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev

import config
import locks
import signals
from config_clipwise import ALL_FOLDS, DownstreamOptions
from helpers import run_folder
from helpers.run import table
from helpers.trackers import end_tracking

log = logging.getLogger("efficientsed")

Train = Callable[[DownstreamOptions], dict[str, float]]


def resumed_options(options: DownstreamOptions, argv: Sequence[str]) -> DownstreamOptions:
    """The options of the run that `--resume` continues: a training, or a cross-validation (`resume` is its folder)."""
    assert options.resume is not None
    newest = str(options.resume) == "newest"
    folder = options.output_dir / options.experiment_name if newest else options.resume
    saved = folder / run_folder.CONFIG_FILE
    if saved.is_file():
        content = config.read_yaml(saved)
        if content.get("fold") == ALL_FOLDS:
            whole = run_folder.continued_options(options, content, folder)
            if len(whole.folds) > 1:
                return whole
    return run_folder.resumed_options(options, argv)


def cross_validate(options: DownstreamOptions, train: Train) -> None:
    """Train once per fold, in folders of their own inside the run's folder, and write mean and spread.

    Args:
        options: of the run; `resume` is the run's folder, or None.
        train: trains on one fold, given its options, and returns its figures.
    """
    resuming = options.resume is not None
    folder = options.resume if options.resume is not None else run_folder.run_dir(options)
    first_process = run_folder.global_rank() == 0
    if first_process:
        locks.hold(folder, folder=True)
        config.write_yaml(options, folder / run_folder.CONFIG_FILE)
    folds: dict[str, dict[str, float]] = {}
    for fold in options.folds:
        part = folder / f"{options.experiment_name}-fold{fold}"
        figures = finished(part, options.n_epochs) if resuming else None
        if figures is None:
            with signals.telling(lambda: f"resume with --resume {folder}"):
                signals.obey()  # one that came at the very end of a fold
                figures = train(fold_options(options, fold, part, resuming=resuming))
            end_tracking()
        folds[f"fold {fold}"] = figures
    metric = options.row.metric
    values = [figures[metric] for figures in folds.values()]
    summary = {metric: fmean(values), f"{metric}_std": stdev(values)}
    if first_process:
        rows = {**{name: figures[metric] for name, figures in folds.items()}, "mean": summary[metric]}
        log.info("%s", table({**rows, "standard deviation": summary[f"{metric}_std"]}, f"{metric} ({folder})"))
        run_folder.write_metrics(folder, {**summary, "folds": folds})


def fold_options(options: DownstreamOptions, fold: int, part: Path, *, resuming: bool) -> DownstreamOptions:
    """The options of the training for one fold, in its own folder `part`."""
    resume = run_folder.newest_checkpoint(part) if resuming else None
    if resume is not None and run_folder.resume_position(resume)[0] >= options.n_epochs:
        resume = None  # it ended between its training and its figures
    own = dataclasses.replace(
        options, resume=resume, fold=str(fold), output_dir=part.parent, experiment_name=part.name, overwrite=True
    )
    own.given = options.given  # type: ignore[misc]  # on the instance, as command_line.parse sets it
    return own


def finished(part: Path, n_epochs: int) -> dict[str, float] | None:
    """The figures of a fold that has been trained for so many epochs; None for one that is not done."""
    try:
        content = json.loads((part / run_folder.METRICS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if config.read_yaml(part / run_folder.CONFIG_FILE)["n_epochs"] != n_epochs:
        return None
    numbers = {name: math.nan if value is None else value for name, value in content.items()}  # JSON has no NaN
    return {name: value for name, value in numbers.items() if isinstance(value, float)}
