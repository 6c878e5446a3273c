"""The verdict: what it says of planted and of null differences, how often it errs, and what it does with odd arms."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gnn_moe.errors import BadInput
from gnn_moe.studies.statistics import (
    Floats,
    Interval,
    SignFlips,
    holm,
    minimum_detectable_difference,
    t_interval,
)
from gnn_moe.studies.verdicts import Arm, Comparison, compare, comparison_from, in_words, pair_by_seed, shortly

DRAWS = 5_000
NULL = "no evidence"
OPPOSITE = {"better": "worse", "worse": "better", NULL: NULL}


def arm(name: str, losses: Sequence[float] | Floats, seeds: Sequence[int] | None = None) -> Arm:
    seeds = range(1, len(losses) + 1) if seeds is None else seeds
    return Arm(name=name, seeds=tuple(seeds), losses=tuple(map(float, losses)))


def compared(baseline: Arm, *arms: Arm, tried: int = 9) -> tuple[Comparison, ...]:
    return compare(baseline, arms, configurations_tried=tried, generator=np.random.default_rng(0))


def runs(seeds: int, effects: Sequence[float], *, generator: np.random.Generator) -> list[Arm]:
    """A baseline and an arm an effect; the seed moves all of them, so the differences hang together."""
    shared = generator.normal(4.5, 0.5, size=seeds)
    losses = [shared + effect + generator.normal(0, 0.01, size=seeds) for effect in (0.0, *effects)]
    return [arm(name, one) for name, one in zip("abcdefgh", losses, strict=False)]


@pytest.fixture
def verdicts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without all the flips of 20 seeds and the resamples, which stand beside the verdict, 5,000 draws take seconds."""
    flips = SignFlips(p_value=1.0, smallest_p=0.0, flips=0, exact=True)
    monkeypatch.setattr("gnn_moe.studies.verdicts.sign_flip_test", lambda differences, generator: flips)
    monkeypatch.setattr("gnn_moe.studies.verdicts.bca_bootstrap", lambda differences, generator: None)


def holds(interval: Interval | None, value: float) -> bool:
    assert interval is not None
    return interval.low <= value <= interval.high


@pytest.mark.parametrize("seeds", [5, 8, 20])
def test_a_null_arm_is_rarely_told_apart(seeds: int, verdicts_only: None) -> None:
    rng = np.random.default_rng(seeds)
    found = [compared(*runs(seeds, [0.0], generator=rng))[0] for _ in range(DRAWS)]
    coverage = np.mean([holds(one.interval, 0) for one in found])
    told_apart = np.mean([one.verdict != NULL for one in found])
    assert 0.93 <= coverage <= 0.97
    assert told_apart <= 0.065
    assert told_apart == pytest.approx(1 - coverage)


@pytest.mark.parametrize("effects", [(0, 0, 0), (0, 0, 1), (0, -1, 1), (0.005, -0.005, 0)])
def test_over_three_arms_a_wrong_verdict_is_as_rare(effects: tuple[float, ...], verdicts_only: None) -> None:
    """All null; Holm's later steps; effects so small that the side may be wrong."""
    rng = np.random.default_rng(3)
    allowed = [{NULL, "better" if effect < 0 else "worse" if effect > 0 else NULL} for effect in effects]
    wrong = held = 0
    for _ in range(DRAWS):
        found = compared(*runs(5, effects, generator=rng))
        wrong += any(one.verdict not in words for one, words in zip(found, allowed, strict=True))
        held += all(holds(one.joint_interval, effect) for one, effect in zip(found, effects, strict=True))
        for one in found:
            assert one.decision_interval is not None
            assert one.decision_interval.excludes_zero == (one.verdict != NULL)
    assert wrong / DRAWS <= 0.065
    assert held / DRAWS >= 0.935


