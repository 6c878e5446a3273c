"""What targets are held against: a number with its interval over seeds, and of what it is.

Each measure takes a group, its own name, and the couplers that are asked for and held against. With a coupler named,
the point is the one with the lowest mean loss among its points; with one to hold against, the two points differ in
nothing but the coupler.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gnn_moe.errors import BadInput
from gnn_moe.reports import numbers
from gnn_moe.reports.arms import besides_coupler, kind_of
from gnn_moe.reports.costs import unsteady
from gnn_moe.reports.run_curves import LEAST_EPOCHS, descent, gaps_of, losses_by_epoch, read_curves
from gnn_moe.reports.sources import Group, Point
from gnn_moe.studies.drift import read_drift
from gnn_moe.studies.statistics import Interval, mean_estimate


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number, or why there is none."""

    said: str
    """Of what it is, or why there is none."""
    value: float | None = None
    interval: Interval | None = None
    seeds: int = 0


def candidates(group: Group, kind: str | None) -> list[Point]:
    """The points with a loss, of a coupler or architecture if one is named."""
    points = [point for point in group.points if kind is None or kind_of(point) == kind]
    return [point for point in points if point.mean(group.loss_name) is not None]


def lowest(group: Group, kind: str | None) -> Point | None:
    """The one of `candidates` with the lowest mean loss."""
    return min(candidates(group, kind), key=lambda point: point.mean(group.loss_name) or 0.0, default=None)


def counterpart(group: Group, point: Point, kind: str) -> Point | None:
    """The point of another coupler that differs in nothing else."""
    wanted = besides_coupler(point)
    return next((each for each in group.points if kind_of(each) == kind and besides_coupler(each) == wanted), None)


def _estimated(said: str, values: Sequence[float]) -> Measured:
    """The mean of one value a seed, with its interval or why there is none."""
    found = mean_estimate(values)
    why = f"; {found.reason}" if found.reason else ""
    return Measured(said=f"{said}{why}", value=found.mean, interval=found.interval, seeds=found.seeds)


def _no_run(arm: str | None) -> Measured:
    return Measured(said=f"no completed run of {arm or 'any kind'}")


def measure_number(group: Group, name: str, arm: str | None, _: str | None) -> Measured:
    """A number of the runs' records."""
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    by_seed = point.by_seed(name)
    if not by_seed:
        return Measured(said=f"{point.label}: no run has a finite {name}")
    return _estimated(point.label, list(by_seed.values()))


def measure_loss(group: Group, _: str, arm: str | None, against: str | None) -> Measured:
    """The loss that the group's tables report."""
    return measure_number(group, group.loss_name, arm, against)


def _paired(group: Group, name: str, arm: str | None, against: str | None, *, logarithms: bool) -> Measured:
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    if against is None:
        return Measured(said="nothing to hold it against")
    other = counterpart(group, point, against)
    if other is None:
        return Measured(said=f"no {against} with the settings of {point.label}")
    ours, theirs = point.by_seed(name), other.by_seed(name)
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    if not pairs:
        return Measured(said=f"{point.label} and {other.label} have no seed in common")
    if not logarithms:
        return _estimated(f"{point.label} minus {other.label}, by seed", [a - b for a, b in pairs])
    if any(value <= 0 for pair in pairs for value in pair):
        return Measured(said=f"{point.label} and {other.label}: {name} of 0 has no ratio")
    found = _estimated(f"{point.label} over {other.label}, by seed", [math.log(a / b) for a, b in pairs])
    assert found.value is not None
    interval = found.interval and dataclasses.replace(
        found.interval, low=math.exp(found.interval.low), high=math.exp(found.interval.high)
    )
    return dataclasses.replace(found, value=math.exp(found.value), interval=interval)


def measure_loss_difference(group: Group, _: str, arm: str | None, against: str | None) -> Measured:
    """An arm's loss minus the other's, paired by seed."""
    return _paired(group, group.loss_name, arm, against, logarithms=False)


def measure_minutes_ratio(group: Group, _: str, arm: str | None, against: str | None) -> Measured:
    """An arm's minutes of training over the other's, paired by seed; the interval is of the geometric mean."""
    found = _paired(group, "train_minutes", arm, against, logarithms=True)
    point = lowest(group, arm)
    other = None if point is None or against is None else counterpart(group, point, against)
    busy = [said for each in (point, other) if each is not None and (said := unsteady(group, each)) is not None]
    return dataclasses.replace(found, said="; ".join((found.said, *busy)))


def measure_movement(group: Group, _: str, arm: str | None, __: str | None) -> Measured:
    """How far learned strengths moved, over how far that differs between seeds: of the graph where that is least."""
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    folders = [run.folder for run in point.counted if run.folder is not None]
    if len(folders) < 2:
        return Measured(said=f"{point.label}: {len(folders)} record of strengths, and a spread needs two")
    try:
        found = read_drift(folders)
    except BadInput as error:
        return Measured(said=str(error))
    ratios = [(layer.common_ratio, layer) for layer in found.layers if layer.common_ratio is not None]
    if not ratios:
        return Measured(said=f"{point.label}: nothing is learned, or it moved alike in all seeds")
    ratio, layer = min(ratios, key=lambda pair: pair[0])
    spread = layer.common.spread
    interval = layer.common.interval
    assert spread
    assert interval
    ends = sorted(abs(end) / spread for end in (interval.low, interval.high))
    crosses = interval.low <= 0 <= interval.high
    return Measured(
        said=f"{point.label}, {layer.title}, the graph that moved least of {len(ratios)}: |mean change| over its "
        "spread over seeds",
        value=ratio,
        interval=Interval(low=0.0 if crosses else ends[0], high=ends[1], level=interval.level),
        seeds=len(found.seeds),
    )


def measure_epochs_falling(group: Group, _: str, arm: str | None, __: str | None) -> Measured:
    """The share of epochs after the first in which the evaluation loss of a seed fell."""
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    curves = [curve for found in read_curves(group)[0] if found.point is point for curve in found.curves]
    shares = [share for curve in curves if (share := descent(losses_by_epoch(curve)).share) is not None]
    if not shares:
        most = max((len(losses_by_epoch(curve)) for curve in curves), default=0)
        return Measured(
            said=f"{point.label}: {numbers.counted(most, 'epoch')} with an evaluation, and {LEAST_EPOCHS} are needed"
        )
    return _estimated(point.label, shares)


def measure_generalisation_gap(group: Group, _: str, arm: str | None, __: str | None) -> Measured:
    """Evaluation loss minus training loss of the last model, both without dropout, by seed."""
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    gaps = gaps_of(point)
    if not gaps:
        return Measured(said=f"{point.label}: its runs did not measure the training loss without dropout")
    return _estimated(point.label, list(gaps.values()))


MEASURES: Mapping[str, Callable[[Group, str, str | None, str | None], Measured]] = {
    "loss": measure_loss,
    "loss_difference": measure_loss_difference,
    "minutes_ratio": measure_minutes_ratio,
    "movement_over_spread": measure_movement,
    "epochs_falling": measure_epochs_falling,
    "generalisation_gap": measure_generalisation_gap,
}
"""By the name that a target gives."""
