"""Our accumulator against sed_scores_eval, an independent and much slower implementation."""

from __future__ import annotations

import contextlib
import pickle
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from sed_scores_eval import intersection_based, segment_based
from sed_scores_eval.base_modules import curves
from sed_scores_eval.base_modules.scores import create_score_dataframe

from errors import UserError
from helpers.psds import PSDS1, PSDS2, PSDSAccumulator, PSDSSettings, bootstrap, macro_f1, micro_f1
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
        return of_reference(
            intersection_based.psds,
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


class PaddedCase(Case):
    """Short clips whose padding is scored as in the published validation."""

    def __init__(self, seed, n_clips):
        super().__init__(seed, n_clips=n_clips, kind="smooth", short=True)

    def frames(self, window=1):
        stamps = np.arange(self.scores.shape[2] + 1) / FRAME_RATE
        pairs = zip(self.ids, self.scores, strict=True)
        return {clip: create_score_dataframe(curve.T, stamps, self.names) for clip, curve in pairs}


def of_reference(function, *args, **options):
    """Calls sed_scores_eval, which fails on a class whose counts are zero at every threshold."""
    try:
        return function(*args, **options)
    except IndexError:
        reject()


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


@quick
@given(case=cases, max_fpr=st.sampled_from([0.1, 0.5, 1.0]), seconds=st.sampled_from([0.3, 1.0]))
def test_auroc_equals_sed_scores_eval(stable_reference, case, max_fpr, seconds):
    expected = case.expected_auroc(max_fpr, seconds)
    for bound in (None, list(case.durations.values())):
        result = case.accumulate(max_fpr=max_fpr, segment_seconds=seconds, all_durations=bound).compute()
        for name in case.names:
            assert result.pauroc_per_class[name] == pytest.approx(expected[name], abs=1e-9, nan_ok=True)
        defined = [value for value in result.pauroc_per_class.values() if not np.isnan(value)]
        assert result.pauroc == pytest.approx(np.mean(defined) if defined else np.nan, abs=1e-9, nan_ok=True)


def test_auroc_of_long_curves_and_what_sed_scores_eval_makes_of_them():
    case = Case(5, n_clips=60, n_frames=250, kind="smooth")
    collected, expected = case.accumulate(), case.expected_auroc()
    for name in case.names:  # with NumPy's default sort the very same number, however that sort treats ties
        assert segment_auroc(collected, name, "quicksort") == pytest.approx(expected[name], abs=1e-9)
        assert expected[name] - 1e-9 <= collected.compute().pauroc_per_class[name] <= expected[name] + 0.02


@quick
@given(case=cases, threshold=st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0]))
def test_f1_at_a_threshold_equals_sed_scores_eval(case, threshold):
    collected, criteria = case.accumulate(OTHER), {"dtc_threshold": OTHER.dtc, "gtc_threshold": OTHER.gtc}
    expected = of_reference(intersection_based.fscore, case.frames(), case.truth, threshold, **criteria)
    check_f1(collected.intersection_f1(threshold), expected, sum(map(len, case.truth.values())))
    expected = segment_based.fscore(case.frames(), case.truth, case.durations, threshold, segment_length=1.0)
    check_f1(collected.segment_f1(threshold), expected, int(collected.active.sizes.sum()))


def check_f1(ours, expected, n_ref):
    f1, precision, recall, counts = expected
    for name, one in ours.items():
        assert (one.f1, one.precision, one.recall) == pytest.approx((f1[name], precision[name], recall[name]), abs=1e-9)
        assert (one.tp, one.fp) == (counts[name]["tps"], counts[name]["fps"])
    assert macro_f1(ours) == pytest.approx(f1["macro_average"], abs=1e-9)
    assert micro_f1(ours, n_ref) == pytest.approx(f1["micro_average"], abs=1e-9)


@quick
@given(case=cases)
def test_best_f1_equals_sed_scores_eval(case):
    collected, criteria = case.accumulate(OTHER), {"dtc_threshold": OTHER.dtc, "gtc_threshold": OTHER.gtc}
    frames = case.frames()
    best, *_ = of_reference(intersection_based.best_fscore, frames, case.truth, **criteria)
    ours = collected.intersection_f1()
    at = {name: one.threshold for name, one in ours.items()}
    there, *_ = of_reference(intersection_based.fscore, frames, case.truth, at, **criteria)
    assert {name: one.f1 for name, one in ours.items()} == pytest.approx({n: best[n] for n in ours}, abs=1e-9)
    assert {name: one.f1 for name, one in ours.items()} == pytest.approx({n: there[n] for n in ours}, abs=1e-9)

    best, *_ = segment_based.best_fscore(frames, case.truth, case.durations, segment_length=1.0)
    ours = collected.segment_f1()
    at = {name: one.threshold for name, one in ours.items()}
    there, *_ = segment_based.fscore(frames, case.truth, case.durations, at, segment_length=1.0)
    assert {name: one.f1 for name, one in ours.items()} == pytest.approx({n: best[n] for n in ours}, abs=1e-9)
    assert {name: one.f1 for name, one in ours.items()} == pytest.approx({n: there[n] for n in ours}, abs=1e-9)


