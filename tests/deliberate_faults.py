"""Put deliberate faults into a copy of the code, one at a time, and see that the tests catch each.

    python tests/deliberate_faults.py [--only WORDS] [--jobs 2]

Every fault replaces an exact piece of code that occurs once in its file, so a fault whose code has moved fails loudly
(`tests/test_deliberate_faults.py` looks at that in every test run). Prints a table of faults, and a summary as JSON in
the last line. Exit code 1: a fault survived, or the tests fail without any.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 240  # for the tests of one fault


@dataclass(frozen=True)
class Fault:
    """One mistake: `old`, which stands once in `path`, becomes `new`; `tests` are the node ids that must notice."""

    name: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, code: str) -> str:
        """The code with the fault; ValueError unless `old` occurs exactly once."""
        count = code.count(self.old)
        if count != 1:
            raise ValueError(f"fault '{self.name}': {count} places in {self.path} match; 1 is expected; adapt it")
        return code.replace(self.old, self.new)


def fault(name: str, path: str, old: str, new: str, *tests: str) -> Fault:
    return Fault(name, path, old, new, tests)


GOLDEN = "tests/models/test_golden_fmn.py::"
OUTPUTS = f"{GOLDEN}test_outputs[fmn04]"
EVENTS = "tests/helpers/test_events.py::"
OPTIM = "tests/helpers/test_optim.py::"
LOSSES = "tests/helpers/test_losses.py::"
PSDS = "tests/helpers/test_psds.py::"
LABELS = "tests/data_util/test_labels.py::"
SAMPLERS = "tests/data_util/test_samplers.py::"
BLOCKS_OF_80 = "    BlockConfig(3, 240, 80, False, HS, {}, 1),\n    BlockConfig(3, 200, 80, False, HS, {}, 1),\n"

FAULTS = (
    # front end
    fault("mel floor", "models/mel.py", "FLOOR = 1e-7", "FLOOR = 1e-8", f"{GOLDEN}test_mel_of_silence_is_the_floor"),
    fault("mel fmin", "models/mel.py", "EVAL_FMAX = 0.0, 7000.0", "EVAL_FMAX = 9.0, 7000.0", f"{GOLDEN}test_mel"),
    fault("mel fmax", "models/mel.py", "EVAL_FMAX = 0.0, 7000.0", "EVAL_FMAX = 0.0, 7100.0", f"{GOLDEN}test_mel"),
    fault("pre-emphasis", "models/mel.py", "PREEMPHASIS = 0.97", "PREEMPHASIS = 0.96", f"{GOLDEN}test_mel"),
    fault("periodic window", "models/mel.py", "periodic=False", "periodic=True", f"{GOLDEN}test_mel"),
    # network
    fault("batch norm's epsilon", "models/fmn/blocks.py", "eps=1e-3", "eps=1e-5", OUTPUTS),
    fault("activation", "models/fmn/model.py", "nn.ReLU, nn.Hardswish", "nn.ReLU, nn.SiLU", OUTPUTS),
    fault(
        "stride one block later",
        "models/fmn/model.py",
        BLOCKS_OF_80.format(1, 2),
        BLOCKS_OF_80.format(2, 1),
        OUTPUTS,
    ),
    fault("no residual", "models/fmn/blocks.py", "return x + y if self.residual else y", "return y", OUTPUTS),
    fault(
        "no squeeze-and-excitation", "models/fmn/blocks.py", "return x * gates[:, :, None, None]", "return x", OUTPUTS
    ),
    fault("clip head on the maximum", "models/heads.py", "features.mean(1)", "features.amax(1)", OUTPUTS),
    fault(
        "attention without its gates",
        "models/sequence/transformer.py",
        "(heads.transpose(1, 2) * gates)",
        "(heads.transpose(1, 2) + 0 * gates)",
        "tests/models/test_sequence_attention.py::test_attention_equals_the_formula",
    ),
    fault(
        "labels in the order of their numbers as words",
        "models/sed_model.py",
        'key=lambda row: int(row["train_index"])',
        'key=lambda row: row["train_index"]',
        "tests/models/test_sed_model.py",
    ),
    fault(
        "batch norms dropped in the optimised forward",
        "models/optimize.py",
        "fuse_conv_bn_eval(first, second), nn.Identity()",
        "first, nn.Identity()",
        "tests/models/test_optimize.py::test_equal[None]",
    ),
    # from scores to events
    fault(
        "median window of two frames more",
        "helpers/detection.py",
        "(1, window), mode=",
        "(1, window + 2), mode=",
        "tests/helpers/test_detector.py::test_both_median_filters_are_the_same",
    ),
    fault(
        "threshold >= in place of >",
        "helpers/events.py",
        "rows[:, :-1] > low[classes, None]",
        "rows[:, :-1] >= low[classes, None]",
        f"{EVENTS}test_a_score_equal_to_the_threshold_is_not_above_it",
    ),
    fault(
        "no hysteresis",
        "helpers/events.py",
        "self.high if low is None else np.minimum(np.asarray(low, np.float32), self.high)",
        "self.high",
        f"{EVENTS}test_equals_slow_loops",
    ),
    fault(
        "gap of one frame less",
        "helpers/events.py",
        'runs["end"][:-1] > max_gap)',
        'runs["end"][:-1] >= max_gap)',
        f"{EVENTS}test_equals_slow_loops",
    ),
    fault(
        "windows joined without ramps",
        "helpers/chunking.py",
        "np.arange(1, plan.overlap + 1) / (plan.overlap + 1)",
        "np.ones(plan.overlap)",
        "tests/helpers/test_chunking.py::test_ramps_of_neighbours_add_up_to_one",
        "tests/helpers/test_chunking.py::test_blending_equals_the_weighted_mean",
    ),
    fault(
        "onset and offset swapped in TSV",
        "helpers/event_files.py",
        "(name, seconds(e.onset), seconds(e.offset), field(e.label))",
        "(name, seconds(e.offset), seconds(e.onset), field(e.label))",
        "tests/helpers/test_event_files.py::test_tsv_by_dcase_util",
        "tests/helpers/test_event_files.py::test_tsv_by_sed_scores_eval",
    ),
    # training
    fault(
        "heads at the backbone's learning rate",
        "helpers/optim.py",
        '_HEAD_RANK, seq_lr, "head"',
        '_HEAD_RANK, backbone_lr, "head"',
        f"{OPTIM}test_layer_wise_rates",
    ),
    fault(
        "layer decay of one depth more",
        "helpers/optim.py",
        "(backbone.n_depths - 1 - depth + scale_last)",
        "(backbone.n_depths - depth + scale_last)",
        f"{OPTIM}test_layer_wise_rates",
    ),
    fault("no warm-up", "helpers/optim.py", "return step / warmup_steps", "return 1.0", f"{OPTIM}test_cosine_schedule"),
    fault(
        "weights of the strong loss swapped",
        "helpers/losses.py",
        'w * terms["strong_distillation_loss"] + (1 - w) * terms["strong_supervised_loss"]',
        '(1 - w) * terms["strong_distillation_loss"] + w * terms["strong_supervised_loss"]',
        f"{LOSSES}test_strong_loss_by_hand",
    ),
    fault(
        "weak clips weighted as strong ones",
        "helpers/losses.py",
        "self.online * (1 - self.strong_ratio)",
        "self.online * self.strong_ratio",
        f"{LOSSES}test_online_terms_alone_and_together",
    ),
    fault(
        "temperature left out",
        "helpers/losses.py",
        "teacher_logits.detach().float() / temperature",
        "teacher_logits.detach().float()",
        f"{LOSSES}test_temperature_softens_the_teacher",
    ),
    fault(
        "mixup without labels",
        "helpers/augment/mixing.py",
        "return self._blend(y).clamp(0, 1)  # rounding",
        "return y  # rounding",
        "tests/helpers/test_augment_mixing.py::test_mixup_equals_a_loop_over_clips",
    ),
    fault(
        "time shift without labels",
        "helpers/augment/timing.py",
        "        return self.signal(y)\n",
        "        return y\n",
        "tests/helpers/test_augment_time.py::test_labels_shift_by_a_quarter_of_the_mel_frames",
    ),
    fault(
        "time mask without labels",
        "helpers/augment/timing.py",
        "return replace(self, level=0.0).signal(y)",
        "return y",
        "tests/helpers/test_augment_time.py::test_time_mask_silences_mel_and_labels_alike",
    ),
    fault(
        "the same random numbers in every batch",
        "helpers/lit_module.py",
        "np.random.SeedSequence([seed, *position])",
        "np.random.SeedSequence([seed])",
        "tests/helpers/test_lit_module.py::test_step_generator_depends_on_the_position_alone",
    ),
    fault(
        "EMA with the other share",
        "helpers/run.py",
        "EMAWeightAveraging(decay=options.ema)",
        "EMAWeightAveraging(decay=1 - options.ema)",
        "tests/helpers/test_callbacks.py::test_averaged_weights_by_hand",
    ),
    fault(
        "sampler weights without the offset",
        "data_util/samplers.py",
        "(STRONG_OFFSET + total[class_index])",
        "total[class_index]",
        f"{SAMPLERS}test_strong_weights_equal_the_formula_on_dense_targets",
    ),
    fault(
        "a resumed epoch starts over",
        "data_util/samplers.py",
        "order[rank::world_size][self.position :]",
        "order[rank::world_size]",
        f"{SAMPLERS}test_resuming_in_the_middle_of_an_epoch",
    ),
    fault(
        "all ranks draw the same clips",
        "data_util/samplers.py",
        "order[rank::world_size][self.position :]",
        "order[0::world_size][self.position :]",
        f"{SAMPLERS}test_ranks_share_one_order",
    ),
    # labels and audio
    fault(
        "touching events stay apart",
        "data_util/labels.py",
        "(start[1:] > reach[:-1])",
        "(start[1:] >= reach[:-1])",
        f"{LABELS}test_touching_events_merge_and_nested_ones_vanish",
    ),
    fault(
        "last label frame left out",
        "data_util/labels.py",
        "np.ceil(np.asarray(offset",
        "np.floor(np.asarray(offset",
        f"{LABELS}test_encoding_equals_exact_arithmetic",
    ),
    fault(
        "no resampling",
        "data_util/audio.py",
        "if rate == target_rate else soxr",
        "if True else soxr",
        "tests/data_util/test_audio.py::test_resampling_equals_scipy_on_band_limited_noise",
    ),
    fault(
        "first channel in place of the mix",
        "data_util/channels.py",
        "mono = block.mean(axis=1)",
        "mono = block[:, 0].copy()",
        "tests/data_util/test_channels.py",
    ),
    fault(
        "a header that is shorter than the file is believed",
        "data_util/containers.py",
        "and (tail or announced == available)",
        "",
        "tests/data_util/test_audio_file.py::test_what_is_there_is_read_whatever_the_header_says",
    ),
    fault(
        "joined MP3s end with the first",
        "data_util/audio_file.py",
        "[segment.part() for segment in segments]",
        "[segment.part() for segment in segments[:1]]",
        "tests/data_util/test_audio_file.py::test_compressed_files_are_read_to_their_end",
    ),
    # scores
    fault(
        "PSDS without the spread over classes",
        "helpers/psds_curves.py",
        "mean - alpha_st * np.sqrt(squares / len(rocs))",
        "mean",
        f"{PSDS}test_psds_equals_sed_scores_eval",
    ),
    fault(
        "cross triggers shared among one class too many",
        "helpers/psds_figures.py",
        "len(events_per_class(collected)) - 1)",
        "len(events_per_class(collected)))",
        f"{PSDS}test_cross_triggers_equal_sed_scores_eval",
    ),
    fault(
        "false positives per half as many hours",
        "helpers/psds_figures.py",
        "math.fsum(np.array(collected.durations) * n_times)",
        "0.5 * math.fsum(np.array(collected.durations) * n_times)",
        f"{PSDS}test_psds_equals_sed_scores_eval",
    ),
    fault(
        "detections counted at one threshold too many",
        "helpers/psds_curves.py",
        'np.searchsorted(active, thresholds, side="left")',
        'np.searchsorted(active, thresholds, side="right")',
        f"{PSDS}test_auroc_equals_sed_scores_eval",
        f"{PSDS}test_f1_at_a_threshold_equals_sed_scores_eval",
    ),
    fault(
        "unknown labels scored",
        "helpers/tagging_scores.py",
        "(scores[known[:, c], c], targets[known[:, c], c])",
        "(scores[:, c], targets[:, c])",
        "tests/helpers/test_tagging_scores.py::test_unknown_labels_count_neither_way",
    ),
    fault(
        "the time of day without what waited in the pipe",
        "helpers/audio_pipe.py",
        "return arrived - timedelta(seconds=n_bytes / bytes_per_second)",
        "return arrived",
        "tests/helpers/test_audio_pipe.py::test_the_moment_at_which_a_stream_began",
    ),
    fault(
        "a class with two thresholds gets the last one",
        "helpers/thresholds.py",
        "if by_class[other] != value:",
        "if False:",
        "tests/helpers/test_thresholds.py::test_a_class_has_one_threshold_per_source",
    ),
)


def copy_tree(folder: Path) -> Path:
    """Copy what git knows or would add, as it is now, into `folder`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    names = [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]
    if listing.returncode or not names:
        raise SystemExit("git does not list the files: run this in a checkout")
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


