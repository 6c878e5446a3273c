"""What to try next: untried values with what they are expected to give, and what further seeds would show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gnn_moe.reports import numbers
from gnn_moe.reports.arms import undecided
from gnn_moe.reports.commands import train_command
from gnn_moe.reports.document import Block, Bullets, Cell, Code, Column, Paragraph, Section, Span, Table
from gnn_moe.reports.expectations import Change, Expectation, expectation_of
from gnn_moe.reports.insights import edge
from gnn_moe.reports.marks import number_cell
from gnn_moe.reports.points import Group
from gnn_moe.reports.power import MOST_SEEDS, paired_spread, seeds_needed
from gnn_moe.reports.swept import Swept
from gnn_moe.reports.tables import anchor_of
from gnn_moe.studies.statistics import minimum_detectable_difference

SEEDS = 5
"""With which a further study is reckoned."""
_COLUMNS = (
    Column(title="field", numeric=False, explains="a link to its table, whose rows link to the runs"),
    Column(title="try", explains="an untried value, all else as at the lowest"),
    Column(title="lowest so far", explains="the tried value of the lowest mean loss"),
    Column(title="expected loss", explains="nats a token, mean over seeds"),
    Column(title="change", explains="expected loss minus the lowest one, paired by seed; below 0 of noise too"),
    Column(title="interval", explains="of the change: t over seeds, at 95 % for all rows together"),
    Column(title="seeds", explains="that all values have which the change is reckoned from"),
    Column(title="error", explains="mean size of the error of the same rule at values that were tried"),
    Column(title="gain", numeric=False, explains="expected where the interval lies below 0 and the error is smaller"),
    Column(title="minutes", explains="of training and evaluation, in proportion to training FLOPs"),
    Column(title="memory (GiB)", explains="at the fullest moment, by the settings alone"),
    Column(title="if", numeric=False, explains="what is assumed of the loss"),
)
_NOTES = (
    "An expectation is reckoned from the values tried and is no evidence.",
    "The lowest value was picked by the losses that this is reckoned from: even of noise the change is below 0.",
    "Where each step gains less than the one before, a step that repeats itself is the most to hope for.",
)


def next_section(group: Group, swept: Sequence[Swept], *, prefix: str = "") -> Section:
    """Values, then seeds.

    Args:
        group: the points.
        swept: a table of each field that changes alone.
        prefix: of all anchors of the group.
    """
    found = [each for table in swept if (each := expectation_of(group, table, fields=len(swept)))]
    found.sort(key=lambda each: (each.change.doubt is not None, each.change.mean))
    said = [*_without(swept, found), *_more_seeds(group), *_more_pairs(group)]
    blocks: list[Block] = []
    if found:
        rows = tuple(_row(each, f"#{prefix}{anchor_of(each.field)}") for each in found)
        blocks.append(Table(caption="Untried values and what to expect", columns=_COLUMNS, rows=rows, notes=_NOTES))
        blocks += [Code(train_command(each.config)) for each in found if each.config.model.hyperedges is None]
    if said:
        blocks.append(Bullets(tuple(said)))
    if not blocks:
        blocks.append(Paragraph("Nothing follows from these runs.", "note"))
    return Section(title="What to try next", anchor="next", blocks=tuple(blocks))


def _row(each: Expectation, table: str) -> tuple[Cell, ...]:
    value, lowest = numbers.numeric(each.value), numbers.numeric(each.lowest.value)
    return (
        Cell(Span(each.field, href=table), each.field),
        Cell(numbers.setting(each.value), value),
        Cell(each.lowest.label, lowest),
        Cell(numbers.loss(each.loss.mean), each.loss.mean),
        Cell(numbers.difference(each.change.mean), each.change.mean),
        _interval(each.change),
        Cell(str(each.change.seeds), each.change.seeds),
        number_cell(each.change.error, numbers.loss),
        _gain(each.change),
        Cell(numbers.minutes(each.minutes), each.minutes),
        Cell(numbers.gibibytes(each.memory_bytes), each.memory_bytes),
        Cell(each.how, each.how),
    )


def _interval(change: Change) -> Cell:
    found = change.interval
    return Cell(numbers.interval_of_difference(found), None if found is None else found.low)


def _gain(change: Change) -> Cell:
    said = "expected" if change.doubt is None else f"cannot be told: {change.doubt}"
    return Cell(Span(said, strong=change.doubt is None), said)


def _without(swept: Sequence[Swept], found: Sequence[Expectation]) -> Iterator[str]:
    """Where a range ends of which nothing can be expected: a failed value stands beyond it, or no seed is shared."""
    fields = {each.field for each in found}
    for table in swept:
        if table.field not in fields and (said := edge(table)) is not None:
            yield said.sentence


def _more_seeds(group: Group) -> Iterator[str]:
    """What further seeds would show of single points."""
    single = [point for point in group.points if len(point.by_seed(group.loss_name)) == 1]
    if single:
        yield (
            f"{len(single)} of {len(group.points)} points have one seed: run them with --seeds 1,2,3,4,5; until then "
            "no interval can be given."
        )
    if (spread := paired_spread(group)) is not None:
        least = minimum_detectable_difference(spread, SEEDS)
        yield (
            f"Differences of two points spread by {numbers.loss(spread)} over seeds (median of all pairs): with "
            f"{SEEDS} seeds a paired t test of one such pair finds a true difference of {numbers.loss(least)} 80 times "
            "in 100."
        )


def _more_pairs(group: Group) -> Iterator[str]:
    """How many seeds would settle what no verdict was given on."""
    for each in undecided(group):
        needed = seeds_needed(each.spread, abs(each.difference), each.arms_compared)
        how_many = f"{needed} seeds" if needed is not None else f"more than {MOST_SEEDS} seeds"
        among = f", tested as one of {each.arms_compared} arms" if each.arms_compared > 1 else ""
        yield (
            f"{each.arm} and {each.baseline} lie {numbers.loss(abs(each.difference))} apart after {each.seeds} seeds: "
            f"if that is the true difference, {how_many} of each find it 80 times in 100{among}."
        )
