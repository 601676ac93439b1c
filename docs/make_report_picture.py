"""Draw the pictures of the pages that the documentation shows.

- `python docs/make_report_picture.py CHECKPOINT`: docs/images/report.png, the page of docs/detection.md
- `python docs/make_report_picture.py RUN/report.html`: docs/images/finetune_report.png, the page of docs/finetuning.md

CHECKPOINT: `demo/trained/best.ckpt` of `make demo`. RUN: of `ex_finetune.py`, here on the set that
`python -m data_util.synthetic --layout own` makes. Needs a browser: `make browser`.
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
IMAGES = ROOT / "docs" / "images"


def main(source: Path) -> None:
    """Draw the one that the source is for."""
    if source.suffix == ".html":
        draw_finetuning(source)
    else:
        draw_detection(source)


def draw_detection(checkpoint: Path) -> None:
    """Make the report of the example in test_files, open it, point at a lane, and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--checkpoint={checkpoint}", f"--out={folder}", "--report", "--detection_thresholds", "0.2", "0.5"]
        audio, truth = ROOT / "test_files" / "example.wav", ROOT / "test_files" / "example.tsv"
        inference.main([*options, f"--audio_file={audio}", f"--true_events={truth}"])
        with Browser(1280, 880) as browser:
            browser.open(Path(folder) / "example.html")
            browser.wait("return state.rec.picture.complete && document.getElementById('audio').readyState >= 2")
            left, top = browser.run("const r = view.getBoundingClientRect(); return [r.left, r.top]")
            browser.click(left + browser.run("return x(5.0)"), top + browser.run("return SPECTRUM / 2"))
            browser.move(left + browser.run("return x(3.6)"), top + browser.run("return laneTop(1) + LANE / 2"))
            time.sleep(0.5)  # the cursor follows when the audio has been sought
            save(browser, "report.png")


def draw_finetuning(page: Path) -> None:
    """Open the report of a fine-tuning, and take the picture of it down to the first recordings to listen to."""
    with Browser(1180, 1240) as browser:
        browser.open(page)
        browser.wait("return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        save(browser, "finetune_report.png")


def save(browser, name: str) -> None:  # type: ignore[no-untyped-def]
    """Write what the window shows to docs/images, in few colours, so that it is small."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / name
        browser.screenshot(picture)
        Image.open(picture).convert("P", palette=Image.Palette.ADAPTIVE).save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
