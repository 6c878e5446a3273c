"""Targets: met, not met or cannot be told, by where the interval lies; files of targets and what is wrong with them."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gnn_moe.errors import BadInput
from gnn_moe.reports.document import Table
from gnn_moe.reports.measures import MEASURES, Measured, measure_number
from gnn_moe.reports.targets import Target, outcome_of, parse_targets, read_targets, seed_targets, targets_section
from gnn_moe.studies.presets import find_preset
from gnn_moe.studies.space import values_of
from gnn_moe.studies.statistics import Interval, t_interval
from tests.reports.made_runs import group_of, hrefs, tables, words, write_run

SEED = Path(os.environ.get("GNN_MOE_SHARED", Path(__file__).parents[3] / "shared")) / "seed.md"
TARGETS = "Targets and success metrics"


def target(**changes: object) -> Target:
    return Target(**{"name": "t", "measure": "loss", "side": "below", "value": 4.5, **changes})  # type: ignore[arg-type]


def measured(low: float, high: float) -> Measured:
    return Measured(said="", value=(low + high) / 2, interval=Interval(low=low, high=high, level=0.95), seeds=5)


def test_the_interval_decides() -> None:
    assert outcome_of(target(), measured(4.3, 4.4)) == "met"
    assert outcome_of(target(), measured(4.6, 4.7)) == "not met"
    assert outcome_of(target(), measured(4.4, 4.6)) == "cannot be told"
    assert outcome_of(target(), Measured(said="one seed", value=4.0, seeds=1)) == "cannot be told"
    assert outcome_of(target(side="at_most"), measured(4.4, 4.5)) == "met"
    assert outcome_of(target(side="above"), measured(4.5, 4.6)) == "cannot be told"
    assert outcome_of(target(side="at_least"), measured(4.5, 4.6)) == "met"
    assert outcome_of(target(), measured(4.3, 4.3)) == "cannot be told", "equal seeds say nothing of the next"


def test_the_seeds_targets_are_all_measured() -> None:
    assert {each.measure for each in seed_targets()} <= set(MEASURES)
    assert len(seed_targets()) == 7 + 3 * 3


@pytest.mark.skipif(not SEED.is_file(), reason=f"no {SEED}: set GNN_MOE_SHARED to the folder that holds seed.md")
def test_what_the_seed_expects_of_its_configurations_are_targets() -> None:
    text = SEED.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) +\| [\d.]+-([\d.]+) +\| \d+-(\d+) +\| \d+-(\d+) min", text, flags=re.MULTILINE)
    assert [name for name, *_ in rows] == ["Efficiency", "Performance", "Comparison"]
    for name, *wanted in rows:
        found = [each for each in seed_targets() if each.name.startswith(f"Expected of the {name.lower()} conf")]
        assert [(each.measure, each.side) for each in found] == [
            (measure, "at_most") for measure in ("loss", "perplexity", "minutes")
        ]
        assert [each.value for each in found] == [float(value) for value in wanted]
        preset = find_preset(f"seed-{name.lower()}")
        written = values_of(preset.baseline)
        for each in found:
            assert {flag: written[flag] for flag in each.settings} == each.settings
            assert each.num_eval_samples in (None, written["num_eval_samples"])
    for line in ("Beat GNN baseline", "Maintain efficiency", "Show learning", "Convergence", "Generalization"):
        assert f"**{line}:**" in text
    assert "**Interpretability:** Meaningful hyperedge weight patterns" in text


BAD = {
    "": "has no targets",
    "[[target]": "is no TOML",
    "target = 3": "has no targets",
    '[[target]]\nname = "a"\nmeasure = "loss"': "give one of at_most, at_least, below, above, not 0",
    '[[target]]\nname = "a"\nmeasure = "loss"\nbelow = 1\nabove = 2': "not 2",
    '[[target]]\nname = "a"\nmeasure = "loss"\nbelow = "x"': "below 'x' must be a number",
    '[[target]]\nname = "a"\nmeasure = "loss"\nbelow = nan': "must be a number",
    '[[target]]\nmeasure = "loss"\nbelow = 1': "name None must be a text",
    '[[target]]\nname = "a"\nmeasure = "loss"\nbelo = 1': "did you mean below",
    '[[target]]\nname = "a"\nmeasure = "loss"\nbelow = 1\nsettings = 3': "settings 3 must be a table",
    '[[target]]\nname = "a"\nmeasure = "loss"\nbelow = 1\nsettings = { num_expert = 2 }': "did you mean num_experts",
}


@pytest.mark.parametrize(("text", "message"), BAD.items())
def test_bad_files_are_said(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse_targets(text, "file.toml")


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.toml: cannot be read"):
        read_targets(tmp_path / "gone.toml")


def write_pair(folder: Path) -> None:
    for seed in (1, 2, 3):
        gap = 0.1 + 0.01 * seed
        write_run(folder / f"gnn{seed}", coupler_type="GNN", seed=seed, loss=5.0 + seed, minutes=2.0)
        write_run(
            folder / f"hgnn{seed}", coupler_type="HGNN", seed=seed, loss=5.0 + seed - gap, minutes=3.0 + 0.1 * seed
        )


def test_differences_and_ratios_are_paired_by_seed(tmp_path: Path) -> None:
    """Losses of seeds lie 1 apart, differences within a seed 0.01: unpaired, nothing could be told."""
    write_pair(tmp_path)
    group = group_of(tmp_path)
    found = MEASURES["loss_difference"](group, "loss_difference", "HGNN", "GNN")
    expected = t_interval([-0.11, -0.12, -0.13])
    assert found.value == pytest.approx(-0.12)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    ratio = MEASURES["minutes_ratio"](group, "minutes_ratio", "HGNN", "GNN")
    assert ratio.value == pytest.approx(math.exp(sum(math.log((3 + 0.1 * s) / 2) for s in (1, 2, 3)) / 3))
    (table,) = [block for block in targets_section(group, seed_targets()).blocks if isinstance(block, Table)]
    explains = {column.title: column.explains for column in table.columns}
    assert explains["measured"] == (
        "mean over seeds; of ratios of minutes the geometric mean; of movement over spread the two's ratio"
    )
    assert "of movement over spread by the noncentral t" in explains["interval"]
    rows = tables(targets_section(group, seed_targets()))[TARGETS]
    assert [row[1] for row in rows[:3]] == ["met", "cannot be told", "met"]
    assert all(row[1] == "cannot be told" and row[6] for row in rows[3:])
    of_others = words(targets_section(group, seed_targets())).splitlines()
    told = sum(line.count(f"{each.name} ({each.in_words()})") for line in of_others for each in seed_targets())
    assert told + len(rows) == len(seed_targets())


def test_differences_that_are_equal_but_for_rounding_tell_nothing(tmp_path: Path) -> None:
    for seed, loss in enumerate((1.0, 4.2, 6.2), 1):
        write_run(tmp_path / f"gnn{seed}", coupler_type="GNN", seed=seed, loss=loss + 0.1)
        write_run(tmp_path / f"hgnn{seed}", coupler_type="HGNN", seed=seed, loss=loss)
    wanted = target(measure="loss_difference", arm="HGNN", against="GNN", value=0.0)
    (row,) = tables(targets_section(group_of(tmp_path), (wanted,)))[TARGETS]
    assert [row[1], *row[3:6]] == ["cannot be told", "−0.1", "−0.1 to −0.1", "1 2 3 / 1 2 3"]
    assert row[6].endswith("; its seeds do not differ, and nothing says how far another would lie")


@pytest.mark.parametrize(
    ("gaps", "outcome"),
    [
        ((0.02, 0.03, 0.04), "met"),
        ((0.22, 0.23, 0.24), "not met"),
        ((-0.22, -0.23, -0.24), "cannot be told"),  # the evaluation text is the easier one
        ((0.02, 0.15, 0.3), "cannot be told"),
        ((0.02,), "cannot be told"),
        ((0.1, 0.1, 0.1), "cannot be told"),
    ],
)
def test_the_gap_to_training_is_held_against_the_seeds_target(
    tmp_path: Path, gaps: tuple[float, ...], outcome: str
) -> None:
    for seed, (gap, training) in enumerate(zip(gaps, (1.0, 4.2, 6.2), strict=False), 1):
        told = {"final_train_loss": training, "final_eval_loss": training + gap}
        write_run(tmp_path / str(seed), coupler_type="HGNN", seed=seed, summary=told)
    (wanted,) = [each for each in seed_targets() if each.measure == "generalisation_gap"]
    (row,) = tables(targets_section(group_of(tmp_path), (wanted,)))[TARGETS]
    assert float(row[3].replace("−", "-")) == pytest.approx(np.mean(gaps), abs=1e-4)
    assert row[1] == outcome


def test_a_target_of_a_configuration_is_asked_of_its_runs_alone(tmp_path: Path) -> None:
    for experts in (2, 4):
        for seed in (1, 2, 3):
            name, found = f"{experts}-{seed}", 5.0 - experts / 10 + seed / 100
            write_run(tmp_path / name, num_experts=experts, seed=seed, loss=found, minutes=2.0 + seed)
    of_two = {"settings": {"num_experts": 2}, "side": "at_most"}
    wanted = (
        target(measure="loss", value=4.9, **of_two),
        target(measure="perplexity", value=200.0, **of_two),
        target(measure="minutes", value=9.0, **of_two),
        target(settings={"num_experts": 2, "gnn_layers": 7}),
    )
    section = targets_section(group_of(tmp_path), wanted)
    loss, perplexity, minutes = tables(section)[TARGETS]
    of_loss = t_interval([4.81, 4.82, 4.83])
    assert [loss[1], *loss[3:6]] == ["met", "4.82", f"{of_loss.low:.4g} to {of_loss.high:.4g}", "1 2 3"]
    assert loss[6] == "num_experts 2", "one point has these settings, so none was picked"
    low, high = math.exp(of_loss.low), math.exp(of_loss.high)
    assert perplexity[1:6] == ["met", "≤ 200", f"{math.exp(4.82):.4g}", f"{low:.4g} to {high:.4g}", "1 2 3"]
    assert minutes[1:6] == ["met", "≤ 9", "4", "1.516 to 6.484", "1 2 3"]
    nowhere = wanted[-1]
    assert words(section).splitlines()[-2:] == [
        "Cannot be told, since they are asked of other runs than these:",
        f"No run with num_experts 2, gnn_layers 7: {nowhere.name} ({nowhere.in_words()}).",
    ]


@pytest.mark.parametrize(("repeats", "outcome"), [(2, "met"), (1, "met"), (0, "cannot be told")])
def test_patterns_mean_something_where_they_repeat(tmp_path: Path, repeats: int, outcome: str) -> None:
    """Six hyperedges of four experts in two layers, some of whose changes have one order in all seeds."""
    incidence = np.array(
        [[float(expert in pair) for pair in itertools.combinations(range(4), 2)] for expert in range(4)]
    )
    draw = np.random.default_rng(1)
    for seed in range(1, 6):
        record = {"steps": [0, 20], "incidence": incidence}
        for layer in range(2):
            change = np.arange(6.0) if layer < repeats else draw.permutation(6)
            record[f"layer_{layer}/hyperedge_weights"] = 1 + np.outer([0.0, 0.1], change)
        write_run(tmp_path / str(seed), coupler_type="HGNN", num_layers=2, seed=seed, coupling=record)
    (wanted,) = [each for each in seed_targets() if each.measure == "repeating_patterns"]
    (row,) = tables(targets_section(group_of(tmp_path), (wanted,)))[TARGETS]
    assert [row[1], *row[3:6]] == [outcome, f"{repeats / 2:g}", f"{repeats / 2:g} to 1", "1 2 3 4 5"]
    assert row[6] == f"baseline: {repeats} of 2 graphs"


def write_movement(folder: Path, changes: Sequence[float]) -> None:
    """A hyperedge for each two of three experts; all of a seed's weights change alike."""
    incidence = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)
    for seed, change in enumerate(changes, 1):
        weights = 1 + np.outer([0.0, change], np.ones(3))
        record = {"steps": [0, 20], "incidence": incidence, "layer_0/hyperedge_weights": weights}
        write_run(folder / str(seed), coupler_type="HGNN", num_experts=3, seed=seed, coupling=record)


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ([0.20, 0.21, 0.22, 0.23, 0.24], "met"),
        ([0.20, 0.24], "cannot be told"),  # 7.8 spreads, and two seeds do not know a spread
        ([0.1, 0.2, 0.3], "cannot be told"),
        ([-0.11, 0.1, -0.09, 0.1, 0.005, -0.01, 0.08, -0.07], "not met"),
        ([0.25, 0.25, 0.25], "cannot be told"),
    ],
)
def test_weights_that_move_are_held_against_their_spread(tmp_path: Path, changes: list[float], outcome: str) -> None:
    write_movement(tmp_path, changes)
    wanted = target(measure="movement_over_spread", side="above", value=1.0, arm="HGNN")
    ((_, found, _, measured, interval, _, _),) = tables(targets_section(group_of(tmp_path), (wanted,)))[TARGETS]
    assert found == outcome
    if (spread := np.std(changes, ddof=1)) == 0:
        assert (measured, interval) == ("", "")
        return
    ratio, root = float(abs(np.mean(changes)) / spread), math.sqrt(len(changes))
    assert float(measured) == pytest.approx(ratio, rel=1e-3)
    low, high = map(float, interval.split(" to "))
    assert stats.nct.cdf(root * ratio, len(changes) - 1, root * high) == pytest.approx(0.025, rel=0.01)
    assert low == 0 or stats.nct.sf(root * ratio, len(changes) - 1, root * low) == pytest.approx(0.025, rel=0.01)


