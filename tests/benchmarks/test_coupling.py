"""What coupling costs, from made rounds."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import coupling
from benchmarks.children import Failure
from benchmarks.coupling import CouplingResult, Floor, coupler_products, coupling_alone, coupling_cost, floors_of
from benchmarks.measure import Limit, Race, StepFigures, timing
from benchmarks.rates import best_rates
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


FLOPS = {"mean": 1000, "GNN": 1600}


def test_cost_is_of_differences_within_a_round() -> None:
    """The machine slows down twofold in the last round: medians alone would see another difference."""
    seconds = {"mean": (1.0, 1.0, 2.0), "GNN": (1.5, 1.6, 3.0)}
    cost = coupling_cost("GNN", seconds, FLOPS)
    assert cost.differences == pytest.approx((0.5, 0.6, 1.0))
    assert cost.extra_seconds == pytest.approx(0.6)
    assert cost.extra_flops == 600
    assert cost.over_own_rate == pytest.approx(0.6 / (600 / (1600 / 1.6)))
    assert cost.over_mean_rate == pytest.approx(0.6 / (600 / (1000 / 1.0)))
    assert (cost.extra_interval, cost.met) == (None, None)


@pytest.mark.parametrize(
    ("coupled", "met"),
    [
        ((1.3, 1.3, 1.3, 1.3, 1.3, 1.4), True),
        ((1.3, 1.3, 1.3, 1.3, 1.3, 2.0), None),
        ((2.3, 2.3, 2.3, 2.3, 2.3, 2.4), False),
    ],
)
def test_a_verdict_needs_the_whole_interval(coupled: tuple[float, ...], met: bool | None) -> None:
    cost = coupling_cost("GNN", {"mean": (1.0,) * 6, "GNN": coupled}, FLOPS)
    assert cost.extra_interval is not None
    assert cost.over_own_interval is not None
    assert cost.extra_interval.high == pytest.approx(max(coupled) - 1)
    assert cost.over_own_interval.low == pytest.approx((coupled[0] - 1) / (600 / (1600 / coupled[1])))
    assert cost.met is met


@pytest.mark.parametrize(("maps", "below", "met"), [(0.29, False, True), (0.31, True, None)])
def test_a_difference_below_its_products_is_noise(maps: float, below: bool, met: bool | None) -> None:
    seconds = {"mean": (1.0,) * 6, "GNN": (1.3,) * 6}
    cost = coupling_cost("GNN", seconds, FLOPS, Floor(products_seconds=0.5, maps_seconds=maps))
    assert (cost.below_floor, cost.met) == (below, met)


def test_the_floor_is_of_each_couplers_own_products() -> None:
    kinds = ("GNN", "HGNN")
    products = {kind: coupler_products(dataclasses.replace(MODEL, coupler_type=kind), TRAINING) for kind in kinds}
    names = {kind: [product.name for product in entered] for kind, entered in products.items()}
    assert names == {
        "GNN": ["coupler gates", "coupler messages", "coupler transforms"],
        "HGNN": ["coupler propagation", "coupler transform"],
    }
    together = [product for kind in kinds for product in products[kind]]
    rates = best_rates(together, [[1.0] * 3 * len(together)])
    found = floors_of(Limit(flops=0, seconds=0.0, products=tuple(rates)), products)
    seconds = [3.0 * product.count for product in together]
    assert found == {
        "GNN": Floor(products_seconds=sum(seconds[:3]), maps_seconds=seconds[2]),
        "HGNN": Floor(products_seconds=sum(seconds[3:]), maps_seconds=seconds[4]),
    }
    assert floors_of(None, products) == {}


def alone(monkeypatch: pytest.MonkeyPatch, found: Race) -> CouplingResult:
    monkeypatch.setattr(coupling, "race", lambda *args, **kwargs: found)
    return coupling_alone("x", MODEL, TRAINING, rounds=2, warmup=0)


@pytest.mark.parametrize(("hgnn", "met"), [((1.2, 1.3), False), ((1.0, 1.1), True), ((1.0, 1.3), None)])
def test_the_hypergraph_is_held_to_the_graph(
    hgnn: tuple[float, float], met: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = race_of(mean=figures(*(1.0,) * 6), GNN=figures(*(1.1, 1.2) * 3), HGNN=figures(*hgnn * 3))
    result = alone(monkeypatch, found)
    assert set(result.costs) == {"GNN", "HGNN"}
    assert result.hgnn_over_gnn == pytest.approx((hgnn[0] / 1.1 + hgnn[1] / 1.2) / 2)
    assert result.hgnn_met is met


def test_what_failed_is_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"GNN": Failure(kind="killed", detail="")}
    result = alone(monkeypatch, Race(figures={"mean": figures(1.0)}, failures=failed, limit=None))
    assert result.costs == {}
    assert result.hgnn_met is False
