"""Which value is best: planted answers are found, null ones are not, and one seed shows nothing."""

from __future__ import annotations

import dataclasses

import pytest

from gnn_moe.errors import BadInput
from gnn_moe.reports.swept import IN_FLOPS, IN_MINUTES, Entry, Swept, most_efficient, rank
from tests.reports.made_tables import one_seed, seeds


def labels(entries: tuple[Entry, ...]) -> list[str]:
    return [entry.label for entry in entries]


def test_a_value_that_all_others_lose_to_is_best() -> None:
    ranking = rank(seeds({2: 4.6, 4: 4.5, 8: 4.55}))
    assert (ranking.kind, labels(ranking.tied)) == ("best", ["4"])
    assert {label: found.verdict for label, found in ranking.against_lowest.items()} == {"2": "worse", "8": "worse"}


def test_a_value_that_one_other_is_not_told_apart_from_is_tied() -> None:
    ranking = rank(seeds({2: 4.6, 4: 4.5, 8: 4.5}))
    assert (ranking.kind, labels(ranking.tied)) == ("tied", ["4", "8"])


def test_of_equal_values_one_is_best_in_at_most_one_study_in_twenty() -> None:
    found = [rank(seeds({2: 4.5, 4: 4.5, 8: 4.5}, seeds=4, draw=draw)) for draw in range(200)]
    assert sum(ranking.kind == "best" for ranking in found) <= 10
    assert sum(len(ranking.tied) < 3 for ranking in found) <= 24


def test_one_seed_shows_nothing() -> None:
    table = one_seed({2: 4.5, 4: 9.0}, (1, 2))
    ranking = rank(table)
    assert (ranking.kind, labels(ranking.tied), ranking.against_lowest) == ("untested", ["2"], {})
    assert not most_efficient(table).is_tested


def test_seeds_that_values_do_not_share_show_nothing() -> None:
    entries = (Entry(value=2, losses={1: 4.5, 2: 4.6}), Entry(value=4, losses={3: 9.0, 4: 9.1}))
    assert rank(Swept(field="num_experts", entries=entries)).kind == "untested"


def test_losses_that_are_the_same_have_no_best() -> None:
    assert rank(one_seed({2: 4.5, 4: 4.5})).kind == "equal"
    assert rank(seeds({2: 4.5, 4: 4.5}, noise=0)).kind == "equal"
    assert most_efficient(one_seed({2: 4.5, 4: 4.5})).entry is None


def test_a_failed_value_is_compared_with_nothing() -> None:
    assert rank(one_seed({2: None, 4: None})).kind == "none"
    ranking = rank(one_seed({2: 4.5, 4: None}))
    assert (ranking.kind, labels(ranking.tied)) == ("alone", ["2"])


def test_a_value_that_stands_twice_is_refused() -> None:
    table = seeds({2: 4.5, 4: 4.6})
    with pytest.raises(BadInput, match="num_experts 2 stands twice"):
        dataclasses.replace(table, entries=table.entries + table.entries[:1])


def test_the_most_efficient_is_the_cheapest_that_is_not_told_apart_from_the_best() -> None:
    means = {2: 4.6, 4: 4.5, 8: 4.5}
    found = most_efficient(seeds(means, (1, 2, 4)))
    assert (found.entry and found.entry.label, found.cost) == ("4", IN_MINUTES)
    found = most_efficient(seeds(means, (1, 2, 4), flops=(1e12, 4e12, 2e12)))
    assert (found.entry and found.entry.label, found.cost) == ("8", IN_FLOPS)


def test_none_is_the_most_efficient_of_what_costs_the_same_or_is_not_known() -> None:
    means = {2: 4.6, 4: 4.5, 8: 4.5}
    assert "the same" in most_efficient(seeds(means, (1, 2, 2.001))).reason
    assert "not known" in most_efficient(seeds(means)).reason


def test_a_value_that_was_not_tested_is_not_the_most_efficient() -> None:
    """It is cheap and tied, for want of a second seed."""
    table = seeds({4: 4.5, 8: 4.5}, (2, 4))
    cheap = Entry(value=2, losses={1: 4.9}, minutes=1.0)
    table = dataclasses.replace(table, entries=(cheap, *table.entries))
    assert labels(rank(table).tied) == ["2", "4", "8"]
    found = most_efficient(table).entry
    assert found is not None
    assert found.label == "4"


@pytest.mark.parametrize(
    ("gap", "flops", "label", "reason"),
    [
        (0.009, (1e12, 2e12), "2", "the cheapest within 0.01 nats of the lowest loss (by training FLOPs), not tested"),
        (0.011, (1e12, 2e12), "4", "nothing of fewer training FLOPs lies within 0.01 nats of it"),
        (0.009, (2e12, 1e12), "4", "nothing of fewer training FLOPs was run"),
    ],
)
def test_near_is_a_hundredth_of_a_nat_whatever_the_loss(
    gap: float, flops: tuple[float, float], label: str, reason: str
) -> None:
    """That is 1 % of perplexity; 1 % of a loss of 5 would be 0.05."""
    entries = (Entry(value=2, losses={1: 5 + gap}, flops=flops[0]), Entry(value=4, losses={1: 5.0}, flops=flops[1]))
    found = most_efficient(Swept(field="num_experts", entries=entries))
    assert (found.entry and found.entry.label, found.reason, found.is_tested) == (label, reason, False)


def test_what_is_near_and_shown_to_be_worse_is_not_efficient() -> None:
    table = seeds({2: 4.505, 4: 4.5}, noise=0.0005, flops=(1e12, 2e12))
    assert rank(table).kind == "best"
    found = most_efficient(table)
    assert (found.entry and found.entry.label, found.is_tested) == ("4", True)
    assert found.reason == "what takes fewer training FLOPs and lies within 0.01 nats of it is shown to be worse"
