"""Recommended configurations, as commands with what they take.

Three kinds, as the seed has them:

- performance: the lowest mean loss;
- efficiency: the fewest training FLOPs among the points of the front of loss against FLOPs whose mean loss is within
  `CLOSE` of that one, and that are not shown to be worse (paired by seed, Holm). Where FLOPs are not known, minutes;
- comparison: the performance point with GNN and with HGNN, with as many seeds as find a difference of `CLOSE`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from gnn_moe.config import OutputConfig, RunConfig
from gnn_moe.model.size import model_size
from gnn_moe.reports import numbers
from gnn_moe.reports.commands import command
from gnn_moe.reports.costs import (
    FLOPS,
    MINUTES,
    CostKind,
    PointCost,
    config_of,
    front_of,
    known_config_of,
    minutes_in_words,
    minutes_of_point,
    point_costs,
    unsteady,
)
from gnn_moe.reports.document import Block, Code, Paragraph, Section
from gnn_moe.reports.memory import Experience, experience_of, planned_bytes, planned_in_words
from gnn_moe.reports.power import paired_spread, seeds_needed
from gnn_moe.reports.sources import Group, Point
from gnn_moe.studies.flags import train_words
from gnn_moe.studies.statistics import minimum_detectable_difference
from gnn_moe.studies.verdicts import Arm, Comparison, compare

CLOSE = 0.01
"""Part of the lowest loss within which another is near it."""
_LEAST_SEEDS, _MOST_SEEDS = 5, 20
"""Of each arm of the comparison that is recommended."""


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A point for a purpose."""

    kind: str
    point: Point
    why: str


def recommendations_section(group: Group, *sections: Section) -> Section:
    """The configurations as commands.

    Args:
        group: the points.
        sections: that follow: what to try next.
    """
    found = recommend(group)
    known = experience_of(group)
    blocks: list[Block] = []
    for each in found:
        blocks += _shown(each, group, known)
    if found:
        blocks += _comparison(found[0].point, group, known)
    else:
        blocks.append(Paragraph("No completed run has a loss, so nothing is recommended.", "note"))
    return Section(
        title="Recommended configurations", anchor="recommendations", blocks=tuple(blocks), sections=sections
    )


def recommend(group: Group) -> tuple[Recommendation, ...]:
    """Performance first, then efficiency where that is another point."""
    points = [point for point in group.points if point.mean(group.loss_name) is not None]
    if not points:
        return ()
    best = min(points, key=lambda point: _loss(group, point))
    why = f"the lowest mean loss, {numbers.loss(_loss(group, best))}, of {len(group.points)} configurations"
    performance = Recommendation(kind="Performance", point=best, why=why)
    kind, front = _front(group, best)
    if kind is None:
        return (performance,)
    close = _close(group, best)
    # The front goes from the cheapest on, and the best is on it.
    cheapest, compared = next(
        (each, found) for each in front for point, found in [(best, None), *close] if point is each.point
    )
    if compared is None:
        rule = f"no point of fewer {kind.title} lies within {CLOSE:.0%} of it without being shown to be worse"
        return (dataclasses.replace(performance, kind="Performance and efficiency", why=f"{why}; {rule}"),)
    most = next(each.cost for each in front if each.point is best)
    rule = (
        f"the fewest {kind.title} ({kind.write(cheapest.cost)} against {kind.write(most)}) of those within {CLOSE:.0%} "
        f"of the lowest loss and not shown to be worse: {_apart(group, best, cheapest.point, compared)}"
    )
    return performance, Recommendation(kind="Efficiency", point=cheapest.point, why=rule)


def _front(group: Group, best: Point) -> tuple[CostKind | None, tuple[PointCost, ...]]:
    """The cost that the best point is known to have, FLOPs before minutes, and its front, cheapest first."""
    for kind in (FLOPS, MINUTES):
        front = front_of(point_costs(group, kind)[0])
        if any(each.point is best for each in front):
            return kind, front
    return None, ()


def _close(group: Group, best: Point) -> list[tuple[Point, Comparison]]:
    """The other points near the best one that are not shown to be worse, with how they compare."""
    others = [point for point in group.points if point is not best and point.mean(group.loss_name) is not None]
    if not others:
        return []
    arms = [_arm(group, point, number) for number, point in enumerate([best, *others])]
    verdicts = compare(
        arms[0], arms[1:], configurations_tried=max(len(group.points), len(arms)), generator=np.random.default_rng(0)
    )
    near = (1 + CLOSE) * _loss(group, best)
    return [
        (point, found)
        for point, found in zip(others, verdicts, strict=True)
        if _loss(group, point) <= near and found.verdict != "worse"
    ]


