"""The demo page: what it makes of a file; the page itself where gradio is installed."""

from __future__ import annotations

import html
import re
import sys

import pytest
import soundfile

import web
from errors import UserError
from helpers.detector import Detector
from tests.browser import Browser, needs_browser
from tests.tone_model import ToneModel, tones


@pytest.fixture
def detector():
    return Detector(ToneModel(), detection_thresholds=[0.5])


@pytest.fixture
def audio_file(tmp_path):
    path = tmp_path / "a & b.wav"
    soundfile.write(path, tones(5, [(1, 2, "Siren")]), 16_000)
    return str(path)


def test_a_file_becomes_a_report_and_files(detector, audio_file, tmp_path):
    frame, files = web.listen(detector, audio_file, tmp_path / "out")
    match = re.fullmatch(r'<iframe srcdoc="([^"]*)" style="[^"]*"></iframe>', frame)
    assert match
    assert html.unescape(match[1]) == (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    names = [path.rpartition("/")[2] for path in files]
    assert names == ["events.tsv", "events.csv", "events.json", "events.audacity.txt", "report.html"]
    assert "Siren" in (tmp_path / "out" / "events.tsv").read_text()


def test_mistakes(detector, tmp_path):
    with pytest.raises(UserError, match="drop or record"):
        web.listen(detector, None, tmp_path)
    (tmp_path / "x.wav").write_text("no audio")
    with pytest.raises(UserError, match="cannot be read as audio"):
        web.listen(detector, str(tmp_path / "x.wav"), tmp_path)


def test_without_gradio_the_command_that_installs_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stop:
        web.main([])
    assert stop.value.code == 2 and "pip install gradio" in capsys.readouterr().err


def test_the_page_is_built(detector):
    gradio = pytest.importorskip("gradio")
    page = web.build_page(gradio, detector)
    kinds = {type(block).__name__ for block in page.blocks.values()}
    assert {"Audio", "Button", "HTML", "Files"} <= kinds


@pytest.fixture
def address(detector, tmp_path, monkeypatch):
    """Where the page is served; its files go to tmp_path."""
    gradio = pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    page = web.build_page(gradio, detector)
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


def test_a_click_gives_report_and_files_and_leaves_no_folder(address, audio_file, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(address, verbose=False, download_files=False)
    frame, files = client.predict(gradio_client.handle_file(audio_file), api_name="/run")
    assert "Siren" in frame and len(files) == 5
    assert not list(tmp_path.glob("events-*"))


@needs_browser
@pytest.mark.slow
def test_the_page_in_a_browser(address, audio_file, tmp_path):
    """A file is given, the button pressed: the report comes up in its frame; nothing is asked for from outside."""
    button = "[...document.querySelectorAll('button')].find((b) => b.textContent.trim() === 'Listen')"
    report = "document.querySelector('iframe').contentDocument"
    with Browser(1100, 1400) as browser:
        browser.selenium.get(address)
        browser.wait("return document.querySelector('input[type=file]') !== null")
        browser.selenium.find_element("css selector", "input[type=file]").send_keys(audio_file)
        browser.wait("return document.querySelector('#waveform, audio') !== null")
        browser.run(f"{button}.click()")
        browser.wait("return document.querySelector('iframe') !== null")
        browser.wait(f"return {report}.body.dataset.ready === 'yes'")
        assert browser.run(f"return {report}.getElementById('title').textContent") == "a & b.wav"
        assert browser.run(f"return {report}.getElementById('count').textContent") == "1 event"
        links = "[...document.querySelectorAll('a')].map((a) => a.href.split('/').pop())"
        browser.wait(f"return {links}.includes('report.html')")
        names = browser.run(f"return {links}")
        assert {"events.tsv", "events.csv", "events.json", "events.audacity.txt"} <= set(names)
        browser.screenshot(tmp_path / "web.png")
        outside = [u for u in browser.requests() if not u.startswith((address, "data:", "blob:", "about:"))]
        assert outside == []
