"""The value to try beyond the edge of a range: the next of its steps."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from gnn_moe.reports import numbers
from gnn_moe.reports.swept import Swept

SAME_STEP = 1e-6
"""Part by which two steps may differ and count as equal."""


@dataclass(frozen=True, kw_only=True)
class Further:
    """What comes after the edge."""

    value: float | None
    """None where the steps lead to nothing that can be tried."""
    in_words: str


def next_value(table: Swept, *, upwards: bool) -> Further:
    """What to try beyond the highest (`upwards`) or the lowest value that has a loss.

    Equal steps go on as steps, else the last ratio goes on; fields of whole numbers stay so, and nothing falls to 0.
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
        return Further(value=None, in_words=f"beyond it stands {labels}, so what comes after is not known")
    found = _onwards(values if upwards else values[::-1])
    whole = all(isinstance(entry.value, int) for _, entry in table.ascending)
    if whole and found is not None:
        found = round(found)
    if found is None or found <= 0 or found in values:
        return Further(value=None, in_words="the steps lead to no value beyond it")
    written = numbers.setting(found if whole else float(f"{found:.3g}"))
    return Further(value=found, in_words=f"what lies beyond was not tried: try {written} next")


def _onwards(values: list[float]) -> float | None:
    """The value after the last, of values in the order in which they are walked."""
    before, last = values[-2:]
    steps = [later - earlier for earlier, later in itertools.pairwise(values)]
    if len(values) > 2 and all(math.isclose(step, steps[0], rel_tol=SAME_STEP) for step in steps):
        return last + steps[0]
    return last * last / before if before > 0 and last > 0 else None
