"""Resampled figures against the same figures of clips that are really repeated."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage

from errors import UserError
from helpers.psds import PSDSAccumulator, PSDSSettings, bootstrap, paired_bootstrap

NAMES = ["a", "b", "c"]
MANY = PSDSSettings(dtc=0.5, gtc=0.5, alpha_st=0.7, max_efpr=900.0)
CROSS = PSDSSettings(dtc=0.3, gtc=0.3, cttc=0.2, alpha_ct=0.7, alpha_st=0.5, max_efpr=2000.0)


class Clips:
    def __init__(self, seed=0, n_clips=40, quality=1.5):
        rng = np.random.default_rng(seed)
        self.ids = [f"clip{i}" for i in rng.permutation(n_clips)]
        self.scores = scipy.ndimage.uniform_filter1d(rng.normal(size=(n_clips, 3, 100)), 5)
        self.durations = {clip: float(rng.uniform(2.0, 4.0)) for clip in self.ids}
        self.truth = {}
        for i, clip in enumerate(self.ids):
            onset = round(float(rng.uniform(0, 1.5)), 2)
            labels = rng.choice(NAMES, rng.integers(0, 3), replace=False).tolist()
            self.truth[clip] = [(onset, onset + 0.5, label) for label in labels]
            for label in labels:
                self.scores[i, NAMES.index(label), int(onset * 25) : int(onset * 25) + 13] += quality * rng.random()

    def accumulate(self, settings, repeats=None, **options):
        """All clips, or each as often as `repeats` says under names of its own."""
        collected = PSDSAccumulator(NAMES, settings, n_threads=2, **options)
        for i, clip in enumerate(self.ids):
            for k in range(1 if repeats is None else repeats[clip]):
                name = f"{clip}-{k}"
                truth, durations = {name: self.truth[clip]}, {name: self.durations[clip]}
                collected.update(self.scores[i : i + 1], [name], truth, durations)
        return collected


@pytest.mark.parametrize("settings", [MANY, CROSS])
@pytest.mark.parametrize("bounded", [False, True])
def test_samples_are_the_figures_of_the_drawn_clips(settings, bounded):
    clips, seed = Clips(), 3
    bound = list(clips.durations.values()) if bounded else None
    intervals = bootstrap(clips.accumulate(settings, keep_clips=True, all_durations=bound), 12, seed=seed)
    for r in range(12):
        drawn = np.random.default_rng([seed, r]).integers(0, len(clips.ids), len(clips.ids))
        repeats = dict(zip(sorted(clips.ids), np.bincount(drawn, minlength=len(clips.ids)).tolist(), strict=True))
        result = clips.accumulate(settings, repeats).compute()
        assert intervals["psds_macro"].samples[r] == pytest.approx(result.psds_macro, abs=1e-9)
        assert intervals["psds"].samples[r] == pytest.approx(result.psds, abs=1e-7)
    assert intervals["psds_macro"].low < intervals["psds_macro"].estimate < intervals["psds_macro"].high


def test_paired_interval_is_narrower_than_two_apart():
    clips = Clips(n_clips=80)
    first = clips.accumulate(MANY, keep_clips=True)
    clips.scores = clips.scores + np.random.default_rng(9).normal(size=clips.scores.shape) * 0.05
    second = clips.accumulate(MANY, keep_clips=True)
    apart = bootstrap(first, 100)["psds_macro"].std
    paired = paired_bootstrap(first, second, 100)["psds_macro"]
    assert paired.std < 0.5 * apart
    assert paired.estimate == pytest.approx(second.compute().psds_macro - first.compute().psds_macro, abs=1e-12)
    same = paired_bootstrap(first, first, 10)
    assert not same["psds"].samples.any() and not same["psds_macro"].samples.any()


def test_no_interval_of_a_figure_leaves_0_to_1():
    """Few clips: moved by its bias, the interval would begin at -0.05; that of a difference may."""
    poor, good = (Clips(n_clips=16, quality=quality).accumulate(MANY, keep_clips=True) for quality in (1.5, 9.0))
    intervals = [*bootstrap(poor, 60).values(), *bootstrap(good, 60).values()]
    assert all(0.0 <= one.low <= one.estimate <= one.high <= 1.0 for one in intervals)
    assert [one.low for one in intervals[:2]] == [0.0, 0.0]
    assert all(one.low < one.estimate < 0.0 for one in paired_bootstrap(good, poor, 60).values())


def test_resamples_without_events_are_left_out():
    clips = Clips(n_clips=12)
    clips.truth = {clip: events if i < 1 else [] for i, (clip, events) in enumerate(clips.truth.items())}
    clips.truth[clips.ids[0]] = [(0.0, 1.0, "a")]
    interval = bootstrap(clips.accumulate(MANY, keep_clips=True), 40)["psds_macro"]
    assert 5 < np.isnan(interval.samples).sum() < 25
    assert 0.0 <= interval.low <= interval.estimate <= interval.high <= 1.0
    with pytest.raises(UserError, match="none of 1 resamples drew an event"):
        bootstrap(clips.accumulate(MANY, keep_clips=True), 1, seed=int(np.isnan(interval.samples).argmax()))


def test_interval_covers_the_truth():
    """Of models of known quality, some 90 % of the 90 % intervals hold the figure of very many clips."""
    whole = Clips(seed=1, n_clips=3000).accumulate(MANY).compute().psds_macro
    covered = 0
    for seed in range(30):
        interval = bootstrap(Clips(100 + seed, 80).accumulate(MANY, keep_clips=True), 100, confidence=0.9)["psds_macro"]
        covered += interval.low <= whole <= interval.high
    assert 21 <= covered <= 30


def test_snippet_of_the_docs_runs(capsys):
    docs = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", docs, re.DOTALL)
    clips = Clips()
    names = {"class_names": NAMES, "ground_truth": clips.truth, "durations": clips.durations}
    exec(code, {**names, "batches": [(clips.scores, clips.ids)]})
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_mistakes_are_named():
    clips = Clips(n_clips=6)
    with pytest.raises(UserError, match="keep_clips=True"):
        bootstrap(clips.accumulate(MANY), 3)
    with pytest.raises(UserError, match="n_resamples 0"):
        bootstrap(clips.accumulate(MANY, keep_clips=True), 0)
    with pytest.raises(UserError, match="scored by only one"):
        paired_bootstrap(clips.accumulate(MANY, keep_clips=True), Clips(n_clips=7).accumulate(MANY, keep_clips=True))
