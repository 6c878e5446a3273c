"""What to try next, from made-up runs whose losses lie on a known curve."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gnn_moe.model.size import model_size
from gnn_moe.plans import plan_memory
from gnn_moe.reports.assumed import assumed_of
from gnn_moe.reports.expectations import Expectation, change_of, expectation_of
from gnn_moe.reports.next_steps import next_section
from gnn_moe.reports.power import seeds_needed
from gnn_moe.reports.swept import Entry, Swept
from gnn_moe.reports.tables import swept_tables
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.statistics import minimum_detectable_difference
from tests.reports.made_runs import group_of, tables, words, write_run

Curve = Callable[[float, int], float]


def write_curve(folder: Path, field: str, values: tuple[Any, ...], loss: Curve, seeds: int = 3, **more: Any) -> None:
    for value in values:
        for seed in range(1, seeds + 1):
            changed = {name: of(value) if callable(of) else of for name, of in more.items()}
            write_run(folder / f"{value}-{seed}", seed=seed, loss=loss(value, seed), **{field: value}, **changed)


def expected(folder: Path) -> Expectation:
    group = group_of(folder)
    (table,) = swept_tables(group)
    found = expectation_of(group, table)
    assert found is not None
    return found


def test_beyond_an_edge_the_last_step_repeats_itself_for_each_seed(tmp_path: Path) -> None:
    """With the interval of scipy over the seeds' own expectations."""

    def loss(value: float, seed: int) -> float:
        return 6 - 0.1 * math.log2(value) + 0.3 * seed + 0.01 * ((seed * value) % 4)

    write_curve(tmp_path, "num_experts", (2, 4, 7), loss)
    found = expected(tmp_path)
    assert (found.value, found.lowest.label) == (12, "7")
    steps = math.log(12 / 7) / math.log(7 / 4)
    by_seed = [loss(7, seed) + steps * (loss(7, seed) - loss(4, seed)) for seed in (1, 2, 3)]
    assert found.loss.mean == pytest.approx(np.mean(by_seed))
    changes = [each - loss(7, seed) for seed, each in enumerate(by_seed, 1)]
    low, high = stats.t.interval(0.95, 2, np.mean(changes), stats.sem(changes))
    assert found.change.interval is not None
    assert (found.change.interval.low, found.change.interval.high) == pytest.approx((low, high))


def test_inside_a_range_the_loss_lies_on_a_parabola(tmp_path: Path) -> None:
    """Losses that are one, of log2 of the value, are met exactly; 5 is the whole number at its lowest point."""

    def loss(value: float, seed: int) -> float:
        return 5 + 0.1 * (math.log2(value) - 2.4) ** 2 + 0.3 * seed

    write_curve(tmp_path, "num_experts", (2, 4, 8), loss)
    found = expected(tmp_path)
    assert found.value == 5
    assert found.loss.mean == pytest.approx(np.mean([loss(5, seed) for seed in (1, 2, 3)]))
    assert found.change.mean == pytest.approx(loss(5, 1) - loss(4, 1))


def test_a_gain_is_expected_where_seeds_and_earlier_steps_agree(tmp_path: Path) -> None:
    """Each doubling gains 0.1, in each seed a little more or less: the step before foretells the last within 0.01."""

    def loss(value: float, seed: int) -> float:
        return 6 - 0.1 * math.log2(value) + 0.3 * seed + 0.004 * ((seed * value) % 5)

    write_curve(tmp_path, "num_experts", (2, 4, 8), loss, seeds=4)
    change = expected(tmp_path).change
    mean = {value: np.mean([loss(value, seed) for seed in range(1, 5)]) for value in (2, 4, 8)}
    assert change.error == pytest.approx(abs(2 * mean[4] - mean[2] - mean[8]))
    assert change.doubt is None
    group = group_of(tmp_path)
    rows = tables(next_section(group, swept_tables(group)))["Untried values and what to expect"]
    assert [row[8] for row in rows] == ["expected"]


