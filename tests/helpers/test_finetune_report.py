"""The report of a fine-tuning: its figures, its names as text, and the page in a headless Chromium."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.own_data import Recording
from helpers import finetune_report
from helpers.finetune_report import excerpt, limits, model_card, read_history, render
from helpers.finetune_scores import examine, worst
from helpers.svg_charts import line_chart, ticks
from helpers.tuning import Tuning
from tests.browser import Browser, needs_browser
from tests.tone_model import tones

EVIL = "a <!-- BALANCE --> </title><img src=x onerror=\"document.title='owned'\"> & 'b'"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """Report, history and paths of four recordings; the third one holds all the errors."""
    folder = tmp_path_factory.mktemp("report")
    recordings, scores = [], {}
    for i in range(4):
        label = [EVIL, "siren"][i % 2]
        path = folder / f"{i}.wav"
        soundfile.write(path, tones(4, [(1.0, 2.0, "Siren")]), 16_000)
        name = f"{EVIL}{i}"
        recordings.append(Recording(name, path, 4.0, ((1.0, 2.0, label),), name))
        scores[name] = np.full((2, 100), 0.1, np.float32)
        scores[name][1 - i % 2 if i == 2 else i % 2, 25:50] = 0.9
    figures = examine(scores, recordings, [EVIL, "siren"], Tuning((0.5, 0.5), (5, 5)), n_bootstrap=100)
    report = {
        "name": EVIL,
        "written": "2026-01-01T00:00:00",
        "model": "fmn04",
        "scored": "test",
        "clip_labels": False,
        "splits": {"train": [], "val": [], "test": [r.name for r in recordings]},
        "balance": [{"label": EVIL, "events": 2}, {"label": "siren", "events": 2}],
        "notes": [EVIL],
        **figures,
    }
    history = [{"epoch": i, "train/frame_loss": 1 / (i + 1), "val/loss": 0.5, "val/choice": -i} for i in range(4)]
    return report, history, {r.name: r for r in recordings}


def test_the_worst_recordings_come_first(made) -> None:
    report = made[0]
    assert [(e["name"], e["missed"], e["false"]) for e in report["worst"]] == [(f"{EVIL}2", 1.0, 1.0)]
    assert report["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    f1 = [row["event_f1"][0] for row in report["classes"]]
    np.testing.assert_allclose(f1, [2 / 3, 4 / 5], atol=1e-4)
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_seconds_of_errors() -> None:
    recording = Recording("r", Path("r"), 4.0, ((0.0, 2.0, "x"), (3.0, 4.0, "y")), "r")
    (entry,) = worst([recording], {"r": [(1.0, 3.0, "x"), (3.0, 4.0, "y")]}, ["x", "y"])
    assert (entry["missed"], entry["false"]) == (1.0, 1.0)
    assert worst([recording], {"r": list(recording.events)}, ["x", "y"]) == []


def test_long_recordings_are_shown_where_most_went_wrong() -> None:
    true, found = [(100.0, 103.0, "x"), (500.0, 510.0, "x")], [(100.0, 103.0, "x")]
    start, seconds = excerpt(true, found, 900.0)
    assert start <= 500 and start + seconds >= 510 and seconds == 20
    assert excerpt(true, [], 12.0) == (0.0, 12.0)
    start, seconds = excerpt([(895.0, 899.5, "x")], [], 899.5)
    assert start + seconds <= 899.5 and start + seconds > 899


def test_names_stay_text(made) -> None:
    page = render(*made)
    assert "<img src=x" not in page and 'onerror="' not in page and "<script" not in page
    assert page.count("<h2>") == 6 and page.count("</title>") == 1
    assert not re.search(r"<!-- [A-Z]+ -->", page.replace("&lt;!-- BALANCE --&gt;", ""))
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)


def test_the_audio_is_that_of_the_recording(made) -> None:
    data = re.search(r"data:audio/flac;base64,([^\"]+)", render(*made))
    assert data
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(data[1])))
    assert rate == 16_000
    np.testing.assert_allclose(sound, tones(4, [(1.0, 2.0, "Siren")]), atol=1e-3)


def test_a_recording_that_is_gone_is_said_to_be(made, tmp_path: Path) -> None:
    report, history, recordings = made
    gone = {name: replace(recording, path=tmp_path / "gone.wav") for name, recording in recordings.items()}
    page = render(report, history, gone)
    assert "It cannot be read again" in page and "<audio" not in page


def test_a_report_without_training_and_on_validation_recordings(made) -> None:
    report, _, recordings = made
    page = render({**report, "scored": "val", "clip_labels": True, "worst": [], "notes": []}, [], recordings)
    for text in ("left no curves here", "They are too good", "an event stands for a recording", "No errors at all"):
        assert text in page


def test_the_model_card_has_one_row_per_class(made) -> None:
    card = model_card(
        {**made[0], "classes": [{**row, "label": f"a|b\n{i}"} for i, row in enumerate(made[0]["classes"])]}
    )
    rows = [line for line in card.splitlines() if line.startswith("| a")]
    assert [row.split(" | ")[0] for row in rows] == ["| a/b 0", "| a/b 1"] and "AudioSet" not in card


def test_few_recordings_and_short_trainings_are_told() -> None:
    rising = [{"epoch": i, "val/choice": 0.1 * i} for i in range(4)]
    both = limits(2, rising)
    assert "2 recordings" in both[0] and "last of 4 epochs" in both[1] and len(both) == 2
    assert limits(5, rising) == both[1:] and limits(4, []) and not limits(5, [])
    assert not limits(5, [*rising, {"epoch": 4, "val/choice": 0.0}])  # the training has gone on after its best
    assert not limits(5, [{"epoch": i, "val/choice": 0.1 * i} for i in range(25)])


def test_history_reads_what_a_run_writes(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,train/loss,val/loss\n0,1.5,\n1,0.5,0.25\n")
    assert read_history(tmp_path / "metrics.csv") == [
        {"epoch": 0, "train/loss": 1.5},
        {"epoch": 1, "train/loss": 0.5, "val/loss": 0.25},
    ]
    assert read_history(tmp_path / "none.csv") == []


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.03), (0, 25), (0, 7), (0, 1234.5)])
def test_ticks_are_round_and_cover(low: float, high: float) -> None:
    values = ticks(low, high)
    step = values[1] - values[0]
    assert values[0] <= low and values[-1] >= high and 2 <= len(values) <= 6
    np.testing.assert_allclose(np.diff(values), step)
    assert float(f"{step:.0e}".split("e")[0]) in (1, 2, 5)


def test_lines_of_a_chart_lie_where_their_values_are() -> None:
    chart = line_chart({"a": [(0, 0.0), (5, 1.0), (10, 0.5)]}, mark=5)
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]+)"', chart)[1].split()]
    bottom, top = points[0][1], points[1][1]
    assert points[2][1] == pytest.approx((bottom + top) / 2, abs=0.1)
    assert points[1][0] == pytest.approx((points[0][0] + points[2][0]) / 2, abs=0.1)
    assert "kept: 5" in chart and "no values" in line_chart({"a": []})
    assert line_chart({"a": [(0, 1.0), (1, float("nan")), (2, 2.0)]}) == line_chart({"a": [(0, 1.0), (2, 2.0)]})


@needs_browser
@pytest.mark.slow
def test_the_page_in_a_browser(made, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(*made), encoding="utf-8")
    with Browser(1100, 1400) as browser:
        browser.requests()
        browser.open(page)
        browser.wait("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        browser.run("document.querySelector('audio').load()")
        browser.wait("return document.querySelector('audio').duration > 3.9")
        assert browser.run("return document.querySelector('h1').textContent") == EVIL
        assert browser.run("return document.title") != "owned"
        assert browser.run("return document.querySelectorAll('svg').length") == len(finetune_report.CURVES) - 1
        assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
        urls = [url for url in browser.requests() if not url.startswith(("data:", "chrome:"))]
        assert urls == [page.resolve().as_uri()] and browser.log() == []
        bar = browser.run(
            "const r = (s) => document.querySelector(s).getBoundingClientRect();"
            "const [i, t] = [r('.heard img'), r('.lane .true')];"
            "return [(t.left - i.left) / i.width, t.width / i.width]"
        )
        np.testing.assert_allclose(bar, [0.25, 0.25], atol=0.01)  # 1 s to 2 s of 4 s, under the spectrogram
        marks = browser.run(
            "const i = document.querySelector('.heard img').getBoundingClientRect();"
            "return [...document.querySelector('.axis').children].map((m) => {"
            " const r = m.getBoundingClientRect();"
            " return [m.textContent, (r.left + r.width / 2 - i.left) / i.width]; })"
        )
        assert [mark[0] for mark in marks] == [f"{t} s" for t in range(5)]
        np.testing.assert_allclose([mark[1] for mark in marks][1:-1], [0.25, 0.5, 0.75], atol=0.01)
        assert 0 <= marks[0][1] < 0.1 and 0.9 < marks[-1][1] <= 1
        assert browser.run(
            "return [...document.querySelectorAll('article:first-child .hz')].map((e) => e.textContent)"
        ) == [
            "250 Hz",
            "1 kHz",
            "4 kHz",
        ]
    with Browser(390, 800) as phone:
        phone.open(page)
        assert phone.run("return [innerWidth, document.documentElement.scrollWidth <= innerWidth]") == [390, True]
        narrow = "return Math.min(...[...document.querySelectorAll('th:first-child')].map((e) => e.clientWidth))"
        assert phone.run(narrow) >= 80  # a class's name is words, not letters one below the other


def of_many_classes(report: dict, n: int) -> dict:
    """The same report with n classes; each is taken for the next one once in ten times."""
    rng = np.random.default_rng(n)
    labels = [f"Class of sounds number {i}, with a long name" for i in range(n)]
    counts = np.diag(rng.integers(9, 90, n + 1)) + np.roll(np.eye(n + 1, dtype=int), 1, axis=1)
    counts[n, n] = 0
    classes = [{**report["classes"][0], "label": label} for label in labels]
    return {**report, "name": f"{n} classes", "classes": classes, "confusion": counts.tolist(), "worst": []}


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_of_the_heat_map_stand_out_at_every_share(made, tmp_path: Path, scheme: str) -> None:
    """Contrast of at least 4.5 (WCAG AA) between number and cell, for all shares of events and in the last row."""
    report, history, recordings = made
    counts = [[share, 100 - share, 0] for share in range(1, 100)]
    page = tmp_path / "page.html"
    contrast = (
        "const c = document.createElement('canvas').getContext('2d', {willReadFrequently: true});"
        "const card = getComputedStyle(document.querySelector('.confusion .scroll')).backgroundColor;"
        "const lum = () => { const p = c.getImageData(0, 0, 1, 1).data; const v = [0, 1, 2].map((i) => p[i] / 255)"
        ".map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);"
        " return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2] + 0.05; };"
        "const paint = (...all) => { for (const f of all) { c.fillStyle = f; c.fillRect(0, 0, 1, 1); } return lum(); };"
        "return [...document.querySelectorAll('.confusion td b')].map((b) => {"
        " const s = getComputedStyle(b.parentElement), t = getComputedStyle(b).color;"
        " const p = [paint(card, s.backgroundColor), paint(card, t)]; return Math.max(...p) / Math.min(...p); })"
    )
    with Browser(1400, 1000) as browser:
        browser.prefer(scheme)
        seen = []
        for share in range(1, 100, 7):
            table = [counts[share - 1], [0, 100, 0], [share, 100 - share, 0]]
            page.write_text(render({**report, "confusion": table}, history, recordings), encoding="utf-8")
            browser.open(page)
            seen += browser.run(contrast)
    assert len(seen) > 50 and min(seen) >= 4.5


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_the_heat_map_fits_at_any_number_of_classes(made, tmp_path: Path, width: int) -> None:
    report, history, recordings = made
    with Browser(width, 1000) as browser:
        for n in (3, 11, 50):
            page = tmp_path / f"{n}.html"
            page.write_text(render(of_many_classes(report, n), history, recordings), encoding="utf-8")
            browser.open(page)
            assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
            boxes = browser.run(
                "const r = (e) => e.getBoundingClientRect(), all = (s) => [...document.querySelectorAll(s)];"
                "document.querySelector('.confusion td.bad').scrollIntoView({block: 'center', inline: 'center'});"
                "const cells = all('.confusion td').map(r), names = all('.confusion tbody th span').map(r);"
                "const room = document.querySelector('.confusion .scroll');"
                "const first = r(document.querySelector('.confusion td.bad'));"
                "return [Math.min(...cells.map((c) => c.width)), Math.min(...names.map((c) => c.width)),"
                " Math.min(...cells.map((c) => c.height)), room.scrollWidth <= room.clientWidth,"
                " first.left + first.width / 2, first.top + first.height / 2, cells.length]"
            )
            assert boxes[0] >= 16 and boxes[1] >= 80 and boxes[2] >= 16 and boxes[6] == (n + 1) ** 2
            assert boxes[3] or width == 390  # a phone scrolls the map, under names that stay; the page never scrolls
            assert boxes[1] < width / 2
            browser.move(*boxes[4:6])
            said = "return [...document.querySelectorAll('.confusion em')].filter((e) => e.checkVisibility())"
            (words,) = browser.run(f"{said}.map((e) => e.textContent)")
            assert " taken for " in words and " 1 of " in words
            assert browser.log() == []