def _apart(group: Group, best: Point, point: Point, found: Comparison) -> str:
    """How far a point lies above the best, and what seeds say of it."""
    above = f"{numbers.loss(_loss(group, point) - _loss(group, best))} above it"
    seeds = numbers.counted(len(found.pairs.seeds), "seed")
    if found.interval is None:
        return f"{above} with {seeds} in common, so whether they differ cannot be told"
    return f"{above} (95 % interval {numbers.interval_of_difference(found.interval)}, paired, {seeds} in common)"


def _arm(group: Group, point: Point, number: int) -> Arm:
    by_seed = point.by_seed(group.loss_name)
    return Arm(name=f"{number}: {point.label}", seeds=tuple(by_seed), losses=tuple(by_seed.values()))


def _loss(group: Group, point: Point) -> float:
    found = point.mean(group.loss_name)
    assert found is not None
    return found


def _shown(each: Recommendation, group: Group, known: Experience) -> list[Block]:
    peak, busy = each.point.mean("peak_memory_bytes"), unsteady(group, each.point)
    took = " and ".join(
        filter(None, [minutes_in_words(group, each.point), f"{numbers.gibibytes(peak)} GiB" if peak else ""])
    )
    cost = f" It took {took} here." if took else ""
    blocks: list[Block] = [Paragraph(f"{each.kind}: {each.point.label}, {each.why}.{cost}")]
    if busy is not None:
        blocks.append(Paragraph(f"{busy}.", "note"))
    config, planned = config_of(each.point), known_config_of(each.point)
    if config is not None and config.model.hyperedges is None:
        blocks.append(Code(train_command(config)))
        if planned is not None:
            blocks.append(Paragraph(planned_in_words(planned, known)))
    return blocks


def train_command(config: RunConfig) -> str:
    """The command of a run, without where it was written."""
    return command(["gnn-moe", "train", *train_words(dataclasses.replace(config, output=OutputConfig()))])


def _comparison(point: Point, group: Group, known: Experience) -> list[Block]:
    config = config_of(point)
    if config is None or config.model.hyperedges is not None or config.model.architecture != "coupled":
        return []
    seeds, why = _seeds_of_comparison(group, point)
    first = _with_coupler(config, "GNN")
    arms = ["--arm", "gnn:--coupler_type GNN", "--arm", "hgnn:--coupler_type HGNN"]
    asked = ["--budget", "flops", "--seeds", ",".join(map(str, range(1, seeds + 1)))]
    common = train_words(dataclasses.replace(first, output=OutputConfig()))
    said = f"Comparison: the performance configuration with either coupler, equal FLOPs, {seeds} seeds each: {why}."
    takes = _takes(group, point, seeds, known)
    return [
        Paragraph(f"{said} {takes}".rstrip()),
        Code(command(["gnn-moe", "compare", "--study", "gnn-or-hgnn", *arms, *asked, *common])),
    ]


def _seeds_of_comparison(group: Group, point: Point) -> tuple[int, str]:
    """How many seeds find a difference of `CLOSE`, and what was taken for granted."""
    spread, wanted = paired_spread(group), CLOSE * _loss(group, point)
    if spread is None:
        return _LEAST_SEEDS, "no two points here have two seeds in common, so how many are needed is not known"
    needed = seeds_needed(spread, wanted)
    seeds = min(_MOST_SEEDS, max(_LEAST_SEEDS, needed if needed is not None else _MOST_SEEDS))
    found = minimum_detectable_difference(spread, seeds)
    more = "" if needed is not None and needed <= seeds else f", more than {CLOSE:.0%} of the loss"
    return seeds, (
        f"if pairs spread as here ({numbers.loss(spread)}, median of all pairs), a true difference of "
        f"{numbers.loss(found)}{more} is found 80 times in 100"
    )


def _takes(group: Group, point: Point, seeds: int, known: Experience) -> str:
    """What all runs of the comparison take: each has as many training FLOPs as the GNN's."""
    config, minutes = known_config_of(point), minutes_of_point(group, point)
    if config is None:
        return ""
    couplers = [_with_coupler(config, name) for name in ("GNN", "HGNN")]
    memory = planned_in_words(max(couplers, key=planned_bytes), known)
    if minutes is None:
        return memory
    flops, before = (model_size(each.model).training_flops_per_token for each in (couplers[0], config))
    whole = numbers.minutes(2 * seeds * minutes * flops / before)
    return f"Its {2 * seeds} runs take about {whole} minutes one after the other, in proportion to FLOPs. {memory}"


def _with_coupler(config: RunConfig, coupler: str) -> RunConfig:
    model = dataclasses.replace(
        config.model, coupler_type=coupler, static_hyperedge_strategy="all_pairs", hgnn_content_gates=False
    )
    return dataclasses.replace(config, model=model)
