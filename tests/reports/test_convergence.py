"""Convergence and generalisation on made curves with known answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnn_moe.reports.convergence import convergence_section
from gnn_moe.reports.run_curves import descent, read_curves
from gnn_moe.reports.sources import read_sources
from gnn_moe.reports.targets import seed_targets, targets_section
from tests.reports.made_runs import (
    eval_row,
    figures,
    group_of,
    hrefs,
    keep_checkpoints,
    rendered,
    tables,
    train_row,
    words,
    write_run,
)

STABLE = "Stable loss reduction"
GAP = "Training and evaluation, not measured alike"


FALLING = [20.0 - n for n in range(10)]
ONCE_UP = [*FALLING[:8], 13.5, 11.0]
"""Falls in 8 of 9."""
MOSTLY_UP = [*FALLING[:4], 18.0, 19.0, 20.0, 21.0, 22.0, 23.0]
"""Falls in 3 of 9."""


@pytest.mark.parametrize(
    ("losses", "epochs", "falls"),
    [([], 0, 0), ([5.0], 1, 0), ([5, 4, 4.5], 3, 1), ([1] * 10, 10, 0), (FALLING, 10, 9), (ONCE_UP, 10, 8)],
)
def test_an_epoch_falls_where_its_loss_is_below_the_one_before(losses: list[float], epochs: int, falls: int) -> None:
    found = descent(losses)
    assert (found.epochs, found.falls) == (epochs, falls)
    assert found.share == (None if epochs < 10 else falls / 9)


LONG = [30.0 - n for n in range(31)]
"""Falls in 30 of 30."""
LONG_ONCE_UP = [*LONG[:-1], LONG[-2] + 1]


@pytest.mark.parametrize(
    ("by_seed", "said"),
    [
        ([LONG, LONG, LONG, LONG, LONG_ONCE_UP], "stable"),
        ([MOSTLY_UP, MOSTLY_UP, ONCE_UP[:4] + MOSTLY_UP[3:]], "not stable"),
        ([FALLING, ONCE_UP, MOSTLY_UP], "cannot be told"),
        ([FALLING], "cannot be told: 1 seed, and an interval needs two"),
        ([FALLING] * 3, "stable"),
        ([MOSTLY_UP] * 2, "not stable"),
        ([FALLING[:9]] * 2, "cannot be told: 9 epochs with an evaluation, and 10 are needed"),
    ],
)
def test_the_sections_verdict_is_that_of_the_seeds_target(
    tmp_path: Path, by_seed: list[list[float]], said: str
) -> None:
    for seed, losses in enumerate(by_seed, 1):
        rows = [eval_row(10 * n, loss, epoch=n) for n, loss in enumerate(losses, 1)]
        write_run(tmp_path / f"s{seed}", coupler_type="HGNN", seed=seed, rows=rows)
    group = group_of(tmp_path)
    (row,) = tables(convergence_section(group))[STABLE]
    assert row[7] == said
    (wanted,) = [each for each in seed_targets() if each.measure == "epochs_falling"]
    (target_row,) = tables(targets_section(group, (wanted,)))["Targets and success metrics"]
    assert target_row[1] == {"stable": "met", "not stable": "not met"}.get(said, "cannot be told")


def test_falls_of_seeds_are_told_from_the_fewest_to_the_most(tmp_path: Path) -> None:
    for seed, losses in enumerate((FALLING, ONCE_UP, MOSTLY_UP), 1):
        rows = [eval_row(10 * n, loss, epoch=n) for n, loss in enumerate(losses, 1)]
        write_run(tmp_path / f"s{seed}", seed=seed, rows=rows)
    (row,) = tables(convergence_section(group_of(tmp_path)))[STABLE]
    assert row[1:5] == ["10", "3 to 9", f"{20 / 27:.2f}", f"{3 / 9:.4f} to 1.0000"]


def test_means_over_seeds_by_epoch_and_a_band(tmp_path: Path) -> None:
    for seed in (1, 2):
        rows = [eval_row(10 * n, 20.0 - n + seed, epoch=n, minutes=n * seed) for n in range(1, 11)]
        write_run(tmp_path / f"s{seed}", seed=seed, rows=rows)
    group = group_of(tmp_path)
    (found,), notes = read_curves(group)
    assert notes == []
    assert found.by_epoch == tuple(20.5 - n + 1 for n in range(1, 11))
    assert found.minutes(20) == 3.0
    section = convergence_section(group)
    (row,) = tables(section)[STABLE]
    assert row[1:4] == ["10", "9", "1.00"]
    assert row[5:7] == ["20.5000", "11.5000"]
    steps, minutes = figures(section)
    assert (steps.name, minutes.name) == ("curves-steps", "curves-minutes")
    assert "least to greatest" in steps.caption
    assert len(steps.draw().get_axes()[0].collections) == 1
    assert minutes.chart is not None
    mean = next(trace for trace in minutes.chart["data"] if trace["mode"] == "lines+markers")
    assert mean["x"] == [1.5 * n for n in range(1, 11)]
    json.dumps(minutes.chart, allow_nan=False)


def test_an_epoch_is_judged_by_its_last_common_evaluation(tmp_path: Path) -> None:
    write_run(tmp_path / "s1", seed=1, rows=[eval_row(1, 5.0), eval_row(2, 4.0), eval_row(3, 9.0)])
    write_run(tmp_path / "s2", seed=2, rows=[eval_row(1, 7.0), eval_row(2, 6.0)])
    (found,), _ = read_curves(group_of(tmp_path))
    assert found.steps == (1, 2)
    assert found.by_epoch == (5.0,)


def test_the_gap_is_shown_as_not_measured_alike_with_the_command(tmp_path: Path) -> None:
    rows = [train_row(1, 9.0), eval_row(1, 8.0), train_row(2, 6.0), train_row(3, 7.0), eval_row(3, 6.25)]
    folder = write_run(tmp_path / "a run", rows=rows)
    section = convergence_section(group_of(tmp_path))
    (row,) = tables(section)[GAP]
    assert row[1:4] == ["6.5000", "6.2500", "−0.2500"]
    assert row[5] == "cannot be told: not measured alike"
    assert "gnn-moe evaluate" not in words(section)
    assert "Checkpoints were not kept: train again to measure it." in words(section)
    assert hrefs(section) == {str(folder)}


def test_each_seed_that_kept_its_last_model_is_to_be_asked_for_its_gap(tmp_path: Path) -> None:
    """The gap is of the last model, so a run that kept its selected one alone cannot give it."""
    for seed in (1, 2):
        keep_checkpoints(write_run(tmp_path / f"a run {seed}", seed=seed), "last", "selected")
    keep_checkpoints(write_run(tmp_path / "a run 3", seed=3), "selected")
    said = words(convergence_section(group_of(tmp_path)))
    commands = [line for line in said.splitlines() if line.startswith("gnn-moe evaluate")]
    assert commands == [
        f"gnn-moe evaluate '{tmp_path / f'a run {seed}'}' --checkpoint last --split train" for seed in (1, 2)
    ]
    assert "1 of 3 runs kept no last checkpoint" in said


def test_damaged_missing_and_unfinished_records_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "good", seed=1)
    (write_run(tmp_path / "torn", seed=2) / "metrics.jsonl").write_text("{no\n{}\n", encoding="utf-8")
    (write_run(tmp_path / "gone", seed=3) / "metrics.jsonl").unlink()
    write_run(tmp_path / "going", seed=4, summary={"status": "running"})
    write_run(tmp_path / "blank", seed=5, rows=[])
    write_run(tmp_path / "odd", seed=6, rows=[{"kind": "eval", "loss": 5.0}])
    write_run(tmp_path / "endless", seed=7, rows=[eval_row(10, 5.0), eval_row(20, None)])
    (group,), (note,) = read_sources([tmp_path])
    assert note.startswith(f"{tmp_path / 'torn'} is left out: ")
    section = convergence_section(group)
    said = words(section)
    for line in (
        "gone: ",
        "metrics.jsonl: is missing",
        "going: running",
        "blank: metrics.jsonl has no evaluation",
        "a row without a step",
        "endless: 1 losses that are not finite are left out",
    ):
        assert line in said
    assert tables(section)[STABLE][0][-1] == "1 7"
    assert rendered(figures(section)[0])


def test_without_any_curve_it_says_so(tmp_path: Path) -> None:
    (write_run(tmp_path / "gone") / "metrics.jsonl").unlink()
    section = convergence_section(group_of(tmp_path))
    assert "convergence cannot be told" in words(section)
    assert figures(section) == []


def test_seeds_without_a_common_step_have_no_mean(tmp_path: Path) -> None:
    write_run(tmp_path / "s1", seed=1, rows=[eval_row(1, 5.0)])
    write_run(tmp_path / "s2", seed=2, rows=[eval_row(2, 5.0)])
    section = convergence_section(group_of(tmp_path))
    assert "share no evaluated step" in words(section)
    assert tables(section)[STABLE][0][1] == "0"
    assert tables(section)[STABLE][0][7] == "cannot be told: 1 epoch with an evaluation, and 10 are needed"


def test_of_many_points_ten_are_named(tmp_path: Path) -> None:
    for number in range(12):
        write_run(tmp_path / f"r{number}", learning_rate=0.001 * (number + 1), rows=[eval_row(1, 5.0 + number)])
    figure = figures(convergence_section(group_of(tmp_path)))[0].draw()
    assert len(figure.legends[0].get_texts()) == 10
