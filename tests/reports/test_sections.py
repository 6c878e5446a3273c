"""The first page, the arms, the recommended configurations and the protocol of made-up runs with known answers."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gnn_moe.config import RunConfig
from gnn_moe.model.size import model_size
from gnn_moe.parsing import parse_flags
from gnn_moe.plans import plan_memory
from gnn_moe.reports.arms import arms_section
from gnn_moe.reports.cost import cost_section
from gnn_moe.reports.costs import flops_of_run
from gnn_moe.reports.document import Bullets, Code, Paragraph, Section, Table, Text, spans
from gnn_moe.reports.overview import overview_section
from gnn_moe.reports.points import Run
from gnn_moe.reports.protocol import protocol_section
from gnn_moe.reports.recommendations import recommend, recommendations_section
from gnn_moe.reports.sources import read_sources
from gnn_moe.reports.tables import sweep_sections
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.space import with_values
from tests.reports import golden
from tests.reports.made_runs import SMALL, group_of, tables, write_run
from tests.reports.made_studies import trial, write_study


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
    performance, efficiency = recommend(group)
    assert (performance.kind, performance.point.label) == ("Performance", "num_experts 8")
    assert (efficiency.kind, efficiency.point.label) == ("Efficiency", "num_experts 4")
    assert "not shown to be worse" in efficiency.why


def test_efficiency_goes_by_flops_and_not_by_a_busy_machine(tmp_path: Path) -> None:
    """4 experts took longer than 8, by the clock alone; the clock is told as a median, its range and a warning."""
    write_points(tmp_path, {4: 5.0005, 8: 5.0}, seeds=3)
    for seed, (minutes, speed) in enumerate(((20.0, 90.0), (21.0, 88.0), (40.0, 45.0)), 1):
        path = tmp_path / f"4-{seed}" / "summary.json"
        told = json.loads(path.read_text()) | {"train_minutes": minutes, "tokens_per_second": speed}
        path.write_text(json.dumps(told))
    group = group_of(tmp_path)
    _, efficiency = recommend(group)
    assert efficiency.point.label == "num_experts 4"
    assert "the cheapest within 0.01 nats of the lowest loss (by training FLOPs), not shown to be worse: " in (
        efficiency.why
    )
    busy = "num_experts 4: its seeds ran at 45 to 90 tokens a second, 2.00-fold apart"
    said = words_of(recommendations_section(group))
    assert "It took 21.0 minutes (median of 3 seeds, 20.0 to 40.0)" in said
    assert busy in said
    assert busy in words_of(cost_section(group))


def test_a_far_loss_is_not_efficient_because_its_seeds_are_few(tmp_path: Path) -> None:
    """Two experts lie 10 % above with one seed, which shows nothing, and are not near."""
    write_points(tmp_path, {8: 5.0}, seeds=3)
    write_points(tmp_path / "few", {2: 5.5}, seeds=1)
    (tmp_path / "few" / "2-1").rename(tmp_path / "2-1")
    (tmp_path / "few").rmdir()
    (found,) = recommend(group_of(tmp_path))
    assert (found.kind, found.point.label) == ("Performance", "num_experts 8"), "nor is it called efficient untested"
    assert (
        "nothing of fewer training FLOPs lies within 0.01 nats of it, which with fewer than two seeds in common"
        in found.why
    )


def test_a_near_loss_of_one_seed_says_so(tmp_path: Path) -> None:
    write_points(tmp_path, {8: 5.0}, seeds=3)
    write_run(tmp_path / "2-1", num_experts=2, seed=1, loss=5.205)
    _, efficiency = recommend(group_of(tmp_path))
    assert efficiency.point.label == "num_experts 2"
    assert "(by training FLOPs), not tested: " in efficiency.why


@pytest.mark.parametrize(("noise", "seeds"), [(0.002, 5), (0.004, 8), (1.0, 20)])
def test_the_comparison_asks_for_the_seeds_that_find_a_hundredth_of_a_nat(
    noise: float, seeds: int, tmp_path: Path
) -> None:
    """Of the spread of the pairs at hand, by the power of the first of two paired t tests under Holm; 5 to 20."""
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=4, noise=noise)
    group = group_of(tmp_path)
    command = commands_of(recommendations_section(group))[-1]
    two, four = (np.array(list(point.by_seed(group.loss_name).values())) for point in group.points)
    spread = float((two - four).std(ddof=1))
    enough = [n for n in range(5, 21) if power(0.01 / spread, n, 0.025) >= 0.8]
    assert seeds == (enough or [20])[0]
    assert command[command.index("--seeds") + 1] == ",".join(map(str, range(1, seeds + 1)))
    said = words_of(recommendations_section(group))
    assert ("more than 0.01 nats" in said) == (not enough)
    assert f"Its {3 * seeds} runs take about" in said


def power(effect: float, pairs: int, alpha: float) -> float:
    limit, away = stats.t.ppf(1 - alpha / 2, pairs - 1), effect * math.sqrt(pairs)
    return float(stats.nct.sf(limit, pairs - 1, away) + stats.nct.cdf(-limit, pairs - 1, away))


def test_plans_stand_beside_what_runs_took_and_the_room_that_they_had(tmp_path: Path) -> None:
    """Two runs took 0.9 and 1.2 of their plans; room for the plan alone is too little for that."""
    write_run(tmp_path / "a", num_experts=2, loss=5.5)
    write_run(tmp_path / "b", num_experts=4, loss=5.0)
    planned = {name: plan_memory(RunFolder(tmp_path / name).read_config(), threads=1).peak.total for name in "ab"}
    for name, share in (("a", 0.9), ("b", 1.2)):
        path = tmp_path / name / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"peak_memory_bytes": share * planned[name]}))
    said = words_of(recommendations_section(group_of(tmp_path)))
    most = f"so up to {1.2 * planned['b'] / 2**30:.2f} GiB"
    assert f"(2 runs here took 0.90 to 1.20 times what their settings say), {most}." in said
    assert "NOT" not in said
    for name, room in (("a", 2**40), ("b", planned["b"])):
        (tmp_path / name / "environment.json").write_text(json.dumps({"device": "cpu", "room_bytes": room}))
    said = words_of(recommendations_section(group_of(tmp_path)))
    assert f"they had {planned['b'] / 2**30:.2f} GiB of room), {most}. That does NOT fit there." in said


def test_without_its_vocabulary_no_memory_is_planned(tmp_path: Path) -> None:
    """A run whose folder is not here leaves its settings, which do not hold the vocabulary."""
    write_run(tmp_path / "a", num_experts=2, loss=5.5)
    group = group_of(tmp_path)
    (point,) = group.points
    away = dataclasses.replace(group, points=(dataclasses.replace(point, runs=_away(point.runs)),))
    assert "By its settings it needs" in words_of(recommendations_section(group))
    assert "By its settings it needs" not in words_of(recommendations_section(away))


def _away(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    return tuple(dataclasses.replace(run, folder=None) for run in runs)


def test_one_seed_recommends_what_is_near_and_says_that_it_cannot_be_told(tmp_path: Path) -> None:
    """In the words of the table, which marks the same value."""
    write_points(tmp_path, {2: 5.5, 4: 5.008, 8: 5.0}, seeds=1)
    group = group_of(tmp_path)
    performance, efficiency = recommend(group)
    assert performance.why.endswith("of 3 configurations, not tested (fewer than two seeds in common)")
    assert efficiency.point.label == "num_experts 4"
    said = "the cheapest within 0.01 nats of the lowest loss (by training FLOPs), not tested"
    assert said in efficiency.why
    (section,) = sweep_sections(group, with_reference=False)
    (rows,) = tables(section).values()
    assert [said in row[-1] for row in rows] == [False, True, False]
    assert "mean of" not in words_of(recommendations_section(group))


def test_the_commands_are_those_of_the_points(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=2)
    group = group_of(tmp_path)
    section = recommendations_section(group)
    train, comparison = commands_of(section)[0], commands_of(section)[-1]
    assert train[:2] == ["gnn-moe", "train"]
    config = parse_flags(RunConfig, train[2:], "gnn-moe train")
    found = recommend(group)[0].point.completed[0].config
    assert found is not None
    assert (config.model.num_experts, config.training.learning_rate) == (4, found.training.learning_rate)
    assert comparison[:2] == ["gnn-moe", "compare"]
    assert [word for word in comparison if word.startswith(("gnn:", "hgnn:", "mean:"))] == [
        "gnn:--coupler_type GNN",
        "hgnn:--coupler_type HGNN",
        "mean:--coupler_type mean",
    ]


def write_arms(
    folder: Path, gap: float, minutes: dict[str, tuple[float, ...]], noise: float = 0.02, flops: float | None = None
) -> None:
    """Two or more couplers with as many seeds as minutes; HGNN lower by the gap, give or take the noise.

    All train on as many tokens, or with as many FLOPs where these are given.
    """
    for kind, each in minutes.items():
        for seed, took in enumerate(each, 1):
            own = noise * ((seed * 3 + len(kind)) % 4 - 1.5) * (kind != "GNN")
            loss = 5 + 0.1 * seed - gap * (kind == "HGNN") + own
            more = {"tokens_per_second": 1000 / took}
            if flops is not None:
                model = with_values(RunConfig(), {**SMALL, "coupler_type": kind}).model
                more["tokens"] = flops / model_size(model).training_flops_per_token
            write_run(folder / f"{kind}-{seed}", coupler_type=kind, seed=seed, loss=loss, minutes=took, summary=more)


def test_one_slow_seed_does_not_move_what_a_comparison_is_told_to_take(tmp_path: Path) -> None:
    """GNN took 2 minutes and HGNN 3, one seed of it 30: each arm by its own median, in proportion to its FLOPs."""
    write_arms(tmp_path, 0.01, {"GNN": (2.0,) * 5, "HGNN": (3.0, 3.0, 30.0, 3.0, 3.0), "mean": (1.0,) * 5})
    group = group_of(tmp_path)
    said = words_of(recommendations_section(group))
    sizes = {
        name: model_size(RunFolder(tmp_path / f"{name}-1").read_config().model).training_flops_per_token
        for name in ("GNN", "HGNN", "mean")
    }
    found = re.search(r"Its (\d+) runs take about ([\d.]+) minutes", said)
    assert found is not None
    one = 2.0 + 3.0 * sizes["GNN"] / sizes["HGNN"] + 1.0 * sizes["GNN"] / sizes["mean"]
    assert float(found[2]) == pytest.approx(int(found[1]) / 3 * one, abs=0.06)
    assert "the machine was not equally free" in said


def test_a_comparison_that_was_run_asks_for_the_seeds_that_its_difference_needs(tmp_path: Path) -> None:
    write_arms(tmp_path, 0.02, {"GNN": (2.0,) * 5, "HGNN": (3.0,) * 5})
    group = group_of(tmp_path)
    gnn, hgnn = (np.array(list(point.by_seed(group.loss_name).values())) for point in group.points)
    effect = abs(float((hgnn - gnn).mean() / (hgnn - gnn).std(ddof=1)))
    enough = next(n for n in range(2, 51) if power(effect, n, 0.025) >= 0.8)
    command = commands_of(recommendations_section(group))[-1]
    assert command[command.index("--seeds") + 1] == ",".join(map(str, range(1, enough + 1)))
    assert f"{enough} seeds find it 80 times in 100, tested as one of 2 arms." in words_of(
        recommendations_section(group)
    )


def test_what_was_told_apart_with_its_control_needs_no_comparison(tmp_path: Path) -> None:
    write_arms(tmp_path, 0.5, {"GNN": (2.0,) * 5, "HGNN": (3.0,) * 5, "mean": (1.0,) * 5}, flops=1e9)
    section = recommendations_section(group_of(tmp_path))
    assert "Comparison: HGNN is better than GNN in this configuration" in words_of(section)
    assert not any(command[1] == "compare" for command in commands_of(section))


def test_a_control_of_fewer_flops_is_asked_for_again(tmp_path: Path) -> None:
    """As many tokens are fewer FLOPs without a coupler."""
    write_arms(tmp_path, 0.5, {"GNN": (2.0,) * 5, "HGNN": (3.0,) * 5, "mean": (1.0,) * 5})
    assert "mean:--coupler_type mean" in commands_of(recommendations_section(group_of(tmp_path)))[-1]


def test_what_less_costs_is_the_front_with_what_it_gives_up(tmp_path: Path) -> None:
    """Three cheaper points are on the front and one is not."""
    write_points(tmp_path, {3: 5.5, 4: 5.2, 8: 5.3, 16: 5.05, 32: 5.0}, seeds=3)
    group = group_of(tmp_path)
    section = recommendations_section(group)
    rows = tables(section)["What less costs"]
    assert [row[0] for row in rows] == ["num_experts 16", "num_experts 4", "num_experts 3"]
    by_label = {point.label: point for point in group.points}
    lowest = by_label["num_experts 32"]
    for row in rows:
        point = by_label[row[0]]
        flops, best = (flops_of_run(each.runs[0]) or 0.0 for each in (point, lowest))
        pairs = [point.by_seed(group.loss_name)[seed] - loss for seed, loss in lowest.by_seed(group.loss_name).items()]
        assert row[2] == f"{flops / best:.2f}"
        assert float(row[5]) == pytest.approx(np.mean(pairs), abs=5e-5)
        assert row[7] == "shown to be worse"
    trains = [command for command in commands_of(section) if command[1] == "train"]
    assert [parse_flags(RunConfig, words[2:], "train").model.num_experts for words in trains] == [32, 16, 4, 3]


def test_of_one_seed_what_less_costs_is_not_tested(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=1)
    ((row,),) = tables(recommendations_section(group_of(tmp_path))).values()
    assert (row[0], row[6], row[7]) == ("num_experts 2", "", "not tested")


def test_where_the_lowest_loss_costs_least_nothing_is_cheaper(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.0, 4: 5.5}, seeds=3)
    assert tables(recommendations_section(group_of(tmp_path))) == {}


def test_a_pruned_run_is_not_recommended(tmp_path: Path) -> None:
    write_run(tmp_path / "full", num_experts=2, loss=5.0, minutes=9.0)
    write_run(tmp_path / "pruned", num_experts=4, loss=4.9, minutes=1.0, summary={"pruned": True})
    group = group_of(tmp_path)
    assert [found.point.label for found in recommend(group)] == ["num_experts 2"]


def test_runs_without_arms_say_that_nothing_was_compared(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=1)
    assert "Nothing was compared" in words_of(arms_section(group_of(tmp_path)))


def test_the_first_page_says_what_is_not_known(tmp_path: Path) -> None:
    write_points(tmp_path, {2: 5.5, 4: 5.0}, seeds=1)
    write_run(tmp_path / "waits", num_experts=8, summary={"status": "running"})
    write_run(tmp_path / "failed", num_experts=16, summary={"status": "failed", "error_class": "killed"})
    group = group_of(tmp_path)
    said = words_of(overview_section(group, recommend(group), [f"insight {n}" for n in range(9)]))
    assert [f"insight {n}" in said for n in range(6)] == [True] * 5 + [False]
    assert "2 of 4 configurations have one seed" in said
    assert "Whether all 2 completed runs evaluated one text: none recorded" in said
    assert "1 of 4 runs give: they have not ended" in said
    assert "What 1 failed run would have given (killed)" in said
    assert "Whether 2 checkpoints can see the future: made by a version that did not ask" in said
    assert "--coupler_type mean" in said


def test_a_second_run_of_a_seed_gives_neither_loss_nor_minutes(tmp_path: Path) -> None:
    for name, loss, minutes in (("a", 5.0, 1.0), ("b", 4.0, 100.0)):
        write_run(tmp_path / name, loss=loss, minutes=minutes)
    group = group_of(tmp_path)
    assert "It took 1.0 minutes (one seed) here" in words_of(recommendations_section(group))


DAMAGED_ENVIRONMENTS = ("{", "[]", "{}", '{"data": 3}', '{"data": {"valid": {"samples": 3}}, "versions": [1]}')


@pytest.mark.parametrize("text", DAMAGED_ENVIRONMENTS)
def test_a_damaged_environment_is_not_recorded(text: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", summary={"causal": "maybe"})
    (run / "environment.json").write_text(text)
    (group,), notes = read_sources([tmp_path])
    said = words_of(protocol_section(group, notes))
    assert (f"{run / 'environment.json'}: " in said) == (text != "{}")
    assert "Data fingerprints: not recorded" in said
    assert "Versions: not recorded" in said
    assert "1 were not asked" in said


def test_the_protocol_says_what_losses_and_intervals_are_of(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=1, summary={"unigram_loss": 6.25})
    write_run(tmp_path / "b", seed=2, summary={"unigram_loss": 6.25})
    write_run(tmp_path / "c", seed=3)
    said = words_of(protocol_section(group_of(tmp_path)))
    assert "Intervals are over seeds of training: the evaluation text is fixed" in said
    frequencies = "which a model has to beat: 6.2500 nats a token on the whole evaluation text (2 runs); not recorded"
    assert f"Loss of token frequencies alone, {frequencies} (1 run)." in said


def test_the_frequencies_of_a_study_are_read_where_its_runs_lie(tmp_path: Path) -> None:
    """study.json has no such number."""
    write_run(tmp_path / "study" / "a", num_experts=2, summary={"unigram_loss": 6.25})
    write_study(tmp_path / "study", [trial(2, 1, run_dir="a")])
    (group,), _ = read_sources([tmp_path / "study"])
    assert group.runs[0].number("unigram_loss") is None
    assert "has to beat: 6.2500 nats" in words_of(protocol_section(group))


def test_models_without_their_coupling_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts on these say 5 configurations tried: the three arms, and the two that have a coupling without it."""
    monkeypatch.chdir(golden.ROOT)
    (group,), _ = read_sources(["results/wikitext2/study-comparison"])
    said = words_of(protocol_section(group))
    assert "Configurations tried: 3 (5 where models with their coupling changed are compared too), with 15 runs" in said


