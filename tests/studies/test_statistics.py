"""The numbers of one sample: against scipy, against slow forms and against simulated nulls."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from gnn_moe.data.batches import selection_rows
from gnn_moe.errors import BadInput
from gnn_moe.studies.statistics import (
    RANDOM_FLIPS,
    Floats,
    bca_bootstrap,
    holm,
    mean_estimate,
    minimum_detectable_difference,
    paired_differences,
    scaling_fit,
    sign_flip_test,
    t_interval,
    t_p_value,
)

DRAWS = 5_000
SEED_COUNTS = [5, 8, 20]


def normal_draws(n: int, *, draws: int = DRAWS, mean: float = 0.0, seed: int = 0) -> Floats:
    """(draws, n): differences of unit spread, as of a comparison of n seeds, many times over."""
    return np.random.default_rng([seed, n]).normal(mean, 1.0, size=(draws, n))


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 5, 8, 20, 50])
def test_t_equals_scipy_s_paired_test(n: int) -> None:
    arm, baseline = np.random.default_rng(n).normal(4.5, 0.02, size=(2, n))
    theirs = stats.ttest_rel(arm, baseline)
    for level in (0.95, 0.99):
        interval, expected = t_interval(arm - baseline, level=level), theirs.confidence_interval(level)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-10)
        assert interval.level == level
    assert t_p_value(arm - baseline) == pytest.approx(theirs.pvalue, rel=1e-10)


@pytest.mark.parametrize("n", SEED_COUNTS)
def test_the_t_interval_covers_and_errs_as_it_says(n: int) -> None:
    truth = 0.3
    intervals = [t_interval(draw) for draw in normal_draws(n, mean=truth)]
    coverage = float(np.mean([one.low <= truth <= one.high for one in intervals]))
    null = normal_draws(n, seed=1)
    p_values = [t_p_value(draw) or 0 for draw in null]
    false_positives = float(np.mean(np.array(p_values) < 0.05))
    assert 0.93 <= coverage <= 0.97
    assert 0.035 <= false_positives <= 0.065
    excluding = [t_interval(draw).excludes_zero for draw in null]
    assert excluding == [p_value < 0.05 for p_value in p_values]


@pytest.mark.parametrize("n", SEED_COUNTS)
def test_bca_s_own_coverage_is_printed(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why it stands beside and carries no verdict; see it with `pytest -s`."""
    monkeypatch.setattr("gnn_moe.studies.statistics.BOOTSTRAP_FROM", 2)
    monkeypatch.setattr("gnn_moe.studies.statistics.BOOTSTRAP_RESAMPLES", 999)
    rng = generator()
    found = [bca_bootstrap(draw, generator=rng).interval for draw in normal_draws(n, draws=500)]
    coverage = float(np.mean([one is not None and one.low <= 0 <= one.high for one in found]))
    sys.stdout.write(f"{n} seeds: BCa covers {coverage:.3f} where it promises 0.95\n")


def test_bca_equals_scipy_s() -> None:
    (draw,) = normal_draws(20, draws=1)
    theirs = stats.bootstrap((draw,), np.mean, rng=generator(), method="BCa").confidence_interval
    found = bca_bootstrap(draw, generator=generator())
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (theirs.low, theirs.high)
    assert found.reason is None
    wider = bca_bootstrap(draw, generator=generator(), level=0.99).interval
    assert wider is not None
    assert wider.low < found.interval.low < found.interval.high < wider.high


@pytest.mark.parametrize(("values", "reason"), [(np.arange(19.0), "below 20"), (np.full(20, 0.1), "equal")])
def test_bca_says_why_it_is_absent(values: Floats, reason: str) -> None:
    found = bca_bootstrap(values, generator=generator())
    assert found.interval is None
    assert reason in str(found.reason)


def slow_sign_flips(differences: Iterable[float]) -> float:
    """All 2^n, one at a time."""
    differences = list(differences)
    observed, hits = abs(sum(differences)), 0
    for signs in itertools.product((1, -1), repeat=len(differences)):
        hits += bool(abs(sum(sign * d for sign, d in zip(signs, differences, strict=True))) >= observed)
    return hits * 0.5 ** len(differences)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_sign_flips_equal_the_slow_form_and_scipy_s(n: int) -> None:
    for draw in normal_draws(n, draws=5, mean=0.7):
        found = sign_flip_test(draw, generator=generator())
        theirs = stats.permutation_test(
            (draw,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
        )
        assert found.exact
        assert found.flips == 2**n
        assert found.p_value == pytest.approx(slow_sign_flips(draw), rel=1e-12)
        assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-12)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=7))
