"""Rules on made tables with known answers; every sentence has figures."""

from __future__ import annotations

import math
import re

import pytest

from gnn_moe.reports import insights
from gnn_moe.reports.insights import Insight, insights_of
from gnn_moe.reports.swept import Entry, Swept
from tests.reports.made_tables import one_seed, seeds

FALLING = {1: 4.6, 2: 4.5, 4: 4.45, 8: 4.43}
DOUBLED = (1, 2, 4, 8)
TABLES = {
    "one seed": one_seed({2: 4.5267, 4: 4.5336, 8: 4.5637, 16: None}, (9.3, 16.4, 42.7)),
    "falling": seeds(FALLING, DOUBLED),
    "noise": seeds({2: 4.5, 4: 4.5, 8: 4.5, 16: 4.5}, DOUBLED),
    "equal": one_seed({2: 4.5, 4: 4.5, 8: 4.5, 16: 4.5}, DOUBLED),
    "words": seeds({"all_pairs": 4.5, "all_triplets": 4.6}, (1, 2)),
    "markup": seeds({"<b>bold</b> | *a*": 4.5, "b": 4.6}, (1, 2)),
    "failed": one_seed({2: None, 4: None}),
    "alone": one_seed({2: 4.5}),
    "empty": Swept(field="num_experts", entries=()),
    "no times": one_seed({2: 4.5, 4: 4.6, 8: 4.7, None: 4.8}),
    "zero": one_seed({0.0: 4.5, 0.1: 4.6, 0.2: 4.7, True: 4.8}, (0, 0, 0, 0)),
}


def said(table: Swept, rule: str) -> Insight:
    (found,) = [insight for insight in insights_of(table) if insight.rule == rule]
    return found


def rules(table: Swept) -> set[str]:
    return {insight.rule for insight in insights_of(table)}


@pytest.mark.parametrize("name", TABLES)
def test_no_sentence_is_without_figures_and_none_shows_nan(name: str) -> None:
    for found in insights_of(TABLES[name]):
        assert re.search(r"\d", found.sentence), found.sentence
        assert not re.search(r"\b(nan|inf|None\b.*None)\b", found.sentence), found.sentence
        assert found.sentence.endswith(".")
        assert ".." not in found.sentence
        assert found.evidence


def test_a_best_value_is_named_with_its_interval_and_the_nearest_other() -> None:
    sentence = said(TABLES["falling"], "best value").sentence
    assert re.match(r"num_experts 8 is best: 4\.\d{4} \(6 seeds, 95 % interval 4\.\d{4} to 4\.\d{4}\)", sentence)
    assert re.search(r"the nearest, 4, by \+0\.02\d\d \(\d+(\.\d)? % interval \+0\.0\d+ to \+0\.0", sentence)


def test_noise_has_no_best_value_but_a_tie() -> None:
    found = said(TABLES["noise"], "best value")
    assert found.evidence["kind"] == "tied"
    assert found.sentence.startswith("No value of num_experts is best.")
    assert "it is not told apart from" in found.sentence


def test_what_is_shown_to_be_worse_is_named_beside_a_tie() -> None:
    sentence = said(seeds({2: 4.5, 4: 4.5, 8: 4.7}), "best value").sentence
    assert "shown to be worse: 8, +0.2" in sentence


def test_of_many_values_the_nearest_are_named_and_the_rest_counted() -> None:
    means = {value: 4.5 if value < 2 else 4.6 + value / 10 for value in range(8)}
    sentence = said(seeds(means), "best value").sentence
    assert re.search(r"shown to be worse: 2, .*, 3, .*, 4, .*, 5, .* and 2 more\.$", sentence)


def test_one_seed_says_what_the_numbers_are_and_that_they_are_no_evidence() -> None:
    assert said(TABLES["one seed"], "best value").sentence == (
        "Lowest at num_experts 2: 4.5267, 0.0069 below 4 (4.5336); one seed each, so no evidence that they differ."
    )
    assert "one seed cannot carry an order of values" in said(TABLES["one seed"], "one seed").sentence
    assert said(TABLES["one seed"], "one seed").evidence["range"] == pytest.approx(0.037)
    assert "one seed" not in rules(TABLES["falling"])


def test_of_one_seed_two_lowest_of_the_same_loss_are_both_named() -> None:
    assert said(one_seed({2: 4.5, 4: 4.5, 8: 4.6}), "best value").sentence.startswith("Lowest at num_experts 2 and 4,")


