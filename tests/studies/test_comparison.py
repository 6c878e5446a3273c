"""What a comparison is: its arms from their flags, its cells, and what is refused before anything runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from gnn_moe.cli import main
from gnn_moe.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from gnn_moe.errors import BadInput
from gnn_moe.model.size import model_size
from gnn_moe.studies.arguments import CompareArguments
from gnn_moe.studies.budgets import Plan, configs_of, steps_within
from gnn_moe.studies.compare_command import resolve_comparison, with_question
from gnn_moe.studies.comparison import Comparison, parse_across, parse_arms, with_steps
from gnn_moe.studies.design import config_of, named_points
from gnn_moe.studies.questions import QUESTIONS
from gnn_moe.studies.space import Value, Values

BASELINE = RunConfig(
    model=ModelConfig(num_experts=3, embed_dim=64, num_layers=2, vocab_size=1000),
    training=TrainingConfig(epochs=4, batch_size=8, eval_every=10),
)
SAMPLES = 80
"""Of training: 10 steps an epoch."""


def test_an_arm_is_what_its_flags_change_of_the_common_ones() -> None:
    arms = parse_arms(
        [
            "gnn:--coupler_type GNN",
            "a mean:--coupler_type mean --learning_rate 1e-3",
            "plain:",
            "fixed:--coupler_type HGNN --no_hgnn_learnable_edge_weights",
        ],
        BASELINE,
    )
    assert arms == {
        "gnn": {},
        "a mean": {"coupler_type": "mean", "learning_rate": 1e-3},
        "plain": {},
        "fixed": {"coupler_type": "HGNN", "hgnn_learnable_edge_weights": False},
    }
    assert next(iter(arms)) == "gnn"


def test_the_first_arm_is_held_against_all_others_at_each_value() -> None:
    arms = parse_arms(["gnn:", "hgnn:--coupler_type HGNN"], BASELINE)
    comparison = Comparison(arms=arms, across=parse_across("num_experts=2,8", arms))
    assert comparison.first == "gnn"
    assert [(cell.arm, cell.value) for cell in comparison.cells()] == [
        ("gnn", 2),
        ("hgnn", 2),
        ("gnn", 8),
        ("hgnn", 8),
    ]
    points = named_points(BASELINE, comparison.changes(), [1, 2])
    assert len({point.key for point in points}) == len(points) == 8
    configs = [config_of(BASELINE, point) for point in points]
    assert [(each.model.coupler_type, each.model.num_experts, each.training.seed) for each in configs[:4]] == [
        ("GNN", 2, 1),
        ("GNN", 2, 2),
        ("HGNN", 2, 1),
        ("HGNN", 2, 2),
    ]
    assert [point.arm for point in points[:3]] == ["gnn,num_experts=2"] * 2 + ["hgnn,num_experts=2"]


REFUSED: dict[str, tuple[list[str], list[str]]] = {
    "no arm": ([], ["--arm is missing", "--coupler_type GNN"]),
    "one arm": (["--arm", "a:"], ["--arm a stands alone"]),
    "no name": (["--arm", ":--num_experts 2", "--arm", "b:"], ["--arm", "has no name"]),
    "a name twice": (["--arm", "a:", "--arm", "a:--num_experts 2"], ["--arm a stands twice"]),
    "another text": (
        ["--arm", "a:", "--arm", "b:--tokenizer gpt3"],
        ["--arm b: --tokenizer gpt3", "other texts"],
    ),
    "another length": (["--arm", "a:", "--arm", "b:--max_seq_length 64"], ["--arm b: --max_seq_length 64"]),
    "more epochs": (["--arm", "a:", "--arm", "b:--epochs 20"], ["--arm b: --epochs 20", "--budget"]),
    "a seed": (["--arm", "a:", "--arm", "b:--seed 3"], ["--arm b: --seed 3", "--seeds"]),
    "a wrong value": (["--arm", "a:", "--arm", "b:--num_experts 0"], ["--arm b", "--num_experts 0"]),
    "a wrong quote": (["--arm", "a:", "--arm", "b:--tokenizer 'x"], ["--arm b", "quotation"]),
    "across a range": (["--arm", "a:", "--arm", "b:", "--across", "num_experts=2..8"], ["--across", "list the values"]),
    "across what an arm changes": (
        ["--arm", "a:", "--arm", "b:--num_experts 2", "--across", "num_experts=2,4"],
        ["--across num_experts=2,4", "--arm b"],
    ),
    "across nothing": (
        ["--arm", "a:", "--arm", "b:", "--across", "experts=2,4"],
        ["--across", "did you mean num_experts?"],
    ),
    "no study": (["--arm", "a:", "--arm", "b:"], []),
    "no such preset": (["--preset", "question-wieghts"], ["did you mean question-weights?"]),
    "an arm that the preset has": (
        ["--preset", "question-weights", "--arm", "fixed:"],
        ["--arm fixed: the preset has an arm of this name", "give this one another"],
    ),
    "an arm that changes what the preset goes across": (
        ["--preset", "question-experts", "--arm", "more:--num_experts 32"],
        ["--across num_experts=2,4,8,16: --arm more has a --num_experts of its own"],
    ),
    "a scale alone": (["--scale", "0.5"], ["--scale 0.5 is for a --preset"]),
    "nothing tried": (
        ["--arm", "a:", "--arm", "b:", "--configurations_tried", "0"],
        ["--configurations_tried 0 must be a positive whole number"],
    ),
    "no seed": (["--arm", "a:", "--arm", "b:", "--seeds", "1,1"], ["--seeds 1,1"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, named = REFUSED[name]
    study = [] if name == "no study" or "--preset" in words or "--scale" in words else ["--study", "it"]
    assert main(["compare", *study, *words]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("gnn-moe compare: ")
    assert output.err.count("\n") == 1
    for text in named:
        assert text in output.err
    assert list(tmp_path.iterdir()) == []


def test_a_flag_of_an_arm_that_does_not_parse_names_the_arm(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["compare", "--study", "it", "--arm", "a:", "--arm", "b:--coupler_typo GNN"])
    assert left.value.code == 2
    output = capsys.readouterr()
    assert "coupler_typo" in output.err
    assert "--arm b" in output.err


def compared(budget: str, *, across: Values | None = None) -> Comparison:
    arms = parse_arms(["gnn:", "mean:--coupler_type mean", "large batch:--batch_size 16"], BASELINE)
    return Comparison(arms=arms, across=across, budget=budget)  # type: ignore[arg-type]


MINUTES = {"gnn": 0.5, "mean": 0.2, "large batch": 0.8}


def plans_of(comparison: Comparison) -> dict[str, Plan]:
    configs = configs_of(BASELINE, comparison)
    return {label: Plan(config=config, samples=SAMPLES) for label, config in configs.items()}


def steps_of(comparison: Comparison) -> dict[str, int]:
    steps = steps_within(comparison, plans_of(comparison), minutes_a_step=MINUTES)
    changed = {label: config.training for label, config in configs_of_arms(with_steps(comparison, steps)).items()}
    return {label: training.count_steps(SAMPLES) for label, training in changed.items()}


def configs_of_arms(arms: dict[str, dict[str, Value]]) -> dict[str, RunConfig]:
    points = named_points(BASELINE, arms, [1])
    return {str(point.arm): config_of(BASELINE, point) for point in points}


@pytest.mark.parametrize("budget", ["steps", "tokens", "flops", "minutes"])
def test_every_arm_gets_as_much_as_the_first(budget: str) -> None:
    """40 steps of 8 samples; what is spent differs by less than half a step of the arm."""
    comparison = compared(budget)
    configs, steps = configs_of(BASELINE, comparison), steps_of(comparison)
    assert steps["gnn"] == 40

    def spent(label: str, count: float) -> float:
        rows = configs[label].training.batch_size
        flops = model_size(configs[label].model).training_flops_per_token
        return count * {"steps": 1, "tokens": rows, "flops": rows * flops, "minutes": MINUTES[label]}[budget]

    for label, count in steps.items():
        assert abs(spent(label, count) - spent("gnn", 40)) <= spent(label, 0.5)
    if budget == "steps":
        assert set(steps.values()) == {40}
    else:
        assert steps["large batch"] < 40
    if budget in ("flops", "minutes"):
        assert steps["mean"] > 40


def test_the_budget_is_that_of_the_first_arm_at_the_same_value() -> None:
    across = Values(field="num_layers", values=(1, 4))
    comparison = compared("flops", across=across)
    steps = steps_of(comparison)
    assert steps["gnn,num_layers=1"] == steps["gnn,num_layers=4"] == 40
    assert steps["mean,num_layers=4"] > steps["mean,num_layers=1"] > 40


def test_short_last_batches_are_no_whole_ones() -> None:
    """80 samples in batches of 64 are two an epoch, of 40 on average."""
    comparison = Comparison(arms=parse_arms(["small:", "large:--batch_size 64"], BASELINE), budget="tokens")
    assert steps_of(comparison) == {"small": 40, "large": 8}


def test_a_cell_whose_settings_do_not_go_together_keeps_nobody_waiting() -> None:
    arms = parse_arms(["pairs:", "triplets:--coupler_type HGNN --static_hyperedge_strategy all_triplets"], BASELINE)
    comparison = Comparison(arms=arms, across=Values(field="num_experts", values=(2, 4)), budget="flops")
    plans = plans_of(comparison)
    assert "triplets,num_experts=2" not in plans
    steps = steps_within(comparison, plans, minutes_a_step={})
    assert set(steps) == {"triplets,num_experts=4"}


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_seeds_questions_have_valid_arms(name: str) -> None:
    question = QUESTIONS[name]
    comparison = Comparison(arms=question.preset.arms, across=question.across, budget=question.budget)
    configs = configs_of(question.preset.baseline, comparison)
    assert list(configs) == list(comparison.changes())
    assert len(comparison.arms) == 2
    for config in configs.values():
        assert config.data == question.preset.baseline.data
        assert config.training == question.preset.baseline.training


def test_arms_join_those_of_a_preset() -> None:
    defaults = with_question(CompareArguments(preset="seed-comparison"))
    flags: dict[str, Any] = {"preset": "seed-comparison", "study": "it", "arm": ("mean:--coupler_type mean",)}
    arms = resolve_comparison(dataclasses.replace(defaults, **flags)).arms
    assert list(arms) == ["gnn_optimized_baseline", "hgnn_optimized_comparison", "mean"]
    assert arms["mean"] == {"coupler_type": "mean"}


def test_the_questions_vary_what_they_ask_about() -> None:
    assert {name: question.across and question.across.values for name, question in QUESTIONS.items()} == {
        "question-strategy": (3, 4, 8, 16),
        "question-experts": (2, 4, 8, 16),
        "question-weights": None,
        "question-efficiency": None,
        "seed-comparison": None,
    }
    assert QUESTIONS["question-efficiency"].budget == "minutes"
    weights = QUESTIONS["question-weights"].preset.arms
    assert [arm.get("hgnn_learnable_edge_weights", True) for arm in weights.values()] == [True, False]


def test_data_of_the_baseline_is_kept(tmp_path: Path) -> None:
    """An arm's flags are read against the common ones, not against the defaults of train."""
    baseline = RunConfig(data=DataConfig(num_eval_samples=7), training=TrainingConfig(batch_size=4))
    assert parse_arms(["a:--batch_size 4", "b:--batch_size 32"], baseline) == {"a": {}, "b": {"batch_size": 32}}
    with pytest.raises(BadInput, match="--num_eval_samples -1 is for all arms"):
        parse_arms(["a:", "b:--num_eval_samples -1"], baseline)
