"""The demo page: what it makes of a file; the page itself where gradio is installed."""

from __future__ import annotations

import html
import http.client
import json
import os
import re
import socket
import sys
import urllib.error
import urllib.request

import pytest
import soundfile

import web
from errors import UserError
from helpers.detector import Detector
from helpers.web_guard import Uploads
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
    frame, files = web.detect(detector, audio_file, tmp_path / "out")
    match = re.fullmatch(r'<iframe title="Events" srcdoc="([^"]*)" style="[^"]*"></iframe>', frame)
    assert match
    assert html.unescape(match[1]) == (tmp_path / "out" / "a & b.html").read_text(encoding="utf-8")
    names = [path.rpartition("/")[2] for path in files]
    assert names == [f"a & b.{ending}" for ending in ("tsv", "csv", "json", "audacity.txt", "html")]
    assert "Siren" in (tmp_path / "out" / "a & b.tsv").read_text()


@pytest.mark.parametrize(
    ("path", "name"),
    [("/x/rec 1.WAV", "rec 1"), ("/x/.hidden.wav", "hidden"), ("/x/...", "events"), ("/x/rec.2024.wav", "rec.2024")],
)
def test_downloads_are_named_after_the_recording(path, name):
    assert web.download_name(path) == name


def test_long_names_leave_room_for_the_endings(detector, tmp_path):
    path = tmp_path / ("ö" * 120 + ".wav")
    soundfile.write(path, tones(2, [(0.5, 1, "Siren")]), 16_000)
    _, files = web.detect(detector, str(path), tmp_path / "out")
    assert len(files) == 5 and all("/" + "ö" * 60 + "." in file for file in files)


def test_mistakes(detector, tmp_path):
    with pytest.raises(UserError, match="Choose a recording first"):
        web.detect(detector, None, tmp_path)
    (tmp_path / "x.wav").write_text("no audio")
    with pytest.raises(UserError, match="cannot be read as audio"):
        web.detect(detector, str(tmp_path / "x.wav"), tmp_path)


def test_without_gradio_the_command_that_installs_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit) as stop:
        web.main([])
    assert stop.value.code == 2 and "pip install gradio" in capsys.readouterr().err


def test_the_page_is_built(detector, tmp_path):
    gradio = pytest.importorskip("gradio")
    page = web.build_page(gradio, detector, Uploads(600))
    kinds = {type(block).__name__ for block in page.blocks.values()}
    assert {"Audio", "Button", "HTML", "Files"} <= kinds


@pytest.fixture
def page(detector, tmp_path, monkeypatch):
    """The page as `main` serves it, with room for recordings of 1 MB; all its files are below tmp_path."""
    pytest.importorskip("gradio")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = web.WebOptions(port=port, max_upload=1, allowed_hosts=["sounds.lan"])
    page = web.serve(detector, options, wait=False)
    yield page
    page.close()
    page.close_files()
    assert not list(tmp_path.glob("efficientsed-web-*"))


@pytest.fixture
def address(page):
    return page.local_url


