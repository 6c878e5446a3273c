"""What an untried value of a field is expected to give: its loss, how that differs from the lowest, minutes and memory.

    found = expectation_of(group, table, fields=3)

The loss is that of `gnn_moe.reports.assumed`, reckoned for each seed, so that the interval is paired. The lowest value
was picked by the losses that all is reckoned from, and the value to try is where less is expected: the change is below
0 whatever the losses are. So it is told only where its interval lies below 0 and is larger than the rule's own error at
values that were tried. The interval is at 95 % over all fields (Bonferroni). Of losses that are noise around one value,
a gain is then told of in fewer than 5 of 100 tables (tests/reports/test_next_steps.py draws them).

Minutes go with training FLOPs from the nearest value's; memory is that of `gnn-moe inspect`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gnn_moe.config import RunConfig
from gnn_moe.model.size import model_size
from gnn_moe.reports import numbers
from gnn_moe.reports.assumed import Assumed, assumed_of
from gnn_moe.reports.costs import config_of, known_config_of, minutes_of_point
from gnn_moe.reports.memory import planned_bytes
from gnn_moe.reports.next_value import scale
from gnn_moe.reports.points import Group, Point
from gnn_moe.reports.swept import Entry, Swept
from gnn_moe.reports.tables import slice_of
from gnn_moe.studies.space import Value, with_values
from gnn_moe.studies.statistics import LEVEL, Interval, MeanEstimate, mean_estimate, t_interval


@dataclass(frozen=True, kw_only=True)
class Change:
    """The expected loss minus the lowest one, paired by seed, and whether it can be told."""

    mean: float
    seeds: int
    interval: Interval | None
    """t over seeds, at 95 % for all fields together; None of one seed."""
    error: float | None
    """Mean size of the rule's error at values that were tried; None where too few were tried for one."""

    @property
    def doubt(self) -> str | None:
        """Why it cannot be told that the loss falls; None where it can."""
        if self.interval is None:
            return "one seed"
        if self.interval.high >= 0:
            return "the interval holds 0"
        if self.error is None:
            return "too few values to try the rule on"
        return "the rule errs by as much" if self.error >= abs(self.mean) else None


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """An untried value of a field, all else as it was at the lowest value."""

    field: str
    value: Value
    how: str
    """What was assumed, with the values that it rests on."""
    lowest: Entry
    """The tried value of the lowest mean loss."""
    loss: MeanEstimate
    """Expected, over seeds."""
    change: Change
    config: RunConfig
    minutes: float | None
    """Of training and evaluation, on the machine of the runs; None where theirs are not known."""
    memory_bytes: int | None
    """At the fullest moment, by the settings alone; None where the vocabulary is not known."""


def expectation_of(group: Group, table: Swept, *, fields: int = 1) -> Expectation | None:
    """What the value to try next of a field is expected to give.

    Args:
        group: that the table is of.
        table: the values of the field.
        fields: of how many a change is looked for.

    Returns:
        The expectation; None where no value is to be tried, the values have no seed in common, or the assumption leads
        to a loss that cannot be.
    """
    assumed = assumed_of(table)
    expected = {} if assumed is None else assumed.expected(table)
    if assumed is None or not expected:
        return None
    points = slice_of(group, table.field)
    at_lowest = _point_of(points, table, assumed.lowest)
    config, known = config_of(at_lowest), known_config_of(at_lowest)
    if config is None:
        return None
    value = int(assumed.value) if isinstance(assumed.lowest.value, int) else assumed.value
    return Expectation(
        field=table.field,
        value=value,
        how=assumed.how,
        lowest=assumed.lowest,
        loss=mean_estimate(list(expected.values())),
        change=change_of(assumed, table, fields=fields),
        config=with_values(config, {table.field: value}),
        minutes=_minutes(group, table, points, value),
        memory_bytes=None if known is None else planned_bytes(with_values(known, {table.field: value})),
    )


def change_of(assumed: Assumed, table: Swept, *, fields: int = 1) -> Change:
    """How far an assumed loss lies from the lowest, of seeds that all values have: one or more.

    Args:
        assumed: of the table.
        table: the values of the field.
        fields: of how many a change is looked for.
    """
    changes = list(assumed.changes(table).values())
    level = 1 - (1 - LEVEL) / fields
    errors = [abs(error) for error in assumed.errors]
    return Change(
        mean=math.fsum(changes) / len(changes),
        seeds=len(changes),
        interval=t_interval(changes, level=level) if len(changes) > 1 else None,
        error=math.fsum(errors) / len(errors) if errors else None,
    )


def _point_of(points: Sequence[Point], table: Swept, entry: Entry) -> Point:
    return next(point for point in points if numbers.setting(point.settings[table.field]) == entry.label)


def _minutes(group: Group, table: Swept, points: Sequence[Point], value: Value) -> float | None:
    """Those of the nearest tried value times the ratio of training FLOPs; tokens go on as a power of the value."""
    tried = [(number, _point_of(points, table, entry)) for number, entry in table.ascending]
    target = numbers.numeric(value)
    assert target is not None
    near, other = sorted(tried, key=lambda pair: abs(pair[0] - target))[:2]
    minutes = minutes_of_point(near[1])
    tokens, others = near[1].mean("tokens"), other[1].mean("tokens")
    known = known_config_of(near[1])
    if minutes is None or not tokens or not others or known is None:
        return None
    at, here, there = scale([target, near[0], other[0]])
    more_tokens = math.exp(math.log(tokens / others) * (at - here) / (here - there))
    changed = with_values(known, {table.field: value})
    flops, before = (model_size(each.model).training_flops_per_token for each in (changed, known))
    return minutes * more_tokens * flops / before