def test_a_planted_difference_is_found_and_a_null_pair_is_not() -> None:
    baseline, lower, higher, same = runs(5, [-0.1, 0.1, 0.0], generator=np.random.default_rng(1))
    found = compared(baseline, lower, higher, same)
    assert [one.verdict for one in found] == ["better", "worse", NULL]
    assert [one.arm for one in found] == ["b", "c", "d"]
    for one, effect in zip(found, (-0.1, 0.1, 0.0), strict=True):
        assert holds(one.joint_interval, effect)
        assert (one.baseline, one.arms_compared, one.configurations_tried) == ("a", 3, 9)


def test_each_number_is_that_of_the_differences() -> None:
    rng = np.random.default_rng(2)
    baseline, *arms = runs(20, [0.01, 0.004], generator=rng)
    found = compared(baseline, *arms)
    theirs = [stats.ttest_rel(one.losses, baseline.losses) for one in arms]
    expected = holm([one.pvalue for one in theirs])
    for index, (one, test) in enumerate(zip(found, theirs, strict=True)):
        differences = np.subtract(arms[index].losses, baseline.losses)
        np.testing.assert_allclose(one.pairs.differences, differences)
        assert one.mean_difference == pytest.approx(differences.mean())
        assert one.spread == pytest.approx(differences.std(ddof=1))
        assert one.p_value == pytest.approx(test.pvalue)
        assert one.holm_p_value == pytest.approx(expected.adjusted[index])
        assert one.interval == t_interval(differences)
        assert one.decision_interval == t_interval(differences, level=expected.levels[index])
        assert one.joint_interval == t_interval(differences, level=0.975)
        assert one.sign_flips is not None
        assert one.sign_flips.exact
        assert one.minimum_detectable_difference == minimum_detectable_difference(one.spread or 0, 20, level=0.975)
        assert one.bootstrap.interval is not None
        assert one.bootstrap.interval.low == pytest.approx(one.interval.low, abs=0.002)


def test_below_twenty_seeds_there_is_no_bootstrap() -> None:
    (found,) = compared(*runs(19, [0.01], generator=np.random.default_rng(2)))
    assert found.bootstrap.interval is None
    assert found.bootstrap.reason == "19 seeds: BCa covers too little below 20"


def test_only_seeds_of_both_arms_are_paired_and_the_others_are_named() -> None:
    baseline = arm("a", [4.0, 5.0, 6.0, 7.0], seeds=[9, 1, 8, 2])
    other = arm("b", [4.5, 3.0, 5.5, 8.0], seeds=[8, 3, 1, 12])
    pairs = pair_by_seed(baseline, other)
    assert pairs.seeds == (1, 8)
    assert pairs.differences == (0.5, -1.5)
    assert (pairs.only_in_arm, pairs.only_in_baseline) == ((3, 12), (2, 9))
    (found,) = compared(baseline, other)
    assert found.pairs == pairs
    assert "left out, since one arm lacks it: seed 2, 3, 9, 12" in in_words(found)


@pytest.mark.parametrize(
    ("seeds", "mean", "words"),
    [
        ([], None, "No evidence that b and a differ; 0 seeds in common, and an interval needs two"),
        ([2], -0.5, "No evidence that b and a differ: loss −0.5; 1 seed in common, and an interval needs two"),
    ],
)
def test_fewer_than_two_pairs_have_no_interval_and_say_so(seeds: list[int], mean: float | None, words: str) -> None:
    baseline = arm("a", [4.0, 5.0, 6.0])
    (found,) = compared(baseline, arm("b", [4.5] * len(seeds), seeds=seeds))
    assert found.mean_difference == mean
    assert (found.verdict, found.spread, found.interval, found.decision_interval) == (NULL, None, None, None)
    assert (found.joint_interval, found.p_value, found.holm_p_value, found.sign_flips) == (None, None, None, None)
    assert found.minimum_detectable_difference is None
    assert found.bootstrap.interval is None
    assert in_words(found).startswith(words)


def test_an_arm_without_an_interval_still_counts_for_holm() -> None:
    baseline, one = runs(5, [0.015], generator=np.random.default_rng(4))
    (alone,) = compared(baseline, one)
    beside, lost = compared(baseline, one, arm("lost", [4.5]))
    assert alone.p_value is not None
    assert alone.verdict == "worse"
    assert beside.p_value == alone.p_value
    assert beside.holm_p_value == 2 * alone.p_value
    assert beside.arms_compared == 2
    assert lost.verdict == NULL


