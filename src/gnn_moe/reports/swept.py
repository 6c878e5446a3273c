"""The values of one field with their losses, and which of them is best: what tables and insights are made from.

    table = Swept(field="num_experts", entries=(Entry(value=2, losses={1: 4.53, 2: 4.51}), ...))
    rank(table).kind                        # "best", "tied", ...

The rule. The value with the lowest mean loss is called best only where every other value is shown to be worse: paired
differences by seed, Holm over all other values, at 5 % (`gnn_moe.studies.verdicts`). Else it is tied with those not
shown to be worse. With fewer than two seeds in common nothing can be shown, and lowest is all that it is called.
Most efficient is the cheapest, in training FLOPs (minutes, where FLOPs are not known), of the lowest and those within
`CLOSE` of it that are not shown to be worse. Every part of a report that calls something efficient goes by this.
The lowest is picked by the numbers that then test it: of values that are equal in truth, one is called best in at most
5 of 100 studies (all others must be worse at once), some other is called worse in up to 10 (measured, to six values).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from gnn_moe.errors import BadInput
from gnn_moe.reports.numbers import numeric, setting
from gnn_moe.studies.space import Value
from gnn_moe.studies.statistics import ROUNDING, MeanEstimate, mean_estimate
from gnn_moe.studies.verdicts import Arm, Comparison, compare

SAME_COST = 1.01
"""Ratio of two costs up to which they count as equal."""
CLOSE = 0.01
"""Nats a token above the lowest loss up to which another is near it: a perplexity 1 % higher, whatever the loss."""
IN_MINUTES, IN_FLOPS = "minutes", "training FLOPs"

Kind = Literal["best", "tied", "untested", "equal", "alone", "none"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One value of the field."""

    value: Value
    losses: Mapping[int, float]
    """Of its completed runs by seed, nats a token; empty where it has none."""
    minutes: float | None = None
    """Of training, median over seeds."""
    flops: float | None = None
    """Of training, mean over seeds."""
    missing: str = ""
    """Why it has no loss: `failed, out_of_memory: …` or `running`."""

    @property
    def label(self) -> str:
        return setting(self.value)

    @cached_property
    def estimate(self) -> MeanEstimate | None:
        """Mean over seeds with its 95 % t interval; None without a loss."""
        return mean_estimate(list(self.losses.values())) if self.losses else None

    @property
    def loss(self) -> float:
        """Mean over seeds; only of an entry with a loss."""
        assert self.estimate is not None
        return self.estimate.mean


