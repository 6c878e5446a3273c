"""What the seed said of its tables, held against the rules: what follows, and what one seed cannot carry.

judge({"claim": "3 GNN layers optimal", "kind": "best", "value": 3}, table)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gnn_moe.reports import insights, numbers
from gnn_moe.reports.returns import returns_of
from gnn_moe.reports.swept import Entry, Swept, most_efficient, rank
from gnn_moe.studies.space import Value

Standing = Literal["follows", "one seed cannot carry it", "does not follow", "cannot be told"]

LARGE_COST = 1.5
"""Ratio of minutes from which a cost is called significant."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A claim with what the numbers say of it."""

    claim: str
    """In its author's words."""
    standing: Standing
    why: str
    """With the figures."""


def judge(claim: Mapping[str, Any], table: Swept) -> Judgement:
    """Holds a claim against the table that it was made of.

    Args:
        claim: `claim`, `kind` (a key of `_KINDS`) and `value`, as in `studies.reference.seed_tables`.
        table: with the same losses.
    """
    entry = next((entry for entry in table.entries if entry.value == claim["value"]), None)
    standing, why = _KINDS[claim["kind"]](table, entry)
    return Judgement(claim=claim["claim"], standing=standing, why=why)


def judge_sum(claim: Mapping[str, Any], tables: Sequence[Swept], baseline: Mapping[str, Value]) -> Judgement:
    """Holds a claim that takes the values of several sweeps at once against tables that change one field at a time.

    Args:
        claim: `claim`, what it is `of`, and `values`, by field, each of which has its table.
        tables: all around one baseline.
        baseline: its settings.
    """
    by_field = {table.field: {entry.value: entry for entry in table.entries} for table in tables}
    changes = {
        field: by_field[field][value].loss - by_field[field][baseline[field]].loss
        for field, value in claim["values"].items()
    }
    (start,) = {by_field[field][baseline[field]].loss for field in changes}
    each = "; ".join(f"{name} {claim['values'][name]} {numbers.difference(found)}" for name, found in changes.items())
    why = (
        f"{claim['of']} takes values of {len(changes)} sweeps at once; each changes one field of a baseline with loss "
        f"{numbers.loss(start)}: {each}. Added up they give "
        f"{numbers.loss(start + sum(changes.values()))}, but no run changes two fields, so whether they add up "
        "(interaction) was not tested."
    )
    return Judgement(claim=claim["claim"], standing="cannot be told", why=why)


_Found = tuple[Standing, str]


def _best(table: Swept, entry: Entry | None) -> _Found:
    ranking, said = rank(table), insights.best_value(table)
    if entry is None or not entry.losses or ranking.lowest is None or said is None:
        return "cannot be told", "The table has no loss of it."
    if entry not in ranking.tied or (entry is not ranking.lowest and ranking.kind == "tied"):
        return "does not follow", said.sentence
    at_edge = insights.edge(table)
    further = f" {at_edge.sentence}" if at_edge is not None and at_edge.evidence["edge"] else ""
    return ("follows" if ranking.kind == "best" else _unproven(table)), said.sentence + further


def _fastest(table: Swept, entry: Entry | None) -> _Found:
    timed = [each for each in table.with_loss if each.minutes is not None]
    if entry is None or entry.minutes is None or len(timed) < 2:
        return "cannot be told", "The table has no minutes of it and another."
    fastest, following = sorted(timed, key=lambda each: each.minutes or 0)[:2]
    why = f"{numbers.minutes(fastest.minutes)} minutes at {fastest.label}, {numbers.minutes(following.minutes)} at "
    why += f"{following.label}, the next; one timing each."
    return ("follows" if entry is fastest else "does not follow"), why


def _diminishing(table: Swept, entry: Entry | None) -> _Found:
    found, said = returns_of(table), insights.diminishing_returns(table)
    if found is None or said is None or entry is None:
        return "cannot be told", "The table has not the costs of three values."
    place = next((place for place, step in enumerate(found.steps, 1) if step.dearer is entry), 0)
    before, beyond = found.steps[:place], found.steps[place:]
    if not before or not beyond:
        return "cannot be told", f"The table has no step to {entry.label} and none beyond it. {said.sentence}"
    if any(step.rate >= 0 for step in before):
        step = next(step for step in before if step.rate >= 0)
        lost = f"The loss rises already from {step.cheaper.label} to {step.dearer.label}, "
        lost += f"by {numbers.loss(step.dearer.loss - step.cheaper.loss)}: there is no return up to {entry.label} "
        return "does not follow", f"{lost}that could diminish beyond it. {said.sentence}"
    if all(step.rate > max(each.rate for each in before) for step in beyond):
        return _unproven(table), said.sentence
    return "does not follow", said.sentence


def _efficient(table: Swept, entry: Entry | None) -> _Found:
    found, said = most_efficient(table), insights.diminishing_returns(table)
    rates = f" {said.sentence}" if said is not None else ""
    if found.entry is None:
        return "cannot be told", f"It gives no rule, and by ours none of {len(table.with_loss)}: {found.reason}.{rates}"
    why = f"By our rule the most efficient is {found.entry.label}: {found.reason}.{rates}"
    if found.entry is not entry:
        return ("does not follow" if found.is_tested else "cannot be told"), why
    return ("follows" if found.is_tested else _unproven(table)), why


def _too_low(table: Swept, entry: Entry | None) -> _Found:
    found = insights.too_low(table)
    if found is None or entry is None or found.evidence["value"] != entry.value:
        return "does not follow", f"Not by our rule: {insights.FAR} times the range of all others."
    return ("follows" if not table.is_of_one_seed else "one seed cannot carry it"), found.sentence


def _falls(table: Swept, entry: Entry | None) -> _Found:
    found = insights.monotone(table)
    if found is None:
        return "cannot be told", "The table has not the losses of three values."
    if not found.evidence["falls"]:
        return "does not follow", found.sentence
    steps = len(table.ascending) - 1
    return ("follows" if found.evidence.get("steps_shown") == steps else _unproven(table)), found.sentence


def _costs(table: Swept, entry: Entry | None) -> _Found:
    timed = [each for each in table.with_loss if each.minutes]
    cheapest = min(timed, key=lambda each: each.minutes or 0, default=None)
    if cheapest is None or entry is None or not entry.minutes or not cheapest.minutes:
        return "cannot be told", "The table has no minutes of it."
    ratio = entry.minutes / cheapest.minutes
    why = f"{numbers.minutes(entry.minutes)} minutes at {entry.label} are {ratio:.2f} times the "
    why += f"{numbers.minutes(cheapest.minutes)} at {cheapest.label}; one timing each."
    return ("follows" if ratio >= LARGE_COST else "does not follow"), why


def _failed(table: Swept, entry: Entry | None) -> _Found:
    if entry is None or entry.losses:
        return "does not follow", "The table has no failure there."
    return "cannot be told", f"{table.field} {entry.label} failed in 1 run, and the table says not of what."


def _unproven(table: Swept) -> Standing:
    return "one seed cannot carry it" if table.is_of_one_seed else "cannot be told"


_KINDS: Mapping[str, Callable[[Swept, Entry | None], _Found]] = {
    "best": _best,
    "fastest": _fastest,
    "diminishing": _diminishing,
    "efficient": _efficient,
    "too low": _too_low,
    "falls": _falls,
    "costs": _costs,
    "failed": _failed,
}
