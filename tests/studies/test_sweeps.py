"""Whole sweeps, run as processes: every point gets an outcome, nothing runs twice, and the record says all of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gnn_moe.cli import main
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies import load
from gnn_moe.studies.flags import train_words
from tests.small_runs import Setting, read_json, read_rows
from tests.studies.small_sweeps import Sweeps

pytestmark = pytest.mark.slow

MIXED = "mixed"
ROOM_BYTES = 650 * 2**20
"""Enough for a trial of width 16; not for one of width 1024."""
VARIED = ("--vary", "num_experts=2,3", "--vary", "embed_dim=16,17,1024", "--vary", "learning_rate=0.01,1e30")
STATES = {
    "baseline": ("completed", None),
    "num_experts=3": ("completed", None),
    "embed_dim=17": ("failed", "bad_config"),
    "embed_dim=1024": ("failed", "out_of_memory"),
    "learning_rate=1e+30": ("failed", "non_finite"),
}
FIELDS = {
    "number",
    "name",
    "arm",
    "params",
    "seed",
    "state",
    "pruned",
    "error_class",
    "error_message",
    "best_eval_loss",
    "final_eval_loss",
    "final_train_loss",
    "perplexity",
    "bits_per_byte",
    "steps",
    "total_steps",
    "tokens",
    "total_parameters",
    "train_minutes",
    "eval_minutes",
    "minutes",
    "tokens_per_second",
    "peak_memory_bytes",
    "micro_batch_size",
    "dataset",
    "causal",
    "largest_leak",
    "selected_step",
    "reported_loss",
    "training_flops_per_token",
    "attempts",
    "run_dir",
    "log",
    "worker",
}


@pytest.fixture(scope="module")
def mixed(sweeps: Sweeps) -> dict[str, dict[str, Any]]:
    """A sweep with points of every kind, run by two trials at once with little memory: its rows as they then were."""
    sweeps.run(sweeps.words(MIXED, *VARIED, "--workers", "2"), data_bytes=ROOM_BYTES)
    return sweeps.trials(MIXED)


def test_every_point_has_an_outcome_and_every_failure_a_class_and_a_message(mixed: dict[str, dict[str, Any]]) -> None:
    assert {name: (trial["state"], trial["error_class"]) for name, trial in mixed.items()} == STATES
    assert "--embed_dim 17 is not divisible by --num_heads 2" in mixed["embed_dim=17"]["error_message"]
    assert "out of memory" in mixed["embed_dim=1024"]["error_message"]
    assert "the optimiser has not moved" in mixed["learning_rate=1e+30"]["error_message"].lower()
    assert all((trial["error_message"] is None) == (trial["state"] == "completed") for trial in mixed.values())


def test_a_row_has_all_that_a_study_knows(mixed: dict[str, dict[str, Any]], sweeps: Sweeps) -> None:
    record = sweeps.record(MIXED)
    assert (record["format"], record["version"], record["design"]) == ("gnn_moe.study", 1, "one_at_a_time")
    assert record["baseline"]["model"]["embed_dim"] == 16
    assert record["command"][:2] == ["gnn-moe", "sweep"]
    for name, trial in mixed.items():
        assert set(trial) == FIELDS
        assert set(trial["params"]) == {"num_experts", "embed_dim", "learning_rate"}
        assert trial["seed"] == 42
        assert (trial["run_dir"] is None) == (name == "embed_dim=17")
    assert mixed["num_experts=3"]["params"] == {"num_experts": 3, "embed_dim": 16, "learning_rate": 0.01}
    trial = mixed["baseline"]
    summary = read_json(Path(trial["run_dir"]) / "summary.json")
    for name in ("best_eval_loss", "steps", "total_parameters", "peak_memory_bytes"):
        assert trial[name] == summary[name]
    assert trial["minutes"] == summary["train_minutes"] + summary["eval_minutes"]
    assert trial["perplexity"] == pytest.approx(math.exp(trial["best_eval_loss"]))


def test_the_command_of_a_trial_can_be_copied(mixed: dict[str, dict[str, Any]], sweeps: Sweeps) -> None:
    """The words that the trial was started with, from its own record, are those that the config gives."""
    trial = mixed["num_experts=3"]
    words = read_json(Path(trial["run_dir"]) / "environment.json")["command_line"]
    study = load(sweeps.folder(MIXED))
    stored = RunFolder(Path(trial["run_dir"])).read_config()
    assert words[0] == "gnn-moe train"
    assert stored.model.num_experts == 3
    assert study.baseline.model.num_experts == 2
    asked = dataclasses.replace(stored, training=dataclasses.replace(stored.training, micro_batch_size="auto"))
    assert train_words(asked) == words[1:]


def test_the_tables_are_tidy(mixed: dict[str, dict[str, Any]], sweeps: Sweeps) -> None:
    trials = pq.read_table(sweeps.folder(MIXED) / "trials.parquet").to_pylist()
    assert [row["params.num_experts"] for row in trials] == [trial["params"]["num_experts"] for trial in mixed.values()]
    assert [row["state"] for row in trials] == [trial["state"] for trial in mixed.values()]
    curves = pq.read_table(sweeps.folder(MIXED) / "curves.parquet").to_pylist()
    for trial in mixed.values():
        if trial["state"] == "completed":
            rows = [row for row in curves if row["name"] == trial["name"]]
            stored = read_rows(Path(trial["run_dir"]))
            assert [(row["kind"], row["step"], row["loss"]) for row in rows] == [
                (row["kind"], row["step"], row["loss"]) for row in stored
            ]
            assert {row["params.num_experts"] for row in rows} == {trial["params"]["num_experts"]}


def test_started_again_it_repeats_nothing(mixed: dict[str, dict[str, Any]], sweeps: Sweeps) -> None:
    before = sweeps.starts(MIXED)
    output = sweeps.run(sweeps.words(MIXED, *VARIED))
    assert sweeps.starts(MIXED) == before
    assert sweeps.trials(MIXED) == mixed
    assert "2 completed" in output
    assert {trial["attempts"] for trial in mixed.values()} == {1}


def test_a_changed_baseline_is_refused(
    mixed: dict[str, dict[str, Any]], sweeps: Sweeps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sweeps.words(MIXED, *VARIED, epochs=2, num_layers=3)) == 2
    line = capsys.readouterr().err
    assert "--num_layers was 1 and is 3, --epochs was 1 and is 2" in line
    assert "give the changed sweep another --study" in line
    assert main(sweeps.words(MIXED, *VARIED, "--design", "grid")) == 2
    assert "--design was one_at_a_time and is grid" in capsys.readouterr().err
    assert sweeps.trials(MIXED) == mixed


def test_status_prints_the_table(
    mixed: dict[str, dict[str, Any]], sweeps: Sweeps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "status", "--study", MIXED, "--output_dir", str(sweeps.setting.runs)]) == 0
    table = capsys.readouterr().out
    assert "2 completed" in table
    assert f"{mixed['baseline']['best_eval_loss']:.4f}" in table
    assert "6/6" in table


def test_a_run_folder_that_is_damaged_is_named_skipped_and_counted(
    mixed: dict[str, dict[str, Any]], sweeps: Sweeps
) -> None:
    metrics = Path(mixed["num_experts=3"]["run_dir"]) / "metrics.jsonl"
    content = metrics.read_text()
    try:
        metrics.write_text("damaged\n" + content)
        table, skipped = load(sweeps.folder(MIXED)).curves_table()
    finally:
        metrics.write_text(content)
    (line,) = skipped
    assert str(metrics) in line
    # The one that ran out of memory may have a row of its halved micro-batch, or none at all.
    unsure = {mixed["embed_dim=1024"]["name"]}
    assert (
        set(table.column("name").to_pylist()) - unsure
        == {trial["name"] for trial in mixed.values() if trial["run_dir"] and trial is not mixed["num_experts=3"]}
        - unsure
    )


def test_out_of_memory_runs_again_with_half_the_micro_batch_and_the_same_batch(
    mixed: dict[str, dict[str, Any]], sweeps: Sweeps
) -> None:
    """The last of these tests: it changes the study."""
    before = sweeps.starts(MIXED)
    sweeps.run(sweeps.words(MIXED, *VARIED, "--retry", "out_of_memory"))
    trial = sweeps.trials(MIXED)["embed_dim=1024"]
    assert (trial["state"], trial["attempts"]) == ("completed", 2)
    halved = math.ceil(mixed["embed_dim=1024"]["micro_batch_size"] / 2)
    stored = read_json(Path(trial["run_dir"]) / "config.json")["training"]
    assert (stored["batch_size"], stored["micro_batch_size"]) == (8, halved)
    # The failed attempt keeps its record, and nothing else ran.
    assert trial["run_dir"] != mixed["embed_dim=1024"]["run_dir"]
    assert Path(mixed["embed_dim=1024"]["run_dir"]).is_dir()
    after = sweeps.starts(MIXED)
    assert {name: count for name, count in after.items() if name != "embed_dim=1024"} == {
        name: count for name, count in before.items() if name != "embed_dim=1024"
    }


def test_a_trial_that_takes_too_long_is_a_timeout(sweeps: Sweeps) -> None:
    output = sweeps.run(sweeps.words("slow", epochs=100_000, timeout=0.05))
    trial = sweeps.trials("slow")["baseline"]
    assert (trial["state"], trial["error_class"]) == ("failed", "timeout")
    assert "--timeout 0.05 minutes" in trial["error_message"]
    assert "failed, timeout" in output


def test_a_search_draws_runs_and_prunes(sweeps: Sweeps) -> None:
    """This seed draws three good learning rates, then two that are far too small: behind at every evaluation."""
    words = sweeps.words(
        "search",
        *("--design", "search", "--vary", "learning_rate=1e-8..1e-1:log", "--trials", "6", "--workers", "2"),
        seed=58,
        epochs=20,
        max_batches_per_epoch=20,
        eval_every=20,
    )
    sweeps.run(words)
    trials = list(sweeps.trials("search").values())
    assert len(trials) == 6
    assert {trial["state"] for trial in trials} == {"completed"}
    assert trials[0]["params"]["learning_rate"] == 0.01
    pruned = [trial for trial in trials if trial["pruned"]]
    assert pruned
    best = min(trial["best_eval_loss"] for trial in trials)
    for trial in pruned:
        assert trial["steps"] < trial["total_steps"]
        assert trial["best_eval_loss"] > best


def test_named_points_run_with_their_own_flags(sweeps: Sweeps) -> None:
    """seed-comparison, scaled and with everything that makes it long overridden."""
    small = {"num_layers": 1, "gnn_layers": 1, "max_batches_per_epoch": 2, "num_heads": 2, "batch_size": 4}
    output = sweeps.run(
        sweeps.words(
            "pair",
            *("--preset", "seed-comparison", "--scale", "0.02"),
            **{**dict.fromkeys(("num_experts", "embed_dim", "epochs", "eval_every", "learning_rate")), **small},
        )
    )
    record, trials = sweeps.record("pair"), sweeps.trials("pair")
    assert list(trials) == ["gnn_optimized_baseline", "hgnn_optimized_comparison"]
    assert {trial["state"] for trial in trials.values()} == {"completed"}
    configs = [read_json(Path(trial["run_dir"]) / "config.json") for trial in trials.values()]
    assert [config["model"]["coupler_type"] for config in configs] == ["GNN", "HGNN"]
    assert {(config["model"]["embed_dim"], config["data"]["num_train_samples"]) for config in configs} == {(8, 60)}
    assert (record["preset"], record["scale"]) == ("seed-comparison", 0.02)
    assert "--scale 0.02: epochs, samples and widths" in record["note"]
    assert record["note"] in output.replace("\n", " ")


def test_dry_run_shows_the_points_and_writes_nothing(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sweeps = Sweeps(Setting(setting.corpus, tmp_path / "cache", tmp_path / "runs"))
    varied = ("--vary", "num_experts=2,4", "--vary", "embed_dim=16,17", "--vary", "epochs=1,3")
    assert main(sweeps.words("it", *varied, "--dry_run")) == 0
    output = capsys.readouterr().out
    lines = [line.split("│") for line in output.splitlines() if "seed=" in line and "│" in line]
    rows = {cells[1].split(",seed=")[0].strip(): cells for cells in lines}
    assert list(rows) == ["baseline", "num_experts=4", "embed_dim=17", "epochs=3"]
    assert "bad_config" in rows["embed_dim=17"][2]
    assert "--embed_dim 17 is not divisible" in output
    assert "GiB" in rows["baseline"][3]
    assert "in proportion to their FLOPs" in output
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_cannot_be_had_is_refused_before_any_trial(
    sweeps: Sweeps, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(sweeps.words("none", *VARIED, dataset_name="./nowhere")) == 2
    assert "--dataset_name ./nowhere: no such file" in capsys.readouterr().err
    assert not sweeps.folder("none").exists()