@contextmanager
def changed(path: Path, code: str) -> Iterator[None]:
    """`path` holds `code` for a while."""
    before = path.read_text(encoding="utf-8")
    try:
        _write(path, code)
        yield
    finally:
        _write(path, before)


def _write(path: Path, code: str) -> None:
    path.write_text(code, encoding="utf-8")
    for cached in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        cached.unlink()  # Python knows a changed file by its size and second


def run_tests(folder: Path, tests: Sequence[str]) -> tuple[int, str]:
    """pytest's exit code (0 passed, 1 failed, 2 and more: they could not be run) and its output."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        return 124, f"no result in {SECONDS} s"
    return done.returncode, done.stdout + done.stderr


def check(folder: Path, one: Fault) -> tuple[str, float]:
    """Which test caught a fault, "" when none did; and the seconds it took."""
    start = time.monotonic()
    path = folder / one.path
    with changed(path, one.applied(path.read_text(encoding="utf-8"))):
        code, output = run_tests(folder, one.tests)
    lines = [line.split()[1] for line in output.splitlines() if line.startswith("FAILED ")]
    if code not in (0, 1) or (code == 1 and not lines):
        raise SystemExit(f"fault '{one.name}': its tests could not be run (exit code {code})\n{output[-3000:]}")
    return (lines[0] if lines else ""), time.monotonic() - start


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="See that the tests catch deliberate faults.")
    parser.add_argument("--only", nargs="+", metavar="WORDS", help="run only faults whose names hold one of these")
    parser.add_argument("--jobs", type=int, default=2, help="faults at a time (default: 2)")
    options = parser.parse_args(argv)
    faults = [one for one in FAULTS if not options.only or any(words in one.name for words in options.only)]
    if not faults:
        parser.error("--only matches no fault")
    for one in faults:
        one.applied((ROOT / one.path).read_text(encoding="utf-8"))
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(options.jobs) as pool:
        folders: Queue[Path] = Queue()
        for i in range(options.jobs):
            folders.put(copy_tree(Path(temporary) / str(i)))

        def lent(work, *arguments):  # type: ignore[no-untyped-def]
            folder = folders.get()
            try:
                return work(folder, *arguments)
            finally:
                folders.put(folder)

        tests = sorted({test for one in faults for test in one.tests})
        parts = [tests[i :: options.jobs] for i in range(options.jobs)]
        for code, output in pool.map(lambda part: lent(run_tests, part) if part else (0, ""), parts):
            if code:
                print(f"the tests fail without a fault:\n{output[-3000:]}", file=sys.stderr)
                return 1
        print(f"{len(tests)} tests pass without a fault ({time.monotonic() - start:.0f} s)", flush=True)
        width = max(len(one.name) for one in faults)
        survivors = []
        for one, (caught_by, seconds) in zip(faults, pool.map(lambda f: lent(check, f), faults), strict=True):
            survivors += [] if caught_by else [one.name]
            print(f"{one.name:{width}}  {seconds:5.1f} s  {caught_by or 'SURVIVED'}", flush=True)
    seconds = round(time.monotonic() - start, 1)
    print(
        json.dumps(
            {"faults": len(faults), "caught": len(faults) - len(survivors), "survivors": survivors, "seconds": seconds}
        )
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