@pytest.mark.parametrize(
    ("seeds", "difference", "verdict"),
    [(2, -0.1, NULL), (5, -0.1, NULL), (6, -0.1, "better"), (6, 0.1, "worse"), (9, 0.0, NULL)],
)
def test_equal_differences_leave_the_verdict_to_the_sign_flips(seeds: int, difference: float, verdict: str) -> None:
    losses = np.random.default_rng(0).uniform(3, 6, size=seeds)
    (found,) = compared(arm("a", losses), arm("b", losses + difference))
    assert found.interval is not None
    assert found.sign_flips is not None
    assert found.interval.low == found.interval.high == pytest.approx(difference)
    assert (found.spread, found.decision_interval, found.joint_interval) == (0, None, None)
    assert found.minimum_detectable_difference is None
    assert found.p_value == found.sign_flips.p_value == (1 if difference == 0 else 2 / 2**seeds)
    assert found.verdict == verdict
    assert "t is undefined and the sign flips decide" in in_words(found)


def test_the_last_bit_of_a_loss_is_no_evidence() -> None:
    losses = np.random.default_rng(0).uniform(3, 6, size=9)
    (found,) = compared(arm("a", losses), arm("b", np.nextafter(losses, 10)))
    assert (found.mean_difference, found.spread, found.verdict) == (0, 0, NULL)


thousandths = st.lists(
    st.tuples(st.integers(1_000, 9_000), st.integers(1_000, 9_000)).map(lambda pair: (pair[0] / 1e3, pair[1] / 1e3)),
    min_size=2,
    max_size=8,
)


