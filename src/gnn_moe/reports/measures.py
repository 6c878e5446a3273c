"""What targets are held against: a number with its interval over seeds, and of what it is.

Each measure takes a group, its own name, and the couplers that are asked for and held against. With a coupler named,
the point is the one with the lowest mean loss among its points; with one to hold against, the two points differ in
nothing but the coupler.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

from gnn_moe.errors import BadInput
from gnn_moe.reports import numbers
from gnn_moe.reports.costs import unsteady
from gnn_moe.reports.couplings import read_couplings
from gnn_moe.reports.kinds import besides_coupler, kind_of
from gnn_moe.reports.points import Group, Point, Run
from gnn_moe.reports.run_curves import LEAST_EPOCHS, RunCurve, descent, gaps_of, losses_by_epoch, read_curves
from gnn_moe.studies.drift import read_drift
from gnn_moe.studies.effect_size import effect_size_interval
from gnn_moe.studies.statistics import LEVEL, Interval, mean_estimate, paired_differences


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number, or why there is none."""

    said: str
    """Of what it is, or why there is none."""
    value: float | None = None
    interval: Interval | None = None
    seeds: int = 0
    is_bound: bool = False
    """The interval is what was seen or what tests bound, and no spread of values: without width it is as good."""
    runs: tuple[tuple[Run, ...], ...] = ()
    """That it is of: those of its point, then those that it is held against."""


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


_EQUAL = "its seeds do not differ, and nothing says how far another would lie"


def _estimated(said: str, values: Sequence[float], *runs: tuple[Run, ...], tried: int) -> Measured:
    """The mean of one value a seed, with its interval or why there is none.

    Args:
        said: of what it is.
        values: one a seed.
        runs: of one point or two.
        tried: points among which this one was picked, by losses that may be those that are judged. The interval is
            that of all at once (Bonferroni), so it holds for whichever was picked.
    """
    found = mean_estimate(values, level=1 - (1 - LEVEL) / tried)
    reason = _EQUAL if found.interval is not None and not found.interval.has_width else found.reason
    why = f"; {reason}" if reason else ""
    return Measured(said=f"{said}{why}", value=found.mean, interval=found.interval, seeds=found.seeds, runs=runs)


def _runs(point: Point, seeds: Container[int]) -> tuple[Run, ...]:
    """Those of a point that count, of some seeds."""
    return tuple(run for run in point.counted if run.seed in seeds)


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
    tried = len(candidates(group, arm))
    return _estimated(point.label, list(by_seed.values()), _runs(point, by_seed), tried=tried)


def measure_loss(group: Group, _: str, arm: str | None, against: str | None) -> Measured:
    """The loss that the group's tables report."""
    return measure_number(group, group.loss_name, arm, against)


def measure_perplexity(group: Group, _: str, arm: str | None, against: str | None) -> Measured:
    """e to the power of the mean loss over seeds; its interval's ends likewise."""
    found = measure_loss(group, _, arm, against)
    return found if found.value is None else _exponential(found, found.value)


def _exponential(found: Measured, value: float) -> Measured:
    interval = found.interval and dataclasses.replace(
        found.interval, low=math.exp(found.interval.low), high=math.exp(found.interval.high)
    )
    return dataclasses.replace(found, value=math.exp(value), interval=interval)


def measure_minutes(group: Group, _: str, arm: str | None, against: str | None) -> Measured:
    """The minutes of training."""
    return measure_number(group, "train_minutes", arm, against)


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
    seeds = sorted(ours.keys() & theirs.keys())
    pairs = [(ours[seed], theirs[seed]) for seed in seeds]
    runs, tried = (_runs(point, seeds), _runs(other, seeds)), len(candidates(group, arm))
    if not pairs:
        return Measured(said=f"{point.label} and {other.label} have no seed in common")
    if not logarithms:
        differences = paired_differences(*zip(*pairs, strict=True))
        return _estimated(f"{point.label} minus {other.label}, by seed", differences.tolist(), *runs, tried=tried)
    if any(value <= 0 for pair in pairs for value in pair):
        return Measured(said=f"{point.label} and {other.label}: {name} of 0 has no ratio")
    logarithms_2n = ([math.log(value) for value in values] for values in zip(*pairs, strict=True))
    ratios = paired_differences(*logarithms_2n).tolist()
    found = _estimated(f"{point.label} over {other.label}, by seed", ratios, *runs, tried=tried)
    assert found.value is not None
    return _exponential(found, found.value)


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
    """How far learned strengths moved, over how far that differs between seeds: of the graph where that is least.

    All graphs have moved where the least has, whose lower end needs no correction. That one has not is said of the
    least of many: its upper end is that of all graphs at once (Bonferroni).
    """
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
    spread, seeds = layer.common.spread, len(found.seeds)
    assert spread
    alone, jointly = (
        effect_size_interval(layer.common.mean, spread, seeds, level=1 - (1 - LEVEL) / graphs)
        for graphs in (1, len(ratios))
    )
    assert alone is not None
    assert jointly is not None
    return Measured(
        said=f"{point.label}, {layer.title}, the graph that moved least of {len(ratios)}: |mean change| over its "
        "spread over seeds",
        value=ratio,
        interval=dataclasses.replace(alone, high=jointly.high),
        seeds=seeds,
        runs=(_runs(point, found.seeds),),
    )


