"""What more cost buys: change of loss for each doubling of FLOPs or minutes, from a value to the next dearer one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gnn_moe.reports import numbers
from gnn_moe.reports.swept import IN_FLOPS, IN_MINUTES, SAME_COST, Entry, Swept, compared, cost_of
from gnn_moe.studies.verdicts import Arm, Comparison, compare_pairs

LEAST_RATIO = 1.05
"""Of two costs, below which a step is no step in cost: a change for each doubling would be mostly noise."""

Trend = Literal["none", "diminishing", "growing", "ends", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """From one value to the next dearer one."""

    cheaper: Entry
    dearer: Entry
    doublings: float
    """log2 of the ratio of their costs."""

    @property
    def rate(self) -> float:
        """Change of the mean loss for each doubling of the cost; negative where cost helps."""
        return (self.dearer.loss - self.cheaper.loss) / self.doublings

    def by_seed(self) -> dict[int, float]:
        """The rate of each seed that both have."""
        ours, theirs = self.dearer.losses, self.cheaper.losses
        return {seed: (ours[seed] - theirs[seed]) / self.doublings for seed in ours if seed in theirs}


@dataclass(frozen=True, kw_only=True)
class Returns:
    """The steps of a table, from the cheapest value to the dearest."""

    cost: str
    """`IN_FLOPS`, or `IN_MINUTES`, which are noisier, where FLOPs are not known."""
    steps: tuple[Step, ...]
    """Two or more."""
    change: Comparison | None
    """Rate of the last step against that of the first, paired by seed; None without a seed in common."""

    @property
    def best(self) -> Entry:
        """The value of the lowest mean loss."""
        return min((self.steps[0].cheaper, *(step.dearer for step in self.steps)), key=lambda entry: entry.loss)

    @property
    def trend(self) -> Trend:
        """none: no step lowers the loss; ends: some do, and then none; mixed: neither that nor in order."""
        rates = [step.rate for step in self.steps]
        if all(rate >= 0 for rate in rates):
            return "none"
        if all(rate < 0 for rate in rates):
            pairs = list(itertools.pairwise(rates))
            if all(later > earlier for earlier, later in pairs):
                return "diminishing"
            return "growing" if all(later < earlier for earlier, later in pairs) else "mixed"
        falling = [rate < 0 for rate in rates]
        return "ends" if falling == sorted(falling, reverse=True) else "mixed"

    def written(self, entry: Entry) -> str:
        """The cost of an entry."""
        cost = cost_of(entry, self.cost)
        return numbers.minutes(cost) if self.cost == IN_MINUTES else numbers.scientific(cost)


def returns_of(table: Swept) -> Returns | None:
    """The returns of a table; None where `why_no_returns` has a reason."""
    found = _returns_or_reason(table)
    return found if isinstance(found, Returns) else None


def why_no_returns(table: Swept) -> str | None:
    """Why a table has no returns; None where it has some."""
    found = _returns_or_reason(table)
    return found if isinstance(found, str) else None


def _returns_or_reason(table: Swept) -> Returns | str:
    entries = table.with_loss
    if len(entries) < 3:
        return "that takes the losses of three values"
    for cost in (IN_FLOPS, IN_MINUTES):
        costs = [found for entry in entries if (found := cost_of(entry, cost)) is not None]
        if len(costs) < len(entries):
            continue
        if cost == IN_FLOPS and max(costs) <= SAME_COST * min(costs):
            # Minutes differ by chance then.
            return "the values take the same training FLOPs"
        steps = _steps(entries, costs)
        if isinstance(steps, str):
            return f"{steps} take about the same {cost}, so neither comes first"
        return Returns(cost=cost, steps=steps, change=_change(steps))
    return "what the values cost is not known"


def steps_compared(entries: Sequence[Entry]) -> tuple[Comparison, ...]:
    """Every value against the one before it, paired by seed; Holm over all steps."""
    pairs = [
        (_arm(f"{number} before", earlier.losses), _arm(f"{number} after", later.losses))
        for number, (earlier, later) in enumerate(itertools.pairwise(entries))
    ]
    return compare_pairs(pairs, configurations_tried=2 * len(pairs), generator=np.random.default_rng(0))


def _steps(entries: Sequence[Entry], costs: Sequence[float]) -> tuple[Step, ...] | str:
    """The steps between neighbours in cost; the names of two that cost about the same, where there are such."""
    order = sorted(range(len(entries)), key=lambda place: costs[place])
    found = []
    for place, following in itertools.pairwise(order):
        ratio = costs[following] / costs[place]
        if ratio < LEAST_RATIO:
            return f"{entries[place].label} and {entries[following].label}"
        found.append(Step(cheaper=entries[place], dearer=entries[following], doublings=math.log2(ratio)))
    return tuple(found)


def _change(steps: Sequence[Step]) -> Comparison | None:
    first, last = steps[0].by_seed(), steps[-1].by_seed()
    if not first.keys() & last.keys():
        return None
    return compared(_arm("first step", first), [_arm("last step", last)])[0]


def _arm(name: str, losses: object) -> Arm:
    assert isinstance(losses, dict)
    return Arm(name=name, seeds=tuple(losses), losses=tuple(losses.values()))
