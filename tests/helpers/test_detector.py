"""The detector on a model whose answers are known (tests/tone_model.py)."""

from __future__ import annotations

import itertools
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile
import torch
from scipy.ndimage import median_filter

from errors import UserError
from helpers.audio_reader import Audio
from helpers.backends import TorchBackend
from helpers.detection import Smoother
from helpers.detector import Detector, Failure
from helpers.events import RECORD_FIELDS
from helpers.pipeline import Job, in_one_list
from models import create_model
from tests.golden_recipe import calibrated_model
from tests.tone_model import ToneModel, tones

EVENTS = [(1.0, 2.0, "Sine wave"), (8.8, 12.0, "Siren"), (17.4, 18.4, "Beep, bleep"), (20.0, 24.2, "Siren")]


def last(detection):
    return list(detection.tables.values())[-1]


def found(detection) -> list[tuple[float, float, str]]:
    return [(e.onset, e.offset, e.label) for e in last(detection)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector(ToneModel(), batch_size=2)


def close(events, expected, tolerance=0.041):
    assert [e[2] for e in events] == [e[2] for e in expected]
    times = [e[:2] for e in events], [e[:2] for e in expected]
    np.testing.assert_allclose(*times, atol=tolerance)
    return True


def test_events_across_window_borders_are_found_whole(detector):
    detection = detector.detect(Audio(tones(25, EVENTS)))
    close(found(detection), EVENTS)
    assert detection.duration == 25
    event = last(detection)[0]
    assert event.mid == "/m/01v_m0" and 0.5 < event.mean_score <= event.peak_score <= 1


@pytest.mark.parametrize("overlap", [0.0, 1.0, 5.0])
def test_shifted_audio_gives_shifted_events(overlap):
    detector = Detector(ToneModel(), overlap=overlap)
    audio = tones(25, EVENTS)
    shifted = np.concatenate([tones(3.7, []), audio])
    events, later = (found(detector.detect(Audio(a))) for a in (audio, shifted))
    close(later, [(on + 3.7, off + 3.7, label) for on, off, label in events])


def test_overlap_zero_is_the_published_form():
    """Windows side by side, the last one zero-padded, median filter over all frames: by hand, with scipy."""
    audio = tones(25, EVENTS)
    model = ToneModel()
    with torch.inference_mode():
        chunks = torch.from_numpy(np.pad(audio, (0, 5 * 16_000)).reshape(3, 160_000))
        strong = model(model.mel_forward(chunks))[0].sigmoid().numpy()
    expected = median_filter(np.concatenate(list(strong), axis=1)[:, :625], (1, 9), mode="reflect")
    detection = Detector(model, overlap=0).detect(Audio(audio), keep_scores=True)
    np.testing.assert_array_equal(detection.scores, expected)


@pytest.mark.parametrize("seconds", [0.1, 0.7, 9.99, 10.0, 10.01, 18.0, 18.03, 61.3])
def test_25_frames_per_second_of_the_real_audio(detector, seconds):
    audio = tones(seconds, [(0, seconds, "Siren")])
    detection = detector.detect(Audio(audio), keep_scores=True)
    assert detection.scores is not None and detection.scores.shape == (4, int(np.ceil(len(audio) / 640)))
    sirens = [e for e in last(detection) if e.label == "Siren"]
    assert len(sirens) == 1 and sirens[0].onset == 0
    last_full_frame = len(audio) // 640 * 0.04  # what is left of a frame may be too short to be heard
    assert last_full_frame - 1e-9 <= sirens[0].offset <= len(audio) / 16_000


def test_batch_size_does_not_matter():
    audio = Audio(tones(61.3, EVENTS))
    one, many = (Detector(ToneModel(), batch_size=n).detect(audio, keep_scores=True) for n in (1, 16))
    np.testing.assert_allclose(one.scores, many.scores, atol=1e-6)


def test_scores_come_in_blocks_for_long_audio(detector):
    blocks = []
    detection = detector.detect(Audio(tones(125, EVENTS)), keep_scores=True, on_scores=blocks.append)
    assert max(block.shape[1] for block in blocks) <= 500 < 3125
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), detection.scores)


