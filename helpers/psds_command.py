"""Scores the frame scores of one model, or of two against each other, against a ground truth."""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from atomic import unfinished
from command_line import check_output, refuse
from errors import UserError, exit_on_user_error
from helpers import psds_io, psds_scores
from helpers.cells import safe_cells
from helpers.postprocess import check_windows
from helpers.psds_accumulator import PSDSAccumulator
from helpers.psds_bootstrap import Interval, bootstrap, paired_bootstrap
from helpers.psds_curves import F1, PSDS1, PSDS2
from helpers.psds_figures import PSDSResult, macro_f1, micro_f1
from helpers.psds_plots import plot_classes, plot_psd_roc
from json_text import json_text
from printable import printable

SETTINGS = {"psds1": PSDS1, "psds2": PSDS2}
N_RESAMPLES = 1000
CLIP_SECONDS = 10.0  # of AudioSet, where nobody says how long the clips are
TOLERANCE = 0.5  # seconds by which clips of 10 s and their frames differ
LIMITS = {"median_window": (1, 9999), "bootstrap": (0, 100_000), "seed": (0, 2**31 - 1)}
FILES = ("results.json", "classes.csv", "psd_roc.png", "classes.png")


@dataclass
class Scored:
    """One model and its figures."""

    label: str
    source: psds_scores.ScoreSource
    collected: PSDSAccumulator
    result: PSDSResult
    seconds: float
    f1: dict[str, dict[str, F1]] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)


def build_parser() -> argparse.ArgumentParser:
    """The options; each one says what it is for."""
    parser = argparse.ArgumentParser(prog="python -m helpers.psds", description=__doc__)
    add = parser.add_argument
    add(
        "--scores",
        type=Path,
        required=True,
        help="folder of <clip>.tsv (sed_scores_eval), also in folders beneath, or HDF5 of scores",
    )
    add("--compare", type=Path, help="scores of a second model on the same clips")
    add("--ground_truth", type=Path, required=True, help="TSV of events (sed_scores_eval or AudioSet Strong)")
    add("--durations", type=Path, help="TSV (filename, duration) or CSV (clip,seconds) (default: all clips last 10 s)")
    add("--vocabulary", default="strong", help="class names behind the labels of an AudioSet Strong TSV")
    add("--metric", choices=sorted(SETTINGS), default="psds1", help="criteria (default: %(default)s)")
    add("--median_window", type=int, default=1, help="odd number of frames (default: 1, no filter)")
    add("--score_padding", action="store_true", help="HDF5: score frames after the end of a clip too")
    add("--keep_empty", action="store_true", help="score clips without events too")
    add("--partial", action="store_true", help="score the clips at hand though the ground truth has more")
    add("--f1", action="store_true", help="F1 over detections and over 1 s segments, at the best thresholds")
    add("--threshold", type=float, help="with --f1: at this threshold instead")
    add("--bootstrap", type=int, metavar="N", help=f"resamples of the clips (default: {N_RESAMPLES} with --compare)")
    add("--seed", type=int, default=0, help="of the resamples (default: 0)")
    add("--out", type=Path, metavar="DIR", help=f"write {', '.join(FILES)}")
    add("--save_hdf5", type=Path, metavar="FILE", help="write the scores of --scores as one compact HDF5")
    add("--save_tsv", type=Path, metavar="DIR", help="write the scores of --scores as one TSV per clip")
    add("--overwrite", action="store_true", help="replace files that are there")
    return parser


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    options = build_parser().parse_args(argv)
    _check(options)
    truth = psds_io.read_ground_truth(options.ground_truth, options.vocabulary)
    truth = {clip_id: psds_io.merge_overlaps(events) for clip_id, events in truth.items()}
    durations = psds_io.read_durations(options.durations) if options.durations else None
    paths = [options.scores] if options.compare is None else [options.scores, options.compare]
    sources = [psds_scores.open_scores(path) for path in paths]
    models = []
    for label, source in zip(_labels(paths), sources, strict=True):
        models.append(_score(label, source, truth, durations, options))
        _print(models[-1], options)
    difference = {}
    if len(models) == 2 and options.bootstrap:
        difference = paired_bootstrap(models[0].collected, models[1].collected, options.bootstrap, seed=options.seed)
        _print_intervals(f"{models[1].label} - {models[0].label}", difference, "+6.2f")
    if options.out is not None:
        _write(options, models, difference)
    _convert(sources[0], options)


