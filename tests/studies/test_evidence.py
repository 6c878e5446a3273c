"""What the trials of a comparison say: planted differences are found, null ones are not, leaks do not count."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnn_moe.studies.comparison import Comparison
from gnn_moe.studies.evidence import Evidence, minutes_to, reason_left_out, weigh
from gnn_moe.studies.space import Value, Values

ARMS: Mapping[str, Mapping[str, Value]] = {"gnn": {}, "hgnn": {"coupler_type": "HGNN"}}
ACROSS = Values(field="num_experts", values=(2, 4, 8))
Loss = Callable[[str, Any, int], float]
"""(arm, value, seed) → loss."""


def trial(comparison: Comparison, label: str, seed: int, loss: float, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"{label},seed={seed}",
        "arm": label,
        "seed": seed,
        "params": comparison.changes()[label],
        "state": "completed",
        "error_class": None,
        "error_message": None,
        "causal": True,
        "reported_loss": loss,
        "total_parameters": 1000,
        "micro_batch_size": 8,
        "steps": 40,
        "tokens": 4000,
        "minutes": 2.0,
        "train_minutes": 1.5,
        "training_flops_per_token": 100,
        **changes,
    }


def trials_of(comparison: Comparison, loss: Loss, seeds: int) -> list[dict[str, Any]]:
    return [
        trial(comparison, cell.label, seed, loss(cell.arm, cell.value, seed))
        for cell in comparison.cells()
        for seed in range(1, seeds + 1)
    ]


def weighed(
    comparison: Comparison, trials: list[dict[str, Any]], seeds: int, tmp_path: Path, **others: Any
) -> Evidence:
    found = weigh(comparison, trials, range(1, seeds + 1), lambda one: tmp_path / str(one["name"]), **others)
    json.dumps(found.as_record(), allow_nan=False)
    return found


def notes_of(found: Evidence) -> list[str]:
    """Its notes, less those that made-up trials all cause: they have no run folders."""
    of_folders = ("no drift of ", "left out of the minutes to one loss: ")
    return [note for note in found.notes if not note.startswith(of_folders)]


def noise(seed: int, arm: str = "", value: Any = 0) -> float:
    """Of a seed, and a tenth as much of a run."""
    common = np.random.default_rng(seed).normal()
    own = np.random.default_rng([seed, len(arm), int(value or 0)]).normal()
    return float(0.1 * common + 0.01 * own)


def test_a_planted_difference_is_found(tmp_path: Path) -> None:
    """0.03 lower, of pairs that differ by 0.01: seeds alone spread ten times as far."""
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda arm, _, seed: 5 + noise(seed, arm) - 0.03 * (arm == "hgnn"), 8)
    found = weighed(comparison, trials, 8, tmp_path)
    (verdict,) = found.questions[0].verdicts
    assert verdict.verdict == "better"
    assert verdict.decision_interval is not None
    assert verdict.decision_interval.low < -0.03 < verdict.decision_interval.high < 0
    assert found.questions[0].sentences[0].startswith("hgnn is better than gnn: loss −0.0")
    assert notes_of(found) == []
    assert [cell["label"] for cell in found.cells] == ["gnn", "hgnn"]
    assert found.cells[0]["training_flops"] == 4000 * 100


def test_a_null_pair_is_no_evidence(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda arm, _, seed: 5 + noise(seed, arm), 8)
    (verdict,) = weighed(comparison, trials, 8, tmp_path).questions[0].verdicts
    assert verdict.verdict == "no evidence"
    same = trials_of(comparison, lambda _arm, _, seed: 5 + noise(seed), 8)
    (verdict,) = weighed(comparison, same, 8, tmp_path).questions[0].verdicts
    assert (verdict.verdict, verdict.mean_difference) == ("no evidence", 0)


LEFT_OUT: dict[str, tuple[dict[str, Any], str]] = {
    "leaking": (
        {"state": "failed", "error_class": "leaking", "error_message": "it sees the future"},
        "leaking: it sees the future",
    ),
    "crashed": ({"state": "failed", "error_class": "crash", "error_message": "boom"}, "crash: boom"),
    "unasked": ({"causal": None}, "was not asked whether its checkpoint sees the future"),
    "a leak of an old storage": ({"causal": False}, "sees the future"),
    "without halves": ({"reported_loss": None}, "no halves"),
    "waiting": ({"state": "waiting"}, "waiting: it has no result yet"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_may_not_count_is_left_out_visibly(name: str, tmp_path: Path) -> None:
    """Its loss is far below all others: a leak that counted would win."""
    changes, reason = LEFT_OUT[name]
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda arm, _, seed: 5 + noise(seed, arm), 6)
    trials[-1] |= {"reported_loss": 1.0} | changes
    found = weighed(comparison, trials, 6, tmp_path)
    (verdict,) = found.questions[0].verdicts
    assert verdict.pairs.seeds == (1, 2, 3, 4, 5)
    assert verdict.verdict == "no evidence"
    (left,) = found.cells[1]["left_out"]
    assert left["seed"] == 6
    assert reason in left["reason"]
    assert any(note.startswith("left out: hgnn, seed 6: ") and reason in note for note in found.notes)
    assert reason_left_out(trials[0]) is None


def test_one_seed_runs_and_says_that_no_interval_can_be_given(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    found = weighed(comparison, trials_of(comparison, lambda *_: 5.0, 1), 1, tmp_path)
    (verdict,) = found.questions[0].verdicts
    assert (verdict.verdict, verdict.interval, verdict.p_value) == ("no evidence", None, None)
    assert "an interval needs two" in found.questions[0].sentences[0]
    assert notes_of(found) == ["one seed: no interval can be given; run with --seeds 1,2,3,4,5"]


def test_everything_failed_is_said_and_no_number_is_given(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    trials = [one | LEFT_OUT["crashed"][0] for one in trials_of(comparison, lambda *_: 5.0, 2)]
    found = weighed(comparison, trials, 2, tmp_path)
    assert found.questions[0].sentences[0].startswith("No evidence that hgnn and gnn differ; 0 seeds in common")
    assert [cell["estimate"] for cell in found.cells] == [None, None]
    assert len(notes_of(found)) == 4


def test_a_trend_across_a_number_is_a_difference_of_slopes(tmp_path: Path) -> None:
    """gnn loses 0.02 a doubling that hgnn does not: the slopes differ by that, whatever the seed."""
    comparison = Comparison(arms=ARMS, across=ACROSS)

    def loss(arm: str, value: Any, seed: int) -> float:
        return 5 - 0.1 * math.log2(value) * (1 if arm == "hgnn" else 0.8) + noise(seed, arm, value) / 10

    found = weighed(comparison, trials_of(comparison, loss, 6), 6, tmp_path)
    losses, trend, _ = found.questions
    assert [verdict.arm for verdict in losses.verdicts] == [f"hgnn,num_experts={value}" for value in (2, 4, 8)]
    assert {verdict.arms_compared for verdict in losses.verdicts} == {3}
    (verdict,) = trend.verdicts
    assert trend.asks == "Whose loss falls faster with num_experts?"
    assert verdict.verdict == "better"
    assert verdict.mean_difference == pytest.approx(-0.02, abs=0.002)


def test_a_trend_needs_every_value_of_a_seed_and_numbers_to_go_across(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS, across=ACROSS)
    trials = trials_of(comparison, lambda arm, value, seed: 5 + noise(seed, arm, value), 4)
    trials[0] |= LEFT_OUT["crashed"][0]
    assert weighed(comparison, trials, 4, tmp_path).questions[1].verdicts[0].pairs.seeds == (2, 3, 4)
    words = Values(field="static_hyperedge_strategy", values=("all_pairs", "all"))
    across_words = Comparison(arms=ARMS, across=words)
    questions = weighed(across_words, trials_of(across_words, lambda *_: 5.0, 2), 2, tmp_path).questions
    assert [question.unit for question in questions] == ["nats a token", "log minutes"]


def test_what_was_tried_counts_arms_that_are_compared_no_more(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda arm, _, seed: 5 + noise(seed, arm), 3)
    dropped = [one | {"arm": "old", "params": {"coupler_type": "mean"}} for one in trials[:3]]

    def tried(comparison: Comparison) -> int:
        found = weighed(comparison, trials, 3, tmp_path, others=dropped)
        return found.questions[0].verdicts[0].configurations_tried

    assert tried(comparison) == 3
    dropped += [one | {"seed": 9} for one in trials[-3:]]  # a seed that is asked for no more is no other setting
    assert tried(comparison) == 3
    assert tried(Comparison(arms=ARMS, configurations_tried=40)) == 40


def test_micro_batches_that_differ_are_noted(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda arm, _, seed: 5 + noise(seed, arm), 2)
    trials[0] |= {"micro_batch_size": 4}
    assert notes_of(weighed(comparison, trials, 2, tmp_path)) == [
        "micro-batches differ (4, 8): dropout drew other masks"
    ]


def test_minutes_to_a_loss_lie_on_the_line_between_evaluations() -> None:
    curve = [(1.0, 6.0), (2.0, 5.0), (4.0, 4.0), (5.0, 4.5)]
    assert minutes_to(curve, 6.5) == 1.0
    assert minutes_to(curve, 5.5) == 1.5
    assert minutes_to(curve, 4.25) == 3.5
    assert minutes_to(curve, 4.0) == 4.0
    with pytest.raises(ValueError, match="never reaches 3"):
        minutes_to(curve, 3.0)


def test_time_at_equal_loss_is_a_ratio(tmp_path: Path) -> None:
    """Both follow one curve, hgnn in half the minutes."""
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda *_: 5.0, 5)
    for one in trials:
        speed = 2 if one["arm"] == "hgnn" else 1
        folder = tmp_path / one["name"]
        folder.mkdir()
        jitter = 1 + 0.01 * one["seed"] * speed
        rows = [
            {"kind": "eval", "step": step, "minutes": jitter * step / speed, "reported_loss": 6 - 0.1 * step}
            for step in (1, 2, 3)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    question = weighed(comparison, trials, 5, tmp_path).questions[-1]
    (verdict,) = question.verdicts
    assert verdict.verdict == "better"
    assert verdict.mean_difference is not None
    assert math.exp(verdict.mean_difference) == pytest.approx(0.5, rel=0.05)
    assert question.sentences[0].startswith("hgnn reaches a loss that both reach sooner than gnn: 0.5")


def test_unreadable_curves_leave_no_ratio(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    question = weighed(comparison, trials_of(comparison, lambda *_: 5.0, 2), 2, tmp_path).questions[-1]
    assert question.sentences == ("hgnn and gnn have no seed in common",)


def test_curves_that_are_elsewhere_are_named(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda *_: 5.0, 2)
    (tmp_path / "hgnn,seed=1").mkdir()
    found = weighed(comparison, trials, 2, tmp_path)
    gnn, hgnn = (note for note in found.notes if note.startswith("left out of the minutes to one loss: "))
    assert gnn.endswith(f"gnn, seed 1, 2: {tmp_path / 'gnn,seed=1'} is not on this machine")
    assert "hgnn, seed 1, 2: " in hgnn
    assert "metrics.jsonl: cannot be read" in hgnn


def test_an_ablated_model_is_held_against_itself(tmp_path: Path) -> None:
    """hgnn loses 0.05 without its coupler in every seed, give or take 0.001; gnn was not asked for one of its seeds."""
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda *_: 5.0, 5)
    for one in trials:
        if (one["arm"], one["seed"]) == ("gnn", 3):
            continue
        loss = 5 + noise(one["seed"])
        harm = 0.05 + 0.001 * one["seed"] if one["arm"] == "hgnn" else 0.001 * (-1) ** one["seed"]
        (tmp_path / one["name"]).mkdir()
        found = {"coupler": {"reported_loss": loss, "ablated_reported_loss": loss + harm}}
        (tmp_path / one["name"] / "ablations.json").write_text(json.dumps(found))
    question = weighed(comparison, trials, 5, tmp_path).questions[-1]
    assert question.asks == "What does a trained model lose with its coupler taken out?"
    of_gnn, of_hgnn = question.verdicts
    assert (of_gnn.arm, of_gnn.baseline) == ("gnn with its coupler taken out", "gnn")
    assert (of_gnn.verdict, of_gnn.pairs.seeds) == ("no evidence", (1, 2, 4, 5))
    assert of_hgnn.verdict == "worse"
    assert of_hgnn.mean_difference == pytest.approx(0.053)
    assert {each.configurations_tried for each in question.verdicts} == {4}, "two that were trained, and each ablated"


def test_a_damaged_record_of_ablations_is_named_and_left_out(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda *_: 5.0, 2)
    (tmp_path / trials[0]["name"]).mkdir()
    (tmp_path / trials[0]["name"] / "ablations.json").write_text('{"coupler":')
    found = weighed(comparison, trials, 2, tmp_path)
    assert [question.unit for question in found.questions] == ["nats a token", "log minutes"]
    (note,) = notes_of(found)
    assert note.startswith("left out of the ablations: gnn, seed 1: ")


def test_curves_of_an_older_version_have_no_reported_losses(tmp_path: Path) -> None:
    """As where a run was begun by one and ended by this one."""
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda *_: 5.0, 2)
    for one in trials:
        (tmp_path / one["name"]).mkdir()
        rows = [{"kind": "eval", "minutes": 1.0}, {"kind": "eval", "minutes": 2.0, "reported_loss": 5.0 + one["seed"]}]
        text = "".join(json.dumps(row) + "\n" for row in rows[: 1 + (one["seed"] == 1)])
        (tmp_path / one["name"] / "metrics.jsonl").write_text(text)
    (verdict,) = weighed(comparison, trials, 2, tmp_path).questions[-1].verdicts
    assert verdict.pairs.seeds == (1,)


def test_a_record_of_strengths_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The runs have none: their drift is not there, and a note says why."""
    comparison = Comparison(arms=ARMS)
    found = weighed(comparison, trials_of(comparison, lambda arm, _, seed: 5 + noise(seed, arm), 2), 2, tmp_path)
    assert [cell["drift"] for cell in found.cells] == [None, None]
    notes = [note for note in found.notes if note.startswith("no drift of ")]
    assert [note.split(":")[0] for note in notes] == ["no drift of gnn", "no drift of hgnn"]
    assert all(str(tmp_path) in note for note in notes)