def test_flips_that_tie_count_though_decimals_are_rounded(tenths: list[int]) -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in binary, and it is here.
    found = sign_flip_test([tenth / 10 for tenth in tenths], generator=generator())
    assert found.p_value == slow_sign_flips(tenths)


def test_five_seeds_reach_0_0625_at_best() -> None:
    found = sign_flip_test([-0.1, -0.2, -0.3, -0.4, -0.5], generator=generator())
    assert (found.p_value, found.smallest_p) == (0.0625, 0.0625)


def test_twenty_seeds_are_counted_and_more_are_drawn() -> None:
    (draw,) = normal_draws(20, draws=1, mean=0.5)
    exact = sign_flip_test(draw, generator=generator())
    assert (exact.exact, exact.smallest_p) == (True, 2 / 2**20)
    # A difference of 0 doubles every sum and moves no p value, but makes 21.
    drawn = sign_flip_test([*draw, 0.0], generator=generator())
    assert (drawn.exact, drawn.flips, drawn.smallest_p) == (False, RANDOM_FLIPS, 1 / (RANDOM_FLIPS + 1))
    sigma = math.sqrt(exact.p_value * (1 - exact.p_value) / RANDOM_FLIPS)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=4 * sigma)
    assert 0 < sigma < 0.01


def test_drawn_flips_never_give_zero() -> None:
    found = sign_flip_test(np.linspace(1, 2, 40), generator=generator())
    assert found.p_value == found.smallest_p == 1e-5


@pytest.mark.parametrize("n", [2, *SEED_COUNTS])
def test_the_minimum_detectable_difference_is_found_four_times_in_five(n: int) -> None:
    truth = minimum_detectable_difference(1.0, n)
    assert truth is not None
    found = np.mean([t_interval(draw).excludes_zero for draw in normal_draws(n, mean=truth, seed=2)])
    assert 0.77 <= found <= 0.83
    assert minimum_detectable_difference(0.02, n) == pytest.approx(0.02 * truth, rel=1e-12)


def test_the_minimum_detectable_difference_has_known_values() -> None:
    # G*Power, paired t: dz 0.9 needs 12 pairs, dz 0.5 needs 34.
    twelve, thirty_four = (minimum_detectable_difference(1.0, n) or 0 for n in (12, 34))
    assert twelve < 0.9 < (minimum_detectable_difference(1.0, 11) or 0)
    assert thirty_four < 0.5 < (minimum_detectable_difference(1.0, 33) or 0)
    # Many seeds: (z(0.975) + z(0.8)) / √n.
    assert minimum_detectable_difference(1.0, 10_000) == pytest.approx(0.02802, rel=1e-3)
    assert minimum_detectable_difference(0.0, 5) is None


def test_holm_s_hand_worked_example() -> None:
    # Ascending 0.01 0.02 0.03 0.04 times 4 3 2 1 = 0.04 0.06 0.06 0.04; the running maximum makes the last 0.06.
    found = holm([0.04, 0.01, 0.03, 0.02])
    assert found.adjusted == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert found.rejected == (False, True, False, False)
    assert found.levels == pytest.approx((1 - 0.05 / 3, 1 - 0.05 / 4, 1 - 0.05 / 3, 1 - 0.05 / 3))


def test_holm_steps_down_and_stops() -> None:
    found = holm([0.001, 0.04, 0.02])
    assert found.adjusted == pytest.approx((0.003, 0.04, 0.04))
    assert found.rejected == (True, True, True)
    assert found.levels == pytest.approx((1 - 0.05 / 3, 0.95, 0.975))
    assert holm([0.9, 0.8]).adjusted == (1, 1)
    assert holm([0.04]).levels == pytest.approx((0.95,))
    assert holm([0.01, 0.01]).levels == pytest.approx((0.975, 0.975))


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=6))
def test_holm_s_levels_say_what_holm_says_in_any_order(p_values: list[float]) -> None:
    found = holm(p_values)
    assume(all(abs(p_value - (1 - level)) > 1e-12 for p_value, level in zip(p_values, found.levels, strict=True)))
    assert found.rejected == tuple(p_value < 1 - level for p_value, level in zip(p_values, found.levels, strict=True))
    mirrored = holm(p_values[::-1])
    assert (mirrored.adjusted, mirrored.rejected, mirrored.levels) == tuple(
        tuple(reversed(column)) for column in (found.adjusted, found.rejected, found.levels)
    )
    assert all(one >= p_value for one, p_value in zip(found.adjusted, p_values, strict=True))


