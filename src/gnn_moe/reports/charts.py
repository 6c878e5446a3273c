"""Charts as plotly.js reads them, and what the page needs to draw them.

Text of a chart is plain here as everywhere: markup in it is escaped, because Plotly reads some HTML in its text; a
newline breaks the line. Templates (`hovertemplate`, `texttemplate`) are markup: they take names by `%{fullData.name}`.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np

from gnn_moe.figures.style import BLACK, BLUE, EMPTY, GREEN, NOTE, PALE, PURPLE, SKY, VERMILLION
from gnn_moe.reports.outline import clean

TEMPLATES = ("hovertemplate", "texttemplate")
DARK = {
    BLUE: "#4DA3E0",
    VERMILLION: "#F0823C",
    GREEN: "#2FC79B",
    BLACK: "#EDEDED",
    PURPLE: "#D583C8",
    SKY: "#A6DCFA",
    PALE: "#6F8796",
    EMPTY: "#3A424B",
    NOTE: "#AAB2BB",
}
"""What the colours of figures become on a dark page, each at least 4.5 to 1 against it where it draws data."""


def chart_json(chart: Mapping[str, Any]) -> str:
    """A chart as JSON that may stand in a `<script>` element; values that are not finite are null, which are gaps."""
    return script_json(_plain(chart))


def script_json(value: Any) -> str:
    """JSON without a character that could end the element or begin a comment in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def dark_colours() -> str:
    """Light colours → dark ones as JSON, colours in small letters."""
    return script_json({light.lower(): dark for light, dark in DARK.items()})


@cache
def plotly_archive() -> str:
    """Plotly's own minified bundle, gzip in base64: 2 MB instead of 5; browsers unpack it themselves."""
    from plotly.offline import get_plotlyjs

    # Without a time, so that a report of the same runs is the same file.
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _plain(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), key)
    if isinstance(value, list | tuple):
        return [_plain(inner, key) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value if key in TEMPLATES else _text(value)
    return value


def _text(text: str) -> str:
    lines = (clean(line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in text.split("\n"))
    return "<br>".join(lines)
