"""How far arms lie apart as they train: paired differences of their evaluation losses, step by step, as a figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure as MatplotlibFigure

from gnn_moe.figures.style import NOTE, new_figure, style_axes
from gnn_moe.reports import numbers
from gnn_moe.reports.document import Figure
from gnn_moe.reports.marks import (
    MOST_MARKED,
    band_trace,
    chart_label,
    chart_layout,
    draw_band,
    draw_line,
    mark_of,
    trace_of,
)
from gnn_moe.reports.points import Point
from gnn_moe.reports.run_curves import point_curve
from gnn_moe.studies.statistics import LEVEL, MeanEstimate, mean_estimate, paired_differences

_TITLE = "difference in loss, nats a token"


@dataclass(frozen=True, kw_only=True)
class DifferenceCurve:
    """One arm minus another at each step that all their seeds in common evaluated at."""

    arm: str
    against: str
    steps: tuple[int, ...]
    estimates: tuple[MeanEstimate, ...]
    """Of the steps, over seeds in common: nats a token on the whole evaluation text, each with its 95 % t interval."""

    @property
    def label(self) -> str:
        return f"{self.arm} minus {self.against}"

    @property
    def has_band(self) -> bool:
        """Whether there is an interval anywhere."""
        return any(each.interval is not None for each in self.estimates)


def difference_curve(points: Mapping[str, Point], arm: str, against: str) -> DifferenceCurve | None:
    """Of two arms by their names; None where they have no seed, or no step, in common."""
    losses: list[dict[int, dict[int, float]]] = []
    for name in (arm, against):
        curve = point_curve(points[name])[0] if name in points else None
        each = (
            {}
            if curve is None
            else {one.run.seed: {at.step: at.loss for at in one.evaluations} for one in curve.curves}
        )
        losses.append(each)
    ours, theirs = losses
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    steps = sorted(set.intersection(*(set(of[seed]) for of in losses for seed in seeds)))
    estimates = tuple(
        mean_estimate(
            paired_differences([ours[seed][step] for seed in seeds], [theirs[seed][step] for seed in seeds]).tolist()
        )
        for step in steps
    )
    if not steps:
        return None
    return DifferenceCurve(arm=arm, against=against, steps=tuple(steps), estimates=estimates)


def difference_figure(name: str, points: Mapping[str, Point], pairs: Iterable[tuple[str, str]]) -> Figure | None:
    """The curves of some pairs, none twice; None where no pair has one.

    Args:
        name: of its files.
        points: by name.
        pairs: (arm, against); of more than `MOST_MARKED` the first are drawn.
    """
    once: dict[frozenset[str], tuple[str, str]] = {}
    for pair in pairs:
        once.setdefault(frozenset(pair), pair)
    found = [curve for arm, against in once.values() if (curve := difference_curve(points, arm, against)) is not None]
    shown = found[:MOST_MARKED]
    if not shown:
        return None
    band = f"; band: {100 * LEVEL:.0f} % t interval at each step by itself" if any(e.has_band for e in shown) else ""
    left = f" {len(found) - len(shown)} more pairs are not drawn." if len(found) > len(shown) else ""
    ends = "; ".join(f"{each.label} {numbers.difference(each.estimates[-1].mean)}" for each in shown)
    return Figure(
        name=name,
        caption="Differences of losses on the whole evaluation text over steps, paired by seed: below 0 the arm named "
        f"first is lower. Line: mean over seeds{band}. A band that leaves 0 at some step is no verdict: those follow."
        f"{left}",
        description=f"Curves of {numbers.counted(len(shown), 'difference')}. At the last common evaluation: {ends}.",
        draw=lambda: _drawn(shown),
        chart=_chart(shown),
    )


def _drawn(found: Iterable[DifferenceCurve]) -> MatplotlibFigure:
    figure = new_figure(7.0, 3.8)
    axes = figure.subplots()
    style_axes(axes, "Paired differences, whole text", x_label="steps", y_label=_TITLE)
    axes.axhline(0, color=NOTE, linewidth=0.8)
    for place, each in enumerate(found):
        mark = mark_of(place)
        low, high = _band(each)
        if each.has_band:
            draw_band(axes, each.steps, low, high, mark)
        draw_line(axes, each.steps, [estimate.mean for estimate in each.estimates], mark, each.label)
    figure.legend(loc="outside lower center", ncols=1, fontsize=7, frameon=False)
    return figure


def _chart(found: Iterable[DifferenceCurve]) -> dict[str, Any]:
    traces: list[Any] = []
    for place, each in enumerate(found):
        mark, x = mark_of(place), list(each.steps)
        if each.has_band:
            traces.append(band_trace(mark, each.label, x, *_band(each)))
        hover = f"{chart_label(each.label)}<br>step %{{x:.4g}}<br>%{{y:+.4f}}<extra></extra>"
        y = [estimate.mean for estimate in each.estimates]
        name = f"{each.arm}\nminus {each.against}"  # in two lines, which a phone has room for
        traces.append(trace_of(mark, name, each.label, x=x, y=y, mode="lines+markers", hovertemplate=hover))
    zero = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"width": 1, "color": NOTE}}
    return {"data": traces, "layout": {**chart_layout("steps", _TITLE, logarithmic=False), "shapes": [zero]}}


def _band(each: DifferenceCurve) -> tuple[list[float], list[float]]:
    """The ends of the intervals by step; without one the mean itself."""
    ends = [(e.mean, e.mean) if e.interval is None else (e.interval.low, e.interval.high) for e in each.estimates]
    return [low for low, _ in ends], [high for _, high in ends]
