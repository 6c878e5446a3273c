"""How far arms lie apart as they train: curves of made-up runs with known differences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gnn_moe.reports.arms import arms_section
from gnn_moe.reports.difference_curves import difference_curve
from tests.reports.made_runs import eval_row, figures, group_of, rendered, write_run

STEPS = (10, 20, 30)
GAPS = {1: (0.3, 0.2, 0.1), 2: (0.2, 0.1, 0.0), 3: (0.4, 0.3, 0.2)}
"""HGNN minus GNN, by seed and step."""


def write_pair(folder: Path, seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    """GNN, and HGNN above it by `GAPS`, which also evaluated once more."""
    for seed in seeds:
        base = [6.0 + 0.1 * seed - step / 100 for step in STEPS]
        for kind, losses in (("GNN", base), ("HGNN", [loss + gap for loss, gap in zip(base, GAPS[seed], strict=True)])):
            rows = [eval_row(step, loss) for step, loss in zip(STEPS, losses, strict=True)]
            rows += [eval_row(40, 5.0)] if kind == "HGNN" else []
            write_run(folder / f"{kind}-{seed}", coupler_type=kind, seed=seed, loss=losses[-1], rows=rows)


def test_differences_are_paired_by_seed_at_each_common_step(tmp_path: Path) -> None:
    write_pair(tmp_path)
    points = {str(point.settings["coupler_type"]): point for point in group_of(tmp_path).points}
    found = difference_curve(points, "HGNN", "GNN")
    assert found is not None
    assert found.steps == STEPS
    for place, estimate in enumerate(found.estimates):
        gaps = np.array([GAPS[seed][place] for seed in (1, 2, 3)])
        low, high = stats.t.interval(0.95, 2, gaps.mean(), stats.sem(gaps))
        assert estimate.interval is not None
        assert (estimate.mean, estimate.interval.low, estimate.interval.high) == pytest.approx((gaps.mean(), low, high))
    assert difference_curve(points, "HGNN", "mean") is None


def test_the_section_of_arms_has_the_curve(tmp_path: Path) -> None:
    """One pair, whichever way round it is asked for; of one seed without a band."""
    write_pair(tmp_path / "three")
    write_pair(tmp_path / "one", seeds=(2,))
    for folder, has_band in (("three", True), ("one", False)):
        (figure,) = figures(arms_section(group_of(tmp_path / folder)))
        assert ("95 % t interval" in figure.caption) == has_band
        assert rendered(figure) == 1
        assert figure.chart is not None
        names = [trace["name"] for trace in figure.chart["data"]]
        assert names == (["HGNN minus GNN, band"] if has_band else []) + ["HGNN<br>minus GNN"]
        last = "+0.1000" if has_band else "0.0000"
        assert last in figure.description


def test_arms_without_a_common_seed_have_no_curve(tmp_path: Path) -> None:
    write_run(tmp_path / "a", coupler_type="GNN", seed=1)
    write_run(tmp_path / "b", coupler_type="HGNN", seed=2)
    assert figures(arms_section(group_of(tmp_path))) == []
