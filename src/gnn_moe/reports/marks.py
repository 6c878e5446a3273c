"""What the figures of a report share: a mark a point that is told apart in grey, plain labels, links to runs.

Colours are those of `figures/style.py`; line and marker change at other lengths, so that no two of the first 84 points
look alike, and neighbours differ in all three.
"""

from __future__ import annotations

import html
import math
import shlex
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from gnn_moe.figures.style import BLACK, BLUE, GREEN, PURPLE, SKY, VERMILLION
from gnn_moe.reports.document import Cell, Span
from gnn_moe.reports.points import Run
from gnn_moe.run_folder import RunFolder

MOST_MARKED = 10
"""Points up to which each has a mark of its own; beyond, a legend cannot be read."""

_COLORS = (BLUE, VERMILLION, GREEN, BLACK, PURPLE, SKY)
_LINES = (("-", "solid"), ("--", "dash"), ("-.", "dashdot"), (":", "dot"))
_MARKERS = (
    ("o", "circle"),
    ("s", "square"),
    ("^", "triangle-up"),
    ("D", "diamond"),
    ("v", "triangle-down"),
    ("P", "cross"),
    ("X", "x"),
)
_LABEL_WIDTH = 44


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How one point looks, in Matplotlib's words and in Plotly's."""

    color: str
    line: str
    marker: str
    dash: str
    symbol: str


def mark_of(index: int) -> Mark:
    """The mark of the point at a place, from 0."""
    line, dash = _LINES[index % len(_LINES)]
    marker, symbol = _MARKERS[index % len(_MARKERS)]
    return Mark(color=_COLORS[index % len(_COLORS)], line=line, marker=marker, dash=dash, symbol=symbol)


def static_label(text: str) -> str:
    """A name for Matplotlib: on several lines where it is long, and without formulas, which a `$` would begin."""
    return "\n".join(textwrap.wrap(text, _LABEL_WIDTH) or [""]).replace("$", r"\$")


def chart_label(text: str) -> str:
    """A name for Plotly, which takes markup in names for markup."""
    return html.escape(text, quote=False)


def finite_or_none(values: Sequence[float | None]) -> list[float | None]:
    """Numbers for a chart: JSON has no NaN."""
    return [None if value is None or not math.isfinite(value) else float(value) for value in values]


def chart_layout(x_title: str, y_title: str, *, logarithmic: bool, in_powers: bool = False) -> dict[str, Any]:
    """A layout with both titles; the page has switches for logarithmic axes.

    Args:
        x_title: of the level axis.
        y_title: of the upright one.
        logarithmic: the level axis.
        in_powers: large numbers as 2.8 × 10¹³, as FLOPs are written everywhere, and not as 28T.
    """
    return {
        "xaxis": {
            "title": {"text": x_title},
            "type": "log" if logarithmic else "linear",
            "automargin": True,
            "exponentformat": "power" if in_powers else "SI",
        },
        "yaxis": {"title": {"text": y_title}, "automargin": True},
        "hovermode": "closest",
        "legend": {"orientation": "h", "y": -0.25, "groupclick": "togglegroup"},
    }


def seed_links(runs: Sequence[Run]) -> list[str | Span]:
    """The seeds of some runs, each a link to its run folder where that is here."""
    links = [Span(str(run.seed), href=None if run.folder is None else str(run.folder)) for run in runs]
    spaced: list[str | Span] = [piece for link in links for piece in (" ", link)][1:]
    return spaced or ["none"]


def number_cell(value: float | None, write: Callable[[float], str], runs: Sequence[Run] = ()) -> Cell:
    """A number, as a link to its run folder where it is of one run; empty without one.

    Args:
        value: the number, which the cell is sorted by.
        write: how it is written, such as `numbers.loss`.
        runs: that it is of.
    """
    if value is None:
        return Cell("")
    text = write(value)
    folder = runs[0].folder if len(runs) == 1 else None
    return Cell(Span(text, href=str(folder)) if folder is not None else text, value)


def command_path(path: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(path))


def evaluations_of(runs: Sequence[Run], checkpoint: str, flags: Callable[[Path], str]) -> tuple[str | None, str | None]:
    """Commands that evaluate a checkpoint of each run that kept it, and a sentence of those that did not.

    Args:
        runs: all that are meant.
        checkpoint: `selected` or `last`.
        flags: that follow, given the folder.

    Returns:
        A line a run, None without any; and the sentence, None where all kept it.
    """
    kept = [path for run in runs if (path := run.folder) and (RunFolder(path).checkpoints / checkpoint).exists()]
    lines = [f"gnn-moe evaluate {command_path(path)} --checkpoint {checkpoint} {flags(path)}" for path in kept]
    commands, gone = "\n".join(lines) or None, len(runs) - len(kept)
    if not gone:
        return commands, None
    if kept:
        return commands, f"{gone} of {len(runs)} runs kept no {checkpoint} checkpoint: train those again to measure it."
    return None, "Checkpoints were not kept: train again to measure it."


def draw_line(axes: Axes, x: Sequence[float], y: Sequence[float], mark: Mark, label: str) -> None:
    """A curve of a static figure, with at most about ten markers."""
    axes.plot(
        x,
        y,
        color=mark.color,
        linestyle=mark.line,
        marker=mark.marker,
        markersize=4,
        markevery=max(1, len(x) // 10),
        linewidth=1.4,
        label=static_label(label),
        zorder=3,
    )


def draw_band(axes: Axes, x: Sequence[float], low: Sequence[float], high: Sequence[float], mark: Mark) -> None:
    """The band of such a curve."""
    axes.fill_between(x, low, high, color=mark.color, alpha=0.15, linewidth=0)


def band_trace(
    mark: Mark, label: str, x: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> Mapping[str, Any]:
    """The same band in a chart, switched together with the traces of its label."""
    outline = {"x": [*x, *reversed(x)], "y": [*high, *reversed(low)], "fill": "toself"}
    looks = {"mode": "none", "opacity": 0.15, "hoverinfo": "skip", "showlegend": False}
    return trace_of(mark, f"{label}, band", label, fillcolor=mark.color, **outline, **looks)


def trace_of(mark: Mark, name: str, group: str, **more: Any) -> Mapping[str, Any]:
    """A trace of a chart: its look, its name and the point whose traces the legend switches together."""
    return {
        "type": "scatter",
        "name": chart_label(name).replace("\n", "<br>"),
        "legendgroup": chart_label(group),
        "line": {"color": mark.color, "dash": mark.dash},
        "marker": {"color": mark.color, "symbol": mark.symbol, "size": 9},
        **more,
    }
