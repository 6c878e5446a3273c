"""What points cost and reach, as numbers: minutes, FLOPs and parameters beside losses, the Pareto front, scaling."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gnn_moe.config import RunConfig
from gnn_moe.errors import BadInput
from gnn_moe.model.size import model_size
from gnn_moe.reports import numbers
from gnn_moe.reports.points import Group, Point, Run
from gnn_moe.studies.statistics import MeanEstimate, ScalingFit, mean_estimate, scaling_fit

MODEL_FIELDS = ("num_experts", "embed_dim", "num_layers", "gnn_layers")
"""Fields that make a model larger; points that differ in these alone share a power law of loss over parameters."""
TRAINING_FIELDS = (
    "epochs",
    "max_batches_per_epoch",
    "max_steps",
    "num_train_samples",
)
"""Fields that make training longer: with those of the model they share a power law of loss over FLOPs.

The batch size is in neither: it changes how a model learns, not how large anything is.
"""


UNSTEADY = 1.5
"""Fastest over slowest seed of a point, beyond which its minutes are of the machine's other work."""


@dataclass(frozen=True, kw_only=True)
class CostKind:
    """A cost to hold losses against."""

    name: str
    """Of its figure."""
    title: str
    """With its unit."""
    write: Callable[[float], str]
    """How its numbers are written."""
    of_run: Callable[[Run], float | None]
    over_seeds: Callable[[Sequence[float]], float] = statistics.fmean
    """Of a point's runs: the median of minutes, which one busy hour does not move."""
    sizes: tuple[str, ...]
    """Fields in which the points of a power law may differ; () where none is fitted: minutes are of the machine."""


@dataclass(frozen=True, kw_only=True)
class PointCost:
    """A point with its loss and one cost, over the runs that have both."""

    point: Point
    runs: tuple[Run, ...]
    """One a seed."""
    costs: tuple[float, ...]
    """Of the runs."""
    losses: tuple[float, ...]
    """Of the runs, nats a token."""
    cost: float
    """Over the runs, as its kind says."""

    @property
    def loss(self) -> MeanEstimate:
        """Mean over the runs with its 95 % t interval."""
        return mean_estimate(self.losses)


@dataclass(frozen=True, kw_only=True)
class Family:
    """Points that differ in sizes alone, and the power law through their means."""

    label: str
    """What they share, of the fields that vary."""
    kind: CostKind
    points: tuple[PointCost, ...]
    fit: ScalingFit


def minutes_of_run(run: Run) -> float | None:
    """Minutes of training and evaluation; None where the record has not both."""
    if (minutes := run.number("minutes")) is not None:
        return minutes
    training, evaluation = run.number("train_minutes"), run.number("eval_minutes")
    return None if training is None or evaluation is None else training + evaluation


def minutes_of_point(point: Point) -> float | None:
    """Median minutes of training and evaluation, of the runs whose losses count: one busy hour does not move it."""
    found = [minutes for run in point.counted if (minutes := minutes_of_run(run)) is not None]
    return statistics.median(found) if found else None


def minutes_in_words(group: Group, point: Point) -> str | None:
    """`3.1 minutes (one seed)` or `3.1 minutes (median of 5 seeds, 2.7 to 4.0)`; None where none is known."""
    found = sorted(minutes for run in point.counted if (minutes := minutes_of_run(run)) is not None)
    if not found:
        return None
    median = numbers.minutes(statistics.median(found))
    if len(found) == 1:
        return f"{median} minutes (one seed)"
    low, high = numbers.minutes(found[0]), numbers.minutes(found[-1])
    return f"{median} minutes (median of {len(found)} seeds, {low} to {high})"


def unsteady(group: Group, point: Point) -> str | None:
    """That the seeds of a point ran at speeds that differ by more than `UNSTEADY`, though their work is the same."""
    speeds = [speed for run in point.counted if (speed := run.number("tokens_per_second")) is not None and speed > 0]
    if len(speeds) < 2 or (fold := max(speeds) / min(speeds)) <= UNSTEADY:
        return None
    return (
        f"{point.label}: its seeds ran at {numbers.rate(min(speeds))} to {numbers.rate(max(speeds))} tokens a second, "
        f"{numbers.ratio(fold)}-fold apart: the machine was not equally free, and minutes say little of the point"
    )


def flops_of_run(run: Run) -> float | None:
    """Training FLOPs: tokens times FLOPs a token, as recorded, else by the config."""
    return sizes_of(run).get("training_flops")


def parameters_of_run(run: Run) -> float | None:
    """Parameters, embeddings included, as recorded, else by the config."""
    recorded = run.number("total_parameters")
    return recorded if recorded is not None else sizes_of(run).get("total_parameters")


