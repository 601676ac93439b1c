"""A local page to drop or record audio on and see its events: `make web OPTIONS="..."`, or python web.py [options].

Example: python web.py --checkpoint demo/trained/best.ckpt
"""

from __future__ import annotations

import contextlib
import html
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import ModelOptions, option, parse
from errors import UserError, exit_on_user_error
from helpers.backends import BACKENDS, PRECISIONS
from helpers.cells import html_text
from helpers.detection import DetectionOptions, detection_options
from helpers.detector import Detector
from helpers.outputs import OutputFolder
from helpers.pipeline import Job
from helpers.report import ReportPages
from helpers.results import ResultWriter
from helpers.web_guard import HostGuard, Uploads, without_folders

if TYPE_CHECKING:
    import gradio

log = logging.getLogger("efficientsed")

FORMATS = ("tsv", "csv", "json", "audacity")
FRAME_HEIGHT = 900  # pixels of the report on the page until it says how high it is
NAME_BYTES = 120  # of the names of downloads, before their endings
# Names of files whole, as one word; the button in the blue of the report: white on gradio's orange is hard to read.
STYLE = """
.stem, .filename { white-space: normal !important; overflow-wrap: anywhere; max-width: none !important }
.filename { display: block !important }
.filename > * { display: inline !important }
button.primary, button.primary:hover { background: #1864ab !important; color: #fff !important }
"""
NOTHING_CHOSEN = "Choose a recording first: drop a file above, or record one. Then press Detect."
OUR_FAULT = "This recording could not be processed; the window in which web.py runs says why."


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
    allowed_hosts: list[str] = option([], "further names under which the page may be opened, such as sounds.lan")
    max_upload: int = option(500, "largest recording that is taken, MB", low=1, high=1_000_000)
    keep_minutes: float = option(10.0, "minutes until uploads and results are removed from the server", low=0.1)
    open_browser: bool = option(False, "open the page in the browser")


@dataclass
class WebOptions(DetectionOptions, PageOptions):
    """A local page to drop or record audio on and see its events."""


@exit_on_user_error()
def main(argv: list[str] | None = None) -> int:
    """Run the command line: serve the page until Ctrl-C."""
    options = parse(WebOptions, argv)
    _require_gradio()
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
    serve(detector, options)
    return 0


def _require_gradio() -> Any:
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs the package gradio: pip install gradio") from None
    return gradio


def serve(detector: Detector, options: PageOptions, *, wait: bool = True) -> Any:
    """Serve the page until Ctrl-C; without `wait`, return it at once (its files then stay until the program ends)."""
    with contextlib.ExitStack() as stack:
        uploads = stack.enter_context(Uploads(60 * options.keep_minutes))
        stack.enter_context(_temporary_files_in(uploads.folder))
        page: Any = build_page(_require_gradio(), detector, uploads)
        launch(page, options, wait=wait)
        if not wait:
            page.close_files = stack.pop_all().close
        return page


def launch(page: Any, options: PageOptions, *, wait: bool = True) -> None:
    """Open the page's port, behind the guard against foreign requests."""
    page.launch(
        server_name=options.host,
        server_port=options.port,
        inbrowser=options.open_browser,
        prevent_thread_lock=not wait,
        quiet=not wait,
        footer_links=[],
        css=STYLE,
        max_file_size=f"{options.max_upload}mb",
        ssr_mode=False,  # a server of Node before this one would hide who asks
        app_kwargs={"lifespan": partial(_guarded, options)},
    )


@contextlib.asynccontextmanager
async def _guarded(options: PageOptions, app: Any) -> AsyncIterator[None]:
    """Put the guard around all of gradio's application before its server takes the first request.

    Given as middleware it would stand inside gradio's own, which answers CORS preflights without asking further.
    """
    app.middleware_stack = HostGuard(app.middleware_stack, options.host, options.allowed_hosts)
    yield


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let gradio and the parser of uploads put their files into a folder of ours."""
    before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
    os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before[1]
        if before[0] is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before[0]


def detect(detector: Detector, path: str | None, folder: Path) -> tuple[str, list[str]]:
    """Find the events of one file; returns the report as HTML for the page, and the files to download.

    Raises:
        UserError: nothing was given, or it is no audio.
    """
    if not path:
        raise UserError(NOTHING_CHOSEN)
    stem = download_name(path)
    outputs = OutputFolder(folder, overwrite=True)
    report = ReportPages(outputs, stem, detector.decoding, detector.backend.name)
    writer = ResultWriter(outputs, FORMATS, detector, report=report)
    job = Job(path, key=stem)
    curves = writer.sink(job)
    detection = detector.detect(path, on_scores=curves)
    files = [*writer.write(job, detection), *writer.end()]
    text = report.written[0].read_text(encoding="utf-8")
    # The report has styles and scripts of its own: it stands in a frame, and its quotes and ampersands are escaped.
    style = f"width:100%;height:{FRAME_HEIGHT}px;border:0;display:block"
    frame = f'<iframe title="Events" srcdoc="{html.escape(text)}" style="{style}"></iframe>'
    return frame, [str(file) for file in files]


def download_name(path: str) -> str:
    """What the downloads of a recording are called before their endings: like it, but not hidden nor too long."""
    name = Path(path).stem.encode(errors="replace")[:NAME_BYTES].decode(errors="ignore")
    return name.strip(". ") or "events"


def message(text: str) -> str:
    """A message in the place of the report."""
    style = "padding:14px 18px;border:1px solid var(--border-color-primary);border-radius:8px;overflow-wrap:anywhere"
    return f'<p role="alert" style="{style}">{html_text(text[:1].upper() + text[1:])}</p>'


def build_page(gradio: Any, detector: Detector, uploads: Uploads) -> gradio.Blocks:
    """The page: audio in; report and files out. Mistakes are told in the place of the report."""

    def run(path: str | None) -> Iterator[tuple[str, Any]]:
        hidden = gradio.update(value=None, visible=False)
        if not path:
            yield message(NOTHING_CHOSEN), hidden
            return
        with uploads.using(Path(path)), tempfile.TemporaryDirectory(prefix="events-", dir=uploads.folder) as name:
            try:
                with uploads.using(Path(name)):
                    frame, files = detect(detector, path, Path(name))
                    yield frame, gradio.update(value=files, visible=True)  # gradio has copies when it asks for more
            except UserError as error:
                yield message(without_folders(str(error), Path(path), Path(name, "file"))), hidden
            except Exception:
                log.exception("%s", Path(path).name)
                yield message(OUR_FAULT), hidden

    def clear() -> tuple[str, Any]:
        return "", gradio.update(value=None, visible=False)

    with gradio.Blocks(title="Sound events", analytics_enabled=False) as page:
        minutes = f"{uploads.keep / 60:g} minutes"
        gradio.Markdown(
            f"# Sound events\nDrop a recording, or record one; `{detector.backend.name}` finds the sounds in it, and "
            f"when they happen. Recordings and results are removed from the server after {minutes}."
        )
        audio = gradio.Audio(sources=["upload", "microphone"], type="filepath", label="Recording", buttons=["download"])
        button = gradio.Button("Detect", variant="primary")
        report = gradio.HTML(padding=False)
        files = gradio.Files(label="Events as files", visible=False)
        button.click(run, inputs=audio, outputs=[report, files])
        audio.change(clear, outputs=[report, files])
    return page


if __name__ == "__main__":
    sys.exit(main())
