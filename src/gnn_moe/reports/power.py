"""How many seeds it takes to find a difference, from how far paired differences spread."""

from __future__ import annotations

import itertools

import numpy as np

from gnn_moe.reports.points import Group
from gnn_moe.studies.statistics import LEVEL, mean_and_spread, minimum_detectable_difference

MOST_SEEDS = 200
"""Beyond which a difference counts as too small to look for."""


def paired_spread(group: Group) -> float | None:
    """How far the difference of two points spreads over seeds: the median of all pairs with two seeds in common.

    Returns:
        Standard deviation, nats a token; None where no two points have two seeds in common, or none differs by seed.
    """
    found = []
    for one, other in itertools.combinations([point.by_seed(group.loss_name) for point in group.points], 2):
        differences = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
        if len(differences) > 1 and (spread := mean_and_spread(differences)[1]) > 0:
            found.append(spread)
    return float(np.median(found)) if found else None


def seeds_needed(spread: float, difference: float, arms_compared: int = 1) -> int | None:
    """The fewest pairs with which a paired t test at 5 % finds a true difference 80 times in 100.

    Args:
        spread: standard deviation of the differences of pairs; positive.
        difference: the true one; positive.
        arms_compared: all that are tested together; the first of them has to pass at 5 % over their number.

    Returns:
        From 2 to `MOST_SEEDS`; None where that is not enough.
    """
    level = 1 - (1 - LEVEL) / arms_compared
    return next(
        (
            pairs
            for pairs in range(2, MOST_SEEDS + 1)
            if (found := minimum_detectable_difference(spread, pairs, level=level)) is not None and found <= difference
        ),
        None,
    )
