"""Draw docs/images/report.png, the page of docs/detection.md: `python docs/make_report_picture.py CHECKPOINT`.

Needs a browser: `make browser`.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from PIL import Image  # noqa: E402

import inference  # noqa: E402

Browser = importlib.import_module("browser").Browser  # tests/browser.py
WIDTH, HEIGHT = 1280, 830


def main(checkpoint: str) -> None:
    """Make the report of the example in test_files, open it, point at a lane, and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--checkpoint={checkpoint}", f"--out={folder}", "--report", "--detection_thresholds", "0.2", "0.5"]
        audio, truth = ROOT / "test_files" / "example.wav", ROOT / "test_files" / "example.tsv"
        inference.main([*options, f"--audio_file={audio}", f"--true_events={truth}"])
        with Browser(WIDTH, HEIGHT) as browser:
            browser.open(Path(folder) / "example.html")
            browser.wait("return state.rec.picture.complete")
            left, top = browser.run("const r = view.getBoundingClientRect(); return [r.left, r.top]")
            browser.click(left + browser.run("return x(4.0)"), top + browser.run("return SPECTRUM / 2"))
            browser.move(left + browser.run("return x(3.2)"), top + browser.run("return laneTop(0) + LANE / 2"))
            time.sleep(0.5)  # the cursor follows when the audio has been sought
            picture = Path(folder) / "report.png"
            browser.screenshot(picture)
            target = ROOT / "docs" / "images" / "report.png"
            Image.open(picture).convert("P", palette=Image.Palette.ADAPTIVE).save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