@pytest.mark.parametrize(
    ("rate", "channels", "ending"),
    [(8000, 1, "wav"), (16000, 2, "flac"), (22050, 1, "ogg"), (44100, 2, "mp3"), (48000, 8, "wav"), (96000, 1, "aiff")],
)
def test_any_format_rate_and_channels(detector, tmp_path, rate, channels, ending):
    path = tmp_path / f"audio.{ending}"
    events = [e for e in EVENTS if e[2] != "Dial tone"]
    soundfile.write(path, np.repeat(tones(25, events, rate)[:, None], channels, axis=1), rate)
    close(found(detector.detect(path)), events, 0.061)


def test_arrays_are_audio(detector):
    for rate in (16_000, 44_100):
        samples = tones(25, EVENTS, rate)
        expected = detector.detect(Audio(samples, rate))
        for array in (samples, torch.from_numpy(samples), np.stack([samples, samples], axis=1)):
            close(found(detector.detect(array, sample_rate=rate)), found(expected), 1e-6)
    with pytest.raises(UserError, match="needs the rate of the samples"):
        detector.detect(tones(25, EVENTS))
    with pytest.raises(UserError, match="sample_rate is for samples"):
        detector.detect(Audio(tones(1, [])), sample_rate=8000)


def test_what_a_detection_says_of_itself(detector):
    detection = detector.detect(Audio(tones(25, EVENTS), name="day/street.wav"))
    assert repr(detection) == "Detection('day/street.wav', 25.00 s, events: 4 above 0.1, 4 above 0.2, 4 above 0.5)"
    assert re.fullmatch(r"EventTable\(4 events of 3 classes, [\d.]+ to 24\.\d+ s\)", repr(detection.events))
    assert repr(detector) == "Detector(ToneModel, 4 classes, thresholds: 0.1, 0.2, 0.5)"
    none = detector.detect(Audio(tones(1, []))).events
    assert repr(none) == "EventTable(no events)" and none.to_json() == "[]" and none.to_dataframe().empty
    assert list(none.to_dataframe().columns) == list(detection.events.to_dataframe().columns)


def test_events_as_records_json_and_data_frames(detector):
    detection = detector.detect(Audio(tones(25, EVENTS), name="day/street.wav"))
    frame = detection.to_dataframe()
    assert list(frame.columns) == list(RECORD_FIELDS) and len(frame) == 12
    assert set(frame.filename) == {"street.wav"} and set(frame.channel) == {"mix"}
    high = frame[frame.threshold_name == "0.5"]
    assert [(e.onset, e.offset, e.label) for e in high.itertuples()] == [
        (pytest.approx(on, abs=1e-3), pytest.approx(off, abs=1e-3), label) for on, off, label in found(detection)
    ]
    content = json.loads(detection.to_json())
    assert content["thresholds"] == {"0.1": 0.1, "0.2": 0.2, "0.5": 0.5} and content["duration"] == 25
    assert [list(event) for event in content["events"]["0.5"]] == [list(RECORD_FIELDS)] * 4
    assert all(isinstance(e["threshold"], float) for e in content["events"]["0.5"])
    assert json.loads(detection.events.to_json())[0]["label"] == detection.events[0].label
    own = Detector(ToneModel(), thresholds={"Siren": 0.75}).detect(Audio(tones(25, EVENTS)), channel=0)
    assert own.to_dict()["thresholds"]["class"]["Siren"] == 0.75 and own.to_dict()["channel"] == 1
    assert {e["threshold"] for e in own.to_dict()["events"]["class"]} == {0.5, 0.75}


class OneAtATime(ToneModel):
    """Fails when two threads compute at once, as some runtimes do."""

    busy = False

    def forward(self, mel):
        assert not self.busy
        self.busy = True
        time.sleep(0.005)
        self.busy = False
        return super().forward(mel)


def test_threads_may_share_a_detector():
    detector = Detector(OneAtATime(), batch_size=1, detection_thresholds=[0.5])
    sources = [Audio(tones(12, [(i + 1.0, i + 2.0, "Siren")])) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(detector.detect, sources))
    for i, result in enumerate(results):
        close(found(result), [(i + 1.0, i + 2.0, "Siren")], 0.081)


