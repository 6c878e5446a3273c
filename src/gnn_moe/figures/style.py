"""What the figures share: colours that survive colour blindness and grey print, axes, non-finite marks, the file.

Figures are built as `Figure` objects on the Agg canvas, never through pyplot: no global state, no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PNG_DPI = 200

# Okabe and Ito's colours (2008), with Tol's darker purple; the line style tells them apart in grey.
BLUE, VERMILLION, GREEN, PURPLE, SKY, BLACK = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9", "#000000"
LINE_STYLES: Sequence[tuple[str, str]] = (
    (BLUE, "-"),
    (VERMILLION, "--"),
    (GREEN, "-."),
    (BLACK, ":"),
    (PURPLE, "-"),
    (SKY, "--"),
)
PALE = "#9FB8C8"
EMPTY = "#E4E4E4"
NOTE = "#555555"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, with its own Agg canvas."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a PNG, making the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=PNG_DPI, format="png")
    return path


def style_axes(axes: Axes, title: str, *, x_label: str = "", y_label: str = "") -> None:
    """Title to the left, no box, quiet grid, whole steps."""
    axes.set_title(title, loc="left", fontsize=9, fontweight="bold")
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))


def use_log_scale(axes: Axes) -> None:
    """A logarithmic y axis whose ticks read as plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    plain_numbers(axes)


def plain_numbers(axes: Axes) -> None:
    """Ticks of the y axis as 0.0005 or 5e-05, without an offset in the corner."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))


def mark_left_out(axes: Axes, step: Integers, count: int) -> None:
    """A × at the top of the panel for each step whose value was not finite, and how many values there were."""
    if count == 0:
        return
    axes.plot(
        step,
        np.full(len(step), 0.97),
        linestyle="none",
        marker="x",
        color=VERMILLION,
        markersize=5,
        transform=axes.get_xaxis_transform(),
        gid="left-out",
    )
    text = "1 non-finite value left out" if count == 1 else f"{count} non-finite values left out"
    axes.set_title(f"× {text}", loc="right", fontsize=7, color=VERMILLION)