def measure_repeating_patterns(group: Group, _: str, arm: str | None, __: str | None) -> Measured:
    """The share of graphs whose pattern is shown to repeat between seeds; it may be true of the others too."""
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    found, _notes = read_couplings(dataclasses.replace(group, points=(point,)))
    if not found:
        return Measured(said=f"{point.label}: no record of learned strengths")
    repeats = found[0].repeats
    told = [each for each in repeats if not each.verdict.startswith("cannot be told")]
    seeds = len(found[0].runs)
    if not told:
        said = f"{point.label}, all of {len(repeats)} graphs: {repeats[0].verdict}"
        return Measured(said=said, seeds=seeds, runs=(found[0].runs,))
    shown = sum(each.verdict.startswith("repeats") for each in told)
    share = shown / len(repeats)
    return Measured(
        said=f"{point.label}: {shown} of {numbers.counted(len(repeats), 'graph')}",
        value=share,
        interval=Interval(low=share, high=1.0, level=LEVEL),
        seeds=seeds,
        is_bound=True,
        runs=(found[0].runs,),
    )


def measure_epochs_falling(group: Group, _: str, arm: str | None, __: str | None) -> Measured:
    """`falling_of` the arm."""
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    return falling_of(
        point, [curve for found in read_curves(group)[0] if found.point is point for curve in found.curves]
    )


def falling_of(point: Point, curves: Sequence[RunCurve]) -> Measured:
    """The share of epochs after the first in which the evaluation loss fell: mean over seeds, and least to greatest.

    What these runs did is no estimate, so where all seeds fell alike it is told too; of one seed it is not.

    Args:
        point: that is named.
        curves: of its seeds.
    """
    falls = [descent(losses_by_epoch(curve)) for curve in curves]
    judged = [(curve.run, each.share) for curve, each in zip(curves, falls, strict=True) if each.share is not None]
    if not judged:
        most = numbers.counted(max((each.epochs for each in falls), default=0), "epoch")
        return Measured(said=f"{point.label}: {most} with an evaluation, and {LEAST_EPOCHS} are needed")
    runs, shares = zip(*judged, strict=True)
    found = mean_estimate(shares)
    return Measured(
        said=f"{point.label}{'' if len(shares) > 1 else f'; {found.reason}'}",
        value=found.mean,
        interval=Interval(low=min(shares), high=max(shares), level=LEVEL) if len(shares) > 1 else None,
        seeds=len(shares),
        is_bound=True,
        runs=(runs,),
    )


def measure_generalisation_gap(group: Group, _: str, arm: str | None, __: str | None) -> Measured:
    """Evaluation loss minus training loss of the last model, both without dropout, by seed."""
    point = lowest(group, arm)
    if point is None:
        return _no_run(arm)
    gaps = gaps_of(point)
    if not gaps:
        return Measured(said=f"{point.label}: its runs did not measure the training loss without dropout")
    found = _estimated(point.label, list(gaps.values()), _runs(point, gaps), tried=len(candidates(group, arm)))
    if found.interval is not None and found.interval.has_width and found.interval.high < 0:
        return dataclasses.replace(found, said=f"{found.said}; {EASIER_TEXT}", interval=None)
    return found


EASIER_TEXT = (
    "its models do better on text that they have not seen, so that text is the easier one, and how much easier hides "
    "what generalisation costs"
)


MEASURES: Mapping[str, Callable[[Group, str, str | None, str | None], Measured]] = {
    "loss": measure_loss,
    "loss_difference": measure_loss_difference,
    "perplexity": measure_perplexity,
    "minutes": measure_minutes,
    "minutes_ratio": measure_minutes_ratio,
    "movement_over_spread": measure_movement,
    "repeating_patterns": measure_repeating_patterns,
    "epochs_falling": measure_epochs_falling,
    "generalisation_gap": measure_generalisation_gap,
}
"""By the name that a target gives."""
