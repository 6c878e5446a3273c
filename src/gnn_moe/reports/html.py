"""A document as one self-contained HTML page: no network, works from disk, prints, light and dark, phone and screen
reader.

The template is in templates/, with the page's style and script. Jinja escapes every value. Without JavaScript the page
is whole: figures are static pictures, which the script replaces by charts as it draws them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gnn_moe.reports.charts import dark_colours, plotly_archive
from gnn_moe.reports.document import Cell, Column, Document, Span, Table, Text, spans
from gnn_moe.reports.outline import assert_sound, clean, clean_lines, figures, link
from gnn_moe.reports.page_size import WHY, Picture, Shown, fitted

TEMPLATES = "templates"
_BREAKS = re.compile(r"(?<=\w)([_/=])(?=\w\w)")
"""After them a line may break; in escaped text, whose `&lt;` and the like hold none of them."""
_FLAGS = re.compile(r"(?<![\w-])--[a-z]\w*")
_JOINTS = re.compile(r"(?<=\d) (?=% |×)|(?<=×) (?=\d)")
"""Spaces within a number."""
_CONTINUED = re.compile(r" \\\n\s*")
_OPTIONS = re.compile(r"(?<= )(?=--)")


def to_html(document: Document, *, folder: Path, pictures: Mapping[str, Picture]) -> str:
    """The whole report as a page.

    Args:
        document: what to write.
        folder: where the page will lie, which links are relative to.
        pictures: the static figures, by name.
    """
    assert_sound(document)
    template = _environment(folder).get_template("report.html.jinja")

    def write(shown: Mapping[str, Shown]) -> str:
        has_charts = any(each.chart is not None for each in shown.values())
        return template.render(
            document=document,
            shown=shown,
            shows_less=_shows_less(shown),
            style=Markup(_packaged("report.css")),
            script=Markup(_packaged("report.js")),
            charts_script=Markup(_packaged("charts.js")) if has_charts else None,
            plotly=Markup(plotly_archive()) if has_charts else None,
            dark_colours=Markup(dark_colours()),
        )

    return fitted(figures(document), pictures, folder, write)


def _shows_less(shown: Mapping[str, Shown]) -> str | None:
    lost = sum(bool(each.remarks) for each in shown.values())
    return f"{lost} of {len(shown)} figures show less here than their files, {WHY}; each says what." if lost else None


def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=PackageLoader("gnn_moe.reports", TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every plain value that the template writes; what is Markup has been through it, or is ours.
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    environment.filters |= {
        "kind": lambda block: type(block).__name__.lower(),
        "line": lambda text: line(text, folder),
        "narrow": lambda text: narrow(text, folder),
        "command": command,
        "is_ours": Markup,
        "url": Markup.escape,  # long, and without anything that `clean` looks for
        "sort_key": sort_key,
        "sorts_as": sorts_as,
    }
    return environment


def _packaged(name: str) -> str:
    return (resources.files("gnn_moe.reports") / TEMPLATES / name).read_text(encoding="utf-8")


def line(text: Text, folder: Path) -> Markup:
    """A line of text."""
    return Markup("").join(_span(span, folder) for span in spans(text))


def narrow(text: Text, folder: Path) -> Markup:
    """A line in a column, whose identifiers and paths break between their words."""
    # Outside tags, whose attributes hold the same characters.
    pieces = re.split(r"(<[^>]*>)", str(line(text, folder)))
    return Markup("").join(Markup(piece if piece[:1] == "<" else _BREAKS.sub("\\1<wbr>", piece)) for piece in pieces)


def _span(span: Span, folder: Path) -> Markup:
    found = _words(clean(span.text))
    if span.code:
        found = Markup("<code>{}</code>").format(found)
    if span.strong:
        found = Markup("<strong>{}</strong>").format(found)
    if span.href is not None:
        found = Markup('<a href="{}">{}</a>').format(link(span.href, folder), found)
    return found


def _words(text: str) -> Markup:
    """A text whose options and numbers stay in one piece."""
    found = _JOINTS.sub("\N{NO-BREAK SPACE}", str(Markup.escape(text)))
    return Markup(_FLAGS.sub('<span class="flag">\\g<0></span>', found))


def command(text: str) -> Markup:
    """Commands, a line each, whose options stay in one piece with their values; they go on below where they must."""
    text = _CONTINUED.sub(" ", text)
    return Markup("").join(_command(each) for each in clean_lines(text).splitlines(keepends=True))


def _command(text: str) -> Markup:
    parts = _OPTIONS.split(text)
    options = Markup("").join(Markup('<span class="option">{}</span>').format(part) for part in parts)
    return Markup('<span class="command">{}</span>').format(options)


def sort_key(cell: Cell, column: Column) -> float | str | None:
    """What a cell is sorted by: None, for none and what is not finite, stands last; words without a key are their own.

    An integer stays one: a float of it could meet its neighbour's.
    """
    if isinstance(cell.sort, float) and not math.isfinite(cell.sort):
        return None
    if cell.sort is None and not column.numeric:
        return clean("".join(span.text for span in spans(cell.text))).strip() or None
    return cell.sort


def sorts_as(table: Table, index: int) -> str:
    """`number` where every key of a column is one, else `text`."""
    keys: list[Any] = [sort_key(row[index], table.columns[index]) for row in table.rows]
    return "number" if all(isinstance(key, int | float) for key in keys if key is not None) else "text"
