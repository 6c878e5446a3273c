"""The log-log plots of `scaling`: data first, figure second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scaling import fit_slope

MEGABYTE = 10**6


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One contestant's time or memory along one axis."""

    contestant: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    slope: float | None


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes."""

    x_label: str
    y_label: str
    curves: tuple[Curve, ...]


def scaling_panels(entries: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """Two panels an axis, time and memory, from the stored entries of the section."""
    panels = []
    for entry in entries.values():
        for key, y_label, unit in (("seconds", "seconds a step", 1), ("step_bytes", "MB a step", MEGABYTE)):
            names = list(dict.fromkeys(point["contestant"] for point in entry["points"]))
            curves = tuple(_curve(name, entry["points"], key, unit) for name in names)
            panels.append(Panel(x_label=entry["label"], y_label=y_label, curves=curves))
    return panels


def _curve(contestant: str, points: Sequence[Mapping[str, Any]], key: str, unit: int) -> Curve:
    found = [(p["against"], p[key] / unit) for p in points if p["contestant"] == contestant and p[key] is not None]
    return Curve(
        contestant=contestant, x=tuple(x for x, _ in found), y=tuple(y for _, y in found), slope=fit_slope(found)
    )


def draw_scaling(panels: Sequence[Panel], path: Path) -> Path:
    """Writes the figure: a row an axis, time to the left and memory to the right."""
    from gnn_moe.figures.style import LINE_STYLES, new_figure, save_figure, style_axes

    rows = -(-len(panels) // 2)
    figure = new_figure(8.0, 2.4 * rows)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(rows, 2, number + 1)
        style_axes(axes, f"{panel.y_label} against {panel.x_label}", x_label=panel.x_label, y_label=panel.y_label)
        for curve, (colour, line) in zip(panel.curves, LINE_STYLES, strict=False):
            slope = "" if curve.slope is None else f", slope {curve.slope:.2f}"
            label = f"{curve.contestant}{slope}"
            axes.loglog(curve.x, curve.y, color=colour, linestyle=line, marker="o", markersize=3, label=label)
        axes.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)
