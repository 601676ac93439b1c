"""Speed and memory of PSDS1 and pAUROC: this project's accumulator against sed_scores_eval.

    python benchmarks/psds.py [--quick] [--full] [--clips 512] [--threads 2] [--bootstrap 1000]
    python benchmarks/psds.py --stream 2000 407 --bootstrap 1000

First, both score the same synthetic logits (AudioSet Strong shape: 407 classes, 250 frames) from the raw scores to
the figures: median filter of 9 frames, PSDS1, pAUROC. The plain way is that of published validation code, written
anew: SciPy's filter, one data frame per clip, `sed_scores_eval`. Its AUROC is computed a second time with a stable
sort, which shows where the two agree and what its default sort does. Then, with --full, 1,000, 4,000 and 16,935 clips
are streamed in batches of 64, each in a process of its own, for seconds and peak memory, the largest with --bootstrap;
--stream does this alone, for other numbers of clips and classes. Making the synthetic logits is not part of any time.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import scipy.ndimage
import torch
from peak_memory import peak_rss
from timing import machine

from helpers.event_scores import StrongEvaluator
from helpers.psds import PSDSAccumulator, bootstrap
from json_text import json_text

N_CLASSES, N_FRAMES, FRAME_RATE = 407, 250, 25.0
BATCH = 64
WINDOW = 9
FULL_SIZES = (1000, 4000, 16_935)
EVENTS_PER_CLIP = 8


class Clips:
    """Synthetic evaluation set: logits with slow noise, raised at most events, and false alarms at some other places.

    Args:
        n_clips: number of clips.
        n_classes: number of classes C; each occurs at least once, a few very often.
    """

    def __init__(self, n_clips: int, n_classes: int = N_CLASSES) -> None:
        rng = np.random.default_rng(0)
        self.names = [f"class {c}" for c in range(n_classes)]
        self.ids = [f"Y{i:06d}" for i in range(n_clips)]
        self.durations = {clip: 10.0 if rng.random() < 0.9 else round(rng.uniform(1.0, 10.0), 2) for clip in self.ids}
        share = 1.0 / np.arange(3, n_classes + 3)
        self.truth: dict[str, list[tuple[float, float, str]]] = {}
        for i, clip in enumerate(self.ids):
            labels = np.unique(rng.choice(n_classes, rng.poisson(EVENTS_PER_CLIP - 1), p=share / share.sum()))
            labels = np.unique(np.append(labels, i % n_classes))
            onsets = np.round(rng.uniform(0, 0.8, len(labels)) * self.durations[clip], 3)
            offsets = np.round(onsets + rng.exponential(1.5, len(labels)) + 0.1, 3)
            self.truth[clip] = [
                (on, off, self.names[c])
                for on, off, c in zip(onsets.tolist(), offsets.tolist(), labels.tolist(), strict=True)
            ]
        noise = rng.normal(size=(2 * BATCH, n_classes, N_FRAMES)).astype(np.float32)
        for t in range(1, N_FRAMES):  # frames of a network are alike: first-order noise, then a little smoothing
            noise[:, :, t] += 0.9 * noise[:, :, t - 1]
        self.noise = scipy.ndimage.uniform_filter1d(noise, 3) * 0.8 - 6.0
        self.level = rng.normal(0.0, 1.0, (2 * BATCH, n_classes, 1)).astype(np.float32)

    def batches(self) -> Iterator[tuple[torch.Tensor, list[str]]]:
        """Logits [B, C, T] and names, the same at every call."""
        rng = np.random.default_rng(1)
        for i in range(0, len(self.ids), BATCH):
            ids = self.ids[i : i + BATCH]
            scores = self.noise[rng.permutation(2 * BATCH)[: len(ids)]]
            scores += self.level[rng.permutation(2 * BATCH)[: len(ids)]] + rng.normal() * 0.01
            for b, clip in enumerate(ids):
                for on, off, label in self.truth[clip]:
                    frames = slice(int(on * FRAME_RATE), int(off * FRAME_RATE) + 1)
                    scores[b, int(label[6:]), frames] += rng.normal(6.0, 2.5)
                for c in rng.integers(0, len(self.names), 20):
                    start = rng.integers(0, N_FRAMES)
                    scores[b, c, start : start + rng.integers(10, 60)] += rng.normal(4.0, 1.5)
            yield torch.from_numpy(scores), ids


def run_ours(clips: Clips, threads: int) -> dict[str, float]:
    """Figures and seconds of this project."""
    evaluator = StrongEvaluator(clips.names, all_durations=clips.durations.values(), n_threads=threads)
    times = {"update_s": 0.0}
    for scores, ids in clips.batches():
        start = time.perf_counter()
        evaluator.update(scores, ids, clips.truth, clips.durations)
        times["update_s"] += time.perf_counter() - start
    start = time.perf_counter()
    figures = evaluator.compute()
    times["compute_s"] = time.perf_counter() - start
    figures.pop("psds1_per_class")
    return {**figures, **times, "seconds": sum(times.values())}


def run_plain(clips: Clips) -> dict[str, float]:
    """Figures and seconds of sed_scores_eval, with the parts one by one."""
    from sed_scores_eval import intersection_based, segment_based
    from sed_scores_eval.base_modules import curves
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    times = {"filter_s": 0.0}
    frames = {}
    for scores, ids in clips.batches():
        start = time.perf_counter()
        for clip, logits in zip(ids, scores.numpy(), strict=True):
            curve = scipy.ndimage.median_filter(logits, size=(1, WINDOW), mode="reflect")
            stamps = np.arange(N_FRAMES + 1) / FRAME_RATE
            n = int((stamps[:-1] < clips.durations[clip]).sum())
            stamps = np.append(stamps[:n], min(stamps[n], clips.durations[clip]))
            frames[clip] = create_score_dataframe(curve[:, :n].T, stamps, clips.names)
        times["filter_s"] += time.perf_counter() - start
    start = time.perf_counter()
    psds, per_class, *_ = intersection_based.psds(
        frames, clips.truth, clips.durations, dtc_threshold=0.7, gtc_threshold=0.7, alpha_st=1.0, max_efpr=100.0
    )
    times["psds_s"] = time.perf_counter() - start
    segments = {"segment_length": 1.0, "max_fpr": 0.1}
    start = time.perf_counter()
    auroc, _ = segment_based.auroc(frames, clips.truth, clips.durations, **segments)
    times["auroc_s"] = time.perf_counter() - start

    class StableNumpy:
        def __getattr__(self, name: str) -> object:
            return getattr(np, name)

        def argsort(self, values: np.ndarray) -> np.ndarray:
            return np.argsort(values, kind="stable")

    with patch.object(curves, "np", StableNumpy()):
        stable, _ = segment_based.auroc(frames, clips.truth, clips.durations, **segments)
    return {
        "psds1": psds,
        "psds1_macro_averaged": float(np.mean(list(per_class.values()))),
        "pauroc": auroc["mean"],
        "pauroc_stable_sort": stable["mean"],
        **times,
        "seconds": sum(times.values()),
    }


def compare(n_clips: int, n_classes: int, threads: int) -> dict[str, object]:
    """Both ways on the same clips."""
    clips = Clips(n_clips, n_classes)
    ours, plain = run_ours(clips, threads), run_plain(clips)
    difference = {name: abs(ours[name] - plain[name]) for name in ("psds1", "psds1_macro_averaged", "pauroc")}
    difference["pauroc_stable_sort"] = abs(ours["pauroc"] - plain["pauroc_stable_sort"])
    speedup = plain["seconds"] / ours["seconds"]
    print(f"{n_clips} clips x {n_classes} classes x {N_FRAMES} frames, median filter + PSDS1 + pAUROC:")
    for name, result in (("sed_scores_eval", plain), ("ours", ours)):
        parts = ", ".join(f"{key[:-2]} {value:.2f}" for key, value in result.items() if key.endswith("_s"))
        print(f"  {name:<16}{result['seconds']:8.2f} s  ({parts})")
    print(f"  {speedup:.1f} times faster; differences {', '.join(f'{k} {v:.1e}' for k, v in difference.items())}")
    return {"clips": n_clips, "classes": n_classes, "ours": ours, "plain": plain, "speedup": round(speedup, 1),
            "difference": difference}  # fmt: skip


def stream(n_clips: int, n_classes: int, threads: int, n_resamples: int) -> dict[str, float]:
    """Streams clips in this process; peak memory counts the process with its synthetic logits."""
    warm_up(threads)
    before = peak_rss()
    clips = Clips(n_clips, n_classes)
    result = run_ours(clips, threads)
    result |= {"clips": n_clips, "clips_per_second": round(n_clips / result["seconds"], 1)}
    result["peak_mb"] = round(peak_rss() / 1e6)
    result["imports_mb"] = round(before / 1e6)
    if n_resamples:
        collected = PSDSAccumulator(clips.names, median_window=WINDOW, all_durations=clips.durations.values(),
                                    keep_clips=True, n_threads=threads)  # fmt: skip
        for scores, ids in clips.batches():
            collected.update(scores, ids, clips.truth, clips.durations)
        start = time.perf_counter()
        interval = bootstrap(collected, n_resamples)["psds_macro"]
        result["bootstrap_s"] = round(time.perf_counter() - start, 2)
        result["resamples"], result["psds1_macro_std"] = n_resamples, interval.std
        result["peak_with_bootstrap_mb"] = round(peak_rss() / 1e6)
    return result


def warm_up(threads: int) -> float:
    """Compiles the inner loops, or loads them from disk; returns the seconds."""
    start = time.perf_counter()
    run_ours(Clips(2, 5), threads)
    return time.perf_counter() - start


def stream_apart(n_clips: int, n_classes: int, threads: int, n_resamples: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--stream", str(n_clips), str(n_classes)]
    done = subprocess.run([*command, "--bootstrap", str(n_resamples)], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{n_clips:>6} clips streamed: {result['seconds']:6.1f} s, {result['clips_per_second']:7.1f} clips/s, "
          f"peak {result['peak_mb']} MB ({result['imports_mb']} MB of it imports)", flush=True)  # fmt: skip
    if n_resamples:
        print(f"       {n_resamples} resamples: {result['bootstrap_s']} s, peak {result['peak_with_bootstrap_mb']} MB")
    return result


def main() -> None:
    """Runs the comparison and, if asked for, the streams; prints a line for each and the JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only shows that the script works")
    parser.add_argument("--full", action="store_true", help="also stream up to the whole evaluation set")
    parser.add_argument("--clips", type=int, default=512, help="of the comparison (default: 512; 0: none)")
    parser.add_argument("--threads", type=int, default=min(2, len(os.sched_getaffinity(0))), help="of our loops")
    parser.add_argument(
        "--bootstrap", type=int, default=0, metavar="N", help="resamples of the largest (or only) stream"
    )
    parser.add_argument("--stream", type=int, nargs=2, metavar=("CLIPS", "CLASSES"), help="one stream, nothing else")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.stream:
        n_clips, n_classes = args.stream
        print(json_text(stream(n_clips, n_classes, args.threads, args.bootstrap)))
        return
    n_clips, n_classes = args.clips, N_CLASSES
    sizes: tuple[int, ...] = FULL_SIZES if args.full else ()
    if args.quick:
        n_clips, n_classes, sizes = 16, 20, (40, 80)
    first_call = warm_up(args.threads)
    print(f"first call with compilation (or loading it from disk): {first_call:.1f} s")
    result: dict[str, object] = {"benchmark": "psds", **machine(), "threads": args.threads, "first_call_s": first_call}
    if n_clips:
        result["comparison"] = compare(n_clips, n_classes, args.threads)
    result["streams"] = [
        stream_apart(size, n_classes, args.threads, args.bootstrap if size == max(sizes) else 0) for size in sizes
    ]
    print(json_text(result))


if __name__ == "__main__":
    main()
