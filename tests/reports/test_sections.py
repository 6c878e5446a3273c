"""The first page, the arms, the recommended configurations and the protocol of made-up runs with known answers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from gnn_moe.config import RunConfig
from gnn_moe.parsing import parse_flags
from gnn_moe.reports.arms import arms_section, loose_comparisons
from gnn_moe.reports.costs import front_points
from gnn_moe.reports.document import Bullets, Code, Paragraph, Section, Text, spans
from gnn_moe.reports.overview import overview_section
from gnn_moe.reports.protocol import protocol_section
from gnn_moe.reports.recommendations import recommend, recommendations_section
from tests.reports.made_runs import group_of, write_run


def plain(text: Text) -> str:
    return "".join(span.text for span in spans(text))


def words_of(section: Section) -> str:
    said = [plain(block.text) for block in section.blocks if isinstance(block, Paragraph)]
    said += [plain(item) for block in section.blocks if isinstance(block, Bullets) for item in block.items]
    return "\n".join([*said, *(words_of(each) for each in section.sections)])


def commands_of(section: Section) -> list[list[str]]:
    return [shlex.split(block.text.replace("\\\n", " ")) for block in section.blocks if isinstance(block, Code)]


def write_points(folder: Path, losses: dict[int, float], seeds: int, noise: float = 0.001) -> None:
    """Experts and their losses; each doubling costs twice the minutes."""
    for experts, loss in losses.items():
        for seed in range(1, seeds + 1):
            own = noise * ((seed * experts) % 5 - 2)
            write_run(
                folder / f"{experts}-{seed}",
                num_experts=experts,
                seed=seed,
                loss=loss + 0.1 * seed + own,
                minutes=float(experts),
            )


def test_efficiency_is_the_cheapest_that_is_not_shown_to_be_worse(tmp_path: Path) -> None:
    """8 experts are lowest by nothing; 4 are as good for half the minutes; 2 are far worse."""
    write_points(tmp_path, {2: 5.5, 4: 5.0005, 8: 5.0}, seeds=5)
    group = group_of(tmp_path)
    performance, efficiency = recommend(group, front_points(group))
    assert (performance.kind, performance.point.label) == ("Performance", "num_experts 8")
    assert (efficiency.kind, efficiency.point.label) == ("Efficiency", "num_experts 4")
    assert "not shown to be worse" in efficiency.why


def test_one_seed_recommends_what_is_near_and_says_that_it_cannot_be_told(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.01, 8: 5.0}, seeds=1)
    group = group_of(tmp_path)
    _, efficiency = recommend(group, front_points(group))
    assert efficiency.point.label == "num_experts 4"
    assert "whether they differ cannot be told" in efficiency.why
    assert "mean of" not in words_of(recommendations_section(group, front_points(group)))


def test_the_commands_are_those_of_the_points(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=2)
    group = group_of(tmp_path)
    section = recommendations_section(group, front_points(group))
    train, comparison = commands_of(section)[0], commands_of(section)[-1]
    assert train[:2] == ["gnn-moe", "train"]
    config = parse_flags(RunConfig, train[2:], "gnn-moe train")
    found = recommend(group, front_points(group))[0].point.completed[0].config
    assert found is not None
    assert (config.model.num_experts, config.training.learning_rate) == (4, found.training.learning_rate)
    assert comparison[:2] == ["gnn-moe", "compare"]
    assert [word for word in comparison if word.startswith(("gnn:", "hgnn:"))] == [
        "gnn:--coupler_type GNN",
        "hgnn:--coupler_type HGNN",
    ]


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
    assert "HGNN (num_experts 2) is better than GNN (num_experts 2)" in words_of(arms_section(group))


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


def test_a_pruned_run_is_not_recommended(tmp_path: Path) -> None:
    write_run(tmp_path / "full", num_experts=2, loss=5.0, minutes=9.0)
    write_run(tmp_path / "pruned", num_experts=4, loss=4.9, minutes=1.0, summary={"pruned": True})
    group = group_of(tmp_path)
    assert [found.point.label for found in recommend(group, front_points(group))] == ["num_experts 2"]


def test_runs_without_arms_say_that_nothing_was_compared(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=1)
    assert "Nothing was compared" in words_of(arms_section(group_of(tmp_path)))


def test_the_first_page_says_what_is_not_known(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=1)
    write_run(tmp_path / "waits", num_experts=8, summary={"status": "running"})
    write_run(tmp_path / "failed", num_experts=16, summary={"status": "failed", "error_class": "killed"})
    group = group_of(tmp_path)
    said = words_of(overview_section(group, recommend(group, front_points(group)), [f"insight {n}" for n in range(9)]))
    assert [f"insight {n}" in said for n in range(6)] == [True] * 5 + [False]
    assert "2 of 4 configurations have one seed" in said
    assert "1 of 4 runs give: they have not ended" in said
    assert "What 1 failed run would have given (killed)" in said
    assert "Whether 2 checkpoints can see the future: made by a version that did not ask" in said
    assert "--coupler_type mean" in said


def test_a_second_run_of_a_seed_gives_neither_loss_nor_minutes(tmp_path: Path) -> None:
    for name, loss, minutes in (("a", 5.0, 1.0), ("b", 4.0, 100.0)):
        write_run(tmp_path / name, loss=loss, minutes=minutes)
    group = group_of(tmp_path)
    assert "It took 1.0 minutes" in words_of(recommendations_section(group, front_points(group)))


DAMAGED_ENVIRONMENTS = ("{", "[]", "{}", '{"data": 3}', '{"data": {"valid": {"samples": 3}}, "versions": [1]}')


@pytest.mark.parametrize("text", DAMAGED_ENVIRONMENTS)
def test_a_damaged_environment_is_not_recorded(text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", summary={"causal": "maybe"})
    (run / "environment.json").write_text(text)
    said = words_of(protocol_section(group_of(tmp_path)))
    assert "Data fingerprints: not recorded" in said
    assert "Versions: not recorded" in said
    assert "1 were not asked" in said


def test_the_protocol_names_leaks_failures_and_what_is_not_recorded(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary={"causal": True})
    write_run(tmp_path / "b", seed=7, summary={"causal": False})
    write_run(tmp_path / "c", seed=8, summary={"status": "failed", "error_class": "timeout", "error_message": "late"})
    said = words_of(protocol_section(group_of(tmp_path), ["d: is damaged"]))
    assert "1 do not see the future, 1 SEE THE FUTURE" in said
    assert "1 failed with leaking, 1 failed with timeout, 1 completed" in said
    assert "Machines: not recorded" in said
    assert "d: is damaged" in said
