"""What an untried value of a field is expected to give: its loss, how that differs from the lowest, minutes and memory.

    found = expectation_of(group, table)

Beyond the edge of a range the last step is taken to repeat itself: the loss changes as much again. Inside it the loss
is taken to lie on the parabola through the lowest value and its neighbours. Either is reckoned for each seed, so that
the intervals are paired; they hold how far seeds differ, and not whether the curve goes on as assumed.

Nothing is expected where that leads too far: beyond a step as large as that to a diverged run, below the lowest by more
than its nearer neighbour is above, of values that are not all positive, or where all losses are one.

Minutes go with training FLOPs from the nearest value's; memory is that of `gnn-moe inspect`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gnn_moe.config import RunConfig
from gnn_moe.model.size import model_size
from gnn_moe.reports import numbers
from gnn_moe.reports.costs import config_of, known_config_of, minutes_of_point
from gnn_moe.reports.memory import planned_bytes
from gnn_moe.reports.next_value import next_value, scale, value_between
from gnn_moe.reports.sources import Group, Point
from gnn_moe.reports.swept import Entry, Swept, rank
from gnn_moe.reports.tables import slice_of
from gnn_moe.studies.space import Value, with_values
from gnn_moe.studies.statistics import MeanEstimate, mean_estimate

MOST_GAINED = 0.2
"""Part of the lowest loss: a step that changed it by more, as from a diverged run, is not taken to repeat itself."""


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
    change: MeanEstimate
    """Expected loss minus that of `lowest`, paired by seed; below 0 it is worth a try."""
    config: RunConfig
    minutes: float | None
    """Of training and evaluation, on the machine of the runs; None where theirs are not known."""
    memory_bytes: int | None
    """At the fullest moment, by the settings alone; None where the vocabulary is not known."""


@dataclass(frozen=True, kw_only=True)
class _Assumed:
    value: float
    how: str
    weights: Mapping[str, float]
    """Of the losses of some values, by label, whose sum is the expected loss."""


def expectation_of(group: Group, table: Swept) -> Expectation | None:
    """What the value to try next of a field is expected to give.

    Args:
        group: that the table is of.
        table: the values of the field.

    Returns:
        The expectation; None where no value is to be tried, the values have no seed in common, or the assumption leads
        to a loss that cannot be.
    """
    points = slice_of(group, table.field)
    ranking, ascending = rank(table), [entry for _, entry in table.ascending]
    lowest = ranking.lowest
    if ranking.kind == "equal" or lowest is None or lowest not in ascending or len(ascending) < 2:
        return None
    if table.ascending[0][0] <= 0:  # -1 stands for all, and from 0 no step leads on by a ratio
        return None
    place = ascending.index(lowest)
    inside = 0 < place < len(ascending) - 1
    assumed = _inside(table, ascending, place) if inside else _beyond(table, ascending, upwards=place > 0)
    if assumed is None or assumed.value in [numbers.numeric(entry.value) for entry in table.entries]:
        return None
    by_label = {entry.label: entry for entry in ascending}
    losses = [by_label[label].losses for label in assumed.weights]
    seeds = sorted(set.intersection(*(set(each) for each in losses)))
    at_lowest = _point_of(points, table, lowest)
    config, known = config_of(at_lowest), known_config_of(at_lowest)
    if not seeds or config is None:
        return None
    expected = {
        seed: math.fsum(w * its[seed] for w, its in zip(assumed.weights.values(), losses, strict=True))
        for seed in seeds
    }
    value = int(assumed.value) if isinstance(lowest.value, int) else assumed.value
    changed = with_values(config, {table.field: value})
    return Expectation(
        field=table.field,
        value=value,
        how=assumed.how,
        lowest=lowest,
        loss=mean_estimate(list(expected.values())),
        change=mean_estimate([expected[seed] - lowest.losses[seed] for seed in seeds]),
        config=changed,
        minutes=_minutes(group, table, points, value),
        memory_bytes=None if known is None else planned_bytes(with_values(known, {table.field: value})),
    )


def _beyond(table: Swept, ascending: Sequence[Entry], *, upwards: bool) -> _Assumed | None:
    further = next_value(table, upwards=upwards)
    if further.value is None:
        return None
    edge, before = ascending[:-3:-1] if upwards else ascending[:2]
    if (before.loss - edge.loss) * further.steps > MOST_GAINED * edge.loss:
        return None
    return _Assumed(
        value=further.value,
        how=f"the step from {before.label} to {edge.label} repeats itself",
        weights={edge.label: 1 + further.steps, before.label: -further.steps},
    )


def _inside(table: Swept, ascending: Sequence[Entry], place: int) -> _Assumed | None:
    three = ascending[place - 1 : place + 2]
    value = value_between(table, *three)
    if value is None:
        return None
    labels = [entry.label for entry in three]
    weights = _lagrange([float(entry.value) for entry in three if isinstance(entry.value, int | float)], value)
    expected = math.fsum(weight * entry.loss for weight, entry in zip(weights, three, strict=True))
    # A neighbour that is far worse bends the parabola: it may not fall by more than the nearer neighbour is above.
    if not 0 < three[1].loss - expected <= min(three[0].loss, three[2].loss) - three[1].loss:
        return None
    return _Assumed(
        value=value,
        how=f"a parabola through {numbers.listed(labels)}",
        weights=dict(zip(labels, weights, strict=True)),
    )


def _lagrange(values: Sequence[float], value: float) -> list[float]:
    """The weights with which values at three places give that of the parabola through them at another place."""
    *places, at = scale([*values, value])
    return [
        math.prod((at - other) / (place - other) for number, other in enumerate(places) if number != own)
        for own, place in enumerate(places)
    ]


def _point_of(points: Sequence[Point], table: Swept, entry: Entry) -> Point:
    return next(point for point in points if numbers.setting(point.settings[table.field]) == entry.label)


def _minutes(group: Group, table: Swept, points: Sequence[Point], value: Value) -> float | None:
    """Those of the nearest tried value times the ratio of training FLOPs; tokens go on as a power of the value."""
    tried = [(number, _point_of(points, table, entry)) for number, entry in table.ascending]
    target = numbers.numeric(value)
    assert target is not None
    near, other = sorted(tried, key=lambda pair: abs(pair[0] - target))[:2]
    minutes = minutes_of_point(group, near[1])
    tokens, others = near[1].mean("tokens"), other[1].mean("tokens")
    known = known_config_of(near[1])
    if minutes is None or not tokens or not others or known is None:
        return None
    at, here, there = scale([target, near[0], other[0]])
    more_tokens = math.exp(math.log(tokens / others) * (at - here) / (here - there))
    changed = with_values(known, {table.field: value})
    flops, before = (model_size(each.model).training_flops_per_token for each in (changed, known))
    return minutes * more_tokens * flops / before
