"""A local page to drop or record audio on and see what is heard: `make web OPTIONS="..."`, or python web.py [options].

Example: python web.py --checkpoint demo/trained/best.ckpt
"""

from __future__ import annotations

import html
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ModelOptions, option, parse
from errors import UserError, exit_on_user_error
from helpers.backends import BACKENDS, PRECISIONS
from helpers.detection import DetectionOptions, detection_options
from helpers.detector import Detector
from helpers.outputs import OutputFolder
from helpers.pipeline import Job
from helpers.report import ReportPages
from helpers.results import ResultWriter

if TYPE_CHECKING:
    import gradio

FORMATS = ("tsv", "csv", "json", "audacity")
FRAME_HEIGHT = 900  # pixels of the report on the page
CACHE_SECONDS = 3600  # that gradio keeps uploads and results


@dataclass
class PageOptions(ModelOptions):
    """Page and model."""

    pretrained: str = option("strong", "released weights: strong, advanced-kd-weak-strong, scratch or a card's name")
    checkpoint: Path | None = option(None, "weights file, or a file of export.py")
    device: str = option("cpu", "cpu, cuda, cuda:1, mps, ...")
    backend: str | None = option(None, "runtime (default: what the checkpoint is for, else torch)", choices=BACKENDS)
    precision: str = option("32-true", "arithmetic of the network", choices=PRECISIONS)
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0: other machines may connect")
    port: int = option(7860, "port to listen on", low=1, high=65535)
    open_browser: bool = option(False, "open the page in the browser")


@dataclass
class WebOptions(DetectionOptions, PageOptions):
    """A local page to drop or record audio on and see what is heard."""


@exit_on_user_error()
def main(argv: list[str] | None = None) -> int:
    """Run the command line: serve the page until Ctrl-C."""
    options = parse(WebOptions, argv)
    gradio = _require_gradio()
    detector = Detector(
        options.model_name,
        checkpoint=options.checkpoint,
        seq_model_type=options.seq_model_type,
        seq_model_dim=options.seq_model_dim,
        pretrained=options.pretrained,
        device=options.device,
        precision=options.precision,
        backend=options.backend,
        **detection_options(options),
    )
    page = build_page(gradio, detector)
    page.launch(server_name=options.host, server_port=options.port, inbrowser=options.open_browser)
    return 0


def _require_gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs the package gradio: pip install gradio") from None
    return gradio


def listen(detector: Detector, path: str | None, folder: Path) -> tuple[str, list[str]]:
    """Detect in one file; returns the report as HTML for the page, and the files to download.

    Raises:
        UserError: nothing was given, or it is no audio.
    """
    if not path:
        raise UserError("drop or record some audio first")
    outputs = OutputFolder(folder, overwrite=True)
    report = ReportPages(outputs, "report", detector.decoding, detector.backend.name)
    writer = ResultWriter(outputs, FORMATS, detector, report=report)
    job = Job(path, key="events")
    curves = writer.sink(job)
    detection = detector.detect(path, on_scores=curves)
    files = [*writer.write(job, detection), *writer.end()]
    text = report.written[0].read_text(encoding="utf-8")
    # The report has styles and scripts of its own: it stands in a frame, and its quotes and ampersands are escaped.
    frame = f'<iframe srcdoc="{html.escape(text)}" style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe>'
    return frame, [str(file) for file in files]


def build_page(gradio: Any, detector: Detector) -> gradio.Blocks:
    """The page: audio in; report and files out."""

    def run(path: str | None) -> Iterator[tuple[str, list[str]]]:
        with tempfile.TemporaryDirectory(prefix="events-") as folder:
            try:
                yield listen(detector, path, Path(folder))  # gradio has copies when it asks for more
            except UserError as error:
                raise gradio.Error(str(error), print_exception=False) from None

    with gradio.Blocks(title="Sound events", analytics_enabled=False, delete_cache=(CACHE_SECONDS,) * 2) as page:
        name = detector.backend.name
        gradio.Markdown(f"# Sound events\nDrop or record audio; `{name}` says what it hears, and when.")
        audio = gradio.Audio(sources=["upload", "microphone"], type="filepath", label="Audio")
        button = gradio.Button("Listen", variant="primary")
        report = gradio.HTML()
        files = gradio.Files(label="Events as files")
        button.click(run, inputs=audio, outputs=[report, files])
        audio.change(lambda: ("", None), outputs=[report, files])
    return page


if __name__ == "__main__":
    sys.exit(main())
