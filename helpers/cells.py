"""Text from strangers (labels, names of files) where it must stay text: CSV that spreadsheets open, HTML, Markdown."""

from __future__ import annotations

import html
import re

from data_util.cells import safe_cells
from printable import printable

__all__ = ["html_text", "markdown_text", "safe_cells"]

_MARKUP = re.compile(r"[\\`*\[\]<>|]")  # of Markdown within a line


def html_text(value: object) -> str:
    """Text for a page: nothing in it is markup, breaks a line or turns the direction of what stands around it."""
    return html.escape(printable(str(value)))


def markdown_text(value: object) -> str:
    """Text for a line or a cell of a table in Markdown: nothing in it is markup or ends the cell."""
    return _MARKUP.sub(r"\\\g<0>", printable(" ".join(str(value).split())))