def test_one_channel_can_be_chosen(detector):
    audio = Audio(np.stack([tones(10, [(1, 2, "Siren")]), tones(10, [(4, 5, "Siren")])], axis=1))
    close(found(detector.detect(audio, channel=1)), [(4, 5, "Siren")])
    close(found(detector.detect(audio)), [(1, 2, "Siren"), (4, 5, "Siren")])
    with pytest.raises(UserError, match="2 channels: expected one from 0 to 1"):
        detector.detect(audio, channel=2)


def test_several_thresholds_give_a_table_each():
    detection = Detector(ToneModel(), detection_thresholds=[1.0, 0.2, 0.5]).detect(Audio(tones(25, EVENTS)))
    assert {name: len(table) for name, table in detection.tables.items()} == {"0.2": 4, "0.5": 4, "1": 0}
    assert detection.tables["0.2"][0].threshold == np.float32(0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detection_thresholds": [0.5, 1.5]}, "detection_thresholds is 1.5"),
        ({"detection_thresholds": [float("nan")]}, "detection_thresholds is nan"),
        ({"detection_thresholds": []}, "detection_thresholds is empty"),
        ({"median_window": 8}, "median_window is 8"),
        ({"median_window": 0}, "median_window is 0"),
        ({"hysteresis": -0.1}, "hysteresis is -0.1"),
        ({"overlap": 6.0}, "overlap is 6.0"),
        ({"window": 0.1}, "window is 0.1"),
        ({"min_duration": -1.0}, "min_duration is -1.0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"medain_window": 9}, "did you mean --median_window"),
        ({"device": "cuda:77"}, "device 'cuda:77'"),
        ({"device": "toaster"}, "device 'toaster'"),
        ({"precision": "8"}, "precision '8'"),
    ],
)
def test_bad_options_name_the_option_and_the_value(options, message):
    with pytest.raises(UserError, match=message):
        Detector(ToneModel(), **options)


def test_the_checkpoints_own_thresholds_and_windows_are_used():
    model = ToneModel()
    model.tuning = {"class_thresholds": [0.5, 1.0, 0.9, 0.5], "class_median_windows": [1, 3, 51, 9]}
    audio = Audio(tones(25, [(1, 1.2, "Sine wave"), (2, 3, "Beep, bleep"), (4, 4.5, "Siren"), (6, 8, "Siren")]))
    detection = Detector(model).detect(audio)
    assert list(detection.tables) == ["class"]
    # Beeps never reach 1.0, and the short siren does not survive a median of 51 frames.
    close(found(detection), [(1, 1.2, "Sine wave"), (6, 8, "Siren")], 0.081)
    assert [event.threshold for event in detection.events] == [0.5, np.float32(0.9)]
    given = Detector(model, detection_thresholds=[0.5], median_window=1).detect(audio)
    assert len(given.tables["0.5"]) == 4
    sirens = Detector(model, include=["Alarm"]).detect(audio)  # the right ones of both lists for the classes kept
    close(found(sirens), [(6, 8, "Siren")], 0.081)


def test_only_some_classes(detector):
    audio = Audio(tones(25, EVENTS))
    sirens = Detector(ToneModel(), include=["Siren"], detection_thresholds=[0.5]).detect(audio, keep_scores=True)
    close(found(sirens), [e for e in EVENTS if e[2] == "Siren"])
    assert sirens.scores.shape == (1, 625)
    others = Detector(ToneModel(), exclude=["Siren"], detection_thresholds=[0.5]).detect(audio)
    close(found(others), [e for e in EVENTS if e[2] != "Siren"])
    assert len(others.tags) == 4


def test_top_k_keeps_the_classes_with_the_best_scores():
    audio = tones(25, EVENTS)
    audio[: 3 * 16_000] *= 0.6  # the sine wave is the faintest
    detection = Detector(ToneModel(), top_k=2, detection_thresholds=[0.3]).detect(Audio(audio))
    assert {e.label for e in detection.events} == {"Siren", "Beep, bleep"}


def test_tags_are_the_best_of_all_windows(detector):
    detection = detector.detect(Audio(tones(25, [(21, 22, "Siren")])))
    tags = dict(zip((n.label for n in detector.tag_names(detection)), detection.tags, strict=True))
    assert tags["Siren"] > 0.9 and tags["Dial tone"] < 0.1


