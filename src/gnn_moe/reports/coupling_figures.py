"""The drawings of learned couplings: their evolution over seeds, the final graph on a circle, heat maps.

Letters: E experts, K connections, S steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.patches import FancyArrowPatch

from gnn_moe.figures.coupling import CouplingData, quantile_bands
from gnn_moe.figures.heat_maps import STRENGTHS, HeatMap, adjacency_maps, heat_map_figure, shared_weight_maps
from gnn_moe.figures.style import EMPTY, LINE_STYLES, NOTE, new_figure, style_axes
from gnn_moe.reports.couplings import PointCoupling
from gnn_moe.reports.marks import static_label

MOST_PANELS = 12
"""Panels of a figure; of more, the last coupler layer of each layer is drawn, and of those the first so many."""
MOST_EDGES = 30
"""Connections of one panel that are drawn as lines: the strongest."""
COLUMNS = 4
LEAST_SPAN = 1e-3
"""Least height of a panel of changes, in strength, so that rounding does not look like movement."""
LEAST_SCALE = 0.1
"""Least extent of a scale of strengths, so that those that hardly differ look alike."""


def panels_shown(titles: Sequence[str]) -> list[int]:
    """Places of the panels that are drawn."""
    if len(titles) <= MOST_PANELS:
        return list(range(len(titles)))
    last = {title.split(",")[0]: place for place, title in enumerate(titles)}
    return sorted(last.values())[:MOST_PANELS]


def strength_name(data: CouplingData) -> str:
    """What the numbers are, within a sentence."""
    if data.adjacencies:
        title = data.adjacencies[0].kind.title
        return title[0].lower() + title[1:]
    return "share of the tokens" if data.loads else "hyperedge weight"


def evolution_figure(found: PointCoupling) -> MatplotlibFigure:
    """A panel a graph: a line a seed, the median change of its connections, in a band from least to greatest.

    Changes since the first recorded step: strengths that start far apart would hide how they move.
    """
    traces = found.records[0].traces
    shown = panels_shown([trace.title for trace in traces])
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(max(4.5, 2.7 * columns), 1.9 * rows + 1.0)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    figure.suptitle(static_label(f"{found.point.label}: change of the {strength_name(found.records[0])}"), fontsize=10)
    for number, axes in enumerate(panels.flat):
        if number >= len(shown):
            axes.set_visible(False)
            continue
        style_axes(axes, traces[shown[number]].title)
        axes.title.set_fontsize(8)
        _draw_seeds(axes, found, shown[number])
        last_row = number + columns >= len(shown)
        axes.tick_params(labelbottom=last_row)
        axes.set_xlabel("step" if last_row else "", fontsize=8)
    _set_scale(panels[0, 0])
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=7, frameon=False)
    return figure


def _draw_seeds(axes: Axes, found: PointCoupling, place: int) -> None:
    for number, (run, record) in enumerate(zip(found.runs, found.records, strict=True)):
        color, style = LINE_STYLES[number % len(LINE_STYLES)]
        value_SK = record.traces[place].value_SK - record.traces[place].value_SK[0]
        low, _, median, _, high = quantile_bands(value_SK)
        if value_SK.shape[1] > 1:
            axes.fill_between(record.step_S, low, high, color=color, alpha=0.12, linewidth=0)
        marker = "o" if len(record.step_S) == 1 else ""
        label = f"seed {run.seed}"
        axes.plot(record.step_S, median, label=label, linewidth=1.2, color=color, linestyle=style, marker=marker)


def _set_scale(axes: Axes) -> None:
    axes.ticklabel_format(axis="y", useOffset=False)
    low, high = axes.get_ylim()
    margin = max(0.0, (LEAST_SPAN - (high - low)) / 2)
    axes.set_ylim(low - margin, high + margin)


def final_maps(data: CouplingData) -> list[HeatMap]:
    """The panels of the last step: experts × experts, or for routers layers × experts; [] where there is nothing."""
    if data.loads and len(data.step_S):
        load_LE = np.stack([router.load_SE[-1] for router in data.loads])
        broken_LE = ~np.isfinite(load_LE)
        return [
            HeatMap(
                title="Share of the tokens",
                value=np.where(broken_LE, np.nan, load_LE),
                broken=broken_LE,
                row_labels=tuple(str(router.layer) for router in data.loads),
                column_labels=tuple(map(str, range(load_LE.shape[1]))),
            )
        ]
    maps = adjacency_maps(data) or shared_weight_maps(data)
    return [maps[place] for place in panels_shown([each.title for each in maps])]


def scale_of(maps: Sequence[HeatMap]) -> tuple[float, float]:
    """The ends of the colours and widths of some panels: their least and greatest, or `LEAST_SCALE` about those."""
    finite = np.concatenate([each.value[np.isfinite(each.value)] for each in maps])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = max(0.0, (LEAST_SCALE - (high - low)) / 2)
    return low - margin, high + margin


def final_heat_map(title: str, data: CouplingData) -> MatplotlibFigure:
    """The last step as labelled heat maps on one scale; needs `final_maps`."""
    names = ("expert", "layer") if data.loads else ("sender", "receiver") if data.adjacencies else ("expert", "expert")
    maps = final_maps(data)
    return heat_map_figure(
        maps, title=static_label(title), axis_labels=names, scale_label=_scale_label(data), limits=scale_of(maps)
    )


def _scale_label(data: CouplingData) -> str:
    """What the colours of two experts are."""
    return "summed weight of shared hyperedges" if data.hypergraphs else strength_name(data)


def graph_figure(title: str, data: CouplingData) -> MatplotlibFigure:
    """Experts on circles, a panel a graph; wider and darker lines are stronger, on the scale beside them."""
    maps = final_maps(data)
    columns = min(COLUMNS, len(maps))
    rows = -(-len(maps) // columns)
    figure = new_figure(max(4.5, 2.5 * columns + 0.8), 2.6 * rows + 0.5)
    figure.suptitle(static_label(title), fontsize=10)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    norm = Normalize(*scale_of(maps))
    for number, axes in enumerate(panels):
        axes.set_axis_off()
        if number < len(maps):
            _draw_graph(axes, maps[number], norm, directed=bool(data.adjacencies))
    colors = ScalarMappable(norm, STRENGTHS)
    bar = figure.colorbar(colors, ax=panels, fraction=0.04, pad=0.02, aspect=25)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(_scale_label(data), fontsize=7)
    return figure


def edges(entry: HeatMap, *, directed: bool) -> list[tuple[int, int, float]]:
    """(sender, receiver, strength) of the strongest `MOST_EDGES` connections of two experts, the strongest last."""
    found = [
        (int(sender), int(receiver), float(entry.value[receiver, sender]))
        for receiver, sender in zip(*np.nonzero(np.isfinite(entry.value)), strict=True)
        if (sender != receiver if directed else sender < receiver)
    ]
    return sorted(found, key=lambda edge: edge[2])[-MOST_EDGES:]


def _draw_graph(axes: Axes, entry: HeatMap, norm: Normalize, *, directed: bool) -> None:
    axes.set_title(entry.title, fontsize=8, fontweight="bold")
    axes.set_aspect("equal")
    axes.set_xlim(-1.35, 1.35)
    axes.set_ylim(-1.35, 1.35)
    experts = len(entry.row_labels)
    angle = [math.pi / 2 - 2 * math.pi * expert / experts for expert in range(experts)]
    place = [(math.cos(each), math.sin(each)) for each in angle]
    for sender, receiver, strength in edges(entry, directed=directed):
        share = float(norm(strength))
        axes.add_patch(
            FancyArrowPatch(
                place[sender],
                place[receiver],
                arrowstyle="-|>" if directed else "-",
                connectionstyle="arc3,rad=0.18" if directed else "arc3,rad=0",
                mutation_scale=8,
                shrinkA=9,
                shrinkB=9,
                color=STRENGTHS(share),
                linewidth=0.6 + (2.8 if experts <= 8 else 1.6) * share,
            )
        )
    for label, (x, y) in zip(entry.row_labels, place, strict=True):
        axes.plot([x], [y], marker="o", markersize=14 if experts <= 12 else 10, color=EMPTY, markeredgecolor=NOTE)
        axes.text(x, y, label, ha="center", va="center", fontsize=8 if experts <= 12 else 6)
