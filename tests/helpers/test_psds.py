"""Our accumulator against sed_scores_eval, an independent and much slower implementation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sed_scores_eval import intersection_based, segment_based
from sed_scores_eval.base_modules import curves
from sed_scores_eval.base_modules.scores import create_score_dataframe

from errors import UserError
from helpers.psds import PSDS1, PSDS2, PSDSAccumulator, PSDSSettings, macro_f1, micro_f1
from helpers.psds_figures import segment_auroc

FRAME_RATE = 25.0
OTHER = PSDSSettings(dtc=0.5, gtc=0.3, alpha_st=0.0, max_efpr=2000.0)  # many operating points even in few clips
CROSS = PSDSSettings(dtc=0.3, gtc=0.3, cttc=0.2, alpha_ct=0.7, alpha_st=0.5, max_efpr=3000.0)
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


class Case:
    """Random clips with events; `kind` chooses what the scores look like."""

    def __init__(self, seed, n_clips=4, n_classes=3, n_frames=50, kind="levels", dtype=np.float32, short=False):
        rng = np.random.default_rng(seed)
        self.names = [f"class {c}" for c in range(n_classes)]
        self.ids = [f"clip{i}" for i in rng.permutation(n_clips)]
        seconds = n_frames / FRAME_RATE
        self.durations = {i: float(seconds * rng.uniform(0.3, 1.0) if short else seconds) for i in self.ids}
        self.truth = {i: self.events(rng, self.durations[i], 0.4 if len(self.ids) > 1 else 0.0) for i in self.ids}
        for c, name in enumerate(self.names):  # sed_scores_eval wants at least one event of each class
            clip = self.ids[c % n_clips]
            if not any(name == label for *_, label in self.truth[clip]):
                self.truth[clip].append((0.0, self.durations[clip], name))
        shape = (n_clips, n_classes, n_frames)
        noise = rng.normal(size=shape)
        for i, clip in enumerate(self.ids):
            for on, off, label in self.truth[clip]:
                frames = slice(int(on * FRAME_RATE), int(off * FRAME_RATE) + 1)
                noise[i, self.names.index(label), frames] += rng.normal(1.0)
        noise = {
            "levels": lambda: np.round(noise * 2) / 2,  # ties and plateaus
            "smooth": lambda: scipy.ndimage.uniform_filter1d(noise, 7),
            "constant": lambda: np.repeat(noise[:, :, :1], n_frames, 2),
            "same": lambda: np.zeros(shape),
            "binary": lambda: (noise > 0.8) * 1.0,
        }[kind]()
        self.scores = noise.astype(dtype)

    def events(self, rng, duration, share_empty):
        events = []
        for name in self.names:
            if rng.random() < share_empty:
                continue
            times = np.sort(np.round(rng.uniform(0, duration, 2 * rng.integers(1, 4)), rng.integers(1, 4)))
            if rng.random() < 0.3:
                times[0] = 0.0  # at the borders of the clip
                times[-1] = duration
            times = np.unique(times)
            events += [(float(a), float(b), name) for a, b in zip(times[::2], times[1::2], strict=False)]
        return events

    def accumulate(self, settings=PSDS1, part=slice(None), **options):
        collected = PSDSAccumulator(self.names, settings, n_threads=1, **options)
        collected.update(self.scores[part], self.ids[part], self.truth, self.durations)
        return collected

    def frames(self, window=1):
        """Score tables of sed_scores_eval, cut at the end of each clip."""
        frames = {}
        for clip, curve in zip(self.ids, self.scores.astype(np.float64), strict=True):
            curve = scipy.ndimage.median_filter(curve, size=(1, window), mode="reflect")
            stamps = np.arange(curve.shape[1] + 1) / FRAME_RATE
            n = max(1, int((stamps[:-1] < self.durations[clip] - 1e-6).sum()))
            stamps = np.append(stamps[:n], min(stamps[n], self.durations[clip]))
            frames[clip] = create_score_dataframe(curve[:, :n].T, stamps, self.names)
        return frames

    def expected_psds(self, settings, window=1):
        return intersection_based.psds(
            self.frames(window),
            self.truth,
            self.durations,
            dtc_threshold=settings.dtc,
            gtc_threshold=settings.gtc,
            cttc_threshold=settings.cttc,
            alpha_ct=settings.alpha_ct,
            alpha_st=settings.alpha_st,
            max_efpr=settings.max_efpr,
        )

    def expected_auroc(self, max_fpr=0.1, seconds=1.0, window=1):
        auroc, _ = segment_based.auroc(
            self.frames(window), self.truth, self.durations, segment_length=seconds, max_fpr=max_fpr
        )
        return auroc


class StableNumpy:
    """numpy with an argsort that keeps ties in order.

    sed_scores_eval sorts the ROC, already sorted by (false, true positive rate), once more by the false positive
    rate alone, with NumPy's default sort, which mixes up ties on curves of more than some dozen points: its AUROC is
    then a little too low, by an amount that depends on the processor.
    """

    def __getattr__(self, name):
        return getattr(np, name)

    def argsort(self, values):
        return np.argsort(values, kind="stable")


@pytest.fixture
def stable_reference(monkeypatch):
    monkeypatch.setattr(curves, "np", StableNumpy())


cases = st.builds(
    Case,
    seed=st.integers(0, 10**9),
    n_clips=st.integers(1, 6),
    n_classes=st.integers(1, 4),
    n_frames=st.sampled_from([1, 2, 26, 50, 77]),
    kind=st.sampled_from(["levels", "smooth", "constant", "same", "binary"]),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
    short=st.booleans(),
)


def check_psds(collected, expected):
    result = collected.compute()
    psds, per_class, (tpr, efpr), rocs = expected
    assert result.psds == pytest.approx(psds, abs=1e-9)
    assert result.psds_macro == pytest.approx(np.mean(list(per_class.values())), abs=1e-9)
    for name, value in per_class.items():
        assert result.psds_per_class[name] == pytest.approx(value, abs=1e-9)
        np.testing.assert_allclose(result.class_rocs[name].tpr, rocs[name][0], atol=1e-9)
        np.testing.assert_allclose(result.class_rocs[name].efpr, rocs[name][1], atol=1e-9)
    np.testing.assert_allclose(result.roc[0], tpr[:-1], atol=1e-9)
    np.testing.assert_allclose(result.roc[1], efpr[:-1], atol=1e-9)


@quick
@given(case=cases, settings=st.sampled_from([PSDS1, OTHER]), bounded=st.booleans())
def test_psds_equals_sed_scores_eval(case, settings, bounded):
    bound = list(case.durations.values()) if bounded else None
    check_psds(case.accumulate(settings, all_durations=bound), case.expected_psds(settings))


@quick
@given(case=cases, settings=st.sampled_from([PSDS2, CROSS]), bounded=st.booleans())
def test_cross_triggers_equal_sed_scores_eval(case, settings, bounded):
    if len(case.names) == 1:
        return  # sed_scores_eval averages over no other class and returns NaN
    bound = list(case.durations.values()) if bounded else None
    check_psds(case.accumulate(settings, all_durations=bound), case.expected_psds(settings))
