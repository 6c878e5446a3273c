"""Couplers held against each control that was run with them: does a graph give more than what has none?

A comparison weighs its arms against one of them, the first. Where that is a GNN, whether its exchange is worth anything
at all is asked of the other couplers nowhere. So a report asks it of all, once a control: paired t by seed, Holm over
the couplers that are held against it. What stands alone besides, as loose runs do, has the same said of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gnn_moe.reports.kinds import CONTROLS, NOTHING_EXCHANGED, Control, besides_coupler, control_of, is_coupled
from gnn_moe.reports.points import Point
from gnn_moe.reports.weighed import Asked
from gnn_moe.studies.verdicts import Arm, compare_pairs

_SEED = 0
"""Of the draws that statistics beyond 20 seeds need."""
_HOW = (
    "Asked by the report, of every coupler here that differs from the control in nothing else. Holm is over these "
    "pairs alone; a pair that is weighed above too is weighed there with others, so its p may differ."
)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """An arm with the point that it is."""

    arm: Arm
    point: Point


def against_controls(
    contestants: Mapping[str, Contestant], *, first: str, configurations_tried: int
) -> tuple[Asked, ...]:
    """A question for each control that some couplers can be held against.

    Args:
        contestants: of one comparison, by name.
        first: what all are held against already; a question that only asks the same again is left out.
        configurations_tried: on the way to this comparison.
    """
    found = []
    for control in CONTROLS:
        pairs = [
            (other.arm, each.arm)
            for each in contestants.values()
            for other in contestants.values()
            if control_of(other.point) == control.key and _is_asked(each.point, other.point, control)
        ]
        if not pairs or all(first in (control_arm.name, arm.name) for control_arm, arm in pairs):
            continue
        tried = max(configurations_tried, len({arm.name for pair in pairs for arm in pair}))
        verdicts = compare_pairs(pairs, configurations_tried=tried, generator=np.random.default_rng(_SEED))
        asks = f"Which has a lower loss than {control.what}?"
        found.append(Asked(asks=asks, unit="nats a token", verdicts=verdicts, is_of_arms=True, how=_HOW))
    return tuple(found)


def _is_asked(point: Point, other: Point, control: Control) -> bool:
    """Whether a point is a coupler that a control is held against: graphs always, what mixes without one by `mean`."""
    if not is_coupled(point) or control_of(point) == control.key:
        return False
    is_control = any(control_of(point) == each.key for each in CONTROLS)
    is_mixing = is_control and control_of(point) != NOTHING_EXCHANGED.key
    wanted = not is_control or (is_mixing and control is NOTHING_EXCHANGED)
    return wanted and besides_coupler(point) == besides_coupler(other)