def test_that_one_graph_of_many_did_not_move_is_asked_of_all_at_once(tmp_path: Path) -> None:
    """Eight graphs: the upper end of the least is that of one at 1 - 0.05 / 8, its lower end that of one alone."""
    draw = np.random.default_rng(3)
    changes = draw.normal([[0.3], *[[0.1]] * 7], 0.1, (8, 6))
    incidence = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]], np.float32)
    for seed in range(1, 7):
        record = {"steps": [0, 20], "incidence": incidence}
        for layer in range(8):
            record[f"layer_{layer}/hyperedge_weights"] = 1 + np.outer([0.0, changes[layer, seed - 1]], np.ones(3))
        write_run(tmp_path / str(seed), coupler_type="HGNN", num_layers=8, num_experts=3, seed=seed, coupling=record)
    wanted = target(measure="movement_over_spread", side="above", value=1.0, arm="HGNN")
    (row,) = tables(targets_section(group_of(tmp_path), (wanted,)))[TARGETS]
    ratio = float(np.min(np.abs(changes.mean(axis=1)) / changes.std(axis=1, ddof=1)))
    low, high = map(float, row[4].split(" to "))
    seen, root = math.sqrt(6) * ratio, math.sqrt(6)
    assert stats.nct.cdf(seen, 5, root * high) == pytest.approx(0.025 / 8, rel=0.02)
    assert low == 0 or stats.nct.sf(seen, 5, root * low) == pytest.approx(0.025, rel=0.02)