def figures(collected):
    result = collected.compute()
    curves = [value for roc in (*result.class_rocs.values(), result.roc) for value in roc]
    return [result.psds, result.psds_macro, result.pauroc, result.hours, *curves]


def assert_identical(ours, theirs):
    for a, b in zip(figures(ours), figures(theirs), strict=True):
        np.testing.assert_array_equal(a, b)  # bit for bit


@pytest.mark.parametrize("settings", [PSDS1, CROSS])
@pytest.mark.parametrize("bounded", [False, True])
def test_order_batches_and_merging_do_not_matter(settings, bounded):
    case = Case(7, n_clips=70, n_frames=100, kind="smooth", short=True)
    bound = list(case.durations.values()) if bounded else None
    options: dict[str, Any] = {"all_durations": bound, "keep_clips": True, "median_window": 3}
    whole = case.accumulate(settings, **options)
    for parts in ([slice(0, 70, 2), slice(1, 70, 2)], [slice(40, None), slice(0, 3), slice(3, 40)]):
        collected = [case.accumulate(settings, part, **options) for part in parts]
        merged = pickle.loads(pickle.dumps(collected[0]))
        for other in collected[1:]:
            merged.merge(other)
        assert_identical(merged, whole)
        streamed = PSDSAccumulator(case.names, settings, n_threads=2, **options)
        for part in parts:
            scores = torch.from_numpy(case.scores[part])
            streamed.update(scores, case.ids[part], case.truth, case.durations)
        assert_identical(streamed, whole)
        for name, interval in bootstrap(whole, 5).items():
            np.testing.assert_array_equal(interval.samples, bootstrap(merged, 5)[name].samples)


def test_thresholds_are_dropped_and_nothing_changes(monkeypatch):
    monkeypatch.setattr("helpers.psds_pools.FEW_ROWS", 8)
    case = Case(11, n_clips=120, n_frames=100, kind="smooth")
    settings = PSDSSettings(max_efpr=30.0)
    bounded = PSDSAccumulator(case.names, settings, all_durations=case.durations.values())
    for i in range(0, 120, 5):
        part = slice(i, i + 5)
        bounded.update(case.scores[part], case.ids[part], case.truth, case.durations)
    whole = case.accumulate(settings)
    assert bounded.turns.sizes.sum() < 0.5 * whole.turns.sizes.sum()
    assert bounded.quiet.sizes.sum() < 0.5 * whole.quiet.sizes.sum()
    assert_identical(bounded, whole)
    check_psds(bounded, case.expected_psds(settings))
    with pytest.raises(UserError, match="were dropped; leave out all_durations"):
        bounded.intersection_f1(float(bounded.peaks.floor.min()) - 1.0)
    above = float(bounded.peaks.floor.max())
    assert bounded.intersection_f1(above) == whole.intersection_f1(above)
    with contextlib.suppress(UserError):  # where the best threshold cannot be told from what was kept
        assert bounded.segment_f1() == whole.segment_f1()


def test_median_filter_and_time_stamps():
    case = Case(3, n_clips=6, kind="smooth", short=True)
    check_psds(case.accumulate(OTHER, median_window=5), case.expected_psds(OTHER, window=5))
    stamped = PSDSAccumulator(case.names, OTHER, median_window=5)
    frames = case.frames()
    for i, clip in enumerate(case.ids):
        n, stamps = len(frames[clip]), np.append(frames[clip]["onset"], frames[clip]["offset"].iloc[-1])
        stamped.update(case.scores[i : i + 1, :, :n], [clip], case.truth, case.durations, stamps)
    cut = PSDSAccumulator(case.names, OTHER, median_window=5)
    for i, clip in enumerate(case.ids):
        n = len(frames[clip])
        cut.update(case.scores[i : i + 1, :, :n], [clip], case.truth, case.durations)
    assert_identical(stamped, cut)


def test_padding_is_scored_only_on_request():
    case = Case(3, n_clips=6, kind="smooth", short=True)
    padded = case.accumulate(OTHER, clip_to_duration=False).compute()
    assert padded.psds_macro != case.accumulate(OTHER).compute().psds_macro
    collected, expected = case.accumulate(OTHER, clip_to_duration=False), PaddedCase(3, 6).expected_psds(OTHER)
    check_psds(collected, expected)


def test_touching_events_count_as_one():
    case = Case(2, n_clips=2, n_classes=2, kind="smooth")
    case.truth = {clip: [(0.0, 1.0, n) for n in case.names] for clip in case.ids}
    joined = case.accumulate(OTHER)
    case.truth = {clip: [(0.4, 1.0, n) for n in case.names] + [(0.0, 0.4, n) for n in case.names] for clip in case.ids}
    assert_identical(case.accumulate(OTHER), joined)


