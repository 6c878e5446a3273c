"""Of two runs of one point and seed the first with a loss counts, in every number, curve and record of strengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnn_moe.reports.coupling_questions import ablation_section
from gnn_moe.reports.couplings import read_couplings
from gnn_moe.reports.measures import measure_generalisation_gap, measure_minutes_ratio, measure_movement
from gnn_moe.reports.run_curves import gaps_of, read_curves
from gnn_moe.reports.tables import rows_of
from tests.reports.made_runs import eval_row, group_of, tables, train_row, words, write_run

PAIR = {"steps": [0, 20], "incidence": np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)}


def weights(end: float) -> dict[str, Any]:
    return PAIR | {"layer_0/hyperedge_weights": np.array([[1.0, 1.0, 1.0], [1 + end, 1 + 2 * end, 1 + 3 * end]])}


def test_a_gap_is_of_one_run(tmp_path: Path) -> None:
    """The run that counts did not measure its training loss; that of the second is not taken for it."""
    write_run(tmp_path / "a", summary={"final_eval_loss": 5.0})
    write_run(tmp_path / "b", summary={"final_eval_loss": 9.0, "final_train_loss": 2.0})
    group = group_of(tmp_path)
    assert gaps_of(group.points[0]) == {}
    assert measure_generalisation_gap(group, "generalisation_gap", None, None).value is None
    assert group.points[0].by_seed("final_train_loss") == {}


def test_minutes_are_of_the_runs_whose_losses_count(tmp_path: Path) -> None:
    """One run of GNN lost its loss, and another of its seed has one: 3 minutes over 4."""
    for seed in (1, 2):
        write_run(tmp_path / f"hgnn-{seed}", coupler_type="HGNN", seed=seed, minutes=3.0)
        lost = {"best_eval_loss": None}
        write_run(tmp_path / f"a-{seed}", coupler_type="GNN", seed=seed, minutes=100.0, rows=[], summary=lost)
        write_run(tmp_path / f"b-{seed}", coupler_type="GNN", seed=seed, minutes=4.0)
    group = group_of(tmp_path)
    assert measure_minutes_ratio(group, "minutes_ratio", "HGNN", "GNN").value == pytest.approx(0.75)
    (row,) = (row for row in rows_of(group, None, group.points) if row.point.settings["coupler_type"] == "GNN")
    assert row.mean("train_minutes") == 4.0


def test_movement_is_of_one_run_a_seed(tmp_path: Path) -> None:
    for seed, end in ((1, 0.1), (2, 0.2), (3, 0.3)):
        write_run(tmp_path / f"a-{seed}", num_experts=3, coupler_type="HGNN", seed=seed, coupling=weights(end))
    alone = measure_movement(group_of(tmp_path), "movement_over_spread", "HGNN", None)
    assert alone.value == pytest.approx(2.0)  # changes of 0.2, 0.4 and 0.6 in the mean: 0.4 over a spread of 0.2
    write_run(tmp_path / "b-1", num_experts=3, coupler_type="HGNN", seed=1, coupling=weights(9.0))
    assert measure_movement(group_of(tmp_path), "movement_over_spread", "HGNN", None) == alone


def test_curves_strengths_and_ablations_are_of_the_run_that_counts(tmp_path: Path) -> None:
    """A second run of the seed gives none of them, though the first lacks some; both are named."""
    write_run(tmp_path / "a", num_experts=3, coupler_type="HGNN")
    rows = [train_row(10, 9.0), eval_row(10, 9.0)]
    second = write_run(tmp_path / "b", num_experts=3, coupler_type="HGNN", loss=9.0, rows=rows, coupling=weights(1.0))
    answer = '{"coupler": {"reported_loss": 5.0, "ablated_reported_loss": 6.0}}'
    (second / "ablations.json").write_text(answer, encoding="utf-8")
    group = group_of(tmp_path)
    (curve,), said = read_curves(group)
    assert [each.run.name for each in curve.curves] == ["a"]
    assert said == ["b: a second run of its seed, so its curve is not drawn"]
    found, said = read_couplings(group)
    assert found == []
    assert "1 completed run has no coupling.npz here: a." in said
    assert "1 run that does not count is left out here: b (a second run of its seed)." in said
    assert "What trained models lose by an ablation" not in tables(ablation_section(group))
    assert "No run was asked" in words(ablation_section(group))
