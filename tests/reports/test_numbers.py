"""Numbers look alike in every section, and what is unknown never reads as a number."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from gnn_moe.reports import numbers
from gnn_moe.studies.statistics import Interval

FORMATS = (
    numbers.loss,
    numbers.difference,
    numbers.perplexity,
    numbers.bits,
    numbers.minutes,
    numbers.count,
    numbers.scientific,
    numbers.rate,
    numbers.gibibytes,
)


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_unknown_is_a_dash(write: Callable[[float | None], str], value: float | None) -> None:
    assert write(value) == numbers.UNKNOWN


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (812, "812"),
        (999.6, "1.00k"),
        (1000, "1.00k"),
        (55_900_000, "55.9M"),
        (99_960_000, "100M"),
        (160_869_505, "161M"),
        (999_999, "1.00M"),
        (1.46e9, "1.46B"),
        (5.2e14, "520T"),
        (5.2e15, "5.20 × 10¹⁵"),
    ],
)
def test_counts_have_three_digits_and_a_suffix(value: float, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("value", [1e22, 1e30, 1.234e300])
def test_what_is_too_large_to_read_is_written_in_powers_of_ten(
    write: Callable[[float | None], str], value: float
) -> None:
    """As the loss of a run that diverged and did not overflow."""
    assert len(write(value)) <= 13
    assert "× 10" in write(value) or write(value) == "too large"


def test_losses_differences_and_intervals() -> None:
    assert numbers.loss(4.52671) == "4.5267"
    assert numbers.difference(-0.03481) == "−0.0348"
    assert numbers.difference(0.0069) == "+0.0069"
    assert numbers.difference(-1e-9) == "0.0000"
    assert numbers.interval(Interval(low=-0.01, high=0.02, level=0.95)) == "−0.0100 to 0.0200"
    assert numbers.interval(None) == numbers.UNKNOWN
    assert numbers.level(Interval(low=0, high=1, level=1 - 0.05 / 3)) == "98.3 %"


def test_costs() -> None:
    assert numbers.minutes(9.26) == "9.3"
    assert numbers.minutes(0.034) == "0.03"
    assert numbers.scientific(5.7443e13) == "5.74 × 10¹³"
    assert numbers.rate(4457.96) == "4,458"
    assert numbers.gibibytes(2010341376) == "1.87"


def test_perplexity_is_e_to_the_loss() -> None:
    assert numbers.perplexity(4.5267) == "92.45"
    assert numbers.perplexity(20.0) == "4.85 × 10⁸"
    assert numbers.perplexity(1e4) == "too large"


def test_settings_are_written_in_full() -> None:
    assert [numbers.setting(value) for value in (0.0005, 1e-5, True, "all_pairs", 4, None)] == [
        "0.0005",
        "1e-05",
        "true",
        "all_pairs",
        "4",
        "none",
    ]
    assert [numbers.numeric(value) for value in (4, 0.5, True, "4", None)] == [4.0, 0.5, None, None, None]


def test_lists_and_counts_in_words() -> None:
    assert [numbers.listed(words) for words in ([], ["2"], ["2", "4"], ["2", "4", "8"])] == [
        "",
        "2",
        "2 and 4",
        "2, 4 and 8",
    ]
    assert numbers.counted(1, "seed") == "1 seed"
    assert numbers.counted(3, "seed") == "3 seeds"
