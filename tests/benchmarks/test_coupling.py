"""What coupling costs, from made rounds, and the case that has thousands of hyperedges."""

from __future__ import annotations

import pytest

from benchmarks import coupling
from benchmarks.children import Failure
from benchmarks.coupling import coupling_alone, coupling_cost, many_hyperedges
from benchmarks.measure import Race, StepFigures, timing
from gnn_moe.config import ModelConfig, TrainingConfig

MODEL = ModelConfig(num_experts=4, embed_dim=64, num_layers=1)
TRAINING = TrainingConfig(batch_size=2)


def figures(*seconds: float, step_bytes: int = 10**8) -> StepFigures:
    return StepFigures(
        timing=timing(seconds),
        tokens_per_second=1.0,
        peak_bytes=3 * 10**8,
        step_bytes=step_bytes,
        part_seconds={},
        part_bytes={},
    )


def race_of(**found: StepFigures) -> Race:
    return Race(figures=found, failures={}, limit=None)


def test_cost_is_of_differences_within_a_round() -> None:
    """The machine slows down twofold in the last round: medians alone would see another difference."""
    seconds = {"mean": (1.0, 1.0, 2.0), "GNN": (1.5, 1.6, 3.0)}
    cost = coupling_cost("GNN", seconds, {"mean": 1000, "GNN": 1600})
    assert cost.extra_seconds == pytest.approx(0.6)
    assert cost.extra_flops == 600
    assert cost.over_own_rate == pytest.approx(0.6 / (600 / (1600 / 1.6)))
    assert cost.over_mean_rate == pytest.approx(0.6 / (600 / (1000 / 1.0)))
    assert cost.met


def test_a_cost_above_the_target_is_not_met() -> None:
    cost = coupling_cost("GNN", {"mean": (1.0,), "GNN": (2.0,)}, {"mean": 1000, "GNN": 1200})
    assert cost.over_own_rate == pytest.approx(1.0 / (200 / 600))
    assert not cost.met


def test_hypergraph_slower_than_graph_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    found = race_of(mean=figures(1.0, 1.0), GNN=figures(1.1, 1.2), HGNN=figures(1.2, 1.3))
    monkeypatch.setattr(coupling, "race", lambda *args, **kwargs: found)
    result = coupling_alone("x", MODEL, TRAINING, rounds=2, warmup=0)
    assert set(result.costs) == {"GNN", "HGNN"}
    assert result.hgnn_over_gnn == pytest.approx((1.2 / 1.1 + 1.3 / 1.2) / 2)
    assert not result.hgnn_met


@pytest.mark.parametrize(
    ("seconds", "step_bytes", "met"), [(1.02, 10**8, True), (1.05, 10**8, False), (1.0, 2e8, False)]
)
def test_many_hyperedges_must_cost_what_one_does(
    seconds: float, step_bytes: float, met: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = race_of(many=figures(seconds, step_bytes=int(step_bytes)), one=figures(1.0))
    monkeypatch.setattr(coupling, "race", lambda *args, **kwargs: found)
    result = many_hyperedges("x", ModelConfig(coupler_type="HGNN", num_experts=64), TRAINING, rounds=1, warmup=0)
    assert result.hyperedges == 2016
    assert result.met is met


def test_what_failed_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {name: Failure(kind="killed", detail="") for name in ("many", "GNN")}
    found = Race(figures={"one": figures(1.0), "mean": figures(1.0)}, failures=failed, limit=None)
    monkeypatch.setattr(coupling, "race", lambda *args, **kwargs: found)
    assert not many_hyperedges("x", ModelConfig(coupler_type="HGNN"), TRAINING, rounds=1, warmup=0).met
    alone = coupling_alone("x", MODEL, TRAINING, rounds=1, warmup=0)
    assert alone.costs == {}
    assert not alone.hgnn_met