def _all_values(_: Value) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Swept:
    """The values of one field, all else equal."""

    field: str
    entries: tuple[Entry, ...]
    """No value twice, which is refused."""
    configurations_tried: int = 0
    """Settings that were run in the whole study; those of this table count at least."""
    allows: Callable[[Value], bool] = _all_values
    """Whether a value can stand beside the other settings."""

    def __post_init__(self) -> None:
        labels = [entry.label for entry in self.entries]
        for label in labels:
            if labels.count(label) > 1:
                raise BadInput(f"{self.field} {label} stands twice in one table; make its runs one entry")

    @property
    def with_loss(self) -> tuple[Entry, ...]:
        return tuple(entry for entry in self.entries if entry.losses)

    @property
    def ascending(self) -> tuple[tuple[float, Entry], ...]:
        """Number and entry of those that have a loss and a number for a value."""
        found = [(number, entry) for entry in self.with_loss if (number := numeric(entry.value)) is not None]
        return tuple(sorted(found, key=lambda pair: pair[0]))

    @property
    def is_of_one_seed(self) -> bool:
        """Whether no two values have two seeds in common, so that nothing can be shown."""
        entries = self.with_loss
        return all(
            len(one.losses.keys() & other.losses.keys()) < 2
            for place, one in enumerate(entries)
            for other in entries[:place]
        )


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Which value is best.

    `kind` is best (all others shown to be worse), tied, untested (no two seeds in common), equal (all losses the
    same), alone (one value has a loss) or none (no value has).
    """

    kind: Kind
    lowest: Entry | None
    """Of the lowest mean loss."""
    tied: tuple[Entry, ...]
    """The lowest and those not shown to be worse, in the order of the table; untested: those of the same loss."""
    against_lowest: Mapping[str, Comparison]
    """Of every other value with a loss, by its label; empty unless best or tied."""


def arm(entry: Entry) -> Arm:
    """An entry as an arm of a comparison."""
    return Arm(name=repr(entry.value), seeds=tuple(entry.losses), losses=tuple(entry.losses.values()))


def compared(baseline: Arm, arms: list[Arm], configurations_tried: int = 0) -> tuple[Comparison, ...]:
    """`compare` with as many configurations as there are at least, and the same random draws each time."""
    tried = max(configurations_tried, 1 + len(arms))
    return compare(baseline, arms, configurations_tried=tried, generator=np.random.default_rng(0))


def are_equal(one: float, other: float) -> bool:
    """Whether two losses differ by rounding alone."""
    return abs(one - other) <= ROUNDING * max(abs(one), abs(other))


def rank(table: Swept) -> Ranking:
    """Which value of a table is best, by the rule at the top of this file.

    Raises:
        BadInput: a loss is not finite.
    """
    entries = table.with_loss
    if not entries:
        return Ranking(kind="none", lowest=None, tied=(), against_lowest={})
    lowest = min(entries, key=lambda entry: entry.loss)
    if len(entries) == 1:
        return Ranking(kind="alone", lowest=lowest, tied=entries, against_lowest={})
    same = tuple(entry for entry in entries if are_equal(entry.loss, lowest.loss))
    if len(same) == len(entries):
        return Ranking(kind="equal", lowest=lowest, tied=same, against_lowest={})
    others = [entry for entry in entries if entry is not lowest]
    found = compared(arm(lowest), [arm(entry) for entry in others], table.configurations_tried)
    if all(len(comparison.pairs.seeds) < 2 for comparison in found):
        return Ranking(kind="untested", lowest=lowest, tied=same, against_lowest={})
    by_label = {entry.label: comparison for entry, comparison in zip(others, found, strict=True)}
    tied = tuple(entry for entry in entries if entry is lowest or by_label[entry.label].verdict != "worse")
    kind: Kind = "best" if tied == (lowest,) else "tied"
    return Ranking(kind=kind, lowest=lowest, tied=tied, against_lowest=by_label)


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """The most efficient value, or why none is called so."""

    entry: Entry | None
    cost: str
    """What it is cheapest in: `IN_FLOPS` or `IN_MINUTES`; "" where none is called so."""
    reason: str
    """In words: what makes it so, or why none is called so."""
    is_tested: bool
    """Whether seeds were tried on it: it was held against the lowest with two seeds, or is the lowest and others
    were."""


def cost_of(entry: Entry, cost: str) -> float | None:
    """What an entry cost, in `IN_MINUTES` or `IN_FLOPS`; None where that is not known or not positive."""
    found = entry.minutes if cost == IN_MINUTES else entry.flops
    return found if found is not None and found > 0 else None


def common_cost(table: Swept) -> str | None:
    """What all values with a loss can be weighed by: training FLOPs, else minutes; None where neither is known."""
    return next((kind for kind in (IN_FLOPS, IN_MINUTES) if all(cost_of(each, kind) for each in table.with_loss)), None)


def costs_of(table: Swept, cost: str) -> dict[str, float]:
    """What the values with a loss cost, by label; those of which that is not known are left out."""
    return {entry.label: found for entry in table.with_loss if (found := cost_of(entry, cost)) is not None}


def most_efficient(table: Swept) -> Efficiency:
    """The cheapest of the lowest and those within `CLOSE` of it that are not shown to be worse.

    By training FLOPs; where not all values have them, by minutes. Of several at the least cost, the one of lowest loss.
    """
    ranking = rank(table)
    lowest = ranking.lowest
    if lowest is None or ranking.kind == "alone":
        return _none("there are no two values to choose from")
    near = [entry for entry in table.with_loss if _is_near(entry, lowest)]
    candidates = [entry for entry in near if not _is_worse(ranking, entry)]
    cost = common_cost(table)
    if cost is None:
        return _none("what the values cost is not known")
    costs = costs_of(table, cost)
    of_these = [costs[entry.label] for entry in candidates]
    if len(candidates) > 1 and max(of_these) <= SAME_COST * min(of_these):
        return _none(f"those within {CLOSE} nats of the lowest loss take the same {cost}")
    cheap = [entry for entry in candidates if costs[entry.label] <= SAME_COST * min(of_these)]
    entry = min(cheap, key=lambda each: each.loss)
    is_tested = _is_tested(ranking, entry)
    if entry is lowest:
        cheaper = [each for each in table.with_loss if costs[each.label] * SAME_COST < costs[lowest.label]]
        reason = _why_lowest(cost, is_run=bool(cheaper), is_near=any(_is_near(each, lowest) for each in cheaper))
    else:
        standing = "not shown to be worse" if is_tested else "not tested"
        reason = f"the cheapest within {CLOSE} nats of the lowest loss (by {cost}), {standing}"
    return Efficiency(entry=entry, cost=cost, reason=reason, is_tested=is_tested)


def _none(reason: str) -> Efficiency:
    return Efficiency(entry=None, cost="", reason=reason, is_tested=False)


def _why_lowest(cost: str, *, is_run: bool, is_near: bool) -> str:
    """Why nothing is preferred to the lowest: what is cheaper was not run, is not near, or is worse."""
    if not is_run:
        return f"nothing of fewer {cost} was run"
    if is_near:
        return f"what takes fewer {cost} and lies within {CLOSE} nats of it is shown to be worse"
    return f"nothing of fewer {cost} lies within {CLOSE} nats of it"


def _is_near(entry: Entry, lowest: Entry) -> bool:
    return entry.loss <= lowest.loss + CLOSE


def _is_worse(ranking: Ranking, entry: Entry) -> bool:
    found = ranking.against_lowest.get(entry.label)
    return found is not None and found.verdict == "worse"


def _is_tested(ranking: Ranking, entry: Entry) -> bool:
    if entry is ranking.lowest:
        return bool(ranking.against_lowest)
    found = ranking.against_lowest.get(entry.label)
    return found is not None and len(found.pairs.seeds) > 1