def test_a_rule_that_errs_by_as_much_tells_nothing(tmp_path: Path) -> None:
    """The loss stood still for a doubling and then fell by 0.1: a step that repeats itself missed that."""
    curve = {2: 5.2, 4: 5.2, 8: 5.1}
    write_curve(tmp_path, "num_experts", (2, 4, 8), lambda value, seed: curve[int(value)] + 0.3 * seed)
    change = expected(tmp_path).change
    assert change.error == pytest.approx(0.1)
    assert change.mean == pytest.approx(-0.1)
    assert change.doubt == "the rule errs by as much"


def test_the_error_inside_a_range_is_that_of_the_nearest_values(tmp_path: Path) -> None:
    """Of a cubic in log2 of the value, places 0 to 3: the parabola through three of them errs at the fourth."""

    def loss(value: float, _: int) -> float:
        place = math.log2(value) - 1
        return 5 + 0.05 * (place - 1.7) ** 2 + 0.01 * place**3

    write_curve(tmp_path, "num_experts", (2, 4, 8, 16), loss)
    (table,) = swept_tables(group_of(tmp_path))
    found = assumed_of(table)
    assert found is not None
    # A cubic a·x³ minus its interpolation at x₀, x₁, x₂ is a·(x − x₀)(x − x₁)(x − x₂); at 1 of 0, 2, 3 and at 2 of
    # 0, 1, 3.
    assert found.errors == pytest.approx([-0.01 * 1 * -1 * -2, -0.01 * 2 * 1 * -1])


@pytest.mark.parametrize(("values", "seeds"), [((2, 4, 8), 2), ((2, 4, 8, 16, 32), 3), ((2, 4, 8, 16, 32), 8)])
def test_noise_is_seldom_told_as_a_gain(values: tuple[int, ...], seeds: int) -> None:
    """Of 600 tables of one true loss fewer than 5 % tell of a gain, though nearly all changes are below 0."""
    generator = np.random.default_rng(7)
    changes = []
    for _ in range(600):
        noise = generator.normal(scale=0.02, size=(len(values), seeds))
        entries = [
            Entry(value=value, losses=dict(enumerate((5 + own).tolist(), 1)))
            for value, own in zip(values, noise, strict=True)
        ]
        table = Swept(field="num_experts", entries=tuple(entries))
        if (assumed := assumed_of(table)) is not None:
            changes.append(change_of(assumed, table))
    assert len(changes) > 200
    assert all(change.mean < 0 for change in changes)
    assert sum(change.doubt is None for change in changes) < 0.05 * 600


def test_the_more_fields_the_wider_the_interval(tmp_path: Path) -> None:
    write_curve(tmp_path, "num_experts", (2, 4, 8), lambda value, seed: 5 - 0.01 * value + 0.002 * ((seed * value) % 5))
    group = group_of(tmp_path)
    (table,) = swept_tables(group)
    found = expectation_of(group, table, fields=4)
    assert found is not None
    assert found.change.interval is not None
    values = list(found_changes(table).values())
    low, high = stats.t.interval(1 - 0.05 / 4, 2, np.mean(values), stats.sem(values))
    assert (found.change.interval.low, found.change.interval.high) == pytest.approx((low, high))


def found_changes(table: Swept) -> dict[int, float]:
    assumed = assumed_of(table)
    assert assumed is not None
    return assumed.changes(table)


def test_only_values_that_can_be_run_are_proposed(tmp_path: Path) -> None:
    """Four heads want widths that they divide; the lowest point is at 2^5.5 = 45."""
    write_curve(tmp_path, "embed_dim", (32, 48, 64), lambda value, _: 5 + (math.log2(value) - 5.5) ** 2, num_heads=4)
    found = expected(tmp_path)
    assert found.value == 44
    assert found.config.model.embed_dim == 44


def test_numbers_that_are_not_whole_stay_so(tmp_path: Path) -> None:
    write_curve(tmp_path, "learning_rate", (0.001, 0.004, 0.016), lambda value, _: (math.log2(value / 0.0062)) ** 2)
    assert expected(tmp_path).value == 0.0062


