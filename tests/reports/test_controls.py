"""Couplers held against controls that were run with them: made-up runs with known answers, and the kept comparison."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from gnn_moe.reports.arms import arms_section, undecided, weighed_of
from gnn_moe.reports.overview import overview_section
from gnn_moe.reports.sources import read_sources
from gnn_moe.reports.weighed import Asked
from tests.reports import golden
from tests.reports.made_runs import group_of, tables, words, write_run

LOSSES = {"GNN": 5.0, "HGNN": 4.9, "attention": 5.0, "mean": 5.0, "dense": 5.0}
NOTHING = "Which has a lower loss than experts that exchange nothing?"


def loss_of(kind: str, seed: int) -> float:
    """Seeds lie 0.1 apart; of each a kind has some thousandths of its own."""
    return LOSSES[kind] + 0.1 * seed + 0.004 * float(np.random.default_rng([*map(ord, kind), seed]).normal())


def write_kinds(folder: Path, *kinds: str, seeds: int = 5) -> None:
    for kind in kinds:
        settings: dict[str, Any] = {"architecture": kind} if kind == "dense" else {"coupler_type": kind}
        for seed in range(1, seeds + 1):
            loss = loss_of(kind, seed)
            write_run(folder / f"{kind}-{seed}", seed=seed, loss=loss, **settings)


def questions(folder: Path) -> dict[str, Asked]:
    (weighed,) = weighed_of(group_of(folder))
    return {asked.asks: asked for asked in weighed.questions if asked.is_of_arms}


def test_every_coupler_is_held_against_experts_that_exchange_nothing(tmp_path: Path) -> None:
    """HGNN gives 0.1 and is found; attention gives nothing, and GNN is held against it as the first.

    p values are those of SciPy, Holm by hand over all pairs of losses.
    """
    write_kinds(tmp_path, "GNN", "HGNN", "attention", "mean")
    asked = questions(tmp_path)
    found = {each.arm: each for each in asked[NOTHING].verdicts}
    assert {name: each.verdict for name, each in found.items()} == {"HGNN": "better", "attention": "no evidence"}
    assert {each.baseline for each in found.values()} == {"mean"}
    losses = {kind: [loss_of(kind, seed) for seed in range(1, 6)] for kind in LOSSES}
    p = {
        frozenset(pair): float(stats.ttest_rel(*(losses[kind] for kind in pair)).pvalue)
        for pair in (
            *(("GNN", kind) for kind in ("HGNN", "attention", "mean")),
            ("HGNN", "mean"),
            ("attention", "mean"),
            ("HGNN", "attention"),
        )
    }
    here = frozenset(("HGNN", "mean"))
    ranks = sorted(p, key=lambda pair: p[pair])
    assert found["HGNN"].p_value == pytest.approx(p[here])
    assert found["HGNN"].holm_p_value == pytest.approx(
        max((6 - place) * p[pair] for place, pair in enumerate(ranks[: ranks.index(here) + 1]))
    )
    assert found["HGNN"].arms_compared == 6
    (row,) = [row for row in tables(arms_section(group_of(tmp_path)))[f"{NOTHING} (nats a token)"] if row[0] == "HGNN"]
    assert row[1] == "mean"


def test_a_graph_is_held_against_other_controls_and_they_are_not(tmp_path: Path) -> None:
    write_kinds(tmp_path, "GNN", "HGNN", "attention", "mean", "dense")
    found = {asks: [each.arm for each in asked.verdicts] for asks, asked in questions(tmp_path).items()}
    assert found == {
        "Which has the lower loss?": ["HGNN", "attention", "mean", "dense"],
        NOTHING: ["HGNN", "attention"],
        "Which has a lower loss than softmax attention among experts?": ["HGNN"],
        "Which has a lower loss than a dense model of equal size?": ["HGNN"],
    }


def test_two_controls_of_a_kind_are_asked_about_one_by_one(tmp_path: Path) -> None:
    write_kinds(tmp_path, "GNN", "HGNN")
    for experts in (1, 2):
        for seed in range(1, 6):
            settings: dict[str, Any] = {"architecture": "top_k", "router_top_k": experts}
            write_run(
                tmp_path / f"top-{experts}-{seed}",
                seed=seed,
                loss=5 + 0.1 * seed + 0.001 * experts * seed**2,
                **settings,
            )
    found = {
        asks: [(each.arm, each.baseline) for each in asked.verdicts]
        for asks, asked in questions(tmp_path).items()
        if "sparse" in asks
    }
    assert len(found) == 2
    assert all(len(pairs) == 1 for pairs in found.values())
    for asks, ((_, baseline),) in found.items():
        assert asks == f"Which has a lower loss than a sparse mixture of equal FLOPs ({baseline})?"


@pytest.mark.parametrize("kinds", [("GNN", "mean"), ("HGNN", "mean"), ("GNN", "HGNN")])
def test_nothing_is_asked_twice(kinds: tuple[str, ...], tmp_path: Path) -> None:
    write_kinds(tmp_path, *kinds)
    assert list(questions(tmp_path)) == ["Which has the lower loss?"]


def test_no_pair_is_told_twice(tmp_path: Path) -> None:
    """Nor can it be told both ways: of equal losses, Holm over more pairs decides less."""
    write_kinds(tmp_path / "all", *LOSSES)
    told = [
        frozenset((each.arm, each.baseline))
        for asked in questions(tmp_path / "all").values()
        for each in asked.verdicts
    ]
    assert len(told) == len(set(told)) == 8
    write_kinds(tmp_path / "three", "GNN", "HGNN", "mean")
    group = group_of(tmp_path / "three")
    pairs = [frozenset((each.arm, each.baseline)) for each in undecided(group)]
    assert pairs == [frozenset(("GNN", "mean"))]
    said = words(overview_section(group, (), []))
    assert "HGNN is better than mean" in said
    assert len([line for line in said.splitlines() if "No evidence" in line and "minutes" not in line]) == 1


def test_a_verdict_says_what_more_it_was_trained_with(tmp_path: Path) -> None:
    write_kinds(tmp_path, "GNN", "HGNN", "mean")
    asked = questions(tmp_path)[NOTHING]
    (better,) = asked.verdicts
    ratio = asked.flops["HGNN"] / asked.flops["mean"]
    assert ratio > 1.01
    assert asked.sentence(better).endswith(f"; HGNN took {ratio:.2f} times the training FLOPs of mean.")
    (untold,) = [each for each in questions(tmp_path)["Which has the lower loss?"].verdicts if each.arm == "mean"]
    assert "training FLOPs" not in questions(tmp_path)["Which has the lower loss?"].sentence(untold)


def test_the_kept_comparison_is_held_against_its_control(tmp_path: Path) -> None:
    """By the losses of its run folders; and not against a control that differs in another setting too."""
    study = shutil.copytree(golden.ROOT / "results" / "wikitext2" / "study-comparison", tmp_path / "study-comparison")
    (group,), _ = read_sources([study])
    (weighed,) = weighed_of(group)
    (asked,) = [each for each in weighed.questions if each.asks == NOTHING]
    losses = {point.label: point.by_seed("reported_loss") for point in group.points}
    for found in asked.verdicts:
        ours, control = losses[found.arm], losses["mean"]
        p = stats.ttest_rel([ours[seed] for seed in sorted(ours)], [control[seed] for seed in sorted(control)]).pvalue
        assert found.p_value == pytest.approx(p)
    values = json.loads((study / "study.json").read_text(encoding="utf-8"))
    for trial in values["trials"]:
        trial["params"] |= {"gnn_layers": 1} if trial["arm"] == "mean" else {}
    (study / "study.json").write_text(json.dumps(values), encoding="utf-8")
    (group,), _ = read_sources([study])
    (weighed,) = weighed_of(group)
    assert NOTHING not in [each.asks for each in weighed.questions]
