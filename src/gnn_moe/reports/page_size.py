"""How much of its figures a page shows, so that it stays under its limit whatever it is of.

Most of a page is its static figures and the numbers of its charts. Where all of them are too much, the whole page gives
up detail by detail (`DETAILS`): charts get fewer points, large pictures become coarser ones. What is still too much is
left out, the largest first. Each figure says what it lost, and links to its file, which is always whole.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from gnn_moe.reports.charts import chart_json
from gnn_moe.reports.document import Figure, Span, Text
from gnn_moe.reports.outline import FIGURES_FOLDER

MOST_BYTES = 5_900_000
WHY = "to keep this page under 6 MB"
MOST_HEIGHT = 16_000
"""Pixels of a picture: WebP has at most 16,383."""
WEBP: dict[str, Any] = {"format": "WEBP", "quality": 80, "method": 4}
_OF_REMARKS = 400
"""Bytes, about, of what a figure says when something of it is left out."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A static figure, as its two files have it."""

    svg: bytes
    png: bytes


@dataclass(frozen=True, kw_only=True)
class Detail:
    """What figures show."""

    points: int | None = None
    """Of each line of a chart at most; None for all."""
    pixels: int | None = None
    """Width of a picture at most, where that is smaller than its SVG; None for the SVG."""


DETAILS = (
    Detail(),
    Detail(points=300, pixels=1600),
    Detail(points=150, pixels=1200),
    Detail(points=75, pixels=900),
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A figure as a page shows it."""

    picture: str | None
    """URL of the static one, to be escaped; None where it is left out."""
    chart: str | None
    """The interactive one as JSON that may stand in a script; None where there is none."""
    remarks: tuple[Text, ...] = ()
    """What it lost."""


def fitted(
    figures: Sequence[Figure],
    pictures: Mapping[str, Picture],
    folder: Path,
    write: Callable[[Mapping[str, Shown]], str],
    most_bytes: int = MOST_BYTES,
) -> str:
    """The page with as much of its figures as its limit allows.

    Args:
        figures: of the document.
        pictures: the static ones, by name.
        folder: of the report, where the files of figures lie in theirs.
        write: makes the page, given each figure by name.
        most_bytes: of the page.
    """
    shown: dict[str, Shown] = {}
    page = ""
    for detail in DETAILS:
        shown = {each.name: _shown(each, pictures[each.name], folder, detail) for each in figures}
        page = write(shown)
        if len(page.encode()) <= most_bytes:
            return page
    return write(_without_largest(shown, folder, len(page.encode()) - most_bytes))


def _shown(figure: Figure, picture: Picture, folder: Path, detail: Detail) -> Shown:
    url, remarks = svg_url(picture.svg), []
    if detail.pixels is not None and len(coarser := webp_url(picture.png, detail.pixels)) < len(url):
        url = coarser
        remarks.append(_remark("The static figure is coarser here, {why}; it is sharp in ", figure.name, folder))
    if figure.chart is None:
        return Shown(picture=url, chart=None, remarks=tuple(remarks))
    whole = chart_json(figure.chart)
    chart = whole if detail.points is None else chart_json(thinned(figure.chart, detail.points))
    if chart != whole:
        said = f"The chart shows at most {detail.points} points of each line, {{why}}; all are in "
        remarks.append(_remark(said, figure.name, folder))
    return Shown(picture=url, chart=chart, remarks=tuple(remarks))


def _without_largest(shown: Mapping[str, Shown], folder: Path, excess: int) -> dict[str, Shown]:
    """Figures without so many bytes, the largest pictures and charts left out."""
    found = dict(shown)
    parts = [(len(each.picture or ""), name, "picture") for name, each in shown.items()]
    parts += [(len(each.chart), name, "chart") for name, each in shown.items() if each.chart is not None]
    for size, name, part in sorted(parts, reverse=True):
        if excess <= 0:
            break
        if part == "picture":
            remark = _remark("The static figure is left out here, {why}; it is ", name, folder)
            found[name] = replace(found[name], picture=None, remarks=(remark,))
        else:
            remark = f"The interactive chart is left out, {WHY}."
            found[name] = replace(found[name], chart=None, remarks=(*found[name].remarks, remark))
        excess -= size - _OF_REMARKS
    return found


def _remark(text: str, name: str, folder: Path) -> Text:
    file = f"{FIGURES_FOLDER}/{name}.svg"
    return (text.format(why=WHY), Span(file, href=str(folder / file)), ".")


def thinned(chart: Mapping[str, Any], most: int) -> dict[str, Any]:
    """A chart with at most so many points of each line, evenly spaced with both ends; other values as they are."""
    return {**chart, "data": [_thinned_trace(trace, most) for trace in chart.get("data", ())]}


def _thinned_trace(trace: Mapping[str, Any], most: int) -> Mapping[str, Any]:
    x = trace.get("x")
    if trace.get("type", "scatter") not in ("scatter", "scattergl") or x is None or len(x) <= most:
        return trace
    kept = np.unique(np.linspace(0, len(x) - 1, most).round().astype(int))

    def of(value: Any) -> Any:
        """Of a value a point, those that are kept: also in error bars and marks."""
        if isinstance(value, Mapping):
            return {name: of(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple | np.ndarray) and len(value) == len(x):
            return [value[place] for place in kept]
        return value

    return {name: of(value) for name, value in trace.items()}


def svg_url(picture: bytes) -> str:
    """A picture as a data URL: in an image of its own, so that names within one picture cannot meet those of others."""
    # Quoted rather than in base64: a tenth more than the file instead of a third.
    return "data:image/svg+xml," + quote(picture, safe=" !$()*,-./:;=?@[]^_{}~'")


def webp_url(png: bytes, pixels: int) -> str:
    """A picture of at most so many pixels in width as a data URL."""
    with Image.open(BytesIO(png)) as found:
        image = found.convert("RGB")
    image.thumbnail((pixels, MOST_HEIGHT), Image.Resampling.LANCZOS)
    packed = BytesIO()
    image.save(packed, **WEBP)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"
