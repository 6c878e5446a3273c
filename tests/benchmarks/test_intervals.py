"""Intervals of medians from order statistics, and targets that they meet, miss or leave open."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.intervals import lies_within, median_interval, scaled
from gnn_moe.studies.statistics import Interval


@pytest.mark.parametrize(
    ("n", "ranks", "level"),
    [(6, (1, 6), 0.96875), (9, (2, 8), 0.9609375), (15, (4, 12), 0.96484), (25, (8, 18), 0.95671)],
)
def test_ranks_are_those_of_the_tables(n: int, ranks: tuple[int, int], level: float) -> None:
    """Dixon and Massey, "Introduction to statistical analysis", table of confidence intervals for the median."""
    found = median_interval([float(value) for value in range(n, 0, -1)])
    assert found is not None
    assert (found.low, found.high) == ranks
    assert found.level == pytest.approx(level, abs=1e-5)


def test_five_rounds_are_too_few() -> None:
    assert median_interval([1.0] * 5) is None
    assert median_interval([]) is None
    assert scaled(None, 2.0) is None


def test_it_holds_the_median_as_often_as_it_says() -> None:
    rounds = np.random.default_rng(0).exponential(size=(2000, 15))
    found = [median_interval(list(row)) for row in rounds]
    held = np.mean([interval is not None and interval.low <= np.log(2) <= interval.high for interval in found])
    assert held == pytest.approx(0.965, abs=0.012)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.98, 1.02, True), (0.96, 1.0, None), (0.9, 1.1, None), (1.04, 1.1, False), (0.9, 0.96, False)],
)
def test_a_target_is_met_missed_or_left_open(low: float, high: float, verdict: bool | None) -> None:
    interval = scaled(Interval(low=low / 2, high=high / 2, level=0.95), 2.0)
    assert lies_within(interval, 0.97, 1.03) is verdict
    assert lies_within(None, 0.97, 1.03) is None