@pytest.mark.parametrize(
    "curve",
    [
        {2: 5.0, 3: 4.9, 4: 5.0},  # nothing whole lies between
        {2: 5.0, 4: 4.9, 8: 5.0},  # the lowest point is the value tried
        {4: 5.0},
        {2: 9.5, 4: 5.0},  # a diverged run
        {2: 5.05, 4: 5.0, 16: 11.0},  # and one that bends the parabola
        {2: 5.0, 4: 5.0, 8: 5.0},
    ],
)
def test_nothing_is_proposed_where_nothing_is_to_be_gained(curve: dict[int, float], tmp_path: Path) -> None:
    write_curve(tmp_path, "num_experts", tuple(curve), lambda value, _: curve[int(value)])
    group = group_of(tmp_path)
    assert [expectation_of(group, table) for table in swept_tables(group)] in ([None], [])


@pytest.mark.parametrize("values", [(-1, 1000, 2000), (-1, 2000)])
def test_all_samples_are_no_number(values: tuple[int, ...], tmp_path: Path) -> None:
    """-1 stands for all of them."""
    write_curve(tmp_path, "num_train_samples", values, lambda value, _: 5 - value / 1e5)
    group = group_of(tmp_path)
    assert [expectation_of(group, table) for table in swept_tables(group)] == [None]


def test_a_value_that_failed_is_not_proposed(tmp_path: Path) -> None:
    """The lowest point is at 5, which ran out of memory."""
    write_curve(tmp_path, "num_experts", (2, 4, 8), lambda value, _: 5 + 0.1 * (math.log2(value) - 2.4) ** 2)
    failed = {"status": "failed", "error_class": "killed", "best_eval_loss": None}
    write_run(tmp_path / "failed", num_experts=5, summary=failed)
    group = group_of(tmp_path)
    assert [expectation_of(group, table) for table in swept_tables(group)] == [None]


def test_minutes_go_with_flops_and_memory_is_that_of_the_plan(tmp_path: Path) -> None:
    write_curve(tmp_path, "num_experts", (2, 4, 8), lambda value, _: 5 - value / 100, minutes=float)
    found = expected(tmp_path)
    assert found.value == 16
    tried = RunFolder(tmp_path / "8-1").read_config().model
    ratio = model_size(found.config.model).training_flops_per_token / model_size(tried).training_flops_per_token
    assert found.minutes == pytest.approx(8 * ratio)
    assert found.memory_bytes == plan_memory(found.config, threads=1).peak.total


def test_one_slow_seed_does_not_move_the_minutes_to_expect(tmp_path: Path) -> None:
    write_curve(tmp_path, "num_experts", (2, 4, 8), lambda value, _: 5 - value / 100, minutes=float)
    before = expected(tmp_path).minutes
    path = tmp_path / "8-2" / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"train_minutes": 800.0}))
    assert expected(tmp_path).minutes == before


def test_minutes_go_with_tokens(tmp_path: Path) -> None:
    """Twice the samples, twice the tokens: the next step has twice as many again."""
    for samples in (100, 200):
        more = {"tokens": 10 * samples}
        write_run(
            tmp_path / str(samples), num_train_samples=samples, loss=5 - samples / 1e3, minutes=samples, summary=more
        )
    found = expected(tmp_path)
    assert found.value == 400
    assert found.minutes == pytest.approx(400)


def test_the_section_has_each_field_and_its_command(tmp_path: Path) -> None:
    write_curve(tmp_path, "num_experts", (2, 4), lambda value, seed: 5 - value / 100 + seed, minutes=float)
    group = group_of(tmp_path)
    section = next_section(group, swept_tables(group))
    (row,) = tables(section)["Untried values and what to expect"]
    assert row[:5] == ["num_experts", "8", "4", "6.9400", "−0.0200"]
    assert row[5:9] == ["−0.0200 to −0.0200", "3", "", "cannot be told: too few values to try the rule on"]
    assert "gnn-moe train --num_experts 8" in words(section)


