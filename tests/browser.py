"""A headless Chromium for the tests of pages, driven by Selenium and the chromedriver of this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.actions.action_builder import ActionBuilder

from doctor import find_browser

FLAGS = (
    "headless",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "disable-dev-shm-usage",  # containers have 64 MiB there
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "mute-audio",
    "autoplay-policy=no-user-gesture-required",
)
needs_browser = pytest.mark.skipif(find_browser() is None, reason="no Chromium with chromedriver: run make browser")


class Browser:
    """One browser window of its own; a context manager.

    Args:
        width, height: of the page, in CSS pixels.
    """

    def __init__(self, width: int = 1280, height: int = 900) -> None:
        found = find_browser()
        assert found is not None, "no Chromium with chromedriver: run make browser"
        options = webdriver.ChromeOptions()
        options.binary_location, driver = map(str, found)
        for flag in FLAGS:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # With the driver's path Selenium starts it; without, it would try to download one.
        self.selenium = webdriver.Chrome(options=options, service=Service(executable_path=driver))
        self._command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.selenium.quit()

    def _command(self, name: str, **values: Any) -> None:
        """A command of the DevTools protocol; headless windows are at least 500 pixels wide, pages need not be."""
        self.selenium.execute_cdp_cmd(name, {"mobile": False, **values})

    def prefer(self, scheme: str) -> None:
        """The colours that pages are to have: "dark" or "light"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.selenium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def open(self, path: Path) -> None:
        """Load a local page and wait until its script has run."""
        self.selenium.get(path.resolve().as_uri())
        self.wait("return document.body.dataset.ready === 'yes'")

    def run(self, script: str, *args: Any) -> Any:
        """Value of a script's `return`."""
        return self.selenium.execute_script(script, *args)

    def wait(self, script: str, seconds: float = 20.0) -> None:
        """Until a script returns true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.05)

    def _pointer(self) -> tuple[ActionBuilder, Any]:
        builder = ActionBuilder(self.selenium, duration=0)
        return builder, builder.pointer_action

    def move(self, x: float, y: float) -> None:
        """Put the pointer somewhere, in page coordinates."""
        builder, pointer = self._pointer()
        pointer.move_to_location(round(x), round(y))
        builder.perform()

    def click(self, x: float, y: float, times: int = 1) -> None:
        """Click somewhere, in page coordinates."""
        builder, pointer = self._pointer()
        pointer.move_to_location(round(x), round(y))
        for _ in range(times):
            pointer.pointer_down()
            pointer.pointer_up()
        builder.perform()

    def drag(self, x: float, y: float, to_x: float) -> None:
        """Press at (x, y), move to (to_x, y), release; in page coordinates."""
        builder, pointer = self._pointer()
        pointer.move_to_location(round(x), round(y))
        pointer.pointer_down()
        pointer.move_to_location(round(to_x), round(y))
        pointer.pointer_up()
        builder.perform()

    def key(self, *keys: str) -> None:
        """Press keys one after the other."""
        webdriver.ActionChains(self.selenium).send_keys(*keys).perform()

    def log(self) -> list[dict[str, Any]]:
        """Messages of the console since the last call."""
        return self.selenium.get_log("browser")  # type: ignore[no-untyped-call]

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        entries = self.selenium.get_log("performance")  # type: ignore[no-untyped-call]
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the window."""
        assert self.selenium.save_screenshot(str(path))