def test_a_target_links_to_the_runs_that_it_was_measured_on(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (wanted,) = [each for each in seed_targets() if each.measure == "loss_difference"]
    found = hrefs(targets_section(group_of(tmp_path), (wanted,)))
    assert found == {str(tmp_path / f"{kind}{seed}") for kind in ("gnn", "hgnn") for seed in (1, 2, 3)}


def test_a_target_of_another_text_cannot_be_told(tmp_path: Path) -> None:
    write_pair(tmp_path)
    wanted = (target(value=100.0), target(value=100.0, tokenizer="bytes"), target(value=100.0, num_eval_samples=5))
    section = targets_section(group_of(tmp_path), wanted)
    assert [row[1] for row in tables(section)[TARGETS]] == ["met"]
    said = words(section).splitlines()[-2:]
    assert said[0].startswith("Another protocol: tokenizer gpt2, and the target is for bytes: ")
    assert said[1].startswith("Another protocol: num_eval_samples -1, and the target is for 5: ")


def test_any_number_of_a_record_can_be_a_target(tmp_path: Path) -> None:
    write_pair(tmp_path)
    found = measure_number(group_of(tmp_path), "train_minutes", "HGNN", None)
    assert found.value == pytest.approx(3.2)
    assert found.seeds == 3
    assert "no run has a finite nonsense" in measure_number(group_of(tmp_path), "nonsense", None, None).said


def test_a_pick_of_several_is_met_by_chance_no_oftener_than_a_single_one(tmp_path: Path) -> None:
    """Eight pairs of arms of equal losses, drawn 200 times: the lowest HGNN is called better in 5 of 100 at most."""
    for experts in range(2, 10):
        for kind in ("GNN", "HGNN"):
            for seed in range(1, 6):
                write_run(tmp_path / f"{kind}{experts}-{seed}", coupler_type=kind, num_experts=experts, seed=seed)
    group, draw = group_of(tmp_path), np.random.default_rng(5)
    wanted = target(measure="loss_difference", arm="HGNN", against="GNN", value=0.0)
    outcomes = []
    for _ in range(200):
        points = tuple(
            dataclasses.replace(
                point,
                runs=tuple(
                    dataclasses.replace(run, values={**run.values, group.loss_name: 5 + 0.02 * draw.normal()})
                    for run in point.runs
                ),
            )
            for point in group.points
        )
        found = MEASURES["loss_difference"](dataclasses.replace(group, points=points), "", "HGNN", "GNN")
        outcomes.append(outcome_of(wanted, found))
    # Chance alone gives 10 of 200 (at most 2.5 in 100 on the good side): 16 lie two deviations above.
    assert outcomes.count("met") <= 16


def test_a_pick_of_several_is_said_to_be_one(tmp_path: Path) -> None:
    for experts in (2, 4):
        write_run(tmp_path / str(experts), num_experts=experts, loss=5.0 - experts / 10)
    (row,) = tables(targets_section(group_of(tmp_path), (target(),)))[TARGETS]
    assert row[-1].startswith("num_experts 4; 1 seed")
    assert "the lowest of 2 configurations, picked by the losses that it is judged by" in row[-1]


def test_what_nobody_recorded_is_no_measure(tmp_path: Path) -> None:
    write_pair(tmp_path)
    with pytest.raises(BadInput, match="measure 'los_difference' is not known: did you mean loss_difference"):
        targets_section(group_of(tmp_path), (target(measure="los_difference"),))


def test_minutes_of_0_have_no_ratio(tmp_path: Path) -> None:
    for kind in ("GNN", "HGNN"):
        write_run(tmp_path / kind, coupler_type=kind, minutes=0.0)
    found = MEASURES["minutes_ratio"](group_of(tmp_path), "minutes_ratio", "HGNN", "GNN")
    assert (found.value, "of 0 has no ratio" in found.said) == (None, True)


def test_minutes_of_a_busy_machine_are_told_as_such(tmp_path: Path) -> None:
    for seed, speed in ((1, 100.0), (2, 40.0)):
        for kind, tokens in (("GNN", 100.0), ("HGNN", speed)):
            told = {"tokens_per_second": tokens}
            write_run(tmp_path / f"{kind}-{seed}", coupler_type=kind, seed=seed, summary=told)
    found = MEASURES["minutes_ratio"](group_of(tmp_path), "minutes_ratio", "HGNN", "GNN")
    assert found.said.endswith(
        "; coupler_type HGNN: its seeds ran at 40 to 100 tokens a second, 2.50-fold apart: the machine was not equally "
        "free, and minutes say little of the point"
    )


def test_without_the_coupler_or_its_counterpart_nothing_is_told(tmp_path: Path) -> None:
    write_run(tmp_path / "only", coupler_type="HGNN")
    group = group_of(tmp_path)
    assert "no completed run of GNN" in MEASURES["loss"](group, "loss", "GNN", None).said
    assert "no GNN with the settings of" in MEASURES["loss_difference"](group, "", "HGNN", "GNN").said
