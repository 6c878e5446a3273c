"""How the coupling moved: hyperedge weights, entries of matrices or experts' shares of the tokens, over the steps.

One panel a coupler, coupler layer or router. Few connections are a labelled line each; many (all_triplets of 32 experts
has 4,960) are quantile bands, with a labelled line for those that moved most.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from gnn_moe.figures.coupling import CouplingData, Trace, most_moved, quantile_bands
from gnn_moe.figures.style import (
    EMPTY,
    LINE_STYLES,
    NOTE,
    PALE,
    Floats,
    Integers,
    mark_left_out,
    new_figure,
    save_figure,
    style_axes,
)

LABELLED_LINES = len(LINE_STYLES)
"""Lines of one panel at most; beyond, bands and the most moved."""
HYPERGRAPH_COLUMNS = 3
"""Panels side by side at most for HGNN; GNN has one a coupler layer."""
LABEL_GAP = 0.085
"""Least distance of two labels, as a part of a panel's height."""
LEAST_SPAN = 1e-3
"""Least height of a panel in weight, so that rounding does not look like movement."""


def draw_coupling_evolution(data: CouplingData, path: Path) -> list[Path]:
    """Writes the evolution as one PNG; without weights or adjacencies it writes nothing and returns []."""
    return [save_figure(evolution_figure(data), path)] if data.traces else []


def evolution_figure(data: CouplingData) -> Figure:
    """One panel for each of `data.traces`, on one scale."""
    traces = data.traces
    most_columns = data.adjacencies[0].adjacency_SGEE.shape[1] if data.adjacencies else HYPERGRAPH_COLUMNS
    rows = -(-len(traces) // most_columns)
    columns = -(-len(traces) // rows)
    banded = any(len(trace.labels) > LABELLED_LINES for trace in traces)
    figure = new_figure(max(5.0, 3.6 * columns), 2.3 * rows + (0.9 if banded else 0.6))
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    figure.suptitle(f"{_what(data)}, over training", fontsize=10)
    for panel in panels[len(traces) :]:
        panel.set_visible(False)
    drawn = [_draw_trace(axes, trace, data.step_S) for axes, trace in zip(panels, traces, strict=False)]
    _set_scale(panels[0], traces)
    for number, (axes, trace, lines) in enumerate(zip(panels, traces, drawn, strict=False)):
        _label_lines(axes, trace, lines, data.step_S)
        axes.tick_params(labelbottom=number + columns >= len(traces))
        axes.set_xlabel("step" if number + columns >= len(traces) else "", fontsize=8)
    if banded:
        figure.legend(handles=_band_legend(), loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    return figure


def _what(data: CouplingData) -> str:
    if data.adjacencies:
        return f"{data.adjacencies[0].kind.title}, sender→receiver"
    return "Share of the tokens by expert" if data.loads else "Hyperedge weights"


def _draw_trace(axes: Axes, trace: Trace, step_S: Integers) -> list[int]:
    """Draws one panel and returns the connections that have a line of their own."""
    style_axes(axes, trace.title)
    many = len(trace.labels) > LABELLED_LINES
    if many:
        _draw_bands(axes, quantile_bands(trace.value_SK), step_S)
        lines = sorted(most_moved(trace.value_SK, LABELLED_LINES - 1))
    else:
        lines = np.flatnonzero(np.isfinite(trace.value_SK).any(axis=0)).tolist()
    single = len(step_S) == 1
    for (color, style), connection in zip(LINE_STYLES, lines, strict=False):
        value_S = np.where(np.isfinite(trace.value_SK[:, connection]), trace.value_SK[:, connection], np.nan)
        axes.plot(
            step_S, value_S, color=color, linestyle=style, linewidth=1.3, marker="o" if single else "", markersize=4
        )
    broken_SK = ~np.isfinite(trace.value_SK)
    mark_left_out(axes, step_S[broken_SK.any(axis=1)], int(broken_SK.sum()))
    return lines


def _draw_bands(axes: Axes, band_5S: Floats, step_S: Integers) -> None:
    low, quarter, median, three_quarters, high = band_5S
    if len(step_S) == 1:  # an area over one step has no width
        axes.vlines(step_S, low, high, color=EMPTY, linewidth=14)
        axes.vlines(step_S, quarter, three_quarters, color=PALE, linewidth=14)
        axes.plot(step_S, median, color=NOTE, marker="_", markersize=14, linestyle="none")
        return
    axes.fill_between(step_S, low, high, color=EMPTY, linewidth=0)
    axes.fill_between(step_S, quarter, three_quarters, color=PALE, linewidth=0)
    axes.plot(step_S, median, color=NOTE, linewidth=1.0)


def _band_legend() -> list[Patch | Line2D]:
    return [
        Patch(color=EMPTY, label="least to greatest"),
        Patch(color=PALE, label="middle half"),
        Line2D([], [], color=NOTE, linewidth=1.0, label="median"),
        Line2D([], [], color="black", linewidth=1.3, label="labelled lines: moved most"),
    ]


def _set_scale(axes: Axes, traces: tuple[Trace, ...]) -> None:
    """One scale for all panels (they share their y axis), never narrower than `LEAST_SPAN`."""
    axes.ticklabel_format(axis="y", useOffset=False)
    finite = [trace.value_SK[np.isfinite(trace.value_SK)] for trace in traces]
    value = np.concatenate(finite)
    if len(value) == 0:
        return
    low, high = float(value.min()), float(value.max())
    margin = max(0.06 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    axes.set_ylim(low - margin, high + margin)


def _label_lines(axes: Axes, trace: Trace, lines: list[int], step_S: Integers) -> None:
    """Writes each line's label right of the panel, beside its last finite value, moved apart where they would touch."""
    bottom, top = axes.get_ylim()
    last = [np.flatnonzero(np.isfinite(trace.value_SK[:, connection]))[-1] for connection in lines]
    value = [float(trace.value_SK[step, connection]) for step, connection in zip(last, lines, strict=True)]
    place = spread([(entry - bottom) / (top - bottom) for entry in value], LABEL_GAP)
    for (color, _), connection, step, entry, height in zip(LINE_STYLES, lines, last, value, place, strict=False):
        axes.annotate(
            trace.labels[connection],
            xy=(float(step_S[step]), entry),
            xytext=(1.05, height),
            textcoords="axes fraction",
            fontsize=7,
            color=color,
            va="center",
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "shrinkA": 1, "shrinkB": 0},
            annotation_clip=False,
        )


def spread(place: list[float], gap: float) -> list[float]:
    """Moves places apart until neighbours are `gap` from each other, in the same order and as near as they were.

    Each run of crowded places is set around its own mean, inside [0, 1]: spread([0.5, 0.5], 0.1) = [0.45, 0.55].
    """
    order = sorted(range(len(place)), key=place.__getitem__)
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _first(groups[-1], place, gap) - _last(groups[-2], place, gap) < gap:
            crowded = groups.pop()
            groups[-1] += crowded
    moved = list(place)
    for group in groups:
        for position, index in enumerate(group):
            moved[index] = _first(group, place, gap) + position * gap
    return moved


def _first(group: list[int], place: list[float], gap: float) -> float:
    extent = gap * (len(group) - 1)
    first = sum(place[index] for index in group) / len(group) - extent / 2
    return max(0.0, min(first, 1.0 - extent))


def _last(group: list[int], place: list[float], gap: float) -> float:
    return _first(group, place, gap) + gap * (len(group) - 1)
