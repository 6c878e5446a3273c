"""The figures of a run, made from its records alone: data first (tested as numbers), figure second.

    from gnn_moe.figures import write_figures
    write_figures(Path("runs/demo"))        # → runs/demo/figures/*.png

`curves` reads `metrics.jsonl`, `coupling` reads `coupling.npz`; `evolution` and `heat_maps` draw the latter.
"""

from __future__ import annotations

from pathlib import Path

from gnn_moe.figures.coupling import CouplingData, HypergraphLayer, coupling_data
from gnn_moe.figures.curves import CurveData, curve_data, draw_curves
from gnn_moe.figures.evolution import draw_coupling_evolution
from gnn_moe.figures.heat_maps import draw_coupling_matrix
from gnn_moe.training.record import COUPLING_FILE, METRICS_FILE, read_metrics

__all__ = [
    "CouplingData",
    "CurveData",
    "HypergraphLayer",
    "coupling_data",
    "curve_data",
    "draw_coupling_evolution",
    "draw_coupling_matrix",
    "draw_curves",
    "write_figures",
]


def write_figures(run_dir: Path) -> list[Path]:
    """Draws what the records of a run hold into `run_dir/figures`.

    Returns:
        The files written, curves first; records that are missing or empty give none.

    Raises:
        BadInput: a record exists and cannot be read.
    """
    folder = run_dir / "figures"
    written: list[Path] = []
    metrics, coupling = run_dir / METRICS_FILE, run_dir / COUPLING_FILE
    if metrics.exists():
        written += draw_curves(curve_data(read_metrics(metrics)), folder / "curves.png")
    if coupling.exists():
        data = coupling_data(coupling)
        written += draw_coupling_evolution(data, folder / "coupling_evolution.png")
        written += draw_coupling_matrix(data, folder / "coupling_matrix.png")
    return written