def test_one_seed_gives_no_interval(tmp_path: Path) -> None:
    write_curve(tmp_path, "num_experts", (2, 4), lambda value, _: 5 - value / 100, seeds=1)
    group = group_of(tmp_path)
    section = next_section(group, swept_tables(group))
    assert tables(section)["Untried values and what to expect"][0][5:9] == ["–", "1", "", "cannot be told: one seed"]
    assert "2 of 2 points have one seed" in words(section)


def test_beyond_a_failed_value_nothing_is_expected(tmp_path: Path) -> None:
    write_curve(tmp_path, "num_experts", (2, 4), lambda value, _: 5 - value / 100)
    failed = {"status": "failed", "error_class": "killed", "best_eval_loss": None}
    write_run(tmp_path / "failed", num_experts=8, summary=failed)
    group = group_of(tmp_path)
    section = next_section(group, swept_tables(group))
    assert tables(section) == {}
    assert "beyond it stands 8 (failed, killed" in words(section)


def test_a_comparison_without_a_verdict_says_how_many_seeds_would_give_one(tmp_path: Path) -> None:
    differences = (0.05, -0.03, 0.02)
    for seed, difference in enumerate(differences, 1):
        write_run(tmp_path / f"gnn-{seed}", coupler_type="GNN", seed=seed, loss=5.0 + seed)
        write_run(tmp_path / f"hgnn-{seed}", coupler_type="HGNN", seed=seed, loss=5.0 + seed + difference)
    group = group_of(tmp_path)
    needed = seeds_needed(float(np.std(differences, ddof=1)), float(np.mean(differences)))
    assert f"HGNN and GNN lie 0.0133 apart after 3 seeds: if that is the true difference, {needed} seeds" in words(
        next_section(group, [])
    )


@pytest.mark.parametrize(("size", "pairs"), [(0.5, 34), (0.8, 15), (1.0, 10), (0.01, None)])
def test_seeds_needed_are_those_of_power_tables(size: float, pairs: int | None) -> None:
    """G*Power's numbers for a two-sided paired t test at 5 % and 80 %."""
    assert seeds_needed(1.0, size) == pairs
    if pairs is not None:
        before, enough = (minimum_detectable_difference(1.0, count) for count in (pairs - 1, pairs))
        assert before is not None
        assert enough is not None
        assert enough <= size < before


def test_more_arms_need_more_seeds(tmp_path: Path) -> None:
    """Each of two arms is tested at 2.5 %: the first that Holm's rule asks for."""
    for seed, (mean, hgnn) in enumerate(((0.05, 0.02), (-0.03, -0.01), (0.02, 0.03)), 1):
        write_run(tmp_path / f"gnn-{seed}", coupler_type="GNN", seed=seed, loss=5.0 + seed)
        write_run(tmp_path / f"mean-{seed}", coupler_type="mean", seed=seed, loss=5.0 + seed + mean)
        write_run(tmp_path / f"hgnn-{seed}", coupler_type="HGNN", seed=seed, loss=5.0 + seed + hgnn)
    effect = float(np.mean((0.05, -0.03, 0.02)) / np.std((0.05, -0.03, 0.02), ddof=1))
    pairs = next(n for n in range(2, 200) if _power(effect, n, 0.025) >= 0.8)
    assert pairs > (seeds_needed(1.0, effect) or 0)
    assert f"{pairs} seeds of each find it 80 times in 100, tested as one of 2 arms" in words(
        next_section(group_of(tmp_path), [])
    )


def _power(effect: float, pairs: int, alpha: float) -> float:
    limit, away = stats.t.ppf(1 - alpha / 2, pairs - 1), effect * math.sqrt(pairs)
    return float(stats.nct.sf(limit, pairs - 1, away) + stats.nct.cdf(-limit, pairs - 1, away))


def test_what_seeds_share_is_no_spread_of_a_difference(tmp_path: Path) -> None:
    """Losses spread by 1 over seeds, their paired differences by 0.01."""
    write_curve(tmp_path, "num_experts", (2, 4), lambda value, seed: seed + (0.01 * seed if value == 4 else 0.0))
    assert "Differences of two points spread by 0.0100 over seeds" in words(next_section(group_of(tmp_path), []))
