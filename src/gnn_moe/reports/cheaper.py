"""What less costs: the points of the Pareto front below the one of lowest loss, with what each saves and gives up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from gnn_moe.reports import numbers
from gnn_moe.reports.commands import train_command
from gnn_moe.reports.costs import config_of, minutes_of_point, pareto_front
from gnn_moe.reports.document import Block, Cell, Code, Column, Paragraph, Table
from gnn_moe.reports.marks import number_cell, seed_links
from gnn_moe.reports.points import Point
from gnn_moe.reports.swept import IN_FLOPS, IN_MINUTES, Entry, Ranking, Swept, common_cost, costs_of
from gnn_moe.studies.verdicts import Comparison

MOST_CHEAPER = 5
"""Points that are shown, those of lowest loss."""
_WRITE = {IN_FLOPS: numbers.scientific, IN_MINUTES: numbers.minutes}


def cheaper_blocks(points: Sequence[Point], table: Swept, ranking: Ranking, told: Collection[Point]) -> list[Block]:
    """A table and a command each; nothing where the lowest loss costs least, or costs are not known.

    Args:
        points: with a loss.
        table: their entries, in the same order.
        ranking: of the table.
        told: points that are recommended already.
    """
    cost, lowest = common_cost(table), ranking.lowest
    if cost is None or lowest is None:
        return []
    costs = costs_of(table, cost)
    front = pareto_front(list(costs.values()), [entry.loss for entry in table.with_loss])
    found = [
        (entry, points[place])
        for place in reversed(front)
        if (entry := table.with_loss[place]).loss > lowest.loss and points[place] not in told
    ]
    if not found:
        return []
    shown = found[:MOST_CHEAPER]
    rows = tuple(_row(entry, point, lowest, ranking, costs, cost) for entry, point in shown)
    left = len(found) - len(shown)
    more = f" {left} that take less still stand in the table of the front." if left else ""
    blocks: list[Block] = [
        Paragraph(f"For less: on the Pareto front below the performance configuration, by {cost}.{more}"),
        Table(caption="What less costs", columns=_columns(cost), rows=rows),
    ]
    for _, point in shown:
        config = config_of(point)
        if config is not None and config.model.hyperedges is None:
            blocks += [Paragraph(f"{point.label}:"), Code(train_command(config))]
    return blocks


def _columns(cost: str) -> tuple[Column, ...]:
    return (
        Column(title="point", numeric=False),
        Column(title=cost, explains="mean over seeds" if cost == IN_FLOPS else "of training, median over seeds"),
        Column(title="of the performance configuration's", explains=f"its {cost} over those of the lowest loss"),
        Column(title="minutes", explains="of training and evaluation, median over seeds"),
        Column(title="peak memory (GiB)", explains="mean over seeds"),
        Column(title="loss above the lowest", explains="nats a token, mean over seeds"),
        Column(title="interval", explains="paired t, at the level at which Holm over all points tested it"),
        Column(title="standing", numeric=False, explains="by that test"),
        Column(title="seeds", numeric=False, explains="that count, each a link to its run"),
    )


def _row(
    entry: Entry, point: Point, lowest: Entry, ranking: Ranking, costs: Mapping[str, float], cost: str
) -> tuple[Cell, ...]:
    against = ranking.against_lowest.get(entry.label)
    interval = None if against is None else against.decision_interval
    said, above = _standing(against), entry.loss - lowest.loss
    return (
        Cell(point.label, point.label),
        number_cell(costs[entry.label], _WRITE[cost]),
        number_cell(costs[entry.label] / costs[lowest.label], numbers.ratio),
        number_cell(minutes_of_point(point), numbers.minutes),
        number_cell(point.mean("peak_memory_bytes"), numbers.gibibytes),
        number_cell(above, numbers.difference),
        Cell(
            "" if interval is None else f"{numbers.interval_of_difference(interval)} ({numbers.level(interval)})",
            None if interval is None else interval.low,
        ),
        Cell(said, said),
        Cell(seed_links(point.counted), len(point.counted)),
    )


def _standing(against: Comparison | None) -> str:
    if against is None or len(against.pairs.seeds) < 2:
        return "not tested"
    return "shown to be worse" if against.verdict == "worse" else "not shown to be worse"
