"""The report: its data against the detections, and the page itself in a headless Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter

import numpy as np
import pytest
import soundfile
from PIL import Image

from helpers import report
from helpers.audio_reader import Audio
from helpers.classes import ClassName
from helpers.detector import Detector
from helpers.outputs import OutputFolder, TrueEvents
from helpers.report import CurveStore, ReportPages, describe
from tests.browser import Browser, needs_browser
from tests.tone_model import ToneModel, tones

EVIL = "a </script><img src=x onerror=\"document.title='owned'\"> & 'b'.wav"
EVENTS = [(1.0, 2.0, "Sine wave"), (2.5, 6.0, "Siren"), (3.4, 4.4, "Beep, bleep"), (8.0, 8.6, "Siren")]


def pooled_in_one(scores: np.ndarray, n: int) -> np.ndarray:
    padded = np.pad(np.round(scores * 255), ((0, 0), (0, -scores.shape[1] % n)))
    return padded.reshape(len(scores), -1, n).max(axis=2)


@pytest.mark.parametrize("n_frames", [1, 99, 100, 101, 399, 401, 1000])
@pytest.mark.parametrize("block", [1, 7, 1000])
def test_long_curves_are_pooled_by_their_maxima(monkeypatch, n_frames, block):
    monkeypatch.setattr(report, "MAX_FRAMES", 100)
    scores = np.random.default_rng(0).random((3, n_frames))
    store = CurveStore(3)
    for i in range(0, n_frames, block):
        store.add(scores[:, i : i + block])
    curves = store.curves()
    assert min(n_frames, 50) <= curves.shape[1] <= 101
    np.testing.assert_array_equal(curves, pooled_in_one(scores, store.pooled))


def detect(audio: Audio, **options):
    detector = Detector(ToneModel(), **options)
    curves = CurveStore(4)
    return detector, detector.detect(audio, on_scores=curves.add), curves


def recording(audio: Audio, true: TrueEvents | None = None, **options):
    detector, detection, curves = detect(audio, **options)
    return describe(audio, detection, curves, detector.decoding, [(ClassName("Siren", ""), 0.9)], true), detection


def data_url(url: str, kind: str) -> io.BytesIO:
    head, data = url.split(",")
    assert head == f"data:{kind};base64"
    return io.BytesIO(base64.b64decode(data))


def test_the_data_of_a_recording():
    audio = Audio(tones(10, EVENTS), name="in/clip.wav")
    data, detection = recording(audio, TrueEvents([1.0], [2.0], ["Sine wave"]))
    assert data["name"] == "clip.wav" and data["duration"] == 10 and data["frame"] == 0.04
    assert data["truth"] == [(1.0, 2.0, "Sine wave")] and data["tags"] == [("Siren", 0.9)]
    assert [entry["threshold"] for entry in data["lists"]] == [0.1, 0.2, 0.5]
    for entry, table in zip(data["lists"], detection.tables.values(), strict=True):
        got = [(data["classes"][c]["label"], on, off) for c, on, off, _, _ in entry["events"]]
        assert got == [(e.label, round(e.onset, 3), round(e.offset, 3)) for e in table]
    curve = np.frombuffer(base64.b64decode(data["classes"][0]["curve"]), np.uint8)
    assert len(curve) == 250 and curve.max() > 200
    picture = Image.open(data_url(data["spectrogram"], "image/webp"))
    assert picture.size == (1000, 128)


def test_the_audio_is_what_the_network_heard(monkeypatch):
    audio = Audio(tones(10, EVENTS, 44_100), 44_100)
    sound, rate = soundfile.read(data_url(recording(audio)[0]["audio"], "audio/flac"))
    assert rate == 16_000
    np.testing.assert_allclose(sound, tones(10, EVENTS), atol=0.27)  # the tones start and end hard
    np.testing.assert_allclose(np.std(sound), np.std(tones(10, EVENTS)), rtol=0.01)
    monkeypatch.setattr(report, "FLAC_SECONDS", 5)
    long, rate = soundfile.read(data_url(recording(audio)[0]["audio"], "audio/mpeg"))
    onset = np.flatnonzero(np.abs(long) > 0.1)[0] / rate
    assert rate == 16_000 and abs(onset - 1.0) < 0.04
    monkeypatch.setattr(report, "MAX_AUDIO_SECONDS", 5)
    assert recording(audio)[0]["audio"] is None


def make_pages(folder, recordings, **options):
    detector = Detector(ToneModel(), **options)
    pages = ReportPages(OutputFolder(folder), "report", detector.decoding, "tone model")
    for audio, true in recordings:
        curves = CurveStore(4)
        pages.add(audio, detector.detect(audio, on_scores=curves.add), curves, [], true)
    pages.close()
    return pages.written


def test_names_cannot_break_out_of_the_data(tmp_path):
    (page,) = make_pages(tmp_path, [(Audio(tones(1, []), name=EVIL), None)])
    text = page.read_text(encoding="utf-8")
    template = report.TEMPLATE.read_text(encoding="utf-8")
    assert text.count("<script") == template.count("<script") + 2 and "<img" not in text
    data = re.search(r'id="recording-0">(.*?)</script>', text)
    assert data and json.loads(data[1])["name"] == EVIL.rpartition("/")[2]


def test_full_pages_are_followed_by_others(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "PER_PAGE", 3)
    audios = [(Audio(tones(0.5, []), name=f"clip {i}.wav"), None) for i in (10, 2, 1, 4, 3, 6, 5)]
    pages = make_pages(tmp_path, audios)
    assert [p.name for p in pages] == ["report.html", "report-2.html", "report-3.html"]
    index = json.loads(re.search(r'id="index">(.*?)</script>', pages[0].read_text())[1])
    assert [r["name"] for r in index["recordings"]] == ["clip 1.wav", "clip 2.wav", "clip 10.wav"]


def test_pages_do_not_grow_beyond_what_a_browser_opens(tmp_path, monkeypatch):
    audios = [(Audio(tones(seconds, []), name=f"{seconds} s.wav"), None) for seconds in (0.5, 0.6, 4.0, 0.7)]
    whole = make_pages(tmp_path / "whole", audios)
    assert len(whole) == 1
    sizes = [len(data) for data in re.findall(r'id="recording-[0-9]">(.*?)</script>', whole[0].read_text())]
    monkeypatch.setattr(report, "PAGE_CHARACTERS", sizes[0] + sizes[1])
    pages = make_pages(tmp_path / "parts", audios)
    names = [re.findall(r'"name":"([0-9.]+) s.wav","events"', page.read_text()) for page in pages]
    assert names == [["0.5", "0.6"], ["4.0"], ["0.7"]]


# ---- in the browser -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    audio = tones(10, EVENTS)
    audio *= np.linspace(0.6, 1, len(audio), dtype=np.float32)  # so that thresholds make a difference
    true = TrueEvents([1.0, 5.0], [2.0, 6.0], ["Sine wave", "Only <i>annotated</i>"])
    recordings = [(Audio(audio, name=EVIL), true), (Audio(tones(3, EVENTS), name="z short.wav"), None)]
    folder = tmp_path_factory.mktemp("report")
    return make_pages(folder, recordings, detection_thresholds=[0.2, 0.5], min_duration=0.2, max_gap=0.12)[0]


@pytest.fixture
def view(browser, page):
    """The page, freshly opened; gives a function from seconds and lane to page coordinates."""
    browser.open(page)
    browser.wait("return state.rec.picture.complete && document.getElementById('audio').readyState >= 2")
    left, top = browser.run("const r = view.getBoundingClientRect(); return [r.left, r.top]")

    def spot(seconds: float, lane: int) -> tuple[float, float]:
        return left + browser.run("return x(arguments[0])", seconds), top + browser.run(
            "return laneTop(arguments[0]) + LANE / 2 + 4", lane
        )

    return spot


def shown(browser):
    return browser.run("return state.events.map((e) => [state.rec.classes[e.cls].label, e.onset, e.offset])")


@needs_browser
@pytest.mark.slow
class TestPage:
    def test_nothing_is_asked_for_from_outside_and_nothing_fails(self, browser, page, view):
        browser.requests()
        browser.open(page)
        browser.run("document.querySelectorAll('nav button')[1].click()")
        urls = [u for u in browser.requests() if not u.startswith("data:")]
        assert urls and all(u.startswith("file://") and u.endswith("/report.html") for u in urls)
        assert browser.log() == []
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", text)

    def test_names_are_text(self, browser, view):
        assert browser.run("return document.getElementById('title').textContent") == EVIL.rpartition("/")[2]
        assert browser.run("return document.title") != "owned"
        assert browser.run("return document.querySelectorAll('img, i:not(.key)').length") == 0

    def test_events_are_those_of_the_detector(self, browser, view):
        audio = tones(10, EVENTS) * np.linspace(0.6, 1, 160_000, dtype=np.float32)
        options = {"min_duration": 0.2, "max_gap": 0.12}
        for threshold in (0.5, 0.3, 0.7):
            if threshold != 0.5:
                browser.run(
                    "const s = document.getElementById('threshold'); s.value = arguments[0];"
                    "s.dispatchEvent(new Event('input'))",
                    threshold,
                )
            table = Detector(ToneModel(), detection_thresholds=[threshold], **options).detect(Audio(audio)).events
            got = sorted(shown(browser), key=lambda e: (e[1], e[0]))
            expected = sorted(([e.label, e.onset, e.offset] for e in table), key=lambda e: (e[1], e[0]))
            assert [e[0] for e in got] == [e[0] for e in expected] and len(got) >= 2
            np.testing.assert_allclose([e[1:] for e in got], [e[1:] for e in expected], atol=0.041)
        browser.run("document.getElementById('reset').click()")
        assert browser.run("return state.threshold") == 0.5
        assert browser.run("return document.querySelectorAll('#rows tr').length") == len(shown(browser))

    def test_only_the_best_classes_are_kept_at_every_threshold(self, browser, tmp_path):
        audio = Audio(tones(10, EVENTS) * np.linspace(0.6, 1, 160_000, dtype=np.float32))
        browser.open(make_pages(tmp_path, [(audio, None)], detection_thresholds=[0.5], top_k=1)[0])
        for threshold in (0.3, 0.7):
            slide = "const s = document.getElementById('threshold'); s.value = arguments[0];"
            browser.run(slide + "s.dispatchEvent(new Event('input'))", threshold)
            table = Detector(ToneModel(), detection_thresholds=[threshold], top_k=1).detect(audio).events
            assert {e[0] for e in shown(browser)} == {e.label for e in table} == {"Siren"}

    def test_classes_are_filtered_by_name(self, browser, view):
        set_filter = "const f = document.getElementById('class-filter'); f.value = arguments[0]; f.oninput()"
        browser.run(set_filter, "siren, SINE")
        assert {e[0] for e in shown(browser)} == {"Siren", "Sine wave"}
        assert browser.run("return state.lanes.map((l) => l.label)") == ["Sine wave", "Siren"]
        browser.run(set_filter, "annotated")
        assert browser.run("return [state.events.length, state.lanes.length]") == [0, 1]

    def test_a_click_moves_the_player_and_the_curve_shows_on_hover(self, browser, view):
        browser.move(*view(3.0, 1))
        assert browser.run("return document.getElementById('tip').hidden") is False
        text = browser.run("return document.getElementById('tip').textContent")
        assert text.startswith("Siren") and "score 0." in text and "event 0:02.5" in text
        inked = (
            "const c = document.getElementById('tip-curve');"
            "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v, i) => i % 4 == 3 && v)"
        )
        assert browser.run(inked)
        browser.click(*view(3.0, 1))
        assert browser.run("return audio.currentTime") == pytest.approx(3.0, abs=0.02)
        assert browser.run("return state.chosen.onset") == pytest.approx(2.5, abs=0.05)
        assert browser.run("return document.getElementById('clock').textContent").startswith("0:03.0")

    def test_the_cursor_runs_with_the_audio(self, browser, view):
        browser.run("document.getElementById('play').click()")
        browser.wait("return audio.currentTime > 0.3 && !audio.paused")
        times = [
            browser.run("return [audio.currentTime, document.getElementById('clock').textContent]") for _ in range(5)
        ]
        for current, text in times:
            minutes, seconds = text.split(" / ")[0].split(":")
            assert abs(int(minutes) * 60 + float(seconds) - current) < 0.15
        browser.key(" ")
        browser.wait("return audio.paused")
        browser.key("\ue014")  # arrow right
        assert browser.run("return audio.currentTime") > times[-1][0] + 0.9

    def test_a_double_click_plays_the_event_alone(self, browser, view):
        browser.click(*view(8.3, 1), times=2)
        browser.wait("return audio.paused && audio.currentTime > 8.55 && audio.currentTime < 9.0", 8)

    def test_zoom_and_drag(self, browser, view):
        for _ in range(3):
            browser.run("document.getElementById('zoom-in').click()")
        start, end = browser.run("return [state.from, state.to]")
        assert end - start == pytest.approx(10 / 8)
        x, y = view(start + 0.6, 0)
        browser.drag(x, y, to_x=x - 200)
        assert browser.run("return state.from") > start + 0.1
        assert browser.run("return audio.currentTime") == 0  # a drag is no click
        browser.run("document.getElementById('zoom-fit').click()")
        assert browser.run("return [state.from, state.to]") == [0, 10]

    def test_the_table_is_sorted_and_saved(self, browser, view):
        browser.run("document.querySelectorAll('#head button')[3].click()")  # mean score, falling
        scores = browser.run(
            "return [...document.querySelectorAll('#rows tr')].map((r) => Number(r.cells[3].textContent))"
        )
        assert scores == sorted(scores, reverse=True)
        saved = browser.run(
            "let text; const url = URL.createObjectURL; URL.createObjectURL = (b) => { text = b; return url(b); };"
            "HTMLAnchorElement.prototype.click = function () { this.saved = this.download; };"
            "document.getElementById('save').click(); URL.createObjectURL = url;"
            "return text.text()"
        )
        lines = saved.splitlines()
        assert lines[0] == "filename\tonset\toffset\tevent_label" and len(lines) == 1 + len(shown(browser))
        assert all(len(line.split("\t")) == 4 for line in lines)

    def test_recordings_are_listed_and_opened(self, browser, view):
        browser.run("document.querySelectorAll('nav button')[1].click()")
        assert browser.run("return document.getElementById('title').textContent") == "z short.wav"
        assert browser.run("return state.to") == 3
        filter_files = "const f = document.getElementById('file-filter'); f.value = 'SHORT'; f.oninput()"
        browser.run(filter_files)
        assert browser.run("return document.querySelectorAll('nav button').length") == 1

    def test_the_threshold_holds_for_all_recordings_and_counts_follow_it(self, browser, view, page):
        browser.run(
            "const s = document.getElementById('threshold'); s.value = 0.9; s.dispatchEvent(new Event('input'))",
        )
        browser.wait("return found.length === 2")
        louder = np.linspace(0.6, 1, 160_000, dtype=np.float32)
        options = {"detection_thresholds": [0.9], "min_duration": 0.2, "max_gap": 0.12}
        tables = [
            Detector(ToneModel(), **options).detect(Audio(audio)).events
            for audio in (tones(10, EVENTS) * louder, tones(3, EVENTS))
        ]
        listed = "return [...document.querySelectorAll('nav button')].map((b) => Number(b.lastChild.textContent))"
        assert browser.run(listed) == [len(table) for table in tables] and len(tables[0]) > len(tables[1]) > 0
        browser.run("document.querySelectorAll('nav button')[1].click()")
        assert browser.run("return [state.threshold, state.events.length]") == [0.9, len(tables[1])]
        assert browser.run("return document.getElementById('threshold').value") == "0.9"
        rows = browser.run(
            "return [...document.querySelectorAll('#counts tr')].map((r) => [...r.cells].map((c) => c.textContent))"
        )
        labels = rows[0][2:]
        counts = [Counter(event.label for event in table) for table in tables]
        assert set(labels) == set(counts[0])
        assert [[int(n) for n in row[1:]] for row in rows[2:]] == [
            [count.total(), *(count[label] for label in labels)] for count in counts
        ]
        assert [int(n) for n in rows[1][1:]] == [
            sum(column) for column in zip(*[[int(n) for n in r[1:]] for r in rows[2:]], strict=True)
        ]
        filter_classes = "const f = document.getElementById('class-filter'); f.value = 'siren'; f.oninput()"
        browser.run(filter_classes)
        browser.wait("return found.length === 2")
        assert browser.run(listed) == [count["Siren"] for count in counts]

    def test_events_of_all_recordings_in_one_table(self, browser, view):
        browser.wait("return found.length === 2")
        browser.run("document.getElementById('all').click()")
        read = "return [...document.querySelectorAll('#rows tr')].map((r) => [...r.cells].map((c) => c.textContent))"
        n = browser.run("return found.reduce((n, f) => n + f.events.length, 0)")
        rows = browser.run(read)
        assert len(rows) == n > len(shown(browser)) and {row[0] for row in rows} == {
            EVIL.rpartition("/")[2],
            "z short.wav",
        }
        for column, key in ((1, float), (3, str), (5, float)):  # onset, event, peak score
            press = f"document.querySelectorAll('#head button')[{column}].click()"
            orders = []
            for _ in range(2):
                browser.run(press)
                orders.append(browser.run(f"return document.querySelectorAll('#head th')[{column}].ariaSort"))
                values = [key(row[column].removeprefix("0:")) for row in browser.run(read)]
                assert values == sorted(values, reverse=orders[-1] == "descending")
            assert set(orders) == {"ascending", "descending"}
        saved = browser.run(
            "let text; const url = URL.createObjectURL; URL.createObjectURL = (b) => { text = b; return url(b); };"
            "HTMLAnchorElement.prototype.click = function () { this.saved = this.download; };"
            "document.getElementById('save-all').click(); URL.createObjectURL = url;"
            "return text.text()"
        )
        lines = [line.split("\t") for line in saved.splitlines()]
        assert len(lines) == 1 + n and {line[0] for line in lines[1:]} == {EVIL.rpartition("/")[2], "z short.wav"}
        browser.run(
            "[...document.querySelectorAll('#rows tr')].find((r) => r.cells[0].textContent === 'z short.wav').click()"
        )
        assert browser.run("return document.getElementById('title').textContent") == "z short.wav"

    def test_doubtful_events_are_listed_and_heard(self, browser, tmp_path):
        """Tones whose scores are 0.55, 0.43, 0.27 and 1.00 (ToneModel): the first two are near a threshold of 0.5."""
        parts = [
            (1.0, 2.0, "Siren", 0.42),
            (3.0, 4.0, "Sine wave", 0.37),
            (5.0, 6.0, "Siren", 0.3),
            (7.0, 8.0, "Siren", 1),
        ]
        audio = sum(tones(10, [part[:3]]) * np.float32(part[3]) for part in parts)
        browser.open(make_pages(tmp_path, [(Audio(audio), None)], detection_thresholds=[0.5])[0])
        browser.wait("return found.length === 1")
        rows = browser.run(
            "return [...document.querySelectorAll('#doubt-rows tr')].map((r) => [...r.cells].map((c) => c.textContent))"
        )
        assert [(row[2], row[4].split()[1]) for row in rows] == [("Siren", "above"), ("Sine wave", "beneath")]
        for row, logit in zip(rows, (0.2, -0.3), strict=True):
            peak = 1 / (1 + np.exp(-logit))
            assert float(row[3]) == pytest.approx(peak, abs=0.02)
            assert float(row[4].split()[0]) == pytest.approx(abs(float(row[3]) - 0.5), abs=0.0011)
        assert browser.run("return state.lanes.map((l) => l.label)") == ["Siren"]
        browser.wait("return document.getElementById('audio').readyState >= 2")
        browser.run("document.querySelectorAll('#doubt-rows button')[1].click()")
        assert browser.run("return state.lanes.map((l) => l.label)") == ["Siren", "Sine wave"]  # as a dashed outline
        start, end = browser.run("return [state.from, state.to]")
        assert start <= 3.0 and end >= 4.0
        browser.wait("return audio.paused && audio.currentTime > 4.3 && audio.currentTime < 5.0", 20)
        assert browser.log() == []

    def test_all_of_it_works_with_the_keyboard(self, browser, view):
        """A row is one stop of the tabulator; what is pressed keeps the focus although the table is made anew."""
        browser.wait("return found.length === 2")
        browser.run("document.getElementById('all').focus()")
        browser.key(" ")
        assert browser.run("return [document.getElementById('all').checked, audio.paused]") == [True, True]
        browser.run("document.querySelector('#head button').focus()")  # the names of the recordings
        for order in ("ascending", "descending"):
            browser.key("\ue007")  # enter
            assert browser.run("return document.activeElement.closest('th').ariaSort") == order
        stops = "return [...document.querySelectorAll('#rows tr')].filter((r) => r.tabIndex === 0).length"
        assert browser.run(stops) == 1
        browser.run("document.querySelector('#rows tr').focus()")
        here = "return [...document.querySelectorAll('#rows tr')].indexOf(document.activeElement)"
        browser.key("\ue015")  # arrow down
        assert browser.run(here) == 1 and browser.run(stops) == 1
        onset = browser.run("return sorted()[1].onset")
        browser.key("\ue007")
        assert browser.run("return document.getElementById('title').textContent") == "z short.wav"
        assert browser.run("return [state.chosen.onset, audio.currentTime]") == [onset, pytest.approx(onset, abs=0.02)]
        assert browser.run(here) == 1
        browser.key("\ue013")  # arrow up
        assert browser.run(here) == 0
        browser.run("document.querySelectorAll('nav button')[0].focus()")
        browser.key("\ue007")
        first = "document.querySelectorAll('nav button')[0]"
        assert browser.run(f"return [document.activeElement === {first}, {first}.ariaCurrent]") == [True, "true"]
        browser.run("document.querySelectorAll('#counts-rows tr')[1].focus()")  # the sums open nothing
        browser.key("\ue015", "\ue007")
        assert browser.run("return document.getElementById('title').textContent") == "z short.wav"

    def test_shortcuts_of_the_browser_are_left_to_it(self, browser, view):
        press = (
            "const e = new KeyboardEvent('keydown', {key: '+', ctrlKey: arguments[0], bubbles: true,"
            " cancelable: true});"
            "document.body.dispatchEvent(e); return [e.defaultPrevented, state.to - state.from]"
        )
        assert browser.run(press, True) == [False, 10]
        assert browser.run(press, False) == [True, 5]

    def test_what_is_of_several_recordings_is_not_shown_for_one(self, browser, view, tmp_path):
        seen = (
            "return ['all', 'save-all', 'counts', 'files'].map((id) => document.getElementById(id).checkVisibility())"
        )
        browser.wait("return found.length === 2")
        assert browser.run(seen) == [True] * 4
        browser.open(make_pages(tmp_path, [(Audio(tones(3, EVENTS)), None)], detection_thresholds=[0.5])[0])
        browser.wait("return found.length === 1")
        assert browser.run(seen) == [False] * 4
        assert browser.run("return document.getElementById('doubt-head').checkVisibility()") is False  # none to check
        tops = browser.run("return [...document.querySelectorAll('main .bar')[0].children].map((e) => e.offsetTop)")
        assert max(tops) - min(tops) < 20  # the controls are one row

    def test_the_axis_of_time_says_what_it_counts(self, browser, view):
        write = "const texts = []; const fill = CanvasRenderingContext2D.prototype.fillText;"
        write += "CanvasRenderingContext2D.prototype.fillText = function (text, x) { texts.push([text, x]); };"
        write += "draw(); CanvasRenderingContext2D.prototype.fillText = fill; return Object.fromEntries(texts)"
        texts = browser.run(write)
        assert {"min:s", "0:00", "0:05", "0:10", "250 Hz", "8 kHz"} <= set(texts)
        assert texts["0:05"] == pytest.approx(browser.run("return x(5)"))
        browser.run("Object.assign(state, { from: 3600, to: 3610 })")
        assert "h:min:s" in browser.run(write)

    def test_a_dark_page_is_dark_to_its_edges_and_its_text_stands_out(self, browser, page):
        contrast = (
            "const of = (c) => c.match(/[0-9.]+/g).slice(0, 3).map((v) => { v /= 255;"
            " return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });"
            "const light = (c) => { const [r, g, b] = of(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05; };"
            "const paint = (name) => { const e = document.createElement('i'); e.style.color = `var(--${name})`;"
            " document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return light(c); };"
            "return arguments[0].map(([a, b]) => { const p = [paint(a), paint(b)];"
            " return Math.max(...p) / Math.min(...p); })"
        )
        texts = [("ink", "card"), ("ink", "page"), ("soft", "card"), ("soft", "page"), ("ink", "event-soft")]
        shapes = [("event", "card"), ("true-edge", "card"), ("cursor", "card"), ("focus", "card")]
        try:
            for scheme, ground in (("dark", "rgb(18, 22, 28)"), ("light", "rgb(246, 247, 249)")):
                browser.prefer(scheme)
                browser.open(page)
                assert browser.run("return getComputedStyle(document.body).backgroundColor") == ground
                assert (
                    browser.run("return getComputedStyle(document.getElementById('all')).colorScheme") == "light dark"
                )
                assert min(browser.run(contrast, texts)) >= 4.5
                assert min(browser.run(contrast, shapes)) >= 3
        finally:
            browser.prefer("light")

    def test_the_picture_is_drawn(self, browser, view, tmp_path):
        browser.screenshot(tmp_path / "page.png")
        pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
        for colour in ((0x21, 0x71, 0xB2), (0xE6, 0x9F, 0x00)):
            assert (np.abs(pixels - colour).sum(axis=2) < 40).sum() > 300
        x, y = view(3.0, 1)
        top = round(y) - 60 - 1  # the spectrogram is brightest at the siren's 3 kHz
        column = pixels[top - 200 : top, round(x)].sum(axis=1)
        assert column.max() > 500


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1920])
def test_narrow_and_wide_windows(page, width):
    with Browser(width, 800) as browser:
        browser.open(page)
        assert browser.run("return innerWidth") == width
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        assert browser.run("return width()") > width / 2  # pixels of the axis of time


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [300, 390, 1280])
def test_no_column_of_the_events_is_cut_off_and_headings_stand_in_one_line(page, width):
    """300 pixels are what the frame of web.py has on a phone."""
    with Browser(width, 800) as browser:
        browser.open(page)
        browser.wait("return found.length === 2")
        assert browser.run("const t = document.querySelector('.scroll'); return t.scrollWidth <= t.clientWidth")
        heights = browser.run("return [...document.querySelectorAll('#head button')].map((b) => b.offsetHeight)")
        assert width < 1280 or max(heights) < 30


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_long_names_are_readable(tmp_path, width, monkeypatch):
    """Names of files are whole; those of classes take one line or two; nothing is wider than the page."""
    long = "day 1/SITE_20240512_060000_a rather long name of a recorder, north side"
    monkeypatch.setattr(
        ToneModel, "labels", ("Sine wave", "Eurasian blackcap (Sylvia atricapilla)", "Siren", "Dial tone")
    )
    audio = tones(6, [(1, 2, "Siren"), (3, 4, "Beep, bleep")])
    recordings = [(Audio(audio, name=f"{long} {i}.wav"), None) for i in range(3)]
    with Browser(width, 900) as browser:
        browser.open(make_pages(tmp_path, recordings, detection_thresholds=[0.5])[0])
        browser.wait("return found.length === 3")
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        cut = "return [...document.querySelectorAll('nav button span')].filter((e) => e.scrollWidth > e.clientWidth)"
        assert browser.run(cut) == []
        lines = browser.run("return nameLines(view.getContext('2d'), state.lanes[1].label, GUTTER - 16)")
        assert " ".join(lines) == "Eurasian blackcap (Sylvia atricapilla)" and len(lines) == (2 if width == 390 else 1)
        assert browser.run("return width()") > width / 2.2
