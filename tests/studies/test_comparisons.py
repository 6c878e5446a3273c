"""Whole comparisons, run as processes: arms alike but for their names, verdicts in the record, leaks left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gnn_moe.cli import main
from gnn_moe.studies import load
from tests.small_runs import read_json, read_rows
from tests.studies.small_sweeps import Sweeps

pytestmark = pytest.mark.slow

STUDY = "coupling"
ARMS = ("--arm", "gnn:--coupler_type GNN", "--arm", "mean:--coupler_type mean", "--budget", "flops")

LEAK = """
import sys

if "train" in sys.orig_argv and "sinkhorn" in sys.orig_argv:
    import torch
    from gnn_moe.model.sinkhorn import SinkhornCoupler

    def forward(self, x_END):
        return x_END + torch.roll(x_END, -1, dims=1)

    SinkhornCoupler.forward = forward
"""
"""Put before all else in a process: the coupler sees the next token."""


@pytest.fixture(scope="module")
def compared(sweeps: Sweeps) -> dict[str, Any]:
    """study.json of two arms with two seeds."""
    output = sweeps.run(sweeps.compare_words(STUDY, *ARMS, seeds="1,2"))
    record = sweeps.record(STUDY)
    assert record["comparison"]["evidence"]["questions"][0]["sentences"][0] in output
    return record


def test_arms_of_a_seed_differ_only_in_what_is_named(compared: dict[str, Any], sweeps: Sweeps) -> None:
    configs = {trial["name"]: read_json(Path(trial["run_dir"]) / "config.json") for trial in compared["trials"]}
    assert len(configs) == 4
    by_seed: dict[int, list[dict[str, Any]]] = {}
    for trial in compared["trials"]:
        by_seed.setdefault(trial["seed"], []).append(trial)
    for seed, (gnn, mean) in by_seed.items():
        one, other = configs[gnn["name"]], configs[mean["name"]]
        assert one["training"]["seed"] == other["training"]["seed"] == seed
        assert one["data"] == other["data"]
        differing = {name for name in one["model"] if one["model"][name] != other["model"][name]}
        assert differing == {"coupler_type"}
        assert {name for name in one["training"] if one["training"][name] != other["training"][name]} == {"max_steps"}
        rows = [read_rows(Path(trial["run_dir"]), "train") for trial in (gnn, mean)]
        order = [[(row["tokens"], row["padding_share"]) for row in each[: gnn["steps"]]] for each in rows]
        assert order[0] == order[1]


def test_one_micro_batch_is_chosen_for_all_arms_and_written_down(compared: dict[str, Any]) -> None:
    sizes = {trial["micro_batch_size"] for trial in compared["trials"]}
    assert sizes == {compared["baseline"]["training"]["micro_batch_size"]} == {8}


def test_the_record_says_what_was_found(compared: dict[str, Any], sweeps: Sweeps) -> None:
    comparison = compared["comparison"]
    assert (comparison["first"], comparison["budget"]) == ("gnn", "flops")
    gnn, mean = comparison["evidence"]["cells"]
    assert (gnn["arm"], gnn["seeds"], gnn["left_out"]) == ("gnn", [1, 2], [])
    assert mean["steps"] > gnn["steps"] == 6
    assert [layer["title"] for layer in gnn["drift"]] == ["Layer 0, coupler layer 0"]
    assert gnn["drift"][0]["common"]["seeds"] == 2
    assert not mean["drift"]
    # Half a step of six, and tokens of a batch differ a little.
    assert mean["training_flops"] == pytest.approx(gnn["training_flops"], rel=0.1)
    for trial in compared["trials"]:
        evaluations = read_rows(Path(trial["run_dir"]), "eval")
        chosen = min(evaluations, key=lambda row: row["selection_loss"])
        assert (trial["selected_step"], trial["reported_loss"]) == (chosen["step"], chosen["reported_loss"])
        assert trial["causal"] is True
    assert gnn["losses"] == [trial["reported_loss"] for trial in compared["trials"] if trial["arm"] == "gnn"]
    (verdict,) = comparison["evidence"]["questions"][0]["verdicts"]
    assert verdict["mean_difference"] == pytest.approx((sum(mean["losses"]) - sum(gnn["losses"])) / 2)
    assert load(sweeps.folder(STUDY)).completed() == compared["trials"]


def test_more_seeds_and_arms_are_added_and_nothing_runs_again(compared: dict[str, Any], sweeps: Sweeps) -> None:
    before = {trial["name"]: trial for trial in compared["trials"]}
    sweeps.run(sweeps.compare_words(STUDY, *ARMS, "--arm", "attention:--coupler_type attention", seeds="1,2,3"))
    record = sweeps.record(STUDY)
    after = {trial["name"]: trial for trial in record["trials"]}
    assert {name: after[name] for name in before} == before
    assert len(after) == 9
    cells = record["comparison"]["evidence"]["cells"]
    assert [(cell["arm"], cell["seeds"]) for cell in cells] == [
        ("gnn", [1, 2, 3]),
        ("mean", [1, 2, 3]),
        ("attention", [1, 2, 3]),
    ]
    before_note = "weighed before with other seeds (1,2): "
    assert not any(note.startswith("weighed") for note in compared["comparison"]["evidence"]["notes"])
    assert any(note.startswith(before_note) for note in record["comparison"]["evidence"]["notes"])


def test_arms_of_a_seed_begin_at_the_same_values(sweeps: Sweeps) -> None:
    """Steps too small to move a number leave each model as it began: parameters of one name are equal in both arms."""
    arms = ("--arm", "gnn:--coupler_type GNN", "--arm", "hgnn:--coupler_type HGNN", "--arm", "mean:--coupler_type mean")
    sweeps.run(sweeps.compare_words("still", *arms, seeds="1,2", learning_rate=1e-30))
    found = {}
    for trial in sweeps.record("still")["trials"]:
        path = Path(trial["run_dir"]) / "checkpoints" / "best" / "model.safetensors"
        found[trial["arm"], trial["seed"]] = load_file(path)
    for seed in (1, 2):
        gnn, hgnn, mean = (found[arm, seed] for arm in ("gnn", "hgnn", "mean"))
        for one, other in ((gnn, hgnn), (gnn, mean)):
            shared = one.keys() & other.keys()
            assert {name.split(".")[2] for name in shared if name.startswith("layers.")} >= {"experts", "readout"}
            for name in shared:
                torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-20)
            assert one.keys() - other.keys() == {name for name in one if ".coupler." in name} - shared
    name = "token_embedding"
    assert not torch.equal(found["gnn", 1][name], found["gnn", 2][name])


def test_another_budget_is_refused(
    compared: dict[str, Any], sweeps: Sweeps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sweeps.compare_words(STUDY, *ARMS[:-1], "tokens", seeds="1,2")) == 2
    assert "--budget was flops and is tokens" in capsys.readouterr().err
    assert main(["sweep", *sweeps.words(STUDY)[1:]]) == 2
    assert "--design was comparison and is one_at_a_time" in capsys.readouterr().err


def test_a_leaking_arm_is_marked_and_left_out(sweeps: Sweeps, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LEAK)
    arms = ("--arm", "mean:--coupler_type mean", "--arm", "leak:--coupler_type sinkhorn")
    output = sweeps.run(sweeps.compare_words("leaking", *arms, seeds="1,2"), environment={"PYTHONPATH": str(tmp_path)})
    record = sweeps.record("leaking")
    states = {(trial["arm"], trial["state"], trial["error_class"]) for trial in record["trials"]}
    assert states == {("mean", "completed", None), ("leak", "failed", "leaking")}
    assert all(trial["largest_leak"] > 1e-3 for trial in record["trials"] if trial["arm"] == "leak")
    assert "2 failed: leaking" in output
    assert "No evidence that leak and mean differ; 0 seeds in common" in output
    assert "left out: leak, seed 1: leaking: the best checkpoint sees the future" in output


def test_a_budget_of_minutes_is_calibrated_once(sweeps: Sweeps) -> None:
    arms = ("--arm", "one:", "--arm", "more:--num_layers 4", "--budget", "minutes")
    sweeps.run(sweeps.compare_words("minutes", *arms))
    record = sweeps.record("minutes")
    minutes = record["comparison"]["minutes_a_step"]
    assert set(minutes) == {"one", "more"}
    assert all(value > 0 for value in minutes.values())
    steps = {trial["arm"]: trial["total_steps"] for trial in record["trials"]}
    assert steps == {"one": 6, "more": max(1, round(6 * minutes["one"] / minutes["more"]))}
    assert "one seed: no interval can be given" in " ".join(record["comparison"]["evidence"]["notes"])
    sweeps.run(sweeps.compare_words("minutes", *arms))
    assert sweeps.record("minutes")["comparison"]["minutes_a_step"] == minutes


def test_a_dry_run_shows_every_arm_and_writes_nothing(
    sweeps: Sweeps, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sweeps.compare_words("dry", *ARMS, "--dry_run", seeds="1,2", output_dir=tmp_path / "runs")
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "4 points" in shown
    assert "gnn,seed=1" in shown
    assert list(tmp_path.iterdir()) == []


def test_trained_models_are_asked_again_without_their_coupling(compared: dict[str, Any], sweeps: Sweeps) -> None:
    """The last of these tests: it changes the study. An arm on which an ablation means nothing is passed over."""
    output = sweeps.run(sweeps.compare_words(STUDY, *ARMS, "--ablate", "coupler", seeds="1,2"))
    assert "mean,seed=1" in output
    question = sweeps.record(STUDY)["comparison"]["evidence"]["questions"][-1]
    assert question["asks"] == "What does a trained model lose with its coupler taken out?"
    (verdict,) = question["verdicts"]
    assert verdict["baseline"] == "gnn"
    gnn = [trial for trial in compared["trials"] if trial["arm"] == "gnn"]
    for trial, difference in zip(gnn, verdict["pairs"]["differences"], strict=True):
        stored = read_json(Path(trial["run_dir"]) / "ablations.json")["coupler"]
        assert difference == stored["reported_difference"] != 0
        assert stored["reported_loss"] == pytest.approx(trial["reported_loss"], rel=1e-6)
    first = {trial["name"]: (Path(trial["run_dir"]) / "ablations.json").stat().st_mtime_ns for trial in gnn}
    sweeps.run(sweeps.compare_words(STUDY, *ARMS, "--ablate", "coupler", seeds="1,2"))
    assert {trial["name"]: (Path(trial["run_dir"]) / "ablations.json").stat().st_mtime_ns for trial in gnn} == first