MINUTES = CostKind(
    name="minutes",
    title="minutes of training and evaluation",
    write=numbers.minutes,
    of_run=minutes_of_run,
    over_seeds=statistics.median,
    sizes=(),
)
FLOPS = CostKind(
    name="flops",
    title="training FLOPs",
    write=numbers.scientific,
    of_run=flops_of_run,
    sizes=(*MODEL_FIELDS, *TRAINING_FIELDS),
)
PARAMETERS = CostKind(
    name="parameters", title="parameters", write=numbers.whole, of_run=parameters_of_run, sizes=MODEL_FIELDS
)
COST_KINDS = (MINUTES, FLOPS, PARAMETERS)


def point_costs(group: Group, kind: CostKind) -> tuple[list[PointCost], list[str]]:
    """The points with a loss and a positive cost, and a line for each run or point that is left out."""
    found, notes = [], []
    for point in group.points:
        counted = point.counted
        if not counted:
            notes.append(f"{point.label}: no completed run with a finite {group.loss_name}, so it is not drawn")
            continue
        costs = {run.seed: cost for run in counted if (cost := kind.of_run(run)) is not None and cost > 0}
        notes += [
            f"{run.name}: its record has no {kind.title}, so it is left out of that figure"
            for run in counted
            if run.seed not in costs
        ]
        runs = tuple(run for run in counted if run.seed in costs)
        if not runs:
            continue
        losses = tuple(loss for run in runs if (loss := run.number(group.loss_name)) is not None)
        each = tuple(costs[run.seed] for run in runs)
        found.append(PointCost(point=point, runs=runs, costs=each, losses=losses, cost=kind.over_seeds(each)))
    return found, notes


def pareto_front(costs: Sequence[float], losses: Sequence[float]) -> tuple[int, ...]:
    """The places of the points that no other beats: none costs as little with a lower loss, or less with as low a one.

    Of points that are equal in both all are on the front. Example: costs 1, 2, 3 and losses 5, 4, 4 have front 0, 1.

    Returns:
        Places by cost, then loss, then order.

    Raises:
        BadInput: unequal lengths, or a value that is not finite.
    """
    if len(costs) != len(losses):
        raise BadInput(f"{len(costs)} costs and {len(losses)} losses must be as many")
    for name, values in (("cost", costs), ("loss", losses)):
        for place, value in enumerate(values):
            if not math.isfinite(value):
                raise BadInput(f"{name} {value!r} of point {place} must be a finite number; leave the point out")
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda each: (costs[each], losses[each])):
        last = (costs[front[-1]], losses[front[-1]]) if front else None
        if last is None or losses[place] < last[1] or (costs[place], losses[place]) == last:
            front.append(place)
    return tuple(front)


def front_of(found: Sequence[PointCost]) -> tuple[PointCost, ...]:
    """The Pareto front of points by their means, cheapest first."""
    return tuple(found[place] for place in pareto_front([each.cost for each in found], [e.loss.mean for e in found]))


def scaling_families(group: Group, kind: CostKind) -> list[Family]:
    """The power laws of loss over one size: one for each set of two or more points that differ in sizes alone."""
    by_rest: dict[str, list[PointCost]] = {}
    for each in point_costs(group, kind)[0]:
        rest = {name: value for name, value in each.point.settings.items() if name not in kind.sizes}
        by_rest.setdefault(", ".join(f"{name} {value}" for name, value in rest.items()), []).append(each)
    return [
        Family(
            label=label or "all points",
            kind=kind,
            points=tuple(points),
            fit=scaling_fit([each.cost for each in points], [each.loss.mean for each in points]),
        )
        for label, points in by_rest.items()
        if len(points) > 1
    ]


def known_config(run: Run) -> RunConfig | None:
    """The config of a run whose vocabulary is known: its own, or one that gives the recorded count of parameters."""
    if run.config is None or run.folder is not None:
        return run.config
    counted = model_size(run.config.model).total_parameters
    return run.config if run.number("total_parameters") == counted else None


def config_of(point: Point) -> RunConfig | None:
    """Of its first completed run that has one and whose folder agrees with its study, if there is such a run."""
    return next((run.config for run in _trusted_first(point) if run.config is not None), None)


def known_config_of(point: Point) -> RunConfig | None:
    """The same of which the vocabulary is known."""
    return next((found for run in _trusted_first(point) if (found := known_config(run)) is not None), None)


def _trusted_first(point: Point) -> list[Run]:
    return sorted(point.completed, key=lambda run: run.contradiction is not None)


def sizes_of(run: Run) -> Mapping[str, float]:
    """Counts of parameters, and training FLOPs: as recorded, and what follows from a `known_config` with its tokens."""
    tokens, flops = run.number("tokens"), run.number("training_flops_per_token")
    found: dict[str, float] = {}
    if (config := known_config(run)) is not None:
        size = model_size(config.model)
        found = {"total_parameters": size.total_parameters, "non_embedding_parameters": size.non_embedding_parameters}
        flops = flops or size.training_flops_per_token
    return found if tokens is None or flops is None else found | {"training_flops": tokens * flops}
