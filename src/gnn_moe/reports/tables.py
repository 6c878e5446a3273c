"""A table for each swept field, with what rules say of it.

    sections = sweep_sections(group, with_reference=True)

A field's table has the points that differ from the baseline in that field alone. Points that differ in several (a grid,
a search) are in one more table, of all points. Arms of a comparison are not here. `swept.rank` and
`swept.most_efficient` are the rules of the marks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gnn_moe.config import RunConfig
from gnn_moe.errors import BadInput
from gnn_moe.reports import numbers
from gnn_moe.reports.document import Block, Bullets, Cell, Column, Section, Span, Table, Text
from gnn_moe.reports.insights import Insight, best_value, failures, insights_of, one_seed
from gnn_moe.reports.interactions import Setting, interactions_of
from gnn_moe.reports.points import Group, Point
from gnn_moe.reports.reference import reference_blocks
from gnn_moe.reports.returns import returns_of, why_no_returns
from gnn_moe.reports.rows import Row, cells, columns
from gnn_moe.reports.swept import CLOSE, Efficiency, Entry, Ranking, Swept, most_efficient, rank
from gnn_moe.studies.space import Value, with_values

RULE_OF_BEST = (
    "Best: every other value is shown to be worse, by paired differences of seeds (t, Holm over all other values, "
    "5 %). Tied: the lowest, and those not shown to be worse than it. With fewer than two seeds in common there is "
    "only a lowest."
)
RULE_OF_EFFICIENT = (
    f"Most efficient: the fewest training FLOPs (minutes, where FLOPs are not known) among the lowest and those within "
    f"{CLOSE} nats of it (1 % of perplexity) that are not shown to be worse; that does not show them to be equal."
)


def sweep_sections(group: Group, *, with_reference: bool) -> tuple[Section, ...]:
    """A section for each field that points change one at a time, and one for points that change several.

    Args:
        group: its points without arms.
        with_reference: set the seed's own table of a field beside it, where there is one.
    """
    points = [point for point in group.points if point.arm is None]
    sections = [
        _of_field(group, field, some, with_reference=with_reference, anchor=anchor_of(field))
        for field in group.fields
        if len(some := slice_of(group, field)) > 1
    ]
    if any(len(changed_fields(group, point)) > 1 for point in points):
        sections.append(_of_all(group, points, anchor="swept-all-points"))
    elif len(sections) > 1:
        found = interactions_of([_setting(group, point) for point in points])
        bullets = Bullets(tuple(insight.sentence for insight in found))
        sections.append(Section(title="Interactions", anchor="swept-interactions", blocks=(bullets,)))
    return tuple(sections)


def anchor_of(field: str) -> str:
    """Of the section of a field that changes alone."""
    return f"swept-{field.replace('_', '-')}"


def changed_fields(group: Group, point: Point) -> tuple[str, ...]:
    """The fields in which a point differs from the baseline."""
    return tuple(name for name, value in point.settings.items() if repr(value) != repr(group.baseline[name]))


def slice_of(group: Group, field: str) -> tuple[Point, ...]:
    """The points without an arm that differ from the baseline in no other field; numbers ascending."""
    found = [point for point in group.points if point.arm is None and set(changed_fields(group, point)) <= {field}]
    as_numbers = [numbers.numeric(point.settings[field]) for point in found]
    if any(number is None for number in as_numbers):
        return tuple(found)
    return tuple(point for _, point in sorted(zip(as_numbers, found, strict=True), key=lambda pair: pair[0] or 0))


def rows_of(group: Group, field: str | None, points: Sequence[Point]) -> tuple[Row, ...]:
    """Points as rows, named by their value of a field, or by all that they change (None)."""
    return tuple(
        Row(
            point=point,
            value=point.label if field is None else point.settings[field],
            loss_name=group.loss_name,
        )
        for point in points
    )


def swept_of(group: Group, field: str | None, points: Sequence[Point]) -> Swept:
    """What rules read of a table."""
    entries = tuple(row.entry for row in rows_of(group, field, points))
    tried = sum(any(run.state in ("completed", "failed") for run in point.runs) for point in group.points)
    config = next((run.config for point in points for run in point.runs if run.config is not None), None)
    if field is None or config is None:
        return Swept(field=field or "setting", entries=entries, configurations_tried=tried)
    return Swept(
        field=field, entries=entries, configurations_tried=tried, allows=lambda value: _goes_with(config, field, value)
    )


def swept_tables(group: Group) -> list[Swept]:
    """A table of each field that changes alone, those with more to say first."""
    found = [swept_of(group, field, points) for field in group.fields if len(points := slice_of(group, field)) > 1]
    return sorted(found, key=lambda table: -len(insights_of(table)))


def _goes_with(config: RunConfig, field: str, value: Value) -> bool:
    try:
        with_values(config, {field: value})
    except BadInput:
        return False
    return True


def _of_field(group: Group, field: str, points: Sequence[Point], *, with_reference: bool, anchor: str) -> Section:
    table = swept_of(group, field, points)
    blocks: list[Block] = [_table(group, field, points, table)]
    if said := insights_of(table):
        blocks.append(_bullets(said))
    if with_reference:
        blocks += reference_blocks(field, group)
    return Section(title=field, anchor=anchor, blocks=tuple(blocks))


def _of_all(group: Group, points: Sequence[Point], *, anchor: str) -> Section:
    table = swept_of(group, None, points)
    said = [found for rule in (best_value, failures, one_seed) if (found := rule(table)) is not None]
    said += interactions_of([_setting(group, point) for point in points])
    blocks: tuple[Block, ...] = (_table(group, None, points, table),)
    return Section(title="All points", anchor=anchor, blocks=(*blocks, _bullets(said)) if said else blocks)


def _bullets(said: Sequence[Insight]) -> Bullets:
    return Bullets(tuple(insight.sentence for insight in said))


def _setting(group: Group, point: Point) -> Setting:
    (row,) = rows_of(group, None, [point])
    return Setting(settings=point.settings, losses=row.entry.losses)


def _table(group: Group, field: str | None, points: Sequence[Point], swept: Swept) -> Table:
    named = (field,) if field is not None else group.fields
    ranking = rank(swept)
    efficiency = most_efficient(swept)
    rates = _rates(swept) if field is not None else {}
    rows = []
    for row in rows_of(group, field, points):
        is_best = ranking.kind == "best" and row.entry.label == _label(ranking.lowest)
        names = tuple(_name(row, each, is_best) for each in named)
        rate, text = rates.get(row.entry.label, (None, numbers.UNKNOWN))
        mark = _marks(group, row, ranking, efficiency)
        rows.append((*names, *cells(row, is_best=is_best), Cell(text, sort=rate), mark))
    titles = tuple(Column(title=each, explains="the value of this field") for each in named)
    added = (
        Column(
            title="For its cost",
            explains="change of loss for each doubling of cost, from the next cheaper value; below 0 it pays",
        ),
        Column(title="Marks", numeric=False, explains="by the rules below the table; and what failed, with its reason"),
    )
    what = f"each value of {field}, all else as in the baseline" if field is not None else "every setting that was run"
    return Table(
        caption=f"Losses and costs of {what}",
        columns=(*columns(group, titles), *added),
        rows=tuple(rows),
        notes=(*_notes(group, points, efficiency), *([] if field is None else _without_rates(swept))),
    )


def _name(row: Row, field: str, is_best: bool) -> Cell:
    value = row.point.settings[field]
    number = numbers.numeric(value)
    return Cell(Span(numbers.setting(value), strong=is_best), sort=str(value) if number is None else number)


def _rates(swept: Swept) -> dict[str, tuple[float | None, str]]:
    """By value: the rate of the step that leads to it, and how it is written."""
    found = returns_of(swept)
    if found is None:
        return {}
    first: dict[str, tuple[float | None, str]] = {found.steps[0].cheaper.label: (None, "the cheapest")}
    one = "minutes" if found.cost == "minutes" else "FLOPs"
    return first | {
        step.dearer.label: (step.rate, f"{numbers.difference(step.rate)} a doubling of {one}") for step in found.steps
    }


def _without_rates(swept: Swept) -> Iterator[str]:
    """Why the column of rates is empty."""
    if (reason := why_no_returns(swept)) is not None:
        yield f"No change for each doubling of cost is given: {reason}."


def _marks(group: Group, row: Row, ranking: Ranking, efficiency: Efficiency) -> Cell:
    label = row.entry.label
    lowest = _label(ranking.lowest)
    marks = []
    if label in [entry.label for entry in ranking.tied]:
        if ranking.kind == "best":
            marks.append("best")
        elif ranking.kind == "tied":
            marks.append("tied, lowest mean" if label == lowest else "tied")
        elif ranking.kind == "untested":
            alone = len(row.entry.losses) == 1
            marks.append("lowest (one seed: no interval)" if alone else "lowest (no two seeds in common)")
    if label == _label(efficiency.entry):
        if efficiency.is_tested:
            marks.append(f"most efficient ({efficiency.cost})")
        elif label != lowest:
            marks.append(efficiency.reason)
    if row.point.runs[0].study is not None and not changed_fields(group, row.point):
        marks.append("baseline")
    text: list[str | Span] = [", ".join(marks)] if marks else []
    if remarks := row.remarks():
        text += ["; ", *remarks] if text else remarks
    return Cell(text or "", sort=", ".join(marks))


def _label(entry: Entry | None) -> str | None:
    return None if entry is None else entry.label


def _notes(group: Group, points: Sequence[Point], efficiency: Efficiency) -> tuple[Text, ...]:
    notes: list[Text] = [RULE_OF_BEST, RULE_OF_EFFICIENT]
    if efficiency.entry is None:
        notes.append(f"No value is marked most efficient: {efficiency.reason}.")
    elif not efficiency.is_tested:
        notes.append(
            "No value is marked most efficient: with fewer than two seeds in common nothing is tested. "
            f"{efficiency.entry.label}: {efficiency.reason}."
        )
    else:
        notes.append(f"Most efficient is {efficiency.entry.label}: {efficiency.reason}.")
    of_these = [run for point in points for run in point.runs]
    for same in group.duplicates:
        if same[0] in of_these:
            names = numbers.listed([run.name for run in same])
            notes.append(f"{len(same)} completed runs of one point and seed {same[0].seed}: {names}; one counts.")
    return tuple(notes)