def the_same(found: Comparison, expected: Comparison, *, sign: int = 1, scale: float = 1.0) -> None:
    """`found` is `expected` in another unit, seen from the other side where `sign` is −1."""
    assert found.verdict == (expected.verdict if sign == 1 else OPPOSITE[expected.verdict])
    assert found.mean_difference == pytest.approx(sign * scale * (expected.mean_difference or 0), rel=1e-7, abs=1e-12)
    assert found.spread == pytest.approx(scale * (expected.spread or 0), rel=1e-7, abs=1e-12)
    assert found.p_value == pytest.approx(expected.p_value, rel=1e-6, abs=1e-12)
    assert found.sign_flips == expected.sign_flips
    for name in ("interval", "decision_interval"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one:
            ends = sorted((sign * scale * other.low, sign * scale * other.high))
            assert [one.low, one.high] == pytest.approx(ends, rel=1e-6, abs=1e-9 * scale)


@given(thousandths)
@settings(deadline=None)
def test_swapping_the_arms_swaps_the_verdict(pairs: list[tuple[float, float]]) -> None:
    one, other = (arm(name, losses) for name, losses in zip("ab", zip(*pairs, strict=True), strict=True))
    the_same(compared(other, one)[0], compared(one, other)[0], sign=-1)


@given(thousandths, st.integers(0, 20_000))
@settings(deadline=None)
def test_a_loss_added_to_both_changes_nothing(pairs: list[tuple[float, float]], thousandth: int) -> None:
    one, other = np.array(pairs).T
    shift = thousandth / 1e3
    the_same(compared(arm("a", one + shift), arm("b", other + shift))[0], compared(arm("a", one), arm("b", other))[0])


@given(thousandths, st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_another_unit_scales_everything(pairs: list[tuple[float, float]], scale: float) -> None:
    one, other = np.array(pairs).T
    found, expected = compared(arm("a", one * scale), arm("b", other * scale)), compared(arm("a", one), arm("b", other))
    the_same(found[0], expected[0], scale=scale)


@given(thousandths)
@settings(deadline=None)
def test_the_order_of_seeds_changes_nothing(pairs: list[tuple[float, float]]) -> None:
    one, other = (arm(name, losses) for name, losses in zip("ab", zip(*pairs, strict=True), strict=True))
    turned = replace(other, seeds=other.seeds[::-1], losses=other.losses[::-1])
    assert compared(one, turned) == compared(one, other)


@pytest.mark.parametrize("seeds", [0, 1, 2, 5, 20])
def test_a_comparison_comes_back_from_its_record_as_it_was(seeds: int) -> None:
    """Through JSON, with intervals, without them, and with a bootstrap from 20 seeds."""
    baseline, *others = runs(seeds, (-0.05, 0.0), generator=np.random.default_rng(1))
    for found in compared(baseline, *others):
        record = json.loads(json.dumps(asdict(found)))
        assert comparison_from(record) == found


def test_a_ratio_of_minutes_in_words() -> None:
    logs = np.log((1.4, 1.5, 1.6))
    (found,) = compared(arm("gnn", np.zeros(3)), arm("hgnn", logs), tried=2)
    low, high = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    assert shortly(found, of_ratio=True) == (
        "hgnn reaches a loss that both reach later than gnn: "
        f"1.5 times its minutes (95 % interval {low:.3g} to {high:.3g}); 3 seeds in common"
    )


def test_a_comparison_in_words() -> None:
    baseline = arm("gnn", [4.50, 4.52, 4.49, 4.51, 4.53])
    lower = arm("hgnn", [4.40, 4.43, 4.39, 4.40, 4.44])
    same = arm("mean", [4.51, 4.50, 4.50, 4.52, 4.53])
    first, second = compared(baseline, lower, same)
    assert in_words(first) == (
        "hgnn is better than gnn: loss −0.098 (97.5 % interval −0.1111 to −0.08492); 5 seeds in common; paired t p "
        "1.26e-05, 2.53e-05 after Holm over 2 pairs; sign flips p 0.0625, at best 0.0625 with so many seeds; a true "
        "difference of 0.0172 is found 80 times in 100; 9 configurations tried"
    )
    assert in_words(second).startswith("No evidence that mean and gnn differ: loss +0.002 (95 % interval −0.01")
    (alone,) = compared(baseline, lower, tried=2)
    assert "(95 % interval" in in_words(alone)
    assert "Holm" not in in_words(alone)
    assert in_words(alone).endswith("; 2 configurations tried")
    (mirrored,) = compared(lower, baseline)
    assert in_words(mirrored).startswith("gnn is worse than hgnn: loss +0.098 (")


def with_two(**changes: object) -> Callable[[], object]:
    fields: dict[str, object] = {"name": "a", "seeds": (1, 2), "losses": (4.0, 5.0)} | changes
    return lambda: Arm(**fields)  # type: ignore[arg-type]


A, B = arm("a", [4.0, 5.0]), arm("b", [4.0, 5.0])
BAD_CALLS: dict[str, tuple[Callable[[], object], str]] = {
    "nan": (with_two(losses=(4.0, math.nan)), "arm 'a', seed 2: loss nan must be finite"),
    "infinite": (with_two(losses=(math.inf, 4.0)), "arm 'a', seed 1: loss inf must be finite"),
    "missing": (with_two(losses=(4.0, None)), "arm 'a', seed 2: loss None must be finite"),
    "twice": (with_two(seeds=(7, 7)), "arm 'a': seed 7 stands twice"),
    "a seed": (with_two(seeds=(7, 1.5)), r"arm 'a': seed 1\.5 must be a whole number"),
    "lengths": (with_two(seeds=(7,)), "arm 'a': 1 seeds and 2 losses"),
    "no name": (with_two(name=""), "empty name"),
    "no arm": (lambda: compared(A), "nothing to compare with 'a'"),
    "same name": (lambda: compared(A, B, B), "arms a, b, b: each needs a name of its own"),
    "baseline's name": (lambda: compared(A, A), "arms a, a"),
    "too few tried": (lambda: compared(A, B, tried=1), "configurations_tried 1 must be a whole number from 2"),
}


@pytest.mark.parametrize("call", BAD_CALLS)
def test_bad_input_is_named(call: str) -> None:
    function, message = BAD_CALLS[call]
    with pytest.raises(BadInput, match=message):
        function()