@pytest.mark.parametrize("window", [1, 3, 9, [1, 51, 9, 9]])
def test_both_median_filters_are_the_same(window):
    scores = np.random.default_rng(0).random((4, 400)).astype(np.float32)
    quick, compiled = Smoother(window), Smoother(window)
    compiled.scipy_frames = 0
    np.testing.assert_array_equal(quick(scores), compiled(scores))


def many_jobs(n: int, bad: set[int]):
    for i in range(n):
        seconds = [0.5, 12.0, 3.0, 31.0][i % 4]
        samples = np.full(10, np.nan) if i in bad else tones(seconds, [(0.1, 0.1 + 0.3 * seconds, "Siren")])
        yield Job(Audio(samples, name=f"audio {i}"), key=i)


@pytest.mark.parametrize(("n_threads", "batch_size"), [(1, 8), (3, 5), (2, 1)])
def test_many_audios_give_what_each_gives_alone(n_threads, batch_size):
    detector = Detector(ToneModel(), batch_size=batch_size, detection_thresholds=[0.5])
    results = dict(
        (job.key, result) for job, result in detector.detect_many(many_jobs(24, {5, 23}), n_threads=n_threads)
    )
    assert sorted(results) == list(range(24))
    assert {i for i, r in results.items() if isinstance(r, Failure)} == {5, 23}
    assert "audio 5" in str(results[5].error)
    for i, job in enumerate(many_jobs(24, {5, 23})):
        if i not in (5, 23):
            assert list(results[i].events) == list(detector.detect(job.source).events)
            assert results[i].name == f"audio {i}"


class Unsteady(ToneModel):
    """As runtimes do, gives slightly other scores in batches of another size, or at another place in the batch."""

    def forward(self, mel):
        strong, weak = super().forward(mel)
        place = torch.arange(len(mel), dtype=torch.float32) + 10 * len(mel)
        return strong + 1e-4 * place[:, None, None], weak


def slow_jobs(jobs, order: int):
    """Jobs whose reading takes longer for other ones each time."""
    random = np.random.default_rng(order)
    for job in jobs:
        time.sleep(0.02 * random.random())
        yield job


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_the_same_command_gives_the_same_scores_in_the_same_order(n_threads):
    detector = Detector(Unsteady(), batch_size=4)
    runs = [
        list(detector.detect_many(slow_jobs(many_jobs(16, {5}), order), n_threads=n_threads, keep_scores=True))
        for order in range(3)
    ]
    orders = [[job.key for job, _ in run] for run in runs]
    assert orders[0] == orders[1] == orders[2] and sorted(orders[0]) == list(range(16))
    for one, other in itertools.pairwise(runs):
        for (_, a), (_, b) in zip(one, other, strict=True):
            assert isinstance(a, Failure) or a.scores.tobytes() == b.scores.tobytes()
    alone = {
        job.key: detector.detect(job.source, keep_scores=True).scores.tobytes()
        for job in list(many_jobs(16, set()))[::3]
    }
    found = {job.key: result.scores.tobytes() for job, result in runs[0] if job.key in alone}
    assert found == alone  # what --skip_existing leaves of a run gets the same scores, too
    other_batches = Detector(Unsteady(), batch_size=3).detect(list(many_jobs(4, set()))[3].source, keep_scores=True)
    assert other_batches.scores.tobytes() != alone[3]  # so that these scores do depend on their batches


