"""The interval of |mean| / spread: against SciPy's noncentral t, against the t interval, and in simulated seeds."""

from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
from scipy import stats

from gnn_moe.errors import BadInput
from gnn_moe.studies.effect_size import effect_size_interval
from gnn_moe.studies.statistics import mean_and_spread, t_interval

DRAWS = 20_000


@pytest.mark.parametrize("seeds", [2, 3, 5, 20])
@pytest.mark.parametrize("ratio", [0.3, 1.0, 4.0, 14.55])
def test_at_its_ends_what_was_seen_has_the_chance_of_a_tail(ratio: float, seeds: int) -> None:
    found = effect_size_interval(-0.2 * ratio, 0.2, seeds)
    assert found is not None
    root = math.sqrt(seeds)
    seen = root * ratio
    assert stats.nct.cdf(seen, seeds - 1, root * found.high) == pytest.approx(0.025, rel=1e-6)
    if found.low > 0:
        assert stats.nct.sf(seen, seeds - 1, root * found.low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert stats.t.sf(seen, seeds - 1) >= 0.025


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("truth", [0.0, 1.0, 5.0])
def test_it_holds_the_true_ratio_as_often_as_it_says(truth: float, seeds: int) -> None:
    values_Rn = np.random.default_rng([7, seeds]).normal(truth, 1.0, size=(DRAWS, seeds))
    ratios = sorted((np.abs(values_Rn.mean(axis=1)) / values_Rn.std(axis=1, ddof=1)).tolist())

    def end(name: str, ratio: float) -> float:
        return float(getattr(effect_size_interval(ratio, 1.0, seeds), name))

    # Both ends rise with the ratio, so bisection counts the draws whose interval holds the truth.
    begun = bisect.bisect_right(ratios, truth, key=lambda ratio: end("low", ratio))
    ended = bisect.bisect_left(ratios, truth, key=lambda ratio: end("high", ratio))
    held = (begun - ended) / DRAWS
    assert held >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / DRAWS)
    assert held <= 0.975 + 4 * math.sqrt(0.95 * 0.05 / DRAWS)


def test_it_holds_0_exactly_where_the_t_interval_does() -> None:
    draw = np.random.default_rng(3)
    holds = []
    for _ in range(60):
        values = draw.normal(0.9, 1.0, size=4)
        found = effect_size_interval(*mean_and_spread(values), 4)
        assert found is not None
        assert (found.low > 0) == t_interval(values).excludes_zero
        holds.append(found.low == 0)
    assert True in holds
    assert False in holds


def test_a_spread_close_to_0_still_has_an_interval() -> None:
    found = effect_size_interval(1.0, 1e-9, 5)
    assert found is not None
    # So far out the mean is as good as known: σ² (n − 1) / s² is a chi-squared variable.
    ends = [1e9 * math.sqrt(stats.chi2.ppf(chance, 4) / 4) for chance in (0.025, 0.975)]
    assert (found.low, found.high) == pytest.approx(tuple(ends), rel=1e-6)


@pytest.mark.parametrize(
    ("mean", "spread", "values", "level", "message"),
    [
        (1.0, 1.0, 1, 0.95, "values 1 must be a whole number from 2"),
        (math.nan, 1.0, 2, 0.95, "mean nan"),
        (1.0, -1.0, 2, 0.95, r"spread -1\.0"),
        (1.0, math.inf, 2, 0.95, "spread inf"),
        (1.0, 1.0, 2, 95, "level 95"),
    ],
)
def test_bad_input_is_named(mean: float, spread: float, values: int, level: float, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        effect_size_interval(mean, spread, values, level=level)


def test_equal_values_have_none() -> None:
    assert effect_size_interval(1.0, 0.0, 3) is None