def test_some_values_of_one_seed_are_named() -> None:
    table = seeds({2: 4.5, 4: 4.6})
    mixed = Swept(field="f", entries=(*table.entries, Entry(value=8, losses={1: 4.7})))
    assert said(mixed, "one seed").sentence.startswith("1 of 3 values of f have one seed (8)")


def test_equal_losses_have_no_best_no_edge_and_no_caveat_beyond_their_seed() -> None:
    table = TABLES["equal"]
    assert said(table, "best value").sentence == "All 4 values of num_experts have one loss, 4.5000: none is best."
    assert "edge" not in rules(table)
    assert "too low" not in rules(table)
    assert said(table, "diminishing returns").evidence["trend"] == "none"
    assert not said(table, "monotone").evidence["falls"]


def test_an_optimum_inside_the_range_and_one_at_its_edge() -> None:
    assert (
        "inside the range: at num_experts 4, between 2 and 8" in said(seeds({2: 4.6, 4: 4.5, 8: 4.6}), "edge").sentence
    )
    found = said(TABLES["falling"], "edge")
    assert (found.evidence["edge"], found.evidence["next"]) == ("highest", 16)
    assert found.sentence.endswith("try 16 next.")


@pytest.mark.parametrize(
    ("losses", "beyond"),
    [
        ({256: 3.0, 384: 2.0, 512: 1.0}, 640),
        ({2: 1.0, 4: 2.0, 8: 3.0}, 1),
        ({2: 3.0, 3: 2.0, 5: 1.0}, 8),
        ({1: 1.0, 2: 2.0, 3: 3.0}, None),
        ({0.1: 3.0, 0.03: 2.0, 0.01: 1.0}, 0.00333),
        ({0.0: 1.0, 0.1: 2.0}, None),
        ({2: 3.0, 4: 2.0, 8: 1.0, 16: None}, None),
    ],
)
def test_the_next_value_goes_on_with_the_steps(losses: dict[int | float, float | None], beyond: float | None) -> None:
    found = said(one_seed(losses), "edge").evidence["next"]
    assert found == (None if beyond is None else pytest.approx(beyond))


def test_a_failed_value_beyond_the_edge_is_named() -> None:
    assert (
        "beyond it stands 16 (failed, out_of_memory: 3 GiB more)"
        in said(one_seed({2: 4.6, 4: 4.5, 16: None}), "edge").sentence
    )


def test_an_edge_that_is_tied_may_be_elsewhere() -> None:
    assert "so it may lie there" in said(TABLES["noise"], "edge").sentence


def test_steps_that_are_shown_are_counted() -> None:
    found = said(TABLES["falling"], "monotone")
    assert (found.evidence["falls"], found.evidence["steps_shown"]) == (True, 3)
    assert said(TABLES["noise"], "monotone").evidence["steps_shown"] == 0


def test_an_order_of_one_seed_is_as_likely_as_it_is() -> None:
    """Of 4! orders two are monotone."""
    assert said(one_seed({1: 4.0, 2: 3.0, 3: 2.0, 4: 1.0}), "monotone").sentence.endswith("down, 1 time in 12.")
    assert "time in" not in said(one_seed({1: 4.0, 2: 3.0, 3: 3.5}), "monotone").sentence


def test_too_low_is_far_worse_than_all_others() -> None:
    of_one = one_seed({0.001: 4.5281, 0.0005: 4.5113, 0.0003: 4.5336, 0.0001: 4.7838})
    found = said(of_one, "too low")
    assert "0.0001 looks too low" in found.sentence
    assert "12.2 times the range of the other 3 values (0.0223)" in found.sentence
    assert "one seed, so this rests on the size of the gap alone" in found.sentence
    assert "1 is too low" in said(seeds({1: 6.0, 2: 4.5, 4: 4.52, 8: 4.53}), "too low").sentence
    assert "8 is too high" in said(seeds({1: 4.5, 2: 4.51, 4: 4.52, 8: 6.0}), "too high").sentence
    assert {"too low", "too high"} & rules(TABLES["falling"]) == set()


