"""The evaluator of the training scripts against the published way to validate, with sed_scores_eval."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.distributed as dist
from sed_scores_eval import intersection_based
from sed_scores_eval.base_modules.scores import create_score_dataframe

from errors import UserError
from helpers.event_scores import StrongEvaluator

NAMES = ["never", "dog", "cat", "bird"]
SECONDS = 10.0


def make_clips(n_clips: int = 24) -> tuple[np.ndarray, list[str], dict, dict]:
    rng = np.random.default_rng(1)
    ids = [f"Y{i:03d}" for i in range(n_clips)]
    truth: dict = {}
    scores = scipy.ndimage.uniform_filter1d(rng.normal(size=(n_clips, len(NAMES), 250)) * 3 - 4, 5)
    for i, clip in enumerate(ids):
        truth[clip] = []
        for label in rng.choice([*NAMES[1:], "not in the vocabulary"], rng.integers(0, 4), replace=False):
            onset = round(float(rng.uniform(0, 8)), 3)
            truth[clip].append((onset, onset + 1.2, str(label)))
            if label in NAMES:
                scores[i, NAMES.index(label), int(25 * onset) : int(25 * onset) + 30] += 3
    truth[ids[0]], truth[ids[1]] = [], [(0.0, 1.0, "not in the vocabulary")]
    durations = {clip: float(rng.uniform(8.5, SECONDS)) if i % 4 else SECONDS for i, clip in enumerate(ids)}
    return scores.astype(np.float32), ids, truth, durations


def published(scores, ids, truth, durations, keep_empty=False):
    """Figures by sed_scores_eval: shared classes, clips without remaining events dropped, frames cut at the end."""
    shared = [name for name in NAMES if any(name == label for events in truth.values() for *_, label in events)]
    truth = {clip: [event for event in events if event[2] in shared] for clip, events in truth.items()}
    ids_left = [clip for clip in ids if truth[clip] or keep_empty]
    frames = {}
    for clip in ids_left:
        curve = scipy.ndimage.median_filter(scores[ids.index(clip)], size=(1, 9), mode="reflect")
        stamps = np.arange(251) / 25.0
        n = int((stamps[:-1] < durations[clip]).sum())
        stamps = np.append(stamps[:n], min(stamps[n], durations[clip]))
        columns = [NAMES.index(name) for name in shared]
        frames[clip] = create_score_dataframe(curve[columns, :n].T.astype(np.float64), stamps, shared)
    psds, per_class, *_ = intersection_based.psds(
        frames,
        {clip: truth[clip] for clip in ids_left},
        {clip: durations[clip] for clip in ids_left},
        dtc_threshold=0.7,
        gtc_threshold=0.7,
        alpha_st=1.0,
        max_efpr=100.0,
    )
    return psds, per_class


@pytest.mark.parametrize("keep_empty", [False, True])
def test_equals_the_published_validation(keep_empty):
    scores, ids, truth, durations = make_clips()
    evaluator = StrongEvaluator(NAMES, keep_empty_clips=keep_empty, all_durations=durations.values())
    for i in range(0, len(ids), 5):
        part = slice(i, i + 5)
        of_batch = {clip: truth[clip] for clip in ids[part]}  # ground truth of the batch or of all clips
        evaluator.update(torch.from_numpy(scores[part]), ids[part], truth if i % 2 else of_batch, durations)
    psds, per_class = published(scores, ids, truth, durations, keep_empty)
    figures = evaluator.compute()
    assert figures["psds1"] == pytest.approx(psds, abs=1e-9)
    assert figures["psds1_per_class"] == pytest.approx(per_class, abs=1e-9)
    assert figures["psds1_macro_averaged"] == pytest.approx(np.mean(list(per_class.values())), abs=1e-9)
    assert 0.05 < figures["psds1_macro_averaged"] < 0.95 and 0.05 < figures["pauroc"] < 1.0
    assert evaluator.compute_over_processes() == figures
    evaluator.reset()
    with pytest.raises(UserError, match="nothing to score"):
        evaluator.compute()


def test_mistakes_are_named():
    scores, ids, truth, durations = make_clips(4)
    evaluator = StrongEvaluator(NAMES)
    with pytest.raises(UserError, match="clip Y9: not in the ground truth"):
        evaluator.update(scores[:1], ["Y9"], truth, durations)
    with pytest.raises(UserError, match="clip Y003: no duration"):
        evaluator.update(scores[3:], ids[3:], {"Y003": [(0.0, 1.0, "dog")]}, {})
    with pytest.raises(UserError, match="overlap"):
        evaluator.update(scores[3:], ids[3:], {"Y003": [(0.0, 1.0, "dog"), (0.5, 2.0, "dog")]}, durations)
    evaluator.update(scores[:1], ids[:1], truth, durations)  # no event: left out, even with nothing to score
    assert not evaluator.collected.clips


def validate_in_process(folder: str, rank: int, n_processes: int = 2) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=n_processes)
    scores, ids, truth, durations = make_clips()
    evaluator = StrongEvaluator(NAMES, all_durations=durations.values(), n_threads=1)
    for i in range(rank, len(ids), n_processes):
        evaluator.update(scores[i : i + 1], ids[i : i + 1], truth, durations)
    figures = evaluator.compute_over_processes()
    try:
        StrongEvaluator(NAMES).compute_over_processes()
    except UserError as error:  # the mistake reaches every process instead of leaving the others waiting
        figures["error"] = str(error)
    torch.save(figures, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_give_the_same_bits_as_one(tmp_path):
    scores, ids, truth, durations = make_clips()
    alone = StrongEvaluator(NAMES, all_durations=durations.values())
    alone.update(scores, ids, truth, durations)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)], env=environment) for rank in range(2)]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    for rank in range(2):
        figures = torch.load(tmp_path / f"{rank}.pt")
        assert "nothing to score" in figures.pop("error")
        assert figures == alone.compute()


if __name__ == "__main__":
    validate_in_process(sys.argv[1], int(sys.argv[2]))