def ask(address, path="", data=None, **headers):
    """Status and body of the answer."""
    request = urllib.request.Request(address + path, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def uploaded(address, name, content):
    """Status and body of the answer to an upload, as a browser sends it."""
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return ask(address, "gradio_api/upload", body + content + b"\r\n--x--\r\n", **kind)


def test_foreign_hosts_and_origins_are_refused(address):
    own = address.rstrip("/")
    port = own.rpartition(":")[2]
    assert ask(address)[0] == 200
    assert ask(address, Origin=own)[0] == 200
    assert ask(address, Host=f"sounds.lan:{port}", Origin=f"http://sounds.lan:{port}")[0] == 200
    for headers in (
        {"Host": f"evil.example:{port}"},
        {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ):
        for path in ("", "config", "gradio_api/info"):
            status, body = ask(address, path, **headers)
            assert status == 403 and b"refused" in body and b"Detect" not in body, (headers, path)


FOREIGN = (
    {"Host": "evil.example"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},  # another server of this machine, which gradio itself would let in
)


def answer(address, method, path, headers):
    """Status and headers of the answer to a request as bare as it gets; () where the connection just ends."""
    connection = http.client.HTTPConnection(address.removeprefix("http://").rstrip("/"), timeout=20)
    try:
        connection.request(method, "/" + path, headers=headers)
        got = connection.getresponse()
        return got.status, dict(got.getheaders())
    finally:
        connection.close()


@pytest.mark.parametrize("foreign", FOREIGN)
def test_the_guard_is_asked_before_all_else(address, foreign):
    """Preflights, too, and streams, files, websockets and pages that do not exist."""
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    own = {"Origin": address.rstrip("/")}
    assert answer(address, "OPTIONS", "gradio_api/upload", {**preflight, **own})[0] == 200
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    for method, path, more in (
        ("OPTIONS", "", preflight),
        ("OPTIONS", "gradio_api/upload", preflight),
        ("OPTIONS", "gradio_api/call/run", preflight),
        ("GET", "gradio_api/queue/data?session_hash=x", {}),
        ("GET", "gradio_api/heartbeat/x", {}),
        ("GET", "gradio_api/file=/etc/hostname", {}),
        ("GET", "file=/etc/hostname", {}),
        ("HEAD", "", {}),
        ("POST", "gradio_api/upload", {}),
        ("GET", "gradio_api/queue/join", upgrade),
        ("GET", "none", {}),
    ):
        status, headers = answer(address, method, path, {**more, **foreign})
        assert status == 403, (method, path)
        assert not [name for name in headers if name.lower().startswith("access-control")], (method, path)


def test_uploads_have_a_limit_and_leave_nothing_beyond_it(page, address, tmp_path):
    status, body = uploaded(address, "big.wav", bytes(2_000_000))
    assert status == 413 and str(tmp_path).encode() not in body
    status, body = uploaded(address, "small.wav", bytes(900_000))
    assert status == 200
    assert [file.name for file in tmp_path.rglob("*.wav")] == ["small.wav"]


def test_what_was_not_done_is_told_in_place_of_the_report_without_paths(address, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(address, verbose=False, download_files=False)
    text, files = client.predict(None, api_name="/run")
    assert "Choose a recording first" in text and files["value"] is None and not files["visible"]
    (tmp_path / "notes.wav").write_text("no audio")
    text, files = client.predict(gradio_client.handle_file(str(tmp_path / "notes.wav")), api_name="/run")
    assert "notes.wav" in text and "cannot be read as audio" in text and str(tmp_path) not in text


def test_faults_of_the_program_are_told_without_what_they_say(address, audio_file, monkeypatch, caplog):
    gradio_client = pytest.importorskip("gradio_client")
    monkeypatch.setattr(web, "detect", lambda *_: 1 / 0)
    client = gradio_client.Client(address, verbose=False, download_files=False)
    text, _ = client.predict(gradio_client.handle_file(audio_file), api_name="/run")
    assert html.escape(web.OUR_FAULT) in text and "division" in caplog.text and "division" not in text


@pytest.mark.parametrize("path", ["/etc/hostname", "/etc/none", "../../x.wav"])
def test_files_of_the_server_are_no_input(address, path, tmp_path):
    """Neither is their existence told, nor where the program or its folders are."""
    data = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}).encode()
    status, body = ask(address, "gradio_api/call/run", data, **{"Content-Type": "application/json"})
    assert status == 200
    status, body = ask(address, f"gradio_api/call/run/{json.loads(body)['event_id']}")
    assert b"error" in body and b"iframe" not in body
    for secret in (str(tmp_path), os.getcwd(), "site-packages"):
        assert secret.encode() not in body


def test_a_click_gives_report_and_files_and_leaves_no_folder(address, audio_file, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(address, verbose=False, download_files=False)
    frame, files = client.predict(gradio_client.handle_file(audio_file), api_name="/run")
    assert "Siren" in frame and len(files["value"]) == 5
    assert not list(tmp_path.glob("**/events-*"))


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [1100, 390])
def test_the_page_in_a_browser(address, audio_file, tmp_path, width):
    """The button is pressed without a file, then with one: message, then report; nothing from outside, nothing cut."""
    button = "[...document.querySelectorAll('button')].find((b) => b.textContent.trim() === 'Detect')"
    report = "document.querySelector('iframe').contentDocument"
    with Browser(width, 1400) as browser:
        browser.selenium.get(address)
        browser.wait("return document.querySelector('input[type=file]') !== null")
        assert "Listen" not in browser.run("return document.body.innerText")
        browser.run(f"{button}.click()")
        browser.wait("return document.body.innerText.includes('Choose a recording first')")
        assert (
            browser.run("return [...document.querySelectorAll('.error')].filter((e) => e.checkVisibility()).length")
            == 0
        )
        browser.screenshot(tmp_path / "nothing.png")
        browser.selenium.find_element("css selector", "input[type=file]").send_keys(audio_file)
        browser.wait("return document.querySelector('#waveform, audio') !== null")
        browser.run(f"{button}.click()")
        browser.wait("return document.querySelector('iframe') !== null")
        browser.wait(f"return {report}.body.dataset.ready === 'yes'")
        assert browser.run(f"return {report}.getElementById('title').textContent") == "a & b.wav"
        assert browser.run(f"return {report}.getElementById('count').textContent") == "1 event"
        links = "[...document.querySelectorAll('a')].map((a) => decodeURIComponent(a.href.split('/').pop()))"
        browser.wait(f"return {links}.some((name) => name.endsWith('.html'))")
        names = [name for name in browser.run(f"return {links}") if name]
        endings = [name.partition(".")[2] for name in names if name.startswith("a ")]
        assert endings == ["wav", "tsv", "csv", "json", "audacity.txt", "html"]  # the player offers the first
        whole = f"return {report}.documentElement.scrollHeight <= document.querySelector('iframe').clientHeight"
        browser.wait(whole)
        for inner in ("document", report):
            assert browser.run(f"const d = {inner}.documentElement; return d.scrollWidth <= d.clientWidth")
        name = "[...document.querySelectorAll('.filename')].find((e) => e.textContent.includes('audacity'))"
        parts = f"return [...{name}.children].map((e) => [getComputedStyle(e).display, e.textContent])"
        assert [part[0] for part in browser.run(parts)] == ["inline", "inline"]
        assert "".join(part[1] for part in browser.run(parts)) == "a & b.audacity.txt"
        painted = f"const s = getComputedStyle({button}); return [s.backgroundColor, s.color]"
        assert browser.run(painted) == ["rgb(24, 100, 171)", "rgb(255, 255, 255)"]  # a contrast of 6.0
        browser.run("document.querySelector('iframe').scrollIntoView()")
        browser.screenshot(tmp_path / "web.png")
        outside = [u for u in browser.requests() if not u.startswith((address, "data:", "blob:", "about:"))]
        assert outside == []
