"""The value to try next: beyond the edge of a range the next of its steps, inside it the lowest point of a parabola."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from gnn_moe.reports import numbers
from gnn_moe.reports.swept import Entry, Swept

SAME_STEP = 1e-6
"""Part by which two steps may differ and count as equal."""
_LOOKS = 512
"""Whole numbers on either side that are asked whether they can be run."""


@dataclass(frozen=True, kw_only=True)
class Further:
    """What comes after the edge."""

    value: float | None
    """None where the steps lead to nothing that can be tried."""
    steps: float
    """How many of the last steps away it lies: 1, or near it where whole numbers allow no other."""
    in_words: str


def next_value(table: Swept, *, upwards: bool) -> Further:
    """What to try beyond the highest (`upwards`) or the lowest value that has a loss.

    Equal steps go on as steps, else the last ratio goes on; fields of whole numbers stay so, and nothing falls to 0.
    Where the value cannot be run beside the other settings, the nearest whole number that can.
    """
    values = [number for number, _ in table.ascending]
    edge = values[-1] if upwards else values[0]
    beyond = [
        entry
        for entry in table.entries
        if not entry.losses
        and (number := numbers.numeric(entry.value)) is not None
        and (number > edge if upwards else number < edge)
    ]
    if beyond:
        labels = numbers.listed([f"{entry.label} ({entry.missing or 'no loss'})" for entry in beyond])
        return Further(value=None, steps=0, in_words=f"beyond it stands {labels}, so what comes after is not known")
    walked = values if upwards else values[::-1]
    aim = _onwards(walked)
    found = None if aim is None or aim <= 0 else _that_can_be_run(table, aim)
    if found is None or (found <= edge if upwards else found >= edge):
        return Further(value=None, steps=0, in_words="the steps lead to no value beyond it")
    said = f"what lies beyond was not tried: try {numbers.setting(found)} next"
    return Further(value=found, steps=steps_to(found, walked), in_words=said)


def value_between(table: Swept, below: Entry, lowest: Entry, above: Entry) -> float | None:
    """The untried value at the lowest point of the parabola through three neighbours, of which the middle is lowest.

    The parabola is over log2 of the values, or over the values where one is not positive.

    Returns:
        The value, or the nearest that can be run; None where that is one of the three, or nothing can be run between.
    """
    three = [number for entry in (below, lowest, above) if (number := numbers.numeric(entry.value)) is not None]
    places = scale(three)
    (x0, x1, x2), (y0, y1, y2) = places, (below.loss, lowest.loss, above.loss)
    left, right = (x1 - x0) * (y1 - y2), (x1 - x2) * (y1 - y0)
    if left == right:
        return None
    vertex = x1 - ((x1 - x0) * left - (x1 - x2) * right) / (2 * (left - right))
    aim = 2**vertex if min(three) > 0 else vertex
    found = _that_can_be_run(table, aim, digits=2)
    return found if found is not None and three[0] < found < three[2] and found not in three else None


def scale(values: Sequence[float]) -> list[float]:
    """log2 of some values where all are positive, else the values: where steps of a sweep are about equal."""
    return [math.log2(value) for value in values] if min(values) > 0 else list(values)


def _that_can_be_run(table: Swept, aim: float, digits: int = 3) -> float | None:
    """The number nearest to an aim that goes with the other settings; whole where all values of the table are."""
    if not all(isinstance(entry.value, int) for _, entry in table.ascending):
        short = float(f"{aim:.{digits}g}")
        return short if table.allows(short) else None
    near = round(aim)
    offsets = sorted(range(-_LOOKS, _LOOKS + 1), key=abs)
    return next((near + each for each in offsets if near + each > 0 and table.allows(near + each)), None)


def _is_even(values: Sequence[float]) -> bool:
    steps = [later - earlier for earlier, later in itertools.pairwise(values)]
    return len(values) > 2 and all(math.isclose(step, steps[0], rel_tol=SAME_STEP) for step in steps)


def _onwards(values: Sequence[float]) -> float | None:
    """The value after the last, of values in the order in which they are walked."""
    before, last = values[-2:]
    if _is_even(values):
        return last + (last - before)
    return last * last / before if before > 0 and last > 0 else None


def steps_to(value: float, walked: Sequence[float]) -> float:
    """How many of the last steps a value lies beyond the last of some, in the order in which they are walked."""
    before, last = walked[-2:]
    if _is_even(walked):
        return (value - last) / (last - before)
    return math.log(value / last) / math.log(last / before)
