"""What a table of one swept field says, in sentences: a rule a function, and no sentence without its figures.

    for insight in insights_of(table):
        print(insight.sentence)

| rule | says | when |
| --- | --- | --- |
| best value | which value is best, or tied with which, or only the lowest | a loss |
| edge | whether the lowest lies inside the range tried or at its edge, and what to try next | 2 numbers |
| monotone | whether the loss falls or rises at every step | 3 numbers |
| too low, too high | an end is `FAR` times as far from the lowest as all other values from each other | 4 numbers |
| diminishing returns | change of loss for each doubling of FLOPs (minutes), step by step | 3 costs |
| failures | which values have no loss, and why | one |
| one seed | that no order of values rests on one seed | one |

Where seeds allow it a rule tests what it says (paired by seed, Holm; `gnn_moe.studies.verdicts`); where they do not, it
says what follows from the numbers and that they are no evidence. Interactions are in `interactions.py`: one table of
one field cannot show them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gnn_moe.reports import numbers
from gnn_moe.reports.next_value import next_value
from gnn_moe.reports.returns import Returns, returns_of, steps_compared
from gnn_moe.reports.swept import Entry, Ranking, Swept, arm, compared, rank
from gnn_moe.studies.verdicts import Comparison

FAR = 5
"""Times the range of all other losses beyond which an end of the range is called too low or too high."""

MOST_NAMED = 4
"""Values that a sentence names before it counts the rest."""


@dataclass(frozen=True, kw_only=True)
class Insight:
    """A sentence with what it rests on."""

    rule: str
    """The name of the rule that made it."""
    sentence: str
    evidence: Mapping[str, Any]
    """The figures in it, unrounded, by name."""


def insights_of(table: Swept) -> tuple[Insight, ...]:
    """What every rule says of a table, in the order of the table above."""
    return tuple(found for rule in RULES if (found := rule(table)) is not None)


def best_value(table: Swept) -> Insight | None:
    """Which value is best, by `swept.rank`."""
    ranking = rank(table)
    lowest = ranking.lowest
    if lowest is None:
        return None
    evidence: dict[str, Any] = {"kind": ranking.kind, "value": lowest.value, "loss": lowest.loss}
    name, count = f"{table.field} {lowest.label}", len(table.with_loss)
    if ranking.kind == "alone":
        sentence = f"Only {name} has a loss, {numbers.loss(lowest.loss)}: there is nothing to compare it with."
        return Insight(rule="best value", sentence=sentence, evidence=evidence)
    if ranking.kind == "equal":
        sentence = f"All {count} values of {table.field} have one loss, {numbers.loss(lowest.loss)}: none is best."
        return Insight(rule="best value", sentence=sentence, evidence=evidence)
    others = [entry for entry in table.with_loss if entry is not lowest]
    nearest = min(others, key=lambda entry: entry.loss)
    evidence |= {"next": nearest.value, "difference": nearest.loss - lowest.loss}
    if ranking.kind == "untested":
        return Insight(rule="best value", sentence=_lowest_untested(table, lowest, nearest), evidence=evidence)
    seeds = numbers.counted(len(lowest.losses), "seed")
    assert lowest.estimate is not None
    figures = f"{numbers.loss(lowest.loss)} ({seeds}, 95 % interval {numbers.interval(lowest.estimate.interval)})"
    evidence |= {"verdicts": {label: found.verdict for label, found in ranking.against_lowest.items()}}
    if ranking.kind == "best":
        found = ranking.against_lowest[nearest.label]
        rest = f"every other value is worse, the nearest, {nearest.label}, by {in_figures(found)}"
        return Insight(rule="best value", sentence=f"{name} is best: {figures}; {rest}.", evidence=evidence)
    parts = [
        f"{word} {_nearest_first(some)}"
        for word, some in (
            ("it is not told apart from", _of_verdict(ranking.against_lowest, worse=False)),
            ("shown to be worse:", _of_verdict(ranking.against_lowest, worse=True)),
        )
        if some
    ]
    sentence = f"No value of {table.field} is best. The lowest mean is that of {lowest.label}: {figures}; "
    return Insight(rule="best value", sentence=f"{sentence}{'; '.join(parts)}.", evidence=evidence)


def edge(table: Swept) -> Insight | None:
    """Whether the lowest loss lies inside the range tried."""
    values = table.ascending
    ranking = rank(table)
    lowest = ranking.lowest
    if len(values) < 2 or lowest is None or ranking.kind == "equal":
        return None
    place = next((place for place, (_, entry) in enumerate(values) if entry is lowest), None)
    if place is None:
        return None
    tried = f"the {len(values)} values tried ({values[0][1].label} to {values[-1][1].label})"
    evidence: dict[str, Any] = {"value": lowest.value, "low": values[0][0], "high": values[-1][0], "edge": None}
    if 0 < place < len(values) - 1:
        around = f"between {values[place - 1][1].label} and {values[place + 1][1].label}"
        sentence = f"The lowest loss is inside the range: at {table.field} {lowest.label}, {around}, of {tried}"
        return Insight(rule="edge", sentence=f"{sentence}{_doubt(table, ranking)}.", evidence=evidence)
    side = "lowest" if place == 0 else "highest"
    further = next_value(table, upwards=place > 0)
    evidence |= {"edge": side, "next": further.value}
    sentence = f"The lowest loss is at {table.field} {lowest.label}, the {side} of {tried}; {further.in_words}"
    return Insight(rule="edge", sentence=f"{sentence}{_doubt(table, ranking)}.", evidence=evidence)


def monotone(table: Swept) -> Insight | None:
    """Whether the loss falls or rises at every step of the value."""
    entries = [entry for _, entry in table.ascending]
    if len(entries) < 3:
        return None
    losses = [entry.loss for entry in entries]
    steps = [later - earlier for earlier, later in itertools.pairwise(losses)]
    falls, rises = all(step < 0 for step in steps), all(step > 0 for step in steps)
    path = f"from {entries[0].label} to {entries[-1].label}: {', '.join(map(numbers.loss, losses))}"
    said = f"falls at every step of {table.field}" if falls else f"rises at every step of {table.field}"
    if not falls and not rises:
        said = f"neither falls nor rises throughout {table.field}"
    evidence = {"losses": losses, "falls": falls, "rises": rises}
    if table.is_of_one_seed:
        chance = ""
        if falls or rises:
            times = math.factorial(len(entries)) // 2
            chance = f"; by chance alone {len(entries)} values stand in order, up or down, 1 time in {times}"
        return Insight(
            rule="monotone",
            sentence=f"The loss {said}, {path}; one seed each, so the order is no evidence{chance}.",
            evidence=evidence,
        )
    shown = _steps_shown(entries)
    sentence = f"The mean loss {said}, {path}; {shown} of {numbers.counted(len(steps), 'step')} shown by paired seeds."
    return Insight(rule="monotone", sentence=sentence, evidence=evidence | {"steps_shown": shown})


def too_low(table: Swept) -> Insight | None:
    """Whether the lowest value tried is far worse than all others."""
    return _too_far(table, "too low")


def too_high(table: Swept) -> Insight | None:
    """Whether the highest value tried is far worse than all others."""
    return _too_far(table, "too high")


def diminishing_returns(table: Swept) -> Insight | None:
    """What each doubling of the cost buys, from the cheapest value to the dearest."""
    found = returns_of(table)
    if found is None:
        return None
    steps = [
        f"from {table.field} {step.cheaper.label} to {step.dearer.label} "
        f"({found.written(step.cheaper)} to {found.written(step.dearer)} {found.cost}) "
        f"by {numbers.difference(step.rate)}"
        for step in found.steps
    ]
    seen = "by these numbers" if table.is_of_one_seed else "in the means"
    sentence = f"The loss changes, for each doubling of {found.cost}, {', '.join(steps)}: {seen} {_trend(found)}"
    evidence: dict[str, Any] = {"cost": found.cost, "rates": [step.rate for step in found.steps], "trend": found.trend}
    if table.is_of_one_seed:
        sentence += "; one seed each, so no evidence that these rates differ from each other or from zero"
    elif found.change is not None:
        sentence += f"; from the first step to the last the rate changes by {in_figures(found.change)}"
        evidence |= {"change": found.change.mean_difference, "verdict": found.change.verdict}
        sentence += _shown(found, found.change)
    return Insight(rule="diminishing returns", sentence=f"{sentence}.", evidence=evidence)


def failures(table: Swept) -> Insight | None:
    """Values without a loss."""
    missing = [entry for entry in table.entries if not entry.losses]
    if not missing:
        return None
    named = "; ".join(f"{entry.label} ({entry.missing or 'no reason is recorded'})" for entry in missing)
    sentence = f"{len(missing)} of {numbers.counted(len(table.entries), 'value')} of {table.field} without a loss: "
    evidence = {"missing": {entry.label: entry.missing for entry in missing}}
    return Insight(rule="failures", sentence=f"{sentence}{named}. Nothing is known of them.", evidence=evidence)


def one_seed(table: Swept) -> Insight | None:
    """That values with one seed have no spread to hold differences against."""
    alone = [entry for entry in table.with_loss if len(entry.losses) == 1]
    count = len(table.with_loss)
    if not alone or count < 2:
        return None
    losses = [entry.loss for entry in table.with_loss]
    width = max(losses) - min(losses)
    evidence = {"of_one_seed": len(alone), "values": count, "range": width}
    which = f"Each of the {count} values of {table.field} has one seed"
    if len(alone) < count:
        labels = numbers.listed([entry.label for entry in alone])
        which = f"{len(alone)} of {count} values of {table.field} have one seed ({labels})"
    sentence = (
        f"{which}: how far seeds differ is not known there, so no difference of theirs has an interval (the highest "
        f"and the lowest loss lie {numbers.loss(width)} apart); one seed cannot carry an order of values. "
        "Run --seeds 1,2,3,4,5."
    )
    return Insight(rule="one seed", sentence=sentence, evidence=evidence)


Rule = Callable[[Swept], Insight | None]
RULES: tuple[Rule, ...] = (
    best_value,
    edge,
    monotone,
    too_low,
    too_high,
    diminishing_returns,
    failures,
    one_seed,
)
"""In the order in which a report has them."""
FIRST_RULES: tuple[Rule, ...] = (best_value,)
FURTHER_RULES: tuple[Rule, ...] = (edge, too_low, too_high, diminishing_returns, failures, one_seed, monotone)
"""For the first page, as far as there is room."""


def in_figures(found: Comparison) -> str:
    """A difference with the interval that decided on it: `+0.0123 (97.5 % interval +0.0012 to +0.0234, 5 seeds)`."""
    size = numbers.difference(found.mean_difference)
    seeds = numbers.counted(len(found.pairs.seeds), "seed in common", "seeds in common")
    if (decided := found.decision_interval) is None:
        why = "the same in each" if found.spread == 0 else "no interval"
        return f"{size} ({seeds}, {why})"
    ends = f"{numbers.difference(decided.low)} to {numbers.difference(decided.high)}"
    return f"{size} ({numbers.level(decided)} interval {ends}, {seeds})"


def _nearest_first(found: Mapping[str, Comparison]) -> str:
    """Differences from the lowest, the smallest first; of many the first, since the table has them all."""
    order = sorted(found.items(), key=lambda item: item[1].mean_difference or 0)
    shown = [f"{label}, {in_figures(each)}" for label, each in order[:MOST_NAMED]]
    return numbers.listed(shown if len(order) <= MOST_NAMED else [*shown, f"{len(order) - MOST_NAMED} more"])


def _of_verdict(found: Mapping[str, Comparison], *, worse: bool) -> dict[str, Comparison]:
    return {label: each for label, each in found.items() if (each.verdict == "worse") is worse}


def _lowest_untested(table: Swept, lowest: Entry, nearest: Entry) -> str:
    same = rank(table).tied
    if len(same) > 1:
        labels = numbers.listed([entry.label for entry in same])
        start = f"Lowest at {table.field} {labels}, which have one loss, {numbers.loss(lowest.loss)}"
    else:
        below = f"{numbers.loss(nearest.loss - lowest.loss)} below {nearest.label} ({numbers.loss(nearest.loss)})"
        start = f"Lowest at {table.field} {lowest.label}: {numbers.loss(lowest.loss)}, {below}"
    why = "one seed each" if all(len(entry.losses) == 1 for entry in table.with_loss) else "no two seeds in common"
    return f"{start}; {why}, so no evidence that they differ."


def _doubt(table: Swept, ranking: Ranking) -> str:
    """Why the optimum may lie elsewhere than the lowest loss."""
    if table.is_of_one_seed:
        return "; one seed, so where the lowest lies is no evidence"
    others = [entry.label for entry in ranking.tied if entry is not ranking.lowest]
    return f"; it is not told apart from {numbers.listed(others)}, so it may lie there" if others else ""


def _steps_shown(entries: list[Entry]) -> int:
    """How many steps from a value to the next are shown to be falls or rises, Holm over all steps."""
    return sum(found.verdict != "no evidence" for found in steps_compared(entries))


def _too_far(table: Swept, rule: str) -> Insight | None:
    values = [entry for _, entry in table.ascending]
    if len(values) < 4:
        return None
    end, others = (values[0], values[1:]) if rule == "too low" else (values[-1], values[:-1])
    losses = [entry.loss for entry in others]
    width, gap = max(losses) - min(losses), end.loss - min(losses)
    if gap <= FAR * width or gap <= 0:
        return None
    lowest = others[losses.index(min(losses))]
    (found,) = compared(arm(lowest), [arm(end)], table.configurations_tried)
    if not table.is_of_one_seed and found.verdict != "worse":
        return None
    times = f"{gap / width:.1f} times the range" if width else "while there is no range"
    is_it = "looks" if table.is_of_one_seed else "is"
    above = f"its loss, {numbers.loss(end.loss)}, is {numbers.loss(gap)} above that of {lowest.label}"
    sentence = (
        f"{table.field} {end.label} {is_it} {rule}: {above}, {times} of the other {len(others)} values "
        f"({numbers.loss(width)})"
    )
    rest = "one seed, so this rests on the size of the gap alone" if table.is_of_one_seed else in_figures(found)
    evidence = {"value": end.value, "loss": end.loss, "gap": gap, "range_of_others": width}
    return Insight(rule=rule, sentence=f"{sentence}; {rest}.", evidence=evidence)


def _trend(found: Returns) -> str:
    return {
        "none": f"more {found.cost} buy nothing here",
        "diminishing": "each doubling buys less than the one before",
        "growing": "each doubling buys more than the one before, so no diminishing returns in this range",
        "ends": f"the gain ends at {found.best.label}",
        "mixed": "there is no one trend",
    }[found.trend]


def _shown(found: Returns, change: Comparison) -> str:
    """What the test of the last step against the first says of the trend."""
    if change.verdict == "no evidence":
        return ", which may be none"
    return ": diminishing returns" if found.trend == "diminishing" and change.verdict == "worse" else ""
