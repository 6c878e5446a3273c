"""How a loss is taken to go on to an untried value, and how far that errs at values that were tried.

    assumed = assumed_of(table)     # the value, and the losses whose weighted sum is expected there

Beyond the edge of a range the last step is taken to repeat itself: the loss changes as much again. Inside it the loss
is taken to lie on the parabola through the lowest value and its neighbours.

Nothing is assumed where that leads too far: beyond a step as large as that to a diverged run, below the lowest by more
than its nearer neighbour is above, of values that are not all positive, or where all losses are one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gnn_moe.reports import numbers
from gnn_moe.reports.next_value import next_value, scale, steps_to, value_between
from gnn_moe.reports.swept import Entry, Swept, rank

MOST_GAINED = 0.2
"""Part of the lowest loss: a step that changed it by more, as from a diverged run, is not taken to repeat itself."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """An untried value, and the losses that it is reckoned from."""

    value: float
    how: str
    """What was assumed, with the values that it rests on."""
    lowest: Entry
    """The tried value of the lowest mean loss."""
    weights: Mapping[str, float]
    """Of the losses of some values, by label, whose sum is the expected loss."""
    errors: tuple[float, ...]
    """Of the same rule at tried values that it can be reckoned for from the others: reckoned minus measured mean."""

    def changes(self, table: Swept) -> dict[int, float]:
        """The expected loss minus that of the lowest, of each seed that all values have."""
        expected = self.expected(table)
        return {seed: loss - self.lowest.losses[seed] for seed, loss in expected.items()}

    def expected(self, table: Swept) -> dict[int, float]:
        """The expected loss of each seed that all values have."""
        by_label = {entry.label: entry.losses for entry in table.with_loss}
        weighed = [(weight, by_label[label]) for label, weight in self.weights.items()]
        seeds = set.intersection(set(self.lowest.losses), *(set(losses) for _, losses in weighed))
        return {seed: math.fsum(weight * losses[seed] for weight, losses in weighed) for seed in sorted(seeds)}


def assumed_of(table: Swept) -> Assumed | None:
    """The value to try next of a field; None where there is none, or the assumption leads to a loss that cannot be."""
    ranking, ascending = rank(table), [entry for _, entry in table.ascending]
    lowest = ranking.lowest
    if ranking.kind == "equal" or lowest is None or lowest not in ascending or len(ascending) < 2:
        return None
    if table.ascending[0][0] <= 0:  # -1 stands for all, and from 0 no step leads on by a ratio
        return None
    place = ascending.index(lowest)
    inside = 0 < place < len(ascending) - 1
    found = _inside(table, ascending, place) if inside else _beyond(table, ascending, upwards=place > 0)
    if found is None or found.value in [numbers.numeric(entry.value) for entry in table.entries]:
        return None
    return found


def _beyond(table: Swept, ascending: Sequence[Entry], *, upwards: bool) -> Assumed | None:
    further = next_value(table, upwards=upwards)
    if further.value is None:
        return None
    walked = ascending if upwards else ascending[::-1]
    before, edge = walked[-2:]
    if (before.loss - edge.loss) * further.steps > MOST_GAINED * edge.loss:
        return None
    return Assumed(
        value=further.value,
        how=f"the step from {before.label} to {edge.label} repeats itself",
        lowest=edge,
        weights={edge.label: 1 + further.steps, before.label: -further.steps},
        errors=tuple(_errors_of_steps(walked)),
    )


def _errors_of_steps(walked: Sequence[Entry]) -> list[float]:
    """Of each value after two others, had the step between those repeated itself."""
    values = _values(walked)
    found = []
    for place in range(2, len(walked)):
        before, last, here = walked[place - 2 : place + 1]
        steps = steps_to(values[place], values[:place])
        found.append(last.loss + steps * (last.loss - before.loss) - here.loss)
    return found


def _inside(table: Swept, ascending: Sequence[Entry], place: int) -> Assumed | None:
    three = ascending[place - 1 : place + 2]
    value = value_between(table, *three)
    if value is None:
        return None
    labels = [entry.label for entry in three]
    weights = _lagrange(_values(three), value)
    expected = math.fsum(weight * entry.loss for weight, entry in zip(weights, three, strict=True))
    # A neighbour that is far worse bends the parabola: it may not fall by more than the nearer neighbour is above.
    if not 0 < three[1].loss - expected <= min(three[0].loss, three[2].loss) - three[1].loss:
        return None
    return Assumed(
        value=value,
        how=f"a parabola through {numbers.listed(labels)}",
        lowest=three[1],
        weights=dict(zip(labels, weights, strict=True)),
        errors=tuple(_errors_of_parabolas(ascending)),
    )


def _errors_of_parabolas(ascending: Sequence[Entry]) -> list[float]:
    """Of each value that has others on both sides, by the parabola through its three nearest; none of three values."""
    places = scale(_values(ascending))
    found = []
    for place in range(1, len(ascending) - 1):
        others = sorted((abs(places[other] - places[place]), other) for other in range(len(places)) if other != place)
        nearest = sorted(other for _, other in others[:3])
        if len(nearest) == 3:
            weights = _lagrange_at([places[other] for other in nearest], places[place])
            losses = [ascending[other].loss for other in nearest]
            found.append(math.fsum(w * loss for w, loss in zip(weights, losses, strict=True)) - ascending[place].loss)
    return found


def _values(entries: Sequence[Entry]) -> list[float]:
    return [number for entry in entries if (number := numbers.numeric(entry.value)) is not None]


def _lagrange(values: Sequence[float], value: float) -> list[float]:
    *places, at = scale([*values, value])
    return _lagrange_at(places, at)


def _lagrange_at(places: Sequence[float], at: float) -> list[float]:
    """The weights with which values at three places give that of the parabola through them at another place."""
    return [
        math.prod((at - other) / (place - other) for number, other in enumerate(places) if number != own)
        for own, place in enumerate(places)
    ]