def test_an_ablated_model_without_a_finite_loss_is_named_and_left_out(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS)
    trials = trials_of(comparison, lambda *_: 5.0, 2)
    for one in trials:
        (tmp_path / one["name"]).mkdir()
        lost = one["name"] == trials[0]["name"]
        asked = {"coupler": {"reported_loss": 5.0, "ablated_reported_loss": None if lost else 5.5}}
        (tmp_path / one["name"] / "ablations.json").write_text(json.dumps(asked))
    found = weighed(comparison, trials, 2, tmp_path)
    assert notes_of(found) == ["left out of the ablations: gnn, seed 1: coupler has no finite loss"]
    assert [verdict.pairs.seeds for verdict in found.questions[-1].verdicts] == [(2,), (1, 2)]


def test_budgets_that_whole_steps_miss_are_noted(tmp_path: Path) -> None:
    comparison = Comparison(arms=ARMS, budget="flops")
    trials = trials_of(comparison, lambda *_: 5.0, 2)
    assert notes_of(weighed(comparison, trials, 2, tmp_path)) == []
    for one in trials:
        one["tokens"] = 4240 if one["arm"] == "hgnn" else 4000
    assert notes_of(weighed(comparison, trials, 2, tmp_path)) == [
        "of the first arm's training FLOPs, hgnn has 1.06 times: a budget is whole steps"
    ]
