"""`python -m benchmarks coupler`: what coupling costs over `mean`."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import CASES, Contestant
from benchmarks.intervals import lies_within, median_interval, scaled
from benchmarks.measure import Limit, Race, race
from benchmarks.rates import PASSES, Product, step_products
from gnn_moe.config import ModelConfig, TrainingConfig, to_dict
from gnn_moe.model.size import model_size
from gnn_moe.studies.statistics import Interval

COST_TARGET = 1.5
"""At most: seconds over `mean`, over what the extra FLOPs cost at the step's own rate."""
SIZES = {"config1": "config1-gnn", "eight-experts": "eight-experts"}
"""Where coupling is measured alone: its name → the case of `step` that it takes sizes and batch from."""
COUPLED = ("GNN", "HGNN")
_COUPLER, _MAPS = "coupler ", "coupler transform"
"""How the names of a coupler's products begin, and of those among them that map width to width."""


@dataclass(frozen=True, kw_only=True)
class Floor:
    """Seconds of a coupler's products alone, each at the best rate seen in the race."""

    products_seconds: float
    """All of them."""
    maps_seconds: float
    """Those that map width to width: no form of the coupler can take less. What mixes the experts of a token is bound
    by memory and may be faster in another form than as the product that was timed."""


@dataclass(frozen=True, kw_only=True)
class CouplingCost:
    """A coupler over `mean`, from differences within a round."""

    differences: tuple[float, ...]
    """Seconds, one a round."""
    extra_seconds: float
    """Their median."""
    extra_interval: Interval | None
    """Of the median; None for too few rounds."""
    extra_flops: int
    over_own_rate: float
    """extra_seconds over what the extra FLOPs cost at the rate of the coupled step."""
    over_own_interval: Interval | None
    """extra_interval in the same unit: the rate, of whole steps, is taken for exact."""
    over_mean_rate: float
    """The same at the rate of the step with `mean`."""
    floor: Floor | None
    below_floor: bool
    """Whether extra_seconds is less than the coupler's maps alone take: noise, not a cost."""
    met: bool | None
    """None where it cannot be told: the interval holds the target, or the figure is noise."""


@dataclass(frozen=True, kw_only=True)
class CouplingResult:
    """GNN and HGNN at one size."""

    name: str
    model: dict[str, Any]
    training: dict[str, Any]
    race: Race
    costs: dict[str, CouplingCost]
    hgnn_over_gnn: float | None
    """Median ratio of their steps within a round."""
    hgnn_over_gnn_interval: Interval | None
    hgnn_met: bool | None
    """None where the interval holds 1."""


def coupling_alone(
    name: str, model: ModelConfig, training: TrainingConfig, *, rounds: int, warmup: int
) -> CouplingResult:
    """Races `mean`, GNN and HGNN at the sizes of a model, beside the products of the two couplers alone."""
    models = {kind: dataclasses.replace(model, coupler_type=kind) for kind in ("mean", *COUPLED)}
    entered = {kind: Contestant(kind="ours", model=m, training=training) for kind, m in models.items()}
    products = {kind: coupler_products(models[kind], training) for kind in COUPLED}
    together = [product for kind in COUPLED for product in products[kind]]
    found = race(entered, rounds=rounds, warmup=warmup, products=(together, entered["GNN"]), part_repetitions=3)
    tokens = training.batch_size * model.max_seq_length
    flops = {kind: model_size(m).training_flops_per_token * tokens for kind, m in models.items()}
    seconds = {kind: figures.timing.seconds for kind, figures in found.figures.items()}
    floors = floors_of(found.limit, products)
    costs = {
        kind: coupling_cost(kind, seconds, flops, floors.get(kind))
        for kind in COUPLED
        if {kind, "mean"} <= set(seconds)
    }
    ratios = within_rounds(seconds["HGNN"], seconds["GNN"]) if set(COUPLED) <= set(seconds) else ()
    interval = median_interval(ratios)
    return CouplingResult(
        name=name,
        model=to_dict(model),
        training=to_dict(training),
        race=found,
        costs=costs,
        hgnn_over_gnn=statistics.median(ratios) if ratios else None,
        hgnn_over_gnn_interval=interval,
        hgnn_met=lies_within(interval, 0, 1) if ratios else False,
    )


def coupler_products(model: ModelConfig, training: TrainingConfig) -> list[Product]:
    """Those of a step that `mean` has not."""
    return [product for product in step_products(model, training) if product.name.startswith(_COUPLER)]


def floors_of(limit: Limit | None, products: Mapping[str, Sequence[Product]]) -> dict[str, Floor]:
    """By coupler, from the rates of the products of all of them, in their order."""
    if limit is None:
        return {}
    rates, floors = iter(limit.products), {}
    for kind, entered in products.items():
        own = [next(rates) for _ in entered for _ in PASSES]
        maps = [rate.seconds for rate in own if rate.name.startswith(_MAPS)]
        floors[kind] = Floor(products_seconds=sum(rate.seconds for rate in own), maps_seconds=sum(maps))
    return floors


def coupling_cost(
    kind: str, seconds: Mapping[str, tuple[float, ...]], flops: Mapping[str, int], floor: Floor | None = None
) -> CouplingCost:
    """From the seconds of each round and the FLOPs of a step, by coupler."""
    differences = tuple(coupled - mean for coupled, mean in zip(seconds[kind], seconds["mean"], strict=True))
    extra_seconds, extra_flops = statistics.median(differences), flops[kind] - flops["mean"]
    interval = median_interval(differences)

    def per_second_at_rate_of(step: str) -> float:
        rate = flops[step] / statistics.median(seconds[step])
        return rate / extra_flops

    over_own = scaled(interval, per_second_at_rate_of(kind))
    below_floor = floor is not None and extra_seconds < floor.maps_seconds
    return CouplingCost(
        differences=differences,
        extra_seconds=extra_seconds,
        extra_interval=interval,
        extra_flops=extra_flops,
        over_own_rate=extra_seconds * per_second_at_rate_of(kind),
        over_own_interval=over_own,
        over_mean_rate=extra_seconds * per_second_at_rate_of("mean"),
        floor=floor,
        below_floor=below_floor,
        met=None if below_floor else lies_within(over_own, -math.inf, COST_TARGET),
    )


def within_rounds(numerators: Sequence[float], denominators: Sequence[float]) -> tuple[float, ...]:
    """The ratio of each round."""
    return tuple(a / b for a, b in zip(numerators, denominators, strict=True))


def sizes_of(name: str) -> tuple[ModelConfig, TrainingConfig]:
    """The model and batch of one of `SIZES`."""
    case = CASES[SIZES[name]]
    return case.model, case.training