class Counting(Unsteady):
    """Notes the size of each batch."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, mel):
        self.sizes.append(len(mel))
        return super().forward(mel)


def whole_windows(n: int, bad: set[int] = frozenset()) -> list[Job]:
    """Audios of one window of 1.2 s each, and a few that are longer, shorter or unreadable."""
    seconds = {3: 0.5, 7: 2.6}
    audios = [tones(seconds.get(i, 1.2), [(0.1, 0.2 + 0.05 * (i % 8), "Siren")]) for i in range(n)]
    audios = [np.full(10, np.nan) if i in bad else audio for i, audio in enumerate(audios)]
    return [Job(Audio(audio, name=f"audio {i}"), key=i) for i, audio in enumerate(audios)]


def scores_of(detector: Detector, jobs, n_threads: int = 1) -> dict[int, bytes]:
    results = detector.detect_many(jobs, n_threads=n_threads, keep_scores=True)
    return {job.key: b"" if isinstance(r, Failure) else r.scores.tobytes() for job, r in results}


def test_files_of_one_window_share_batches_of_one_size():
    model = Counting()
    detector = Detector(model, batch_size=4, window=1.2, overlap=0.2)
    jobs = in_one_list(whole_windows(18, {5}))
    scores = scores_of(detector, jobs)
    # by themselves: the short one, and the three windows of the long one; the others in five batches, of which two have
    # free rows where files 3, 5 and 7 would be, and one at the end
    assert sorted(model.sizes) == [1, 3, 4, 4, 4, 4, 4]
    assert sorted(scores) == list(range(18)) and {i for i, found in scores.items() if not found} == {5}
    for n_threads in (1, 2, 3):
        assert scores_of(detector, slow_jobs(jobs, n_threads), n_threads) == scores
        # what --skip_existing leaves of a run gets the same scores, whatever that is
        for kept in ({0, 4, 8, 12}, {1, 5, 7, 16}, {17}):
            rest = [job for job in jobs if job.key in kept]
            assert scores_of(detector, rest, n_threads) == {i: scores[i] for i in kept}
    other_places = in_one_list([job for job in jobs if job.key in {1, 2, 6}])
    assert all(found != scores[i] for i, found in scores_of(detector, other_places).items())


def test_a_list_that_is_shorter_than_a_batch_has_batches_of_its_length():
    model = Counting()
    scores_of(Detector(model, batch_size=8, window=1.2, overlap=0.2), in_one_list(whole_windows(3)))
    assert model.sizes == [3]


def test_a_job_that_is_a_list_alone_gets_what_it_gets_without_one():
    detector, job = Detector(Unsteady(), batch_size=8, window=1.2, overlap=0.2), whole_windows(1)
    assert scores_of(detector, in_one_list(job)) == scores_of(detector, job)


def test_scores_that_are_no_numbers_fail_their_own_job_alone():
    class Overflowing(ToneModel):
        def forward(self, mel):
            strong, weak = super().forward(mel)
            return torch.where(strong > 50, torch.nan, strong), weak

    jobs = whole_windows(8)
    jobs[2] = Job(Audio(20 * tones(1.2, [(0, 1, "Siren")]), name="loud"), key=2)
    results = {
        job.key: r
        for job, r in Detector(Overflowing(), batch_size=8, window=1.2, overlap=0).detect_many(in_one_list(jobs))
    }
    assert [i for i, r in results.items() if isinstance(r, Failure)] == [2] and "not numbers" in str(results[2].error)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("sequence", [None, "tf", "gru", "mamba"])
def test_the_other_rows_of_a_batch_do_not_change_a_score(sequence, precision):
    """What batches that are filled up rest on; bit by bit, with sound, silence and overflow in the other rows."""
    model = calibrated_model(create_model("fmn04", seq_model_type=sequence, seq_model_dim=64))
    backend = TorchBackend(model, precision=precision)
    random = np.random.default_rng(0)
    windows = 0.1 * random.standard_normal((4, 50 * 640)).astype(np.float32)
    expected = backend(windows)
    for row in (0, 3):
        for others in (
            0.3 * random.standard_normal(windows.shape),
            np.zeros(windows.shape),
            np.full(windows.shape, 1e30),
        ):
            batch = others.astype(np.float32)
            batch[row] = windows[row]
            for found, wanted in zip(backend(batch), expected, strict=True):
                assert found[row].tobytes() == wanted[row].tobytes()
                assert found[1].tobytes() != wanted[1].tobytes()  # another input, another output


def test_reading_stays_a_bounded_number_of_windows_ahead():
    taken = []

    def jobs():
        for job in many_jobs(400, set()):
            taken.append(job)
            yield job

    results = Detector(ToneModel(), batch_size=4).detect_many(jobs(), n_threads=2)
    next(results)
    assert len(taken) < 40
    results.close()


def test_a_defect_in_a_reader_reaches_the_caller(monkeypatch):
    monkeypatch.setattr("helpers.pipeline.read_blocks", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(Detector(ToneModel()).detect_many(many_jobs(4, set())))
