"""Loss, perplexity, learning rate and gradient norm over the steps of a run.

Letters: n logged steps, k evaluations. Every series keeps its own steps; a value that is not finite is left out of the
line and its step kept, so that the figure can mark it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gnn_moe.figures.style import (
    BLUE,
    NOTE,
    PALE,
    VERMILLION,
    Floats,
    Integers,
    mark_left_out,
    new_figure,
    plain_numbers,
    save_figure,
    style_axes,
    use_log_scale,
)

SMOOTHING_FRACTION = 0.05
"""Width of the running mean of the training loss, as a part of the logged steps."""
LOG_SCALE_RATIO = 20
"""Greatest over smallest value from which a panel is logarithmic."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One quantity over steps."""

    step: Integers
    """(n,) steps with a finite value, ascending."""
    value: Floats
    """(n,) the values."""
    left_out: Integers
    """Steps whose value was not finite."""

    def __bool__(self) -> bool:
        return len(self.step) + len(self.left_out) > 0


@dataclass(frozen=True, kw_only=True)
class CurveData:
    """What the curves of one run show."""

    train_loss: Series
    """Nats a token, of each logged step."""
    smoothed_loss: Series
    """Centred running mean of `train_loss`."""
    learning_rate: Series
    gradient_norm: Series
    """Before clipping."""
    evaluation_loss: Series
    """Nats a token, on the evaluation set."""
    perplexity: Series
    """On the evaluation set."""

    def __bool__(self) -> bool:
        return any((self.train_loss, self.learning_rate, self.gradient_norm, self.evaluation_loss, self.perplexity))

    @property
    def best_evaluation(self) -> tuple[int, float] | None:
        """(step, loss) of the lowest evaluation loss; None without one."""
        if len(self.evaluation_loss.step) == 0:
            return None
        best = int(np.argmin(self.evaluation_loss.value))
        return int(self.evaluation_loss.step[best]), float(self.evaluation_loss.value[best])


def curve_data(rows: Iterable[Mapping[str, Any]]) -> CurveData:
    """Sorts the rows of `metrics.jsonl` into series; rows of another kind and absent values are passed over.

    A value of null counts as not finite, since strict JSON has no NaN.
    """
    rows = list(rows)
    train = [row for row in rows if row.get("kind") == "train"]
    evaluation = [row for row in rows if row.get("kind") == "eval"]
    train_loss = _series(train, "loss")
    return CurveData(
        train_loss=train_loss,
        smoothed_loss=Series(step=train_loss.step, value=running_mean(train_loss.value), left_out=train_loss.left_out),
        learning_rate=_series(train, "learning_rate"),
        gradient_norm=_series(train, "gradient_norm"),
        evaluation_loss=_series(evaluation, "loss"),
        perplexity=_series(evaluation, "perplexity"),
    )


def running_mean(value: Floats) -> Floats:
    """Centred mean (n,) → (n,) over about `SMOOTHING_FRACTION` of the values: no lag, and a straight line stays itself.

    At the start, where the loss falls steeply, the window shrinks on both sides alike; at the end, where only noise is
    left, the last whole window goes on as its least-squares line.
    """
    half = int(len(value) * SMOOTHING_FRACTION / 2)
    if half == 0:
        return value.copy()
    index = np.arange(len(value) - half)
    reach = np.minimum(index, half)
    total = np.concatenate([[0.0], np.cumsum(value)])
    whole = (total[index + reach + 1] - total[index - reach]) / (2 * reach + 1)
    offset = np.arange(-half, half + 1)
    slope = offset @ value[-len(offset) :] / (offset @ offset)
    return np.concatenate([whole, whole[-1] + slope * offset[half + 1 :]])


def _series(rows: list[Mapping[str, Any]], name: str) -> Series:
    pairs = sorted((int(row["step"]), _number(row[name])) for row in rows if name in row)
    step = np.array([pair[0] for pair in pairs], dtype=np.int64)
    value = np.array([pair[1] for pair in pairs], dtype=np.float64)
    finite = np.isfinite(value)
    return Series(step=step[finite], value=value[finite], left_out=step[~finite])


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def draw_curves(data: CurveData, path: Path) -> list[Path]:
    """Writes the four panels as one PNG; without any row it writes nothing and returns []."""
    return [save_figure(curves_figure(data), path)] if data else []


def curves_figure(data: CurveData) -> Figure:
    """Four panels: loss (training, smoothed, evaluation), perplexity, learning rate, gradient norm."""
    figure = new_figure(9, 6)
    panels = figure.subplots(2, 2, sharex=True, squeeze=False)
    _draw_loss(panels[0, 0], data)
    _draw_one(panels[0, 1], data.perplexity, "Perplexity, evaluation", marker="o")
    _draw_one(panels[1, 0], data.learning_rate, "Learning rate")
    _draw_one(panels[1, 1], data.gradient_norm, "Gradient norm, before clipping")
    for axes in panels[1]:
        axes.set_xlabel("step", fontsize=8)
    return figure


def _draw_loss(axes: Axes, data: CurveData) -> None:
    style_axes(axes, "Loss", y_label="nats a token")
    few = len(data.train_loss.step) < 3
    if len(data.train_loss.step):
        axes.plot(
            data.train_loss.step,
            data.train_loss.value,
            color=BLUE if few else PALE,
            linewidth=0.9,
            marker="s" if few else "",
            markersize=4,
            label="training",
        )
        if not few:
            axes.plot(
                data.smoothed_loss.step,
                data.smoothed_loss.value,
                color=BLUE,
                linewidth=1.6,
                label="training, running mean",
            )
    if data.best_evaluation is not None:
        step, loss = data.best_evaluation
        axes.plot(
            data.evaluation_loss.step,
            data.evaluation_loss.value,
            color=VERMILLION,
            linestyle="--",
            marker="o",
            markersize=4,
            label=f"evaluation (lowest {loss:.4f} at step {step})",
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, loc="best" if few else "upper right")
    else:
        _say_nothing_recorded(axes)
    left_out = np.union1d(data.train_loss.left_out, data.evaluation_loss.left_out)
    mark_left_out(axes, left_out, len(data.train_loss.left_out) + len(data.evaluation_loss.left_out))


def _draw_one(axes: Axes, series: Series, title: str, *, marker: str = "") -> None:
    style_axes(axes, title)
    if len(series.step):
        axes.plot(
            series.step,
            series.value,
            color=VERMILLION if marker else BLUE,
            linestyle="--" if marker else "-",
            linewidth=1.3,
            marker="o" if len(series.step) == 1 else marker,
            markersize=4,
        )
        low, high = float(series.value.min()), float(series.value.max())
        if low > 0 and high > LOG_SCALE_RATIO * low and not title.startswith("Learning"):
            use_log_scale(axes)
        else:
            plain_numbers(axes)
    else:
        _say_nothing_recorded(axes)
    mark_left_out(axes, series.left_out, len(series.left_out))


def _say_nothing_recorded(axes: Axes) -> None:
    axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", color=NOTE, fontsize=8)
    axes.set_yticks([])