def test_equal_values_have_an_interval_without_width_and_no_t() -> None:
    # Their sum is rounded: 0.1 + 0.1 + 0.1 is not 0.3.
    interval = t_interval([0.1, 0.1, 0.1])
    assert (interval.low, interval.high) == (0.1, 0.1)
    assert t_p_value([0.1, 0.1, 0.1]) is None


def test_the_mean_of_an_arm_comes_with_its_interval() -> None:
    losses = [4.50, 4.52, 4.49, 4.51]
    found = mean_estimate(losses)
    expected = stats.ttest_1samp(losses, 0).confidence_interval(0.95)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert (found.mean, found.spread) == pytest.approx((4.505, np.std(losses, ddof=1)))
    assert found.seeds == 4
    assert found.reason is None
    alone = mean_estimate([4.5])
    assert (alone.mean, alone.spread, alone.interval) == (4.5, None, None)
    assert "needs two" in str(alone.reason)


def test_a_power_law_is_found_again() -> None:
    sizes = [1e6, 3e6, 1e7, 3e7, 1e8]
    exact = scaling_fit(sizes, [9 * size**-0.07 for size in sizes])
    assert exact.exponent == pytest.approx(-0.07, rel=1e-9)
    assert exact.factor == pytest.approx(9, rel=1e-9)
    drawn = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        noisy = [9 * size**-0.07 * math.exp(drawn.normal(0, 0.01)) for size in sizes]
        interval = scaling_fit(sizes, noisy).interval
        assert interval is not None
        covered += interval.low <= -0.07 <= interval.high
    assert 0.92 <= covered / 500 <= 0.98


def test_a_line_through_two_sizes_is_no_fit() -> None:
    found = scaling_fit([1, 2, 2, 1], [4, 3, 3.1, 4.1])
    assert (found.exponent, found.interval, found.factor, found.points) == (None, None, None, 4)
    assert found.reason == "2 different sizes, and a fit needs 3"
    assert scaling_fit([1, 2, 4], [4, 3, 2.5]).interval is not None


def test_choosing_on_one_half_leaves_no_luck_in_the_other() -> None:
    """Checkpoints that are all alike: the best on all rows looks better than it is, the reported half does not."""
    losses_CR = np.random.default_rng(5).normal(4.5, 1.0, size=(200, 40, 100))
    chooses = selection_rows(100)
    best = losses_CR[:, :, :chooses].mean(axis=2).argmin(axis=1)
    chosen = losses_CR[np.arange(200), best]
    assert chosen[:, :chooses].mean() < 4.5 - 0.2
    assert chosen[:, chooses:].mean() == pytest.approx(4.5, abs=0.04)


def test_differences_that_rounding_alone_tells_apart_are_equal() -> None:
    ours, theirs = [1.1, 4.3, 6.3], [1.0, 4.2, 6.2]
    assert np.ptp(np.subtract(ours, theirs)) > 0
    found = mean_estimate(paired_differences(ours, theirs))
    assert found.mean == pytest.approx(0.1, abs=1e-15)
    assert found.spread == 0
    assert found.interval is not None
    assert not found.interval.has_width
    assert paired_differences([5.0, 6.0], [4.0, 4.0 + 1e-12]).tolist() == [1.0, 6.0 - (4.0 + 1e-12)]


BAD_CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "nan": (lambda: t_interval([1.0, math.nan]), "value nan at position 1"),
    "infinite": (lambda: sign_flip_test([math.inf], generator=generator()), "value inf at position 0"),
    "one value": (lambda: t_p_value([1.0]), "needs two or more"),
    "no flips": (lambda: sign_flip_test([], generator=generator()), "0 differences"),
    "no losses": (lambda: mean_estimate([]), "0 losses"),
    "level": (lambda: t_interval([1, 2], level=95), "level 95 must be between 0 and 1"),
    "p value": (lambda: holm([0.1, 1.2]), r"p value 1\.2"),
    "pairs": (lambda: minimum_detectable_difference(1.0, 1), "pairs 1"),
    "spread": (lambda: minimum_detectable_difference(-1.0, 5), r"spread -1\.0"),
    "power": (lambda: minimum_detectable_difference(1.0, 5, power=0.04), "power 0.04 must be between 0.05 and 1"),
    "pairs by seed": (lambda: paired_differences([1, 2], [1]), "2 and 1 values"),
    "lengths": (lambda: scaling_fit([1, 2], [1]), "2 sizes and 1 losses"),
    "size": (lambda: scaling_fit([1, 0], [1, 2]), "size 0 of point 1"),
    "loss": (lambda: scaling_fit([1, 2], [math.nan, 2]), "loss nan of point 0"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_input_is_named(call: str) -> None:
    function, message = BAD_CALLS[call]
    with pytest.raises(BadInput, match=message):
        function()
