"""The coupling at the end of a run, as labelled heat maps: which experts exchange, and how strongly.

Letters: E experts, M hyperedges, G coupler layers. All panels of a figure share one colour scale (cividis, darker for
more: the same to colour-blind eyes and, as lightness, in grey). A pale grey cell stands for "none", a × for a value
that is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from gnn_moe.figures.coupling import CouplingData, HypergraphLayer
from gnn_moe.figures.style import EMPTY, VERMILLION, Floats, new_figure, save_figure

MOST_HYPEREDGES = 24
"""Hyperedges up to which incidence × weight is drawn: beyond, its labels cannot be read."""
MOST_NUMBERED = 12
"""Rows up to which every cell shows its number."""
FIGURE_WIDTH = 12.0
LEAST_COLUMNS = 3
"""Of a figure of so many panels of experts × experts or more: one below the other they would fill pages."""
NARROW = 4.4
"""Width of a panel, in inches, with which so many stand side by side."""
STRENGTHS = colormaps["cividis_r"]
"""Darker is stronger, as in the graphs of reports, whose lines must stand out on white paper."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """One panel: values with their labels."""

    title: str
    value: Floats
    """(rows, columns); NaN where there is nothing or nothing finite."""
    broken: NDArray[np.bool_]
    """(rows, columns) True where a value exists and is not finite."""
    row_labels: tuple[str, ...]
    column_labels: tuple[str, ...]


def draw_coupling_matrix(data: CouplingData, path: Path) -> list[Path]:
    """Writes the final coupling and returns the files.

    `path` holds experts × experts: for HGNN the summed weight of the hyperedges that two experts share, for GNN and
    sinkhorn the matrix of every coupler layer. For HGNN with up to `MOST_HYPEREDGES` hyperedges,
    `<name>_hyperedges.png` beside it holds incidence × weight. Where there is nothing to show, no file is written.
    """
    written: list[Path] = []
    if adjacency := adjacency_maps(data):
        columns = data.adjacencies[0].adjacency_SGEE.shape[1]
        figure = heat_map_figure(
            adjacency,
            columns=columns,
            title=f"{data.adjacencies[0].kind.title}, last evaluation",
            axis_labels=("sender", "receiver"),
            scale_label=data.adjacencies[0].kind.title,
            limits=(0.0, 1.0),
        )
        written.append(save_figure(figure, path))
    if shared := shared_weight_maps(data):
        figure = heat_map_figure(
            shared,
            title="Weight of hyperedges shared by two experts, last evaluation",
            axis_labels=("expert", "expert"),
            scale_label="summed weight",
        )
        written.append(save_figure(figure, path))
    if hyperedges := hyperedge_maps(data):
        figure = heat_map_figure(
            hyperedges,
            title="Hyperedge weights by member, last evaluation",
            axis_labels=("hyperedge", "expert"),
            scale_label="weight",
        )
        written.append(save_figure(figure, path.with_name(f"{path.stem}_hyperedges.png")))
    return written


def adjacency_maps(data: CouplingData) -> list[HeatMap]:
    """(E, E) a coupler layer, receivers in rows; a diagonal that says nothing is left blank. None with one expert."""
    maps: list[HeatMap] = []
    for graph in data.adjacencies if len(data.step_S) else ():
        for number, adjacency_EE in enumerate(graph.adjacency_SGEE[-1]):
            if len(adjacency_EE) < 2:
                continue
            value_EE = np.where(np.isfinite(adjacency_EE) & graph.shown_EE, adjacency_EE, np.nan)
            maps.append(
                HeatMap(
                    title=f"Layer {graph.layer}, coupler layer {number}",
                    value=value_EE,
                    broken=~np.isfinite(adjacency_EE) & graph.shown_EE,
                    row_labels=_experts(adjacency_EE),
                    column_labels=_experts(adjacency_EE),
                )
            )
    return maps


def shared_weight_maps(data: CouplingData) -> list[HeatMap]:
    """(E, E) a layer, `HypergraphLayer.shared_weight_EE`. None where no two experts share a hyperedge."""
    return [
        HeatMap(
            title=f"Layer {graph.layer}",
            value=graph.shared_weight_EE,
            broken=_shares_hyperedge(graph) & np.isnan(graph.shared_weight_EE),
            row_labels=_experts(graph.incidence_EM),
            column_labels=_experts(graph.incidence_EM),
        )
        for graph in data.hypergraphs
        if len(data.step_S) and _shares_hyperedge(graph).any()
    ]


def hyperedge_maps(data: CouplingData) -> list[HeatMap]:
    """(E, M) a layer, the hyperedge's weight in its members' rows. None with more than `MOST_HYPEREDGES`."""
    return [
        HeatMap(
            title=f"Layer {graph.layer}",
            value=np.where((graph.incidence_EM > 0) & np.isfinite(graph.weight_SM[-1]), graph.weight_SM[-1], np.nan),
            broken=(graph.incidence_EM > 0) & ~np.isfinite(graph.weight_SM[-1]),
            row_labels=_experts(graph.incidence_EM),
            column_labels=graph.labels,
        )
        for graph in data.hypergraphs
        if len(data.step_S) and 0 < len(graph.labels) <= MOST_HYPEREDGES
    ]


def _shares_hyperedge(graph: HypergraphLayer) -> NDArray[np.bool_]:
    shared_EE = graph.incidence_EM @ graph.incidence_EM.T > 0
    return np.asarray(shared_EE & ~np.eye(len(shared_EE), dtype=bool))


def _experts(rows: Floats) -> tuple[str, ...]:
    return tuple(str(expert) for expert in range(len(rows)))


def heat_map_figure(
    maps: Sequence[HeatMap],
    *,
    title: str,
    axis_labels: tuple[str, str],
    scale_label: str,
    columns: int | None = None,
    limits: tuple[float, float] | None = None,
) -> Figure:
    """Panels of one shape on one colour scale.

    Args:
        maps: at least one.
        title: of the whole figure.
        axis_labels: below and left of the panels.
        scale_label: beside the colours.
        columns: panels side by side; by default as many as fit, and `LEAST_COLUMNS` of square ones.
        limits: of the colour scale; by default those of the values.
    """
    rows_shown, columns_shown = maps[0].value.shape
    width = min(5.0, max(2.2, 0.42 * columns_shown + 0.8)) if columns_shown <= MOST_NUMBERED else 5.0
    width = max(width, 0.42 * columns_shown) if columns_shown <= MOST_HYPEREDGES else width
    if columns is None and rows_shown == columns_shown and len(maps) >= LEAST_COLUMNS:
        width = min(width, NARROW)
        columns = max(LEAST_COLUMNS, int(FIGURE_WIDTH / width))
    height = max(1.5, (width - 0.6) * rows_shown / columns_shown + 0.7)
    rows = -(-len(maps) // (columns or max(1, int(FIGURE_WIDTH / width))))
    columns = -(-len(maps) // rows)
    figure = new_figure(max(5.2, width * columns + 1.0), height * rows + 0.5)
    figure.suptitle(title, fontsize=10)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    cmap = STRENGTHS.with_extremes(bad=EMPTY)
    norm = Normalize(*(limits or _limits(maps)))
    for number, axes in enumerate(panels):
        if number >= len(maps):
            axes.set_visible(False)
            continue
        image = axes.imshow(maps[number].value, cmap=cmap, norm=norm, aspect="auto", interpolation="nearest")
        _label_cells(axes, maps[number], cmap, norm)
        axes.set_xlabel(axis_labels[0] if number + columns >= len(maps) else "", fontsize=8)
        axes.set_ylabel(axis_labels[1] if number % columns == 0 else "", fontsize=8)
        if number == 0:
            bar = figure.colorbar(image, ax=panels, fraction=0.04, pad=0.02, aspect=25)
            bar.ax.tick_params(labelsize=7)
            bar.set_label(scale_label, fontsize=7)
    return figure


def _limits(maps: Sequence[HeatMap]) -> tuple[float, float]:
    value = np.concatenate([entry.value[np.isfinite(entry.value)] for entry in maps])
    if len(value) == 0:
        return 0.0, 1.0
    low, high = float(value.min()), float(value.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def decimals(low: float, high: float) -> int:
    """Decimals that tell numbers of a range apart: 2, and up to 4 where the range is narrow."""
    return 2 if high <= low else min(4, max(2, 1 - math.floor(math.log10(high - low))))


def _label_cells(axes: Axes, entry: HeatMap, cmap: Colormap, norm: Normalize) -> None:
    axes.set_title(entry.title, loc="left", fontsize=8, fontweight="bold")
    axes.tick_params(labelsize=7, length=2)
    _label_ticks(axes, entry)
    if entry.broken.any():
        axes.set_title(f"× {int(entry.broken.sum())} non-finite", loc="right", fontsize=7, color=VERMILLION)
    for row, column in zip(*np.nonzero(entry.broken), strict=True):
        axes.text(column, row, "×", ha="center", va="center", fontsize=8, color=VERMILLION, fontweight="bold")
    if max(entry.value.shape) > MOST_HYPEREDGES or entry.value.shape[0] > MOST_NUMBERED:
        return
    for row, column in zip(*np.nonzero(np.isfinite(entry.value)), strict=True):
        value = float(entry.value[row, column])
        red, green, blue, _ = cmap(norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        color = "white" if dark else "black"
        axes.text(
            column,
            row,
            f"{value:.{decimals(norm.vmin or 0.0, norm.vmax or 0.0)}f}",
            ha="center",
            va="center",
            fontsize=6,
            color=color,
        )


def _label_ticks(axes: Axes, entry: HeatMap) -> None:
    """Every label while there is room, else whole numbers here and there."""
    if len(entry.column_labels) <= MOST_HYPEREDGES:
        long = sum(map(len, entry.column_labels)) > 40
        axes.set_xticks(range(len(entry.column_labels)), entry.column_labels, rotation=90 if long else 0)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    if len(entry.row_labels) <= MOST_HYPEREDGES:
        axes.set_yticks(range(len(entry.row_labels)), entry.row_labels)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
