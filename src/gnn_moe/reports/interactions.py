"""Whether two fields add up: does the effect of one depend on the value of the other?

    interactions_of(cells)                  # an Insight for each pair of fields, or one that says it was not tested

A design that changes one field at a time cannot show it. Where all four corners of two fields were run, all other
fields equal, it is a difference of differences, by seed: (both changed − one) − (the other − neither). Corners are the
lowest and the highest value that make four cells. Zero: the changes add up; negative: together they do more than apart.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gnn_moe.reports import numbers
from gnn_moe.reports.insights import Insight, in_figures
from gnn_moe.studies.space import Value
from gnn_moe.studies.verdicts import Arm, Comparison, compare_pairs

RULE = "interaction"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting with its losses."""

    settings: Mapping[str, Value]
    """Of every field that varies, the same fields in each cell."""
    losses: Mapping[int, float]
    """By seed; empty where it has none."""


@dataclass(frozen=True, kw_only=True)
class _Corners:
    """Two fields at two values each, and what changing both does beyond changing each."""

    fields: tuple[str, str]
    low: tuple[Value, Value]
    high: tuple[Value, Value]
    low_effect: Mapping[int, float]
    """By seed: loss at the first field's high value less that at its low one, the second field low."""
    high_effect: Mapping[int, float]
    """The same, the second field high."""


def interactions_of(cells: Sequence[Setting]) -> tuple[Insight, ...]:
    """What the cells of a study say of every two of its fields; Holm over all pairs that can be tested."""
    fields = list(cells[0].settings) if cells else []
    found = [corners for pair in itertools.combinations(fields, 2) if (corners := _corners(cells, pair)) is not None]
    if not found:
        return () if len(fields) < 2 else (_not_tested(cells, fields),)
    pairs = [
        (_arm(f"{number} low", corners.low_effect), _arm(f"{number} high", corners.high_effect))
        for number, corners in enumerate(found)
    ]
    tried = max(len(cells), 2 * len(pairs))
    verdicts = compare_pairs(pairs, configurations_tried=tried, generator=np.random.default_rng(0))
    return tuple(_tested(corners, verdict) for corners, verdict in zip(found, verdicts, strict=True))


def _corners(cells: Sequence[Setting], fields: tuple[str, str]) -> _Corners | None:
    """The widest four corners of two fields with a seed in common, all other fields equal; None where there are none.

    Of several values of the other fields, those with the most seeds, and then the first.
    """
    by_rest: dict[str, dict[str, Setting]] = {}
    for cell in cells:
        if cell.losses:
            rest = repr([value for name, value in cell.settings.items() if name not in fields])
            by_rest.setdefault(rest, {})[repr([cell.settings[name] for name in fields])] = cell
    best: tuple[tuple[int, int], _Corners] | None = None
    for some in by_rest.values():
        values = [_ordered([cell.settings[name] for cell in some.values()]) for name in fields]
        for (low, high), (left, right) in itertools.product(_spans(values[0]), _spans(values[1])):
            square = [some.get(repr([one, other])) for one in (low, high) for other in (left, right)]
            if (corners := _square(fields, (low, left), (high, right), square)) is None:
                continue
            width = values[0].index(high) - values[0].index(low) + values[1].index(right) - values[1].index(left)
            size = (len(corners.low_effect.keys() & corners.high_effect.keys()), width)
            if best is None or size > best[0]:
                best = size, corners
    return best and best[1]


def _square(
    fields: tuple[str, str], low: tuple[Value, Value], high: tuple[Value, Value], cells: Sequence[Setting | None]
) -> _Corners | None:
    losses = [cell.losses for cell in cells if cell is not None]
    if len(losses) < 4:
        return None
    neither, second, first, both = losses
    low_effect = {seed: first[seed] - neither[seed] for seed in first if seed in neither}
    high_effect = {seed: both[seed] - second[seed] for seed in both if seed in second}
    if not low_effect.keys() & high_effect.keys():
        return None
    return _Corners(fields=fields, low=low, high=high, low_effect=low_effect, high_effect=high_effect)


def _ordered(values: Sequence[Value]) -> list[Value]:
    """Each value of two cells or more once, numbers ascending, others as they come: a corner has a neighbour."""
    counts = Counter(map(repr, values))
    different = list({repr(value): value for value in values if counts[repr(value)] > 1}.values())
    as_numbers = [numbers.numeric(value) for value in different]
    if any(number is None for number in as_numbers):
        return different
    return [value for _, value in sorted(zip(as_numbers, different, strict=True), key=lambda pair: pair[0] or 0)]


def _spans(values: Sequence[Value]) -> list[tuple[Value, Value]]:
    return list(itertools.combinations(values, 2))


def _arm(name: str, effects: Mapping[int, float]) -> Arm:
    return Arm(name=name, seeds=tuple(effects), losses=tuple(effects.values()))


def _not_tested(cells: Sequence[Setting], fields: Sequence[str]) -> Insight:
    sentence = (
        f"Interaction was not tested: of {numbers.counted(len(cells), 'setting')} no four change two fields together "
        f"and apart, so whether what {numbers.listed(fields)} do adds up is not known."
    )
    return Insight(rule=RULE, sentence=sentence, evidence={"settings": len(cells), "fields": len(fields)})


def _tested(corners: _Corners, found: Comparison) -> Insight:
    first, second = corners.fields
    ends = [
        f"{name} {numbers.setting(low)} to {numbers.setting(high)}"
        for name, low, high in zip(corners.fields, corners.low, corners.high, strict=True)
    ]
    of_both = corners.low_effect.keys() & corners.high_effect.keys()
    effects = [
        float(np.mean([effect[seed] for seed in sorted(of_both)]))
        for effect in (corners.low_effect, corners.high_effect)
    ]
    seen = {
        "better": f"{first} and {second} interact: together they lower the loss more than apart",
        "worse": f"{first} and {second} interact: together they lower the loss less than apart",
        "no evidence": f"No interaction of {first} and {second} is seen",
    }[found.verdict]
    sentence = (
        f"{seen}; {ends[0]} changes the loss by {numbers.difference(effects[0])} at {second} "
        f"{numbers.setting(corners.low[1])} and by {numbers.difference(effects[1])} at "
        f"{numbers.setting(corners.high[1])}, a difference of {in_figures(found)}"
    )
    if len(found.pairs.seeds) < 2:
        sentence += "; one seed cannot carry it"
    evidence = {
        "fields": corners.fields,
        "low": corners.low,
        "high": corners.high,
        "effects": effects,
        "difference": found.mean_difference,
        "verdict": found.verdict,
    }
    return Insight(rule=RULE, sentence=f"{sentence}.", evidence=evidence)
