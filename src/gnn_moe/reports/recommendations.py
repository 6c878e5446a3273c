"""Recommended configurations, as commands with what they take.

Three kinds, as the seed has them, chosen from the points that no other beats in both loss and minutes:

- performance: the lowest mean loss;
- efficiency: the fewest minutes among the points that are not shown to be worse than that one (paired by seed, Holm);
  where no point has two seeds, the fewest minutes within `CLOSE` of the lowest loss, which is a guess and says so;
- comparison: the performance point with GNN and with HGNN, five seeds each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gnn_moe.config import OutputConfig, RunConfig
from gnn_moe.plans import plan_memory
from gnn_moe.reports import numbers
from gnn_moe.reports.commands import command
from gnn_moe.reports.costs import minutes_of_point
from gnn_moe.reports.document import Block, Code, Paragraph, Section
from gnn_moe.reports.sources import Group, Point, Run
from gnn_moe.studies.flags import train_words
from gnn_moe.studies.verdicts import Arm, compare

CLOSE = 0.01
"""Part of the lowest loss within which a point of one seed counts as near it."""
_FIVE = "1,2,3,4,5"


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """A point for a purpose."""

    kind: str
    point: Point
    why: str


def recommendations_section(group: Group, front: Sequence[Point], *sections: Section) -> Section:
    """The configurations as commands.

    Args:
        group: the points.
        front: those that no other beats in both loss and minutes.
        sections: that follow: what to try next.
    """
    found = recommend(group, front)
    blocks: list[Block] = []
    for each in found:
        blocks += _shown(each, group)
    if found and (comparison := _comparison_command(found[0].point)) is not None:
        blocks += [
            Paragraph("Comparison: the performance configuration with either coupler, five seeds, equal FLOPs."),
            Code(comparison),
        ]
    if not found:
        blocks.append(Paragraph("No completed run has both a loss and its minutes, so nothing is recommended.", "note"))
    return Section(
        title="Recommended configurations", anchor="recommendations", blocks=tuple(blocks), sections=sections
    )


def recommend(group: Group, front: Sequence[Point]) -> tuple[Recommendation, ...]:
    """Performance first, then efficiency where that is another point."""
    known = [point for point in front if minutes_of_point(group, point) is not None]
    if not known:
        return ()
    best = min(known, key=lambda point: _loss(group, point))
    why = f"the lowest mean loss, {numbers.loss(_loss(group, best))}, of {len(group.points)} configurations"
    performance = Recommendation(kind="Performance", point=best, why=why)
    close, rule = _not_worse(group, best, known)
    cheapest = min(close, key=lambda point: minutes_of_point(group, point) or 0.0)
    if cheapest is best:
        return (dataclasses.replace(performance, kind="Performance and efficiency", why=f"{why}; {rule}"),)
    return performance, Recommendation(kind="Efficiency", point=cheapest, why=f"the fewest minutes of those {rule}")


def _not_worse(group: Group, best: Point, known: Sequence[Point]) -> tuple[list[Point], str]:
    """The points that may be as good as the best one, and the rule that was used."""
    others = [point for point in known if point is not best]
    lowest = _loss(group, best)
    several = len(best.by_seed(group.loss_name)) > 1
    if not several or not others:
        close = [best, *(point for point in others if _loss(group, point) <= (1 + CLOSE) * lowest)]
        rule = f"within {CLOSE:.0%} of the lowest loss; one seed a point, so whether they differ cannot be told"
        return close, rule if others else "no other point is as cheap or as good"
    arms = [_arm(group, point, number) for number, point in enumerate([best, *others])]
    verdicts = compare(
        arms[0], arms[1:], configurations_tried=max(len(group.points), len(arms)), generator=np.random.default_rng(0)
    )
    close = [best, *(point for point, found in zip(others, verdicts, strict=True) if found.verdict != "worse")]
    return close, "not shown to be worse than that (paired by seed, Holm over all)"


def _arm(group: Group, point: Point, number: int) -> Arm:
    by_seed = point.by_seed(group.loss_name)
    return Arm(name=f"{number}: {point.label}", seeds=tuple(by_seed), losses=tuple(by_seed.values()))


def _loss(group: Group, point: Point) -> float:
    found = point.mean(group.loss_name)
    assert found is not None
    return found


def _shown(each: Recommendation, group: Group) -> list[Block]:
    run = each.point.completed[0]
    minutes, peak = minutes_of_point(group, each.point), each.point.mean("peak_memory_bytes")
    takes = [
        f"{numbers.minutes(minutes)} minutes here" if minutes is not None else "",
        f"{numbers.gibibytes(peak)} GiB" if peak else "",
    ]
    seen = len(each.point.by_seed(group.loss_name))
    took = " and ".join(filter(None, takes))
    text = f"{each.kind}: {each.point.label}, {each.why}. It took {took} (mean of {seen} seeds)."
    blocks: list[Block] = [Paragraph(text if seen != 1 else text.replace("mean of 1 seeds", "one seed"))]
    if run.config is not None and run.config.model.hyperedges is None:
        blocks.append(Code(train_command(run.config)))
        blocks.append(Paragraph(f"By its settings it needs {_planned(run.config)} GiB at its fullest moment on a CPU."))
    return blocks


def _planned(config: RunConfig) -> str:
    return numbers.gibibytes(plan_memory(config).peak.total)


def train_command(config: RunConfig) -> str:
    """The command of a run, without where it was written."""
    return command(["gnn-moe", "train", *train_words(dataclasses.replace(config, output=OutputConfig()))])


def _comparison_command(point: Point) -> str | None:
    config = _config_of(point.completed)
    if config is None or config.model.hyperedges is not None or config.model.architecture != "coupled":
        return None
    model = dataclasses.replace(
        config.model, coupler_type="GNN", static_hyperedge_strategy="all_pairs", hgnn_content_gates=False
    )
    common = train_words(dataclasses.replace(config, model=model, output=OutputConfig()))
    arms = ["--arm", "gnn:--coupler_type GNN", "--arm", "hgnn:--coupler_type HGNN"]
    return command(
        ["gnn-moe", "compare", "--study", "gnn-or-hgnn", *arms, "--budget", "flops", "--seeds", _FIVE, *common]
    )


def _config_of(runs: Sequence[Run]) -> RunConfig | None:
    return next((run.config for run in runs if run.config is not None), None)
