"""`python -m benchmarks scaling`: how time and memory of a step grow with each size, as slopes on log-log axes.

A slope of 1 is proportional. Memory is what came after the imports: a process's constant part would flatten the slope.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cases import Contestant, ContestantName
from benchmarks.children import Failure
from benchmarks.measure import race
from gnn_moe.config import ModelConfig, TrainingConfig, to_dict
from gnn_moe.model.size import model_size

Grow = Callable[[ModelConfig, TrainingConfig, int], tuple[ModelConfig, TrainingConfig]]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A size that grows while all others stay."""

    name: str
    label: str
    values: tuple[int, ...]
    grow: Grow
    against_hyperedges: bool = False
    """The slope is against the hyperedges that the value gives, not against the value."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One size of one contestant."""

    contestant: str
    value: int
    against: int
    """What the slope is taken against."""
    seconds: float | None
    step_bytes: int | None
    failure: Failure | None


@dataclass(frozen=True, kw_only=True)
class Slopes:
    """d log y / d log x of one contestant: over all points, and over the upper half of them."""

    seconds: float | None
    seconds_upper: float | None
    memory: float | None
    memory_upper: float | None


@dataclass(frozen=True, kw_only=True)
class ScalingResult:
    """One axis."""

    axis: str
    label: str
    model: dict[str, Any]
    training: dict[str, Any]
    points: tuple[Point, ...]
    slopes: dict[str, Slopes]
    """By contestant."""


def _model(**names: str) -> Grow:
    """Sets fields of the model: `_model(embed_dim="")` to the value, others to what is given."""

    def grow(model: ModelConfig, training: TrainingConfig, value: int) -> tuple[ModelConfig, TrainingConfig]:
        changes: dict[str, Any] = {name: fixed or value for name, fixed in names.items()}
        return dataclasses.replace(model, **changes), training

    return grow


def _batch(model: ModelConfig, training: TrainingConfig, value: int) -> tuple[ModelConfig, TrainingConfig]:
    return model, dataclasses.replace(training, batch_size=value)


def _hyperedges(strategy: str) -> Grow:
    return _model(num_experts="", coupler_type="HGNN", static_hyperedge_strategy=strategy)


_MANY = (4, 8, 16, 32)
AXES: Mapping[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(name="experts", label="experts E", values=(2, 4, 8, 16, 32, 64), grow=_model(num_experts="")),
        Axis(
            name="all_pairs",
            label="hyperedges M, all pairs of 4 to 32 experts",
            values=_MANY,
            grow=_hyperedges("all_pairs"),
            against_hyperedges=True,
        ),
        Axis(
            name="all_triplets",
            label="hyperedges M, all triplets of 4 to 32 experts",
            values=_MANY,
            grow=_hyperedges("all_triplets"),
            against_hyperedges=True,
        ),
        Axis(name="width", label="width D", values=(64, 128, 256, 512, 1024), grow=_model(embed_dim="")),
        Axis(name="layers", label="layers", values=(1, 2, 4, 8, 16), grow=_model(num_layers="")),
        Axis(name="positions", label="positions T", values=(128, 256, 512, 1024, 2048), grow=_model(max_seq_length="")),
        Axis(name="batch", label="batch", values=(1, 2, 4, 8, 16, 32, 64), grow=_batch),
    )
}


def scale(
    axis: Axis,
    model: ModelConfig,
    training: TrainingConfig,
    *,
    kinds: Sequence[ContestantName],
    rounds: int,
    warmup: int,
    largest: int | None = None,
) -> ScalingResult:
    """Races the contestants at every value of an axis, each in a fresh process; `largest` leaves out those above."""
    points: list[Point] = []
    for value in axis.values:
        if largest is None or value <= largest:
            points += _points(axis, *axis.grow(model, training, value), value, kinds, rounds, warmup)
    return ScalingResult(
        axis=axis.name,
        label=axis.label,
        model=to_dict(model),
        training=to_dict(training),
        points=tuple(points),
        slopes={kind: slopes_of([point for point in points if point.contestant == kind]) for kind in kinds},
    )


def _points(
    axis: Axis,
    model: ModelConfig,
    training: TrainingConfig,
    value: int,
    kinds: Sequence[ContestantName],
    rounds: int,
    warmup: int,
) -> list[Point]:
    entered = {str(kind): Contestant(kind=kind, model=model, training=training) for kind in kinds}
    found = race(entered, rounds=rounds, warmup=warmup)
    against = model_size(model).hyperedges if axis.against_hyperedges else value
    return [
        Point(
            contestant=name,
            value=value,
            against=against,
            seconds=figures.timing.median if (figures := found.figures.get(name)) else None,
            step_bytes=figures.step_bytes if figures else None,
            failure=found.failures.get(name),
        )
        for name in entered
    ]


def slopes_of(points: Sequence[Point]) -> Slopes:
    """The fitted slopes of one contestant's points."""
    seconds = [(point.against, point.seconds) for point in points if point.seconds is not None]
    memory = [(point.against, float(point.step_bytes)) for point in points if point.step_bytes is not None]
    return Slopes(
        seconds=fit_slope(seconds),
        seconds_upper=fit_slope(seconds[len(seconds) // 2 :]),
        memory=fit_slope(memory),
        memory_upper=fit_slope(memory[len(memory) // 2 :]),
    )


def fit_slope(points: Sequence[tuple[float, float]]) -> float | None:
    """The slope of the least-squares line through (log x, log y); None for fewer than two points above 0."""
    positive = [(x, y) for x, y in points if x > 0 and y > 0]
    if len({x for x, _ in positive}) < 2:
        return None
    logarithms = np.log(np.array(positive))
    return float(np.polyfit(logarithms[:, 0], logarithms[:, 1], 1)[0])