def test_classes_without_events_are_not_scored():
    case = Case(2, n_clips=5, n_classes=3)
    wider = PSDSAccumulator(["unheard", *case.names])
    scores = np.concatenate((case.scores[:, :1] + 5, case.scores), axis=1)
    wider.update(scores, case.ids, case.truth, case.durations)
    assert_identical(wider, case.accumulate())


def mistake(message, scores=None, ids=("a",), truth=None, durations=None, stamps=None):
    return pytest.param(scores, ids, truth, durations, stamps, message, id=message)


@pytest.mark.parametrize(
    ("scores", "ids", "truth", "durations", "stamps", "message"),
    [
        mistake("clip a: scores of 'y' hold NaN", np.array([[[0, 1], [np.nan, 0]]])),
        mistake("clip a: scores of 'x' hold NaN or infinite", np.array([[[0, np.inf], [0, 0]]])),
        mistake("expected .clips, classes, frames.", np.zeros((1, 3, 2))),
        mistake("clip b: not in the ground truth", ids=("b",)),
        mistake("clip a: given twice", np.zeros((2, 2, 2)), ids=("a", "a")),
        mistake("clip a: no duration", durations={"b": 1.0}),
        mistake("clip a: duration -1.0 s", durations={"a": -1.0}),
        mistake("clip a: class 'z' is not among the 2", truth={"a": [(0.0, 1.0, "z")]}),
        mistake("clip a: events of 'y' overlap at 0.5 s", truth={"a": [(0.5, 1.0, "y"), (0.0, 0.6, "y")]}),
        mistake("clip a: 'x' from 1.0 s to 0.5 s", truth={"a": [(1.0, 0.5, "x")]}),
        mistake("clip a: 2 time stamps for 2 frames", stamps=np.arange(2.0)),
        mistake("clip a: time stamps must ascend", stamps=np.array([0.0, 0.5, 0.5])),
    ],
)
def test_mistakes_are_named_and_leave_no_trace(scores, ids, truth, durations, stamps, message):
    collected = PSDSAccumulator(["x", "y"])
    given_scores = np.zeros((1, 2, 2)) if scores is None else scores
    with pytest.raises(UserError, match=message):
        collected.update(
            given_scores, ids, truth or {"a": [(0.0, 1.0, "x")]}, durations or {"a": 1.0, "b": 1.0}, stamps
        )
    assert not collected.clips and not collected.turns.sizes.any() and not collected.quiet.sizes.any()
    with pytest.raises(UserError, match="nothing to score"):
        collected.compute()


def test_merging_what_does_not_fit_is_refused():
    case = Case(2)
    with pytest.raises(UserError, match="scored by two processes"):
        case.accumulate().merge(case.accumulate())
    with pytest.raises(UserError, match="differ in settings"):
        case.accumulate().merge(case.accumulate(OTHER))
    with pytest.raises(UserError, match=r"all_durations add up to 1\.00 s"):
        case.accumulate(all_durations=[1.0]).compute()


@pytest.mark.filterwarnings("error::RuntimeWarning:helpers")
def test_events_behind_the_end_of_their_clip_are_missed_as_in_sed_scores_eval() -> None:
    from sed_scores_eval import intersection_based, segment_based
    from sed_scores_eval.base_modules.scores import create_score_dataframe

    values = np.random.default_rng(0).random((2, 2, 250))
    truth, durations = {"x": [(12.0, 13.0, "a")], "y": [(1.0, 2.0, "b")]}, {"x": 10.0, "y": 10.0}
    collected = PSDSAccumulator(["a", "b"])
    collected.update(values, ["x", "y"], truth, durations)
    result = collected.compute()
    stamps = np.arange(251) / 25
    scores = {clip: create_score_dataframe(v.T, stamps, ["a", "b"]) for clip, v in zip("xy", values, strict=True)}
    criteria = {"dtc_threshold": 0.7, "gtc_threshold": 0.7, "alpha_st": 1.0, "max_efpr": 100}
    psds, per_class = intersection_based.psds(scores, truth, durations, num_jobs=1, **criteria)[:2]
    with np.errstate(invalid="ignore"):
        auroc = segment_based.auroc(scores, truth, durations, segment_length=1.0, max_fpr=0.1)[0]
    assert result.psds == pytest.approx(psds, abs=1e-9) and result.psds_per_class == pytest.approx(per_class, abs=1e-9)
    assert np.isnan(auroc["a"]) and np.isnan(result.pauroc_per_class["a"])
    assert result.pauroc == pytest.approx(auroc["b"], abs=1e-9)
    assert collected.segment_f1()["a"].f1 == 0