def test_a_far_end_that_seeds_do_not_show_is_not_called_too_low() -> None:
    """One wild seed in two lifts the mean."""
    entries = (
        Entry(value=1, losses={1: 4.5, 2: 6.5}),
        *(Entry(value=value, losses={1: 4.5, 2: 4.51 + value / 1000}) for value in (2, 4, 8)),
    )
    assert "too low" not in rules(Swept(field="f", entries=entries))


def test_two_other_values_have_no_range_worth_the_name() -> None:
    assert "too high" not in rules(one_seed({2: 4.5267, 4: 4.5336, 8: 9.0}))


@pytest.mark.parametrize(
    ("losses", "trend"),
    [
        ((4.6, 4.5, 4.45), "diminishing"),
        ((4.6, 4.55, 4.4), "growing"),
        ((4.6, 4.5, 4.55), "ends"),
        ((4.5, 4.55, 4.6), "none"),
        ((4.5, 4.55, 4.4), "mixed"),
    ],
)
def test_returns_for_each_doubling(losses: tuple[float, ...], trend: str) -> None:
    table = one_seed(dict(zip((2, 4, 8), losses, strict=True)), (1, 2, 8))
    found = said(table, "diminishing returns")
    assert found.evidence["trend"] == trend
    assert found.evidence["rates"] == pytest.approx([losses[1] - losses[0], (losses[2] - losses[1]) / 2])
    assert "no evidence that these rates differ" in found.sentence


def test_a_change_of_rate_is_tested_by_seed() -> None:
    found = said(TABLES["falling"], "diminishing returns")
    assert found.evidence["verdict"] == "worse"
    assert found.evidence["change"] == pytest.approx(0.08, abs=0.01)
    assert said(TABLES["noise"], "diminishing returns").evidence["verdict"] == "no evidence"
    assert "which may be none" in said(TABLES["noise"], "diminishing returns").sentence


def test_diminishing_returns_are_claimed_where_seeds_show_them_and_else_only_of_the_means() -> None:
    means = {2: 4.6, 4: 4.5, 8: 4.45}
    shown = said(seeds(means, (1, 2, 4)), "diminishing returns").sentence
    assert "in the means each doubling buys less than the one before" in shown
    assert shown.endswith("6 seeds in common): diminishing returns.")
    noisy = next(
        found.sentence
        for draw in range(50)
        if (found := said(seeds(means, (1, 2, 4), noise=0.1, draw=draw), "diminishing returns")).evidence["trend"]
        == "diminishing"
        and found.evidence["verdict"] == "no evidence"
    )
    assert "in the means each doubling buys less" in noisy
    assert "diminishing" not in noisy


def test_returns_go_by_flops_and_not_by_a_busy_machine() -> None:
    busy = seeds({2: 4.6, 4: 4.5, 8: 4.45}, (1, 9, 4), flops=(1e12, 2e12, 4e12))
    found = said(busy, "diminishing returns")
    assert "for each doubling of training FLOPs, from num_experts 2 to 4" in found.sentence


def test_a_field_that_costs_nothing_has_no_returns() -> None:
    """Minutes differ by chance where FLOPs are equal."""
    assert "diminishing returns" not in rules(seeds(FALLING, DOUBLED, flops=(1e12, 1e12, 1e12, 1e12)))
    assert "diminishing returns" not in rules(one_seed({2: 4.6, 4: 4.5, 8: 4.4}, (1, 1.01, 2)))
    assert "diminishing returns" not in rules(one_seed({2: 4.6, 4: 4.5, 8: 4.4}, (1, None, 2)))
    of_flops = said(seeds(FALLING, flops=(1e12, 2e12, 4e12, 8e12)), "diminishing returns")
    assert "1.00 × 10¹² to 2.00 × 10¹² training FLOPs" in of_flops.sentence


def test_failures_are_named_with_their_reason() -> None:
    assert said(TABLES["one seed"], "failures").sentence == (
        "1 of 4 values of num_experts without a loss: 16 (failed, out_of_memory: 3 GiB more). Nothing is known of them."
    )


def test_rates_are_those_of_their_definition() -> None:
    found = said(TABLES["one seed"], "diminishing returns").evidence["rates"]
    assert found[0] == pytest.approx((4.5336 - 4.5267) / math.log2(16.4 / 9.3))
    assert found[1] == pytest.approx((4.5637 - 4.5336) / math.log2(42.7 / 16.4))


def test_every_rule_is_in_the_list() -> None:
    assert len(insights.RULES) == 8
