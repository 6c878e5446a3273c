"""Recommended configurations, as commands with what they take.

Three kinds, as the seed has them:

- performance: the lowest mean loss;
- efficiency: by `swept.most_efficient`, the rule of all tables, over all points; what else the Pareto front has for
  less is shown with what it gives up;
- comparison: the performance point with GNN, with HGNN and without coupling, in `planned_comparison.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from gnn_moe.reports import numbers
from gnn_moe.reports.cheaper import cheaper_blocks
from gnn_moe.reports.commands import train_command
from gnn_moe.reports.costs import config_of, known_config_of, minutes_in_words, unsteady
from gnn_moe.reports.document import Block, Code, Paragraph, Section
from gnn_moe.reports.insights import MOST_NAMED
from gnn_moe.reports.memory import Experience, experience_of, planned_in_words
from gnn_moe.reports.planned_comparison import comparison_blocks
from gnn_moe.reports.points import Group, Point
from gnn_moe.reports.swept import IN_FLOPS, Efficiency, Ranking, Swept, cost_of, most_efficient, rank
from gnn_moe.reports.tables import rows_of


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
        points, table = _all_points(group)
        blocks += cheaper_blocks(points, table, rank(table), [each.point for each in found])
        blocks += comparison_blocks(found[0].point, group, known)
    else:
        blocks.append(Paragraph("No completed run has a loss, so nothing is recommended.", "note"))
    return Section(
        title="Recommended configurations", anchor="recommendations", blocks=tuple(blocks), sections=sections
    )


def recommend(group: Group) -> tuple[Recommendation, ...]:
    """Performance first, then efficiency where that is another point."""
    points, table = _all_points(group)
    if not points:
        return ()
    entries, ranking, efficiency = table.entries, rank(table), most_efficient(table)
    assert ranking.lowest is not None
    best = points[entries.index(ranking.lowest)]
    why = (
        f"the lowest mean loss, {numbers.loss(ranking.lowest.loss)}, of "
        f"{numbers.counted(len(group.points), 'configuration')}{_beside(ranking, points)}"
    )
    performance = Recommendation(kind="Performance", point=best, why=why)
    if efficiency.entry is None:
        return (performance,)
    if efficiency.entry is ranking.lowest:
        why = f"{why}; {efficiency.reason}"
        if not efficiency.is_tested:
            why = f"{why}, which with fewer than two seeds in common is not tested: none is called efficient"
            return (dataclasses.replace(performance, why=why),)
        return (dataclasses.replace(performance, kind="Performance and efficiency", why=why),)
    point = points[entries.index(efficiency.entry)]
    return performance, Recommendation(kind="Efficiency", point=point, why=_saved(efficiency, ranking))


def _all_points(group: Group) -> tuple[list[Point], Swept]:
    """The points with a loss, and the same as one table: numbers for names, since arms of two studies may share one."""
    points = [point for point in group.points if point.mean(group.loss_name) is not None]
    entries = [dataclasses.replace(row.entry, value=place) for place, row in enumerate(rows_of(group, None, points))]
    return points, Swept(field="setting", entries=tuple(entries), configurations_tried=len(group.points))


def _beside(ranking: Ranking, points: Sequence[Point]) -> str:
    """What the lowest was not told apart from, and what one seed cannot tell."""
    if ranking.kind == "untested":
        return ", not tested (fewer than two seeds in common)"
    if ranking.kind != "tied":
        return ""
    tied = [points[int(entry.label)].label for entry in ranking.tied if entry is not ranking.lowest]
    named = tied if len(tied) <= MOST_NAMED else [*tied[:MOST_NAMED], f"{len(tied) - MOST_NAMED} more"]
    return f", tied with {numbers.listed(named)} (not shown to be worse)"


def _saved(efficiency: Efficiency, ranking: Ranking) -> str:
    """What the efficient point costs beside the lowest one, and how far it lies above."""
    entry, lowest = efficiency.entry, ranking.lowest
    assert entry is not None
    assert lowest is not None
    write = numbers.scientific if efficiency.cost == IN_FLOPS else numbers.minutes
    costs = f"{write(cost_of(entry, efficiency.cost))} against {write(cost_of(lowest, efficiency.cost))}"
    above = f"{numbers.loss(entry.loss - lowest.loss)} above it"
    found = ranking.against_lowest.get(entry.label)
    if found is not None and found.interval is not None:
        seeds = numbers.counted(len(found.pairs.seeds), "seed")
        above += f" (95 % interval {numbers.interval_of_difference(found.interval)}, paired, {seeds} in common)"
    return f"{efficiency.reason}: {costs}, {above}"


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
