"""What a few noisy rounds can tell: an interval of their median, and whether it lies within a target."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gnn_moe.studies.statistics import LEVEL, Interval


def median_interval(values: Sequence[float], *, level: float = LEVEL) -> Interval | None:
    """The interval of the median between two of the sorted values, whatever their distribution.

    Of n independent values the k-th lowest and the k-th highest enclose the median unless fewer than k fall on one
    side: with probability 1 − 2 · P(Binomial(n, ½) < k). The largest k that keeps `level` is taken; its `level` is that
    probability. Source: David and Nagaraja, "Order statistics", 3rd ed., §7.1.

    Returns:
        The interval, or None where even the lowest and highest value do not reach `level` (below 6 values for 95 %).
    """
    n = len(values)
    ordered, k, outside = sorted(values), 0, 0.0
    while k < n / 2 and (further := outside + 2 * math.comb(n, k) / 2**n) <= 1 - level:
        k, outside = k + 1, further
    if k == 0:
        return None
    return Interval(low=ordered[k - 1], high=ordered[n - k], level=1 - outside)


def scaled(interval: Interval | None, factor: float) -> Interval | None:
    """The interval of a positive multiple."""
    if interval is None:
        return None
    return Interval(low=interval.low * factor, high=interval.high * factor, level=interval.level)


def lies_within(interval: Interval | None, low: float, high: float) -> bool | None:
    """Whether all of the interval is in [low, high]: no where none of it is, None (it cannot be told) otherwise."""
    if interval is None:
        return None
    if low <= interval.low and interval.high <= high:
        return True
    return False if interval.high < low or interval.low > high else None
