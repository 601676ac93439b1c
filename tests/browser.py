"""A headless Chromium driven through chromedriver's HTTP interface (W3C WebDriver); no further package needed."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = [
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "mute-audio",
    "autoplay-policy=no-user-gesture-required",
]


class Browser:
    """One browser window of its own; a context manager."""

    def __init__(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> None:
        assert CHROMIUM and DRIVER
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._profile = tempfile.mkdtemp(prefix="report-browser-")
        self._driver = subprocess.Popen(
            [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._base = f"http://127.0.0.1:{port}"
        flags = [f"--{flag}" for flag in (*FLAGS, f"window-size={width},{height}", f"user-data-dir={self._profile}")]
        flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
        options = {"binary": CHROMIUM, "args": flags}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}
        for attempt in range(50):
            try:
                value = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
                break
            except (urllib.error.URLError, ConnectionError):
                if attempt == 49:
                    raise
                time.sleep(0.2)
        self._base += f"/session/{value['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            self._call("DELETE", "")
        self._driver.terminate()
        self._driver.wait(10)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)["value"]

    def open(self, path: Path) -> None:
        """Load a local page and wait until its script has run."""
        self._call("POST", "/url", {"url": path.resolve().as_uri()})
        self.wait("return document.body.dataset.ready === 'yes'")

    def run(self, script: str, *args: Any) -> Any:
        """Value of a script's `return`."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(args)})

    def wait(self, script: str, seconds: float = 20.0) -> None:
        """Until a script returns true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def pointer(self, *steps: dict[str, Any]) -> None:
        """Pointer actions in page coordinates, e.g. {"type": "pointerMove", "x": 10, "y": 20}."""
        source = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": list(steps)}
        self._call("POST", "/actions", {"actions": [source]})

    def move(self, x: float, y: float) -> None:
        """Put the pointer somewhere."""
        self.pointer({"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)})

    def click(self, x: float, y: float, times: int = 1) -> None:
        """Click somewhere."""
        press = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.pointer({"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}, *(press * times))

    def key(self, *keys: str) -> None:
        """Press keys one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def log(self, kind: str = "browser") -> list[dict[str, Any]]:
        """Messages of the console ("browser") or of the network ("performance") since the last call."""
        return self._call("POST", "/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        messages = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the window."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
