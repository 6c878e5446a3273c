"""`python -m benchmarks coupler`: what coupling costs over `mean`, and that it does not grow with the hyperedges."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import CASES, Contestant
from benchmarks.measure import Race, race
from gnn_moe.config import ModelConfig, TrainingConfig, to_dict
from gnn_moe.model.size import model_size

COST_TARGET = 1.5
"""At most: seconds over `mean`, over what the extra FLOPs cost at the step's own rate."""
EQUAL_WITHIN = 0.03
"""Time and memory of many hyperedges against one."""
SIZES = {"config1": "config1-gnn", "eight-experts": "eight-experts"}
"""Where coupling is measured alone: its name → the case of `step` that it takes sizes and batch from."""


@dataclass(frozen=True, kw_only=True)
class CouplingCost:
    """A coupler over `mean`, from differences within a round."""

    extra_seconds: float
    """Median of the differences."""
    extra_flops: int
    over_own_rate: float
    """extra_seconds over what the extra FLOPs cost at the rate of the coupled step."""
    over_mean_rate: float
    """The same at the rate of the step with `mean`."""
    met: bool


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
    hgnn_met: bool


@dataclass(frozen=True, kw_only=True)
class HyperedgesResult:
    """Many hyperedges against one over all experts."""

    name: str
    hyperedges: int
    model: dict[str, Any]
    training: dict[str, Any]
    race: Race
    time: float | None
    """Many over one, median of the rounds."""
    memory: float | None
    """Many over one, of what came after the imports: those would hide a difference."""
    met: bool


def coupling_alone(
    name: str, model: ModelConfig, training: TrainingConfig, *, rounds: int, warmup: int
) -> CouplingResult:
    """Races `mean`, GNN and HGNN at the sizes of a model."""
    models = {kind: dataclasses.replace(model, coupler_type=kind) for kind in ("mean", "GNN", "HGNN")}
    entered = {kind: Contestant(kind="ours", model=m, training=training) for kind, m in models.items()}
    found = race(entered, rounds=rounds, warmup=warmup, part_repetitions=3)
    tokens = training.batch_size * model.max_seq_length
    flops = {kind: model_size(m).training_flops_per_token * tokens for kind, m in models.items()}
    seconds = {kind: figures.timing.seconds for kind, figures in found.figures.items()}
    costs = {kind: coupling_cost(kind, seconds, flops) for kind in ("GNN", "HGNN") if {kind, "mean"} <= set(seconds)}
    both = {"GNN", "HGNN"} <= set(seconds)
    ratio = _median_ratio(seconds["HGNN"], seconds["GNN"]) if both else None
    return CouplingResult(
        name=name,
        model=to_dict(model),
        training=to_dict(training),
        race=found,
        costs=costs,
        hgnn_over_gnn=ratio,
        hgnn_met=ratio is not None and ratio <= 1,
    )


def coupling_cost(kind: str, seconds: Mapping[str, tuple[float, ...]], flops: Mapping[str, int]) -> CouplingCost:
    """From the seconds of each round and the FLOPs of a step, by coupler."""
    rounds = zip(seconds[kind], seconds["mean"], strict=True)
    extra_seconds = statistics.median(coupled - mean for coupled, mean in rounds)
    extra_flops = flops[kind] - flops["mean"]

    def over_rate_of(step: str) -> float:
        rate = flops[step] / statistics.median(seconds[step])
        return extra_seconds / (extra_flops / rate)

    ratio = over_rate_of(kind)
    return CouplingCost(
        extra_seconds=extra_seconds,
        extra_flops=extra_flops,
        over_own_rate=ratio,
        over_mean_rate=over_rate_of("mean"),
        met=ratio <= COST_TARGET,
    )


def _median_ratio(numerators: tuple[float, ...], denominators: tuple[float, ...]) -> float:
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def many_hyperedges(
    name: str, model: ModelConfig, training: TrainingConfig, *, rounds: int, warmup: int
) -> HyperedgesResult:
    """Races an HGNN with the strategy of `model` against one hyperedge over all experts."""
    models = {"many": model, "one": dataclasses.replace(model, static_hyperedge_strategy="all")}
    entered = {kind: Contestant(kind="ours", model=m, training=training) for kind, m in models.items()}
    found = race(entered, rounds=rounds, warmup=warmup)
    time = memory = None
    if {"many", "one"} <= set(found.figures):
        many, one = found.figures["many"], found.figures["one"]
        time = _median_ratio(many.timing.seconds, one.timing.seconds)
        memory = many.step_bytes / one.step_bytes
    return HyperedgesResult(
        name=name,
        hyperedges=model_size(model).hyperedges,
        model=to_dict(model),
        training=to_dict(training),
        race=found,
        time=time,
        memory=memory,
        met=time is not None and memory is not None and max(abs(time - 1), abs(memory - 1)) <= EQUAL_WITHIN,
    )


def sizes_of(name: str) -> tuple[ModelConfig, TrainingConfig]:
    """The model and batch of one of `SIZES`."""
    case = CASES[SIZES[name]]
    return case.model, case.training
