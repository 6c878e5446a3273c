"""A document → its folder: report.md, report.html and figures/.

Each file is written under another name and takes its place at once, figures first, so that who reads while a report is
rewritten sees whole files whose figures are there.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure as MatplotlibFigure

from gnn_moe.figures.style import PNG_DPI
from gnn_moe.reports.document import Document
from gnn_moe.reports.html import to_html
from gnn_moe.reports.markdown import to_markdown
from gnn_moe.reports.outline import FIGURES_FOLDER, figures
from gnn_moe.reports.page_size import Picture

MARKDOWN_FILE, HTML_FILE = "report.md", "report.html"

# Neither a date nor random names in pictures: a report of the same runs is the same bytes.
SVG: dict[str, Any] = {"format": "svg", "metadata": {"Date": None, "Creator": None}}
PNG: dict[str, Any] = {"format": "png", "dpi": PNG_DPI, "metadata": {"Software": None}}


def write_report(document: Document, folder: Path) -> None:
    """Writes the whole report, making the folder where it is missing, and removes figures of the one before.

    Raises:
        OSError: the folder cannot be written; the files that stand are whole, of this report or of the one before.
    """
    before = _named_in(folder / MARKDOWN_FILE)
    pictures = {}
    for figure in figures(document):
        svg, png = drawn(figure.draw())
        pictures[figure.name] = Picture(svg=svg, png=png)
        _replace(folder / FIGURES_FOLDER / f"{figure.name}.svg", svg)
        _replace(folder / FIGURES_FOLDER / f"{figure.name}.png", png)
    _replace(folder / MARKDOWN_FILE, to_markdown(document, folder=folder).encode())
    _replace(folder / HTML_FILE, to_html(document, folder=folder, pictures=pictures).encode())
    for name in before - pictures.keys():
        for kind in ("svg", "png"):
            (folder / FIGURES_FOLDER / f"{name}.{kind}").unlink(missing_ok=True)


def _named_in(markdown: Path) -> set[str]:
    """The figures of the report that stands; files that no report names are not ours."""
    try:
        text = markdown.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    return set(re.findall(rf"\]\({FIGURES_FOLDER}/([\w-]+)\.svg\)", text))


def drawn(figure: MatplotlibFigure) -> tuple[bytes, bytes]:
    """A static figure as SVG and as PNG; the figure is emptied, for its data may be large."""
    svg, png = BytesIO(), BytesIO()
    with rc_context({"svg.hashsalt": "gnn-moe", "svg.fonttype": "path"}):
        figure.savefig(svg, **SVG)
        figure.savefig(png, **PNG)
    figure.clear()
    return svg.getvalue(), png.getvalue()


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.writing")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
