"""Arms that are compared, and what the first page says of them: made-up runs with known answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from gnn_moe.reports.arms import arms_section, loose_comparisons
from gnn_moe.reports.overview import overview_section
from gnn_moe.reports.sources import read_sources
from tests.reports import golden
from tests.reports.made_runs import eval_row, group_of, hrefs, tables, words, write_run


def test_couplers_that_differ_in_nothing_else_are_paired_by_seed(tmp_path: Path) -> None:
    """Within each number of experts; a planted difference of 0.05 is found, and nothing where there is none."""
    for experts, gap in ((2, 0.05), (4, 0.0)):
        for seed in (1, 2, 3, 4, 5):
            for kind in ("GNN", "HGNN"):
                own = 0.004 * ((seed * experts + len(kind)) % 3 - 1)
                loss = 5 + 0.2 * seed + own - gap * (kind == "HGNN")
                write_run(
                    tmp_path / f"{kind}-{experts}-{seed}",
                    coupler_type=kind,
                    num_experts=experts,
                    seed=seed,
                    loss=loss,
                )
    group = group_of(tmp_path)
    (two,), (four,) = loose_comparisons(group)
    assert (two.verdict, two.baseline) == ("better", "GNN (num_experts 2)")
    assert four.verdict == "no evidence"
    assert "HGNN (num_experts 2) is better than GNN (num_experts 2)" in words(arms_section(group))


def test_loose_arms_have_the_tables_of_a_comparison(tmp_path: Path) -> None:
    """HGNN reaches each loss in 1.5 times the minutes, give or take 0.1 of them; its seeds are links."""
    ratios = (1.4, 1.5, 1.6)
    for seed, ratio in enumerate(ratios, 1):
        for kind, speed in (("GNN", 1.0), ("HGNN", ratio)):
            rows = [eval_row(step, 6.0 - step / 10, minutes=2 * step * speed) for step in (1, 2, 3)]
            write_run(
                tmp_path / f"{kind}-{seed}",
                coupler_type=kind,
                seed=seed,
                loss=5.7,
                minutes=6 * speed,
                rows=rows,
                summary={"steps": 3, "tokens_per_second": 1000.0 if seed == 1 else 100.0},
            )
    section = arms_section(group_of(tmp_path))
    found = tables(section)
    gnn, hgnn = found["Arms"]
    assert (gnn[:3], hgnn[:3]) == (["GNN", "1 2 3", "5.7000"], ["HGNN", "1 2 3", "5.7000"])
    assert (gnn[5], gnn[7], hgnn[7]) == ("3", "6.0", "9.0")
    assert {str(tmp_path / f"{kind}-{seed}") for kind in ("GNN", "HGNN") for seed in (1, 2, 3)} <= hrefs(section)
    (row,) = found["Which reaches one loss sooner? (minutes)"]
    logs = np.log(ratios)
    low, high = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    assert row[2:7] == [f"{np.exp(logs.mean()):.2f}", f"{low:.2f} to {high:.2f} (95 %)", "9.0", "6.0", "1 2 3"]
    sentence = "HGNN reaches a loss that both reach later than GNN: 1.5 times its minutes (95 % interval"
    for said in (words(section), words(overview_section(group_of(tmp_path), (), []))):
        (line,) = [line for line in said.splitlines() if line.startswith(sentence)]
        assert "coupler_type HGNN: its seeds ran at 100 to 1,000 tokens a second" in line
        assert line.removesuffix(" (its table)").endswith(".")


def test_the_first_page_has_what_was_decided_and_counts_the_rest(tmp_path: Path) -> None:
    """Of six arms dense is better than GNN, and HGNN worse than dense, and no others differ: these stand first."""
    for place, kind in enumerate(("GNN", "HGNN", "attention", "mean", "sinkhorn", "dense", "top_k")):
        settings: dict[str, Any] = {"coupler_type": kind} if place < 5 else {"architecture": kind}
        for seed in (1, 2, 3, 4, 5):
            own = 0.004 * float(np.random.default_rng([place, seed]).normal())
            write_run(
                tmp_path / f"{kind}-{seed}",
                seed=seed,
                loss=5 + 0.1 * seed + own - 0.2 * (kind == "dense"),
                rows=[eval_row(10, 5 + 0.1 * seed + own - 0.2 * (kind == "dense"))],
                **settings,
            )
    group = group_of(tmp_path)
    (compared,) = loose_comparisons(group)
    assert [each.arm for each in compared if each.verdict != "no evidence"] == ["dense"]
    said = words(overview_section(group, (), [])).splitlines()
    told = [line.split(" (")[0] for line in said if "better" in line or "worse" in line]
    assert told == ["dense is better than GNN: loss −0.1988", "HGNN is worse than dense: loss +0.1989"]
    assert said[2].startswith("No evidence that ")
    assert said[4] == "And 15 more comparisons with no evidence of a difference, where the arms are compared."


def test_the_first_page_names_each_control_that_was_not_run(tmp_path: Path) -> None:
    write_run(tmp_path / "a", architecture="dense", match="flops")
    (said,) = [
        line for line in words(overview_section(group_of(tmp_path), (), [])).splitlines() if "Whether coup" in line
    ]
    for flag in ("mean", "attention", "sinkhorn"):
        assert f"--coupler_type {flag}" in said
    assert "a dense model of equal size" in said
    assert "a dense model of equal FLOPs" not in said


def test_a_kept_comparison_is_told_in_words_of_now(tmp_path: Path) -> None:
    """Its record holds sentences too, and those of another version may be worded in another way."""
    study = shutil.copytree(golden.ROOT / "results" / "wikitext2" / "study-comparison", tmp_path / "study-comparison")
    values = json.loads((study / "study.json").read_text(encoding="utf-8"))
    questions = values["comparison"]["evidence"]["questions"]
    for question in questions:
        question["sentences"] = ["worded in another way"] * len(question["verdicts"])
    (study / "study.json").write_text(json.dumps(values), encoding="utf-8")
    ((group,), _) = read_sources([study])
    said = words(arms_section(group))
    for verdict in questions[0]["verdicts"]:
        assert f"{verdict['arm']} and {verdict['baseline']}" in said or f"{verdict['arm']} is" in said
        assert f"{verdict['mean_difference']:+.4g}".replace("-", "−") in said
    for text in (said, words(overview_section(group, (), []))):
        assert "worded in another way" not in text


def test_couplers_with_other_settings_stay_apart(tmp_path: Path) -> None:
    """Two strategies of HGNN are two arms; a model that trained ten times as long is no arm beside the others."""
    for seed in (1, 2, 3, 4, 5):
        own = 0.001 * (seed % 3)
        write_run(tmp_path / f"gnn-{seed}", coupler_type="GNN", seed=seed, loss=5 + own)
        for strategy, loss in (("all_pairs", 4.0), ("all_triplets", 6.0)):
            name = f"{strategy}-{seed}"
            settings: dict[str, Any] = {"coupler_type": "HGNN", "static_hyperedge_strategy": strategy, "seed": seed}
            write_run(tmp_path / name, loss=loss + 0.002 * ((seed * 2) % 3), **settings)
        write_run(tmp_path / f"long-{seed}", coupler_type="mean", max_steps=1000, seed=seed, loss=3.0)
    (found,) = loose_comparisons(group_of(tmp_path))
    assert [(each.verdict, "triplets" in each.arm) for each in found] == [("better", False), ("worse", True)]


def test_minutes_that_cannot_be_are_left_out_by_name(tmp_path: Path) -> None:
    for kind in ("GNN", "HGNN"):
        for seed in (1, 2, 3):
            rows = [eval_row(10, 5.0 + seed / 10, minutes=-1.0 if (kind, seed) == ("GNN", 2) else 2.0 + seed)]
            write_run(tmp_path / f"{kind}-{seed}", coupler_type=kind, seed=seed, loss=5.0 + seed / 10, rows=rows)
    section = arms_section(group_of(tmp_path))
    assert f"{tmp_path / 'GNN-2' / 'metrics.jsonl'} has an evaluation whose minutes are no number above 0" in words(
        section
    )
    (row,) = tables(section)["Which reaches one loss sooner? (minutes)"]
    assert row[6] == "1 3"