def _check(options: argparse.Namespace) -> None:
    """Refuses bad options before any work starts, and fills in the number of resamples."""
    if options.bootstrap is None:
        options.bootstrap = N_RESAMPLES if options.compare else 0
    for name, (low, high) in LIMITS.items():
        value = getattr(options, name)
        if not low <= value <= high:
            refuse(name, value, f"must be between {low:,} and {high:,}")
    check_windows(options.median_window, 1)
    if options.threshold is not None and not options.f1:
        raise UserError(f"--threshold {options.threshold}: only with --f1")
    if options.threshold is not None and not math.isfinite(options.threshold):
        refuse("threshold", options.threshold, "must be finite")
    _check_outputs(options)


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuses outputs that cannot be written, are there already, or are read as well."""
    read = (options.scores, options.compare, options.ground_truth, options.durations)
    inputs = {os.path.realpath(path) for path in read if path is not None}
    written = [("out", options.out / name) for name in FILES] if options.out is not None else []
    written += [("save_hdf5", options.save_hdf5), ("save_tsv", options.save_tsv)]
    for name, path in written:
        if path is None:
            continue
        check_output(name, path, folder=name == "save_tsv")
        if os.path.realpath(path) in inputs:
            refuse(name, path, "it is read as well; name another")
        if not path.is_dir() or any(path.iterdir()):
            psds_io.refuse_existing(path, options.overwrite)


def _labels(paths: Sequence[Path]) -> list[str]:
    """Short names of the models: as much of the paths as tells them apart."""
    stems = [path.name.removesuffix(".hdf").removesuffix(".h5").removesuffix(".hdf5") for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _score(
    label: str,
    source: psds_scores.ScoreSource,
    truth: Mapping[str, list[psds_io.Event]],
    durations: Mapping[str, float] | None,
    options: argparse.Namespace,
) -> Scored:
    """Streams the scores of one model through the accumulator and computes its figures."""
    start = time.perf_counter()
    names, events = _choose_clips(label, source, truth, options)
    durations = _durations_of(names, events, durations, options)
    collected = PSDSAccumulator(
        source.class_names,
        SETTINGS[options.metric],
        frame_rate=source.frame_rate,
        median_window=options.median_window,
        clip_to_duration=not options.score_padding,
        all_durations=None if options.f1 else [durations[name] for name in names.values()],
        keep_clips=options.bootstrap > 0,
    )
    for clips in source.read(list(names)):
        if options.durations is None:
            _require_default_length(label, source, clips)
        collected.update(clips.scores, [names[clip] for clip in clips.clip_ids], events, durations, clips.stamps)
    scored = Scored(label, source, collected, collected.compute(), 0.0)
    if options.f1:
        scored.f1["intersection_f1"] = collected.intersection_f1(options.threshold)
        scored.f1["segment_f1"] = collected.segment_f1(options.threshold)
    if options.bootstrap:
        scored.intervals = bootstrap(collected, options.bootstrap, seed=options.seed)
    scored.seconds = time.perf_counter() - start
    return scored


def _durations_of(
    names: Mapping[str, str],
    events: Mapping[str, Sequence[psds_io.Event]],
    durations: Mapping[str, float] | None,
    options: argparse.Namespace,
) -> dict[str, float]:
    """Seconds of each clip, by its name in the ground truth; without a table 10, which no event may exceed."""
    if durations is not None:
        return psds_io.match_durations(names, durations, str(options.durations))
    for name in names.values():
        end = max((offset for _, offset, _ in events[name]), default=0.0)
        if end > CLIP_SECONDS + TOLERANCE:
            raise UserError(
                f"{options.ground_truth}: clip {name} has an event that ends at {end:g} s, and without --durations all "
                f"clips last {CLIP_SECONDS:g} s; give --durations FILE"
            )
    return dict.fromkeys(names.values(), CLIP_SECONDS)


def _require_default_length(label: str, source: psds_scores.ScoreSource, clips: psds_scores.ScoredClips) -> None:
    """Raise UserError for scores that do not end where a clip of 10 s does."""
    n_frames = clips.scores.shape[2]
    end = float(clips.stamps[-1]) if clips.stamps is not None else n_frames / source.frame_rate
    if abs(end - CLIP_SECONDS) > TOLERANCE:
        raise UserError(
            f"{label}: the scores of clip {clips.clip_ids[0]} end at {end:g} s, and without --durations all clips last "
            f"{CLIP_SECONDS:g} s; give --durations FILE"
        )


def _choose_clips(
    label: str,
    source: psds_scores.ScoreSource,
    truth: Mapping[str, list[psds_io.Event]],
    options: argparse.Namespace,
) -> tuple[dict[str, str], dict[str, list[psds_io.Event]]]:
    """Scored clips -> their names in the ground truth, and the events of the scored classes."""
    names, without_truth, missing = psds_io.match_clips(source.clip_ids, truth, str(options.ground_truth))
    if missing and not names:
        scored, named = psds_io.shorten(source.clip_ids), psds_io.shorten(missing)
        raise UserError(f"{label}: no clip of the ground truth has scores: they are of {scored}, and it names {named}")
    if missing and not options.partial:
        raise UserError(f"{label}: no scores of {len(missing)} clips of the ground truth, such as "
                        f"{psds_io.shorten(missing)}; add them, or leave them out with --partial")  # fmt: skip
    if missing:
        _say(f"{label}: {len(missing)} clips of the ground truth have no scores; their events count neither as found "
             f"nor as missed (--partial): {psds_io.shorten(missing)}")  # fmt: skip
    known = set(source.class_names)
    events = {clip: [event for event in truth[clip] if event[2] in known] for clip in names.values()}
    if options.keep_empty:
        names.update({clip: clip for clip in without_truth})
        events.update({clip: [] for clip in without_truth})
    elif without_truth:
        _say(f"{label}: {len(without_truth)} clips without ground truth left out: {psds_io.shorten(without_truth)}")
    unknown = {event[2] for clip in names.values() for event in truth.get(clip, ())} - known
    if unknown:
        listed = psds_io.shorten(sorted(unknown))
        _say(f"{label}: events of {len(unknown)} classes without scores left out: {listed}")
    if not options.keep_empty:
        names = {clip: name for clip, name in names.items() if events[name]}
    return names, events


def _say(note: str) -> None:
    """A line about clips and classes, on standard error."""
    print(printable(note), file=sys.stderr)


def _print(scored: Scored, options: argparse.Namespace) -> None:
    result = scored.result
    print(f"{printable(scored.label)}: {result.n_clips:,} clips, {result.hours:.2f} h, {len(result.n_events)} classes, "
          f"{sum(result.n_events.values()):,} events; {scored.seconds:.1f} s")  # fmt: skip
    print(f"  {options.metric:<18}{100 * result.psds:6.2f} %")
    print(f"  {options.metric + ' macro':<18}{100 * result.psds_macro:6.2f} %  (mean over classes)")
    print(f"  {'pauroc':<18}{100 * result.pauroc:6.2f} %  (1 s segments, false positive rate up to 0.1)")
    for name, per_class in scored.f1.items():
        values = 100 * macro_f1(per_class), 100 * micro_f1(per_class, _n_ref(scored, name))
        print(f"  {name:<18}{values[0]:6.2f} % macro, {values[1]:.2f} % micro")
    _print_intervals("", scored.intervals, "6.2f")


def _n_ref(scored: Scored, name: str) -> int:
    """Number of events, or of active segments, of all classes."""
    return (
        sum(scored.result.n_events.values()) if name == "intersection_f1" else int(scored.collected.active.sizes.sum())
    )


def _print_intervals(title: str, intervals: Mapping[str, Interval], form: str) -> None:
    if title:
        print(f"{printable(title)}:")
    for name, interval in intervals.items():
        low, high, std = (100 * value for value in (interval.low, interval.high, interval.std))
        print(f"  {name:<18}{100 * interval.estimate:{form}} %  95 % interval {low:{form}} to {high:{form}}, "
              f"standard error {std:.2f} ({len(interval.samples)} resamples)")  # fmt: skip


def _write(options: argparse.Namespace, models: Sequence[Scored], difference: Mapping[str, Interval]) -> None:
    """Writes the files of --out; each appears under its name when it is complete."""
    options.out.mkdir(parents=True, exist_ok=True)
    results = {scored.label: scored.result for scored in models}
    metric, settings = options.metric.upper(), SETTINGS[options.metric]
    curves = {label: (*result.roc, result.psds) for label, result in results.items()}
    bars = {label: result.psds_per_class for label, result in results.items()}
    writers: dict[str, Callable[[Path], object]] = {
        "results.json": lambda path: path.write_text(
            json_text(_summary(options, models, difference), indent=2), encoding="utf-8"
        ),
        "classes.csv": lambda path: _write_classes(path, models),
        "psd_roc.png": lambda path: plot_psd_roc(path, curves, settings.max_efpr, f"{metric}: overall curve"),
        "classes.png": lambda path: plot_classes(path, bars, f"{metric} of each class"),
    }
    for name, write in writers.items():
        with unfinished(options.out / f".part.{name}") as part:
            write(part)
            part.replace(options.out / name)
    print(printable(f"written: {options.out}/ {', '.join(writers)}"))


def _summary(
    options: argparse.Namespace, models: Sequence[Scored], difference: Mapping[str, Interval]
) -> dict[str, Any]:
    def plain(intervals: Mapping[str, Interval]) -> dict[str, Any]:
        return {
            name: {"estimate": one.estimate, "low": one.low, "high": one.high, "std": one.std, "n": len(one.samples)}
            for name, one in intervals.items()
        }

    summary: dict[str, Any] = {"metric": options.metric, "settings": asdict(SETTINGS[options.metric]), "models": {}}
    for scored in models:
        result = scored.result
        f1 = {
            name: {"macro": macro_f1(per_class), "micro": micro_f1(per_class, _n_ref(scored, name))}
            for name, per_class in scored.f1.items()
        }
        summary["models"][scored.label] = {
            "psds": result.psds,
            "psds_macro": result.psds_macro,
            "pauroc": None if np.isnan(result.pauroc) else result.pauroc,
            "n_clips": result.n_clips,
            "hours": result.hours,
            "n_classes": len(result.n_events),
            **f1,
            "bootstrap": plain(scored.intervals),
        }
    return {**summary, "difference": plain(difference)}


def _write_classes(path: Path, models: Sequence[Scored]) -> None:
    """One row per class: events, then for each model PSDS, pauroc and, where asked for, F1 and its threshold."""
    n_events = {name: n for scored in models for name, n in scored.result.n_events.items()}
    columns: dict[str, dict[str, float]] = {}
    for scored in models:
        prefix = f"{scored.label} " if len(models) > 1 else ""
        columns[f"{prefix}psds"] = scored.result.psds_per_class
        columns[f"{prefix}pauroc"] = scored.result.pauroc_per_class
        for name, per_class in scored.f1.items():
            columns[f"{prefix}{name}"] = {label: one.f1 for label, one in per_class.items()}
            columns[f"{prefix}{name} threshold"] = {label: one.threshold for label, one in per_class.items()}
    with path.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(safe_cells(["class", "events", *columns]))
        for name in sorted(n_events):
            writer.writerow(
                [*safe_cells([name]), n_events[name], *(column.get(name, "") for column in columns.values())]
            )


def _convert(source: psds_scores.ScoreSource, options: argparse.Namespace) -> None:
    """Writes the scores of the first model in the other forms that were asked for."""
    if options.save_tsv is not None:
        for clips in source.read(source.clip_ids):
            for clip_id, scores in zip(clips.clip_ids, clips.scores, strict=True):
                stamps = clips.stamps
                if stamps is None:
                    stamps = np.arange(scores.shape[1] + 1) / source.frame_rate
                psds_scores.write_score_tsv(
                    options.save_tsv, clip_id, scores, stamps, source.class_names, options.overwrite
                )
        print(printable(f"written: {options.save_tsv}/ {len(source.clip_ids)} files"))
    if options.save_hdf5 is not None:
        psds_scores.save_hdf5(options.save_hdf5, source, options.overwrite)
        print(printable(f"written: {options.save_hdf5}"))
