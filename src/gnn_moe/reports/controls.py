"""Couplers held against each control that was run with them: does a graph give more than what has none?

A comparison weighs its arms against one of them, the first. Where that is a GNN, whether its exchange is worth anything
at all is asked of the other couplers nowhere. So a report asks it, once a control: paired t by seed, Holm over all
pairs of losses of the comparison. Loose runs that differ in their coupler alone are asked the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gnn_moe.reports import numbers
from gnn_moe.reports.kinds import CONTROLS, NOTHING_EXCHANGED, Control, besides_coupler, control_of, is_coupled
from gnn_moe.reports.points import Point
from gnn_moe.reports.weighed import Asked
from gnn_moe.studies.verdicts import Arm, Comparison, compare_pairs

_SEED = 0
"""Of the draws that statistics beyond 20 seeds need."""
_HOW = (
    "Asked by the report, of every coupler here that differs from the control in nothing else and is not weighed "
    "against it above. Holm is over these pairs, those above and those of other controls."
)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An arm with the point that it is."""

    arm: Arm
    point: Point


def against_controls(contestants: Mapping[str, Contestant], weighed: Sequence[Comparison]) -> tuple[Asked, ...]:
    """A question for each control that some couplers can be held against, and are not yet.

    Args:
        contestants: of one comparison, by name.
        weighed: its pairs, with which Holm is taken.
    """
    known = {frozenset((each.arm, each.baseline)) for each in weighed}
    asked: dict[str, list[tuple[Arm, Arm]]] = {}
    for control in CONTROLS:
        pairs = [
            (other.arm, each.arm)
            for each in contestants.values()
            for other in contestants.values()
            if control_of(other.point) == control.key and _is_asked(each.point, other.point, control)
        ]
        new = [pair for pair in pairs if frozenset((pair[0].name, pair[1].name)) not in known]
        rounds = _rounds(new)
        for each in rounds:
            which = "" if len(rounds) == 1 else f" ({numbers.listed(list(dict.fromkeys(one.name for one, _ in each)))})"
            asked[f"Which has a lower loss than {control.what}{which}?"] = each
    tried = max((len(contestants), *(each.configurations_tried for each in weighed)))
    alone = {asks: _compared(pairs, tried) for asks, pairs in asked.items()}
    found = []
    for asks, pairs in asked.items():
        others = [each for other, verdicts in alone.items() if other != asks for each in verdicts]
        verdicts = _compared(pairs, tried, beside=[each.p_value for each in (*weighed, *others)])
        found.append(Asked(asks=asks, unit="nats a token", verdicts=verdicts, is_of_arms=True, how=_HOW))
    return tuple(found)


def _rounds(pairs: Sequence[tuple[Arm, Arm]]) -> list[list[tuple[Arm, Arm]]]:
    """Pairs of a control and an arm, in as few questions as have no arm twice: of two controls of a kind, two."""
    rounds: list[list[tuple[Arm, Arm]]] = []
    for pair in pairs:
        free = (some for some in rounds if all(arm.name != pair[1].name for _, arm in some))
        if (found := next(free, None)) is None:
            rounds.append([pair])
        else:
            found.append(pair)
    return rounds


def _compared(
    pairs: Sequence[tuple[Arm, Arm]], tried: int, beside: Sequence[float | None] = ()
) -> tuple[Comparison, ...]:
    generator = np.random.default_rng(_SEED)
    return compare_pairs(pairs, configurations_tried=tried, generator=generator, beside=beside)


def _is_asked(point: Point, other: Point, control: Control) -> bool:
    """Whether a point is a coupler that a control is held against: graphs always, what mixes without one by `mean`."""
    if not is_coupled(point) or control_of(point) == control.key:
        return False
    is_control = any(control_of(point) == each.key for each in CONTROLS)
    return (not is_control or control is NOTHING_EXCHANGED) and besides_coupler(point) == besides_coupler(other)
