"""Cost and quality: losses against minutes, training FLOPs and parameters, the Pareto front, fitted scaling.

`costs.py` has the numbers; here they become figures, tables and words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MatplotlibFigure
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, NullFormatter, ScalarFormatter

from gnn_moe.figures.style import BLACK, NOTE, Floats, new_figure, style_axes
from gnn_moe.reports import numbers
from gnn_moe.reports.costs import (
    COST_KINDS,
    FLOPS,
    CostKind,
    Family,
    PointCost,
    front_of,
    point_costs,
    scaling_families,
    unsteady,
)
from gnn_moe.reports.document import Block, Cell, Column, Figure, Paragraph, Section, Table
from gnn_moe.reports.marks import (
    MOST_MARKED,
    Mark,
    chart_label,
    chart_layout,
    finite_or_none,
    mark_of,
    number_cell,
    seed_links,
    static_label,
    trace_of,
)
from gnn_moe.reports.points import Group
from gnn_moe.reports.rows import LOSS_TEXT

MOST_LAWS = 3
"""Fitted laws that a caption names."""
LOG_RATIO = 3
"""Greatest over smallest cost from which the axis is logarithmic."""
_LOSS_TITLE = "evaluation loss, nats a token"
_UNMARKED = Mark(color=NOTE, line="-", marker="o", dash="solid", symbol="circle")
_FRONT_COLUMNS = (
    Column(title="point", numeric=False),
    Column(title="on the front of", numeric=False, explains="the costs at which no other point has as low a loss"),
    Column(title="loss", explains="nats a token, mean over seeds"),
    Column(title="95 % interval", explains="t interval over seeds"),
    Column(title="minutes", explains="of training and evaluation, median over seeds"),
    Column(title="training FLOPs", explains="mean over seeds"),
    Column(title="parameters", explains="embeddings included"),
    Column(title="seeds", numeric=False, explains="that count, each a link to its run"),
)
_FIT_COLUMNS = (
    Column(title="points", numeric=False, explains="that differ in sizes alone, and what they share"),
    Column(title="size", numeric=False),
    Column(title="number of points"),
    Column(title="a", explains="of loss = a · size^b, nats a token"),
    Column(title="b", explains="the slope in log-log axes; negative where size helps"),
    Column(title="95 % interval of b", numeric=False),
)


def cost_section(group: Group) -> Section:
    """Losses against each cost, the fronts as a table, and scaling or why it is not fitted."""
    found = {kind.name: point_costs(group, kind) for kind in COST_KINDS}
    notes = dict.fromkeys(note for _, said in found.values() for note in said)
    blocks: list[Block] = [Paragraph(note, "note") for note in notes]
    blocks += [Paragraph(f"{said}.", "note") for point in group.points if (said := unsteady(group, point)) is not None]
    families = {kind.name: scaling_families(group, kind) for kind in COST_KINDS if kind.sizes}
    for kind in COST_KINDS:
        points = found[kind.name][0]
        if points:
            blocks.append(_figure(kind, points, families.get(kind.name, [])))
        else:
            blocks.append(Paragraph(f"No point has a loss and {kind.title}: nothing to draw.", "warning"))
    points_by_kind = {name: points for name, (points, _) in found.items()}
    if any(points_by_kind.values()):
        blocks.append(_front_table(points_by_kind))
    return Section(title="Cost and quality", anchor="cost", blocks=(*blocks, *_scaling_blocks(families)))


def _figure(kind: CostKind, points: Sequence[PointCost], families: Sequence[Family]) -> Figure:
    front = front_of(points)
    names = "; ".join(
        f"{each.point.label} ({kind.write(each.cost)}, loss {numbers.loss(each.loss.mean)})" for each in front
    )
    bars = (
        "Upright bars: 95 % t interval of the mean over seeds; level bars: least to greatest cost"
        if any(len(each.runs) > 1 for each in points)
        else "One seed a point, so no bar can be drawn"
    )
    laws = [_law(family) for family in families if family.fit.exponent is not None]
    more = f"; {len(laws) - MOST_LAWS} more are in the table below" if len(laws) > MOST_LAWS else ""
    said = f" Thin dotted: loss = a · ({kind.title})^b, fitted: {'; '.join(laws[:MOST_LAWS])}{more}." if laws else ""
    return Figure(
        name=f"cost-{kind.name}",
        caption=f"Loss on {LOSS_TEXT[points[0].point.loss_name]}, against {kind.title}. {bars}. Grey steps: the Pareto "
        f"front.{said}",
        description=f"A scatter plot of {len(points)} points. On the Pareto front, cheapest first: {names}.",
        draw=lambda: cost_figure(kind, points, families),
        chart=cost_chart(kind, points, families),
    )


def _law(family: Family) -> str:
    """The constants of a law with their 95 % t intervals."""
    fit = family.fit
    assert fit.interval is not None
    assert fit.factor_interval is not None
    a, b = (fit.factor, fit.factor_interval), (fit.exponent, fit.interval)
    constants = " and ".join(
        f"{name} = {numbers.short(value)} ({numbers.level(found)} interval {numbers.short(found.low)} to "
        f"{numbers.short(found.high)})"
        for name, (value, found) in zip("ab", (a, b), strict=True)
    )
    return f"{family.label}, {numbers.counted(fit.points, 'point')}: {constants}"


def cost_figure(kind: CostKind, points: Sequence[PointCost], families: Sequence[Family] = ()) -> MatplotlibFigure:
    """A mark a point with its bars, the front as steps, and fitted laws; names beside or below the marks."""
    marked = len(points) <= MOST_MARKED
    figure = new_figure(7.0, 4.2)
    axes = figure.subplots()
    style_axes(axes, f"Loss against {kind.title}", x_label=kind.title, y_label=_LOSS_TITLE)
    _scale_costs(axes, points)
    _draw_front(axes, front_of(points))
    for family in families:
        _draw_fit(axes, family)
    for number, each in enumerate(points):
        _draw_point(axes, each, mark_of(number) if marked else _UNMARKED)
    if not marked:
        for each in front_of(points):
            place = each.cost, each.loss.mean
            axes.annotate(static_label(each.point.label), place, (4, 4), textcoords="offset points", fontsize=6)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def _scale_costs(axes: Axes, points: Sequence[PointCost]) -> None:
    costs = [cost for each in points for cost in each.costs]
    if not _is_logarithmic(points):
        axes.xaxis.set_major_formatter(ScalarFormatter(useMathText=True))
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if max(costs) >= 1e5:
        axes.xaxis.set_major_formatter(LogFormatterSciNotation(labelOnlyBase=False, minor_thresholds=(9, 9)))
    else:
        axes.xaxis.set_major_formatter("{x:g}")


def _is_logarithmic(points: Sequence[PointCost]) -> bool:
    costs = [each.cost for each in points]
    return max(costs) >= LOG_RATIO * min(costs)


def _draw_point(axes: Axes, each: PointCost, mark: Mark) -> None:
    loss, cost = each.loss, each.cost
    upright = None if loss.interval is None else [[loss.mean - loss.interval.low], [loss.interval.high - loss.mean]]
    level = [[cost - min(each.costs)], [max(each.costs) - cost]] if len(each.runs) > 1 else None
    axes.errorbar(
        [cost],
        [loss.mean],
        yerr=upright,
        xerr=level,
        color=mark.color,
        marker=mark.marker,
        markersize=6 if mark is not _UNMARKED else 4,
        linestyle="none",
        linewidth=1.0,
        capsize=2.5,
        zorder=3,
    )
    if mark is not _UNMARKED:  # a mark alone: bars would hide it in the legend
        axes.plot([], [], linestyle="none", color=mark.color, marker=mark.marker, label=static_label(each.point.label))


def _draw_front(axes: Axes, front: Sequence[PointCost]) -> None:
    costs, losses = [each.cost for each in front], [each.loss.mean for each in front]
    if len(front) > 1:
        axes.step(costs, losses, where="post", color="#999999", linewidth=1.2, label="Pareto front", zorder=1)
    else:
        axes.scatter(costs, losses, s=170, facecolors="none", edgecolors="#777777", label="Pareto front: one point")


def _fitted(family: Family) -> tuple[Floats, Floats] | None:
    """Sizes and losses along a law; None where it is not fitted."""
    if family.fit.exponent is None or family.fit.factor is None:
        return None
    costs = [each.cost for each in family.points]
    size = np.geomspace(min(costs), max(costs), 50)
    return size, family.fit.factor * size**family.fit.exponent


def _draw_fit(axes: Axes, family: Family) -> None:
    if (found := _fitted(family)) is not None:
        label = static_label(f"power law, {family.label}")
        axes.plot(*found, color=BLACK, linestyle=":", linewidth=0.9, zorder=2, label=label)


def _law_traces(families: Sequence[Family]) -> list[dict[str, Any]]:
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "name": chart_label(f"power law, {family.label}"),
            "x": found[0].tolist(),
            "y": found[1].tolist(),
            "line": {"color": BLACK, "dash": "dot", "width": 1},
            "hoverinfo": "skip",
        }
        for family in families
        if (found := _fitted(family)) is not None
    ]


def cost_chart(kind: CostKind, points: Sequence[PointCost], families: Sequence[Family] = ()) -> dict[str, Any]:
    """The interactive one: a trace a point with its bars, one a point with its seeds (hidden until asked for)."""
    front = front_of(points)
    steps = {
        "type": "scatter",
        "mode": "lines",
        "name": "Pareto front",
        "x": [each.cost for each in front],
        "y": [each.loss.mean for each in front],
        "line": {"color": "#999999", "shape": "hv"},
        "hoverinfo": "skip",
    }
    traces: list[Any] = [steps, *_law_traces(families)]
    for place, each in enumerate(points):
        mark, label = mark_of(place), each.point.label
        interval = each.loss.interval
        bars = {"type": "data", "symmetric": False, "visible": interval is not None}
        if interval is not None:
            bars |= {"array": [interval.high - each.loss.mean], "arrayminus": [each.loss.mean - interval.low]}
        hover = f"{chart_label(label)}<br>%{{x:.4g}} {kind.title}<br>loss %{{y:.4f}}, {len(each.runs)} seeds"
        level = {"type": "data", "symmetric": False, "visible": len(each.runs) > 1}
        level |= {"array": [max(each.costs) - each.cost], "arrayminus": [each.cost - min(each.costs)]}
        means = {"x": [each.cost], "y": [each.loss.mean], "error_x": level, "error_y": bars, "mode": "markers"}
        traces.append(trace_of(mark, label, label, hovertemplate=f"{hover}<extra></extra>", **means))
        if len(each.runs) > 1:
            seeds = [f"seed {run.seed}" for run in each.runs]
            traces.append(
                trace_of(
                    mark,
                    f"{label}, seeds",
                    label,
                    mode="markers",
                    visible="legendonly",
                    opacity=0.5,
                    x=list(each.costs),
                    y=finite_or_none(each.losses),
                    text=seeds,
                    hovertemplate="%{text}<br>%{x:.4g}<br>loss %{y:.4f}<extra></extra>",
                )
            )
    return {
        "data": traces,
        "layout": chart_layout(kind.title, _LOSS_TITLE, logarithmic=_is_logarithmic(points), in_powers=kind is FLOPS),
    }


def _front_table(found: dict[str, list[PointCost]]) -> Table:
    fronts = {name: front_of(points) for name, points in found.items()}
    by_label: dict[int, dict[str, PointCost]] = {}
    for name, points in found.items():
        for each in points:
            by_label.setdefault(id(each.point), {})[name] = each
    on: dict[int, list[str]] = {}
    for name, front in fronts.items():
        for each in front:
            on.setdefault(id(each.point), []).append(name)
    rows = [_front_row(by_label[key], names) for key, names in on.items()]
    loss_name = next(each.point.loss_name for points in found.values() for each in points)
    return Table(
        caption="Points on a Pareto front",
        columns=_FRONT_COLUMNS,
        rows=tuple(sorted(rows, key=lambda row: float(row[2].sort or 0))),
        notes=(
            f"Losses: nats a token on {LOSS_TEXT[loss_name]}.",
            "A front is of means: a point whose interval holds another's loss may change places with it.",
            "Minutes are of the machine that ran them, as busy as it then was.",
        ),
    )


def _front_row(costs: dict[str, PointCost], names: Sequence[str]) -> tuple[Cell, ...]:
    any_cost = next(iter(costs.values()))
    interval = any_cost.loss.interval
    label = any_cost.point.label
    return (
        Cell(label, label),
        Cell(", ".join(names), ", ".join(names)),
        number_cell(any_cost.loss.mean, numbers.loss, any_cost.runs),
        Cell(numbers.interval(interval) if interval else any_cost.loss.reason or ""),
        *(
            number_cell(each.cost, kind.write, each.runs) if (each := costs.get(kind.name)) else Cell("")
            for kind in COST_KINDS
        ),
        Cell(seed_links(any_cost.runs), len(any_cost.runs)),
    )


def _scaling_blocks(families: dict[str, list[Family]]) -> list[Block]:
    every = [family for found in families.values() for family in found]
    if not every:
        return [Paragraph("No scaling is fitted: no two points differ in their sizes alone.", "note")]
    fitted = [family for family in every if family.fit.exponent is not None]
    blocks: list[Block] = [
        Paragraph(f"No scaling is fitted to {family.kind.title} of {family.label}: {family.fit.reason}.", "note")
        for family in every
        if family.fit.exponent is None
    ]
    if fitted:
        notes = ["The law is taken for true and has no irreducible loss: it says nothing beyond the sizes at hand."]
        if any(family.fit.points == 3 for family in fitted):
            notes.append("Three points leave one degree of freedom: their interval is as wide as that.")
        rows = tuple(map(_fit_row, fitted))
        blocks.append(Table(caption="Fitted loss = a · size^b", columns=_FIT_COLUMNS, rows=rows, notes=tuple(notes)))
    return blocks


def _fit_row(family: Family) -> tuple[Cell, ...]:
    fit, interval = family.fit, family.fit.interval
    assert interval is not None
    sides = "holds 0: no evidence that size changes the loss" if interval.low <= 0 <= interval.high else "excludes 0"
    return (
        Cell(family.label, family.label),
        Cell(family.kind.title, family.kind.title),
        number_cell(fit.points, numbers.whole),
        number_cell(fit.factor, numbers.short),
        number_cell(fit.exponent, numbers.loss),
        Cell(f"{numbers.interval(interval)}, {sides}", interval.low),
    )