def test_the_protocol_names_leaks_failures_and_what_is_not_recorded(tmp_path: Path) -> None:
    write_run(tmp_path / "a", summary={"causal": True})
    write_run(tmp_path / "b", seed=7, summary={"causal": False})
    write_run(tmp_path / "c", seed=8, summary={"status": "failed", "error_class": "timeout", "error_message": "late"})
    said = words_of(protocol_section(group_of(tmp_path), ["d: is damaged"]))
    assert "1 do not see the future, 1 SEE THE FUTURE" in said
    assert "1 failed with leaking, 1 failed with timeout, 1 completed" in said
    assert "Machines: not recorded" in said
    assert "d: is damaged" in said


def test_a_verdict_leads_to_the_runs_that_it_is_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model without its coupling to those of the model, whose folders hold both losses."""
    monkeypatch.chdir(golden.ROOT)
    (group,), _ = read_sources(["results/wikitext2/study-comparison"])
    (comparison,) = arms_section(group).sections
    seen = 0
    for question in comparison.sections:
        table = next(block for block in question.blocks if isinstance(block, Table))
        place = [column.title for column in table.columns].index("seeds")
        for row in table.rows:
            arm = plain(row[0].text).removesuffix(" with its coupler taken out")
            runs = [span.href for span in spans(row[place].text) if span.href is not None]
            assert [Path(run).name.split("-")[0] for run in runs] == [f"{arm},seed={seed}" for seed in range(1, 6)]
            seen += 1
    assert seen == 7
