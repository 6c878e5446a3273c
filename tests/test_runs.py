"""The run folder: every file and number that a run leaves, and how a run goes."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torch import Tensor

from gnn_moe.cli import main
from gnn_moe.config import RunConfig, run_config_from_dict
from gnn_moe.data.corpus import load_corpus
from gnn_moe.data.unigram import unigram_loss
from gnn_moe.errors import BadInput
from gnn_moe.run_summary import Summary
from gnn_moe.runs import run_training, with_run_name
from tests.small_runs import (
    EVALUATED,
    ROOT,
    STEPS,
    Accident,
    Commands,
    Setting,
    coupling,
    curve,
    interrupted,
    killed,
    read_json,
    read_rows,
)

SUMMARY: dict[str, type | tuple[type, ...]] = {
    "status": str,
    "dataset": str,
    "best_eval_loss": float,
    "final_eval_loss": float,
    "final_train_loss": float,
    "perplexity": float,
    "bits_per_byte": float,
    "total_parameters": int,
    "train_minutes": float,
    "eval_minutes": float,
    "save_minutes": float,
    "tokens_per_second": float,
    "waiting_share": float,
    "padding_share": float,
    "peak_memory_bytes": int,
    "causal": bool,
    "largest_leak": float,
    "error_class": type(None),
    "error_message": type(None),
}


def test_the_files_of_a_run(uninterrupted: Path) -> None:
    assert {path.name for path in uninterrupted.iterdir() if path.name[0] != "."} == {
        "config.json",
        "environment.json",
        "metrics.jsonl",
        "coupling.npz",
        "summary.json",
        "figures",
        "checkpoints",
    }
    assert not list(uninterrupted.rglob("*.writing"))
    assert {path.name for path in (uninterrupted / "checkpoints").iterdir()} == {
        "last",
        "best",
        "selected",
        "step_00000012",
    }


def test_the_summary(uninterrupted: Path) -> None:
    summary = read_json(uninterrupted / "summary.json")
    for name, kind in SUMMARY.items():
        assert isinstance(summary[name], kind), name
    assert not any(isinstance(value, dict | list) for value in summary.values())
    assert summary["status"] == "completed"
    evaluations = read_rows(uninterrupted, "eval")
    best = min(evaluations, key=lambda row: row["loss"])
    assert summary["best_eval_loss"] == best["loss"]
    assert summary["final_eval_loss"] == evaluations[-1]["loss"]
    assert summary["perplexity"] == math.exp(summary["best_eval_loss"])
    assert summary["bits_per_byte"] == best["bits_per_byte"]
    assert len(repr(summary["best_eval_loss"])) > 12  # unrounded
    assert summary["train_minutes"] > 0 < summary["eval_minutes"]
    assert summary["save_minutes"] > 0
    assert summary["tokens_per_second"] == pytest.approx(evaluations[-1]["tokens"] / summary["train_minutes"] / 60)
    assert summary["total_parameters"] == sum(
        values.numel() for values in torch_model(uninterrupted).state_dict().values()
    )


def torch_model(run: Path) -> torch.nn.Module:
    from gnn_moe import load_model

    return load_model(run)


def test_a_row_a_step_and_a_row_an_evaluation(uninterrupted: Path) -> None:
    rows = read_rows(uninterrupted)
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row["kind"] == "eval"] == EVALUATED
    # In the order in which it happened: an evaluation after the step that it follows.
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    for row in rows:
        assert math.isfinite(row["loss"])
        assert row["epoch"] == (row["step"] - 1) // 6 + 1
        if row["kind"] == "train":
            assert row["gradient_norm"] > 0
            assert row["learning_rate"] > 0
            assert row["tokens_per_second"] > 0
            assert 0 <= row["waiting_share"] <= 1
        else:
            assert row["perplexity"] == math.exp(row["loss"])
            assert row["bits_per_byte"] > 0
            assert row["word_perplexity"] is None
    tokens = [row["tokens"] for row in rows if row["kind"] == "train"]
    assert tokens == [8 * 15 * step for step in range(1, STEPS + 1)]


def test_the_config_is_whole_and_reads_back(uninterrupted: Path, small_corpus: Path) -> None:
    values = read_json(uninterrupted / "config.json")
    config = run_config_from_dict(values)
    assert json.loads(json.dumps(values)) == values
    assert (config.model.vocab_size, config.model.num_experts, config.model.embed_dim) == (300, 3, 16)
    assert config.data.dataset_name == str(small_corpus)
    assert (config.training.batch_size, config.training.learning_rate) == (8, 0.01)
    assert config.output.run_name == "whole"
    assert read_json(uninterrupted / "checkpoints" / "last" / "config.json")["model"] == values["model"]


def test_the_environment(uninterrupted: Path, small_corpus: Path) -> None:
    environment = read_json(uninterrupted / "environment.json")
    assert environment["versions"]["python"] == platform.python_version()
    assert environment["versions"]["torch"] == torch.__version__
    assert {"gnn-moe", "tokenizers", "numpy", "accelerate"} <= set(environment["versions"])
    assert environment["device"] == "cpu"
    assert environment["device_name"]
    assert environment["threads"] == 1
    assert 0 < environment["room_bytes"] <= psutil.virtual_memory().total
    assert environment["precision"] == "fp32"
    assert environment["command_line"][0] == "gnn-moe train"
    assert environment["command_line"][-1] == "cpu" or "--run_name" in environment["command_line"]
    started = datetime.fromisoformat(environment["started"])
    assert datetime.now(UTC) - timedelta(minutes=30) < started <= datetime.now(UTC)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if head.returncode == 0:
        assert environment["git_commit"].removesuffix("-dirty") == head.stdout.strip()
    data = environment["data"]
    assert data["dataset"] == str(small_corpus)
    assert re.fullmatch("[0-9a-f]{64}", data["fingerprint"])
    assert (data["train"]["samples"], data["valid"]["samples"]) == (160, 20)
    assert data["train"]["cut_tokens"] > 0


def test_the_coupling_at_step_0_and_at_each_evaluation(uninterrupted: Path) -> None:
    stored = coupling(uninterrupted)
    assert stored["steps"].tolist() == [0, *EVALUATED]
    np.testing.assert_array_equal(stored["incidence"], [[1, 1, 0], [1, 0, 1], [0, 1, 1]])
    for layer in (0, 1):
        weights = stored[f"layer_{layer}/hyperedge_weights"]
        assert weights.shape == (4, 3)
        np.testing.assert_allclose(weights[0], 1, atol=1e-6)
        assert (weights > 0).all()
        assert (np.abs(weights[-1] - 1) > 1e-4).all()


@pytest.mark.parametrize(
    ("changes", "arrays"),
    [
        ({"coupler_type": "GNN", "gnn_layers": 2}, {"layer_0/adjacency": (4, 2, 3, 3)}),
        ({"coupler_type": "sinkhorn", "gnn_layers": 2}, {"layer_0/mixing": (4, 2, 3, 3)}),
        ({"coupler_type": "mean"}, {}),
        ({"hgnn_conv_type": "HypergraphConv"}, {"layer_1/hyperedge_weights": (4, 3)}),
        ({"static_hyperedge_strategy": "all"}, {"layer_1/hyperedge_weights": (4, 1), "incidence": (3, 1)}),
    ],
)
def test_the_coupling_of_other_couplers(changes: dict[str, Any], arrays: dict[str, Any], setting: Setting) -> None:
    assert main(setting.flags("it", **changes)) == 0
    stored = coupling(setting.runs / "it")
    assert stored["steps"].tolist() == [0, *EVALUATED]
    for name, shape in arrays.items():
        assert stored[name].shape == shape
    if not arrays:
        assert set(stored) == {"steps"}


def test_the_figures(uninterrupted: Path) -> None:
    names = {path.name for path in (uninterrupted / "figures").iterdir()}
    assert {"curves.png", "coupling_evolution.png", "coupling_matrix.png"} <= names
    for name in names:
        with Image.open(uninterrupted / "figures" / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300


def test_what_is_printed_at_the_end(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(setting.flags("it")) == 0
    lines = capsys.readouterr().out.splitlines()
    summary = read_json(setting.runs / "it" / "summary.json")
    (start,) = [number for number, line in enumerate(lines) if line.startswith("Dataset ")]
    assert lines[start] == (
        f"Dataset {setting.corpus}. The seed's tables compare only with WikiText-2 "
        "(--dataset_name wikitext, or a folder of it)."
    )
    config = run_config_from_dict(read_json(setting.runs / "it" / "config.json"))
    corpus = load_corpus(config.data, max_seq_length=16, cache_dir=setting.cache)
    unigram = unigram_loss(corpus.split("train"), corpus.split("valid"), 300)
    text = "\n".join(lines[start:])
    assert f"{summary['best_eval_loss']:.4f} at best (step 12)" in text
    assert f"token frequencies alone: {unigram:.4f}" in text
    for word in ("perplexity", "bits a byte", "parameters", "tokens/s", "peak memory", "sample: ["):
        assert word in text
    assert (summary["causal"], summary["largest_leak"]) == (True, 0.0)
    assert "causality         no state moves with a later token or another row" in text


def test_a_run_whose_model_leaks_says_so(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Experts whose attention sees the whole row: the run ends, its summary does not let the loss pass."""

    def everything(qkv_3BHTd: Tensor, rate: float, *, training: bool) -> Tensor:
        query, key, value = qkv_3BHTd
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr("gnn_moe.model.experts.causal_attention", everything)
    assert main(setting.flags("it")) == 0
    assert "THE MODEL LEAKS" in capsys.readouterr().out
    summary = read_json(setting.runs / "it" / "summary.json")
    assert summary["causal"] is False
    assert summary["largest_leak"] > 1e-3


def test_a_run_says_how_much_data_there_is(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(setting.flags("it", num_train_samples=1000, num_eval_samples=7)) == 0
    output = capsys.readouterr().out
    assert "--num_train_samples 1000: the train split has 160 samples, all are used" in output
    assert "160 training and 7 evaluation samples" in output
    data = read_json(setting.runs / "it" / "environment.json")["data"]
    assert (data["train"]["samples"], data["train"]["samples_available"]) == (160, 160)
    assert (data["valid"]["samples"], data["valid"]["samples_available"]) == (7, 20)


def steps_and_tokens(setting: Setting, **changes: Any) -> tuple[int, int]:
    assert main(setting.flags("it", "--overwrite", eval_every=1000, **changes)) == 0
    rows = read_rows(setting.runs / "it", "train")
    return len(rows), rows[-1]["tokens"]


def test_all_batches_the_last_short_one_too(setting: Setting) -> None:
    """30 samples of 16 tokens in batches of 8: 4 batches an epoch, the last of 6 samples."""
    assert steps_and_tokens(setting, num_train_samples=30, max_batches_per_epoch=-1) == (8, 2 * 30 * 15)
    assert steps_and_tokens(setting, num_train_samples=30, max_batches_per_epoch=100) == (8, 2 * 30 * 15)
    assert steps_and_tokens(setting, num_train_samples=30, max_batches_per_epoch=None) == (8, 2 * 30 * 15)
    assert steps_and_tokens(setting, num_train_samples=-1, max_batches_per_epoch=-1, epochs=1) == (20, 160 * 15)
    assert steps_and_tokens(setting, max_batches_per_epoch=3) == (6, 6 * 8 * 15)
    assert steps_and_tokens(setting, num_train_samples=3, max_batches_per_epoch=-1) == (2, 2 * 3 * 15)


def test_max_steps_stands_above_epochs(setting: Setting) -> None:
    """32 samples of 16 tokens in batches of 8: 7 steps are an epoch of 4, and 3 more."""
    flags = {"num_train_samples": 32, "max_batches_per_epoch": -1, "max_steps": 7}
    for epochs in (1, 5):
        assert steps_and_tokens(setting, epochs=epochs, **flags) == (7, 7 * 8 * 15)
    rows = read_rows(setting.runs / "it", "train")
    assert [row["epoch"] for row in rows] == [1] * 4 + [2] * 3
    assert rows[-1]["learning_rate"] < rows[0]["learning_rate"] / 10
    assert steps_and_tokens(setting, **flags | {"max_steps": 2}) == (2, 2 * 8 * 15)


def test_the_last_step_is_evaluated_once(setting: Setting) -> None:
    assert main(setting.flags("it", eval_every=5)) == 0
    assert [row["step"] for row in read_rows(setting.runs / "it", "eval")] == [5, 10, 12]
    assert main(setting.flags("it", "--overwrite", eval_every=1000)) == 0
    assert [row["step"] for row in read_rows(setting.runs / "it", "eval")] == [12]


def test_the_best_is_not_the_last(setting: Setting) -> None:
    """Eight samples learned by heart: the evaluation loss rises again, the summary and the link keep the best."""
    flags = {"num_train_samples": 8, "epochs": 60, "max_batches_per_epoch": -1, "eval_every": 5, "learning_rate": 0.02}
    assert main(setting.flags("it", **flags)) == 0
    run = setting.runs / "it"
    losses = {row["step"]: row["loss"] for row in read_rows(run, "eval")}
    best = min(losses, key=lambda step: losses[step])
    assert best != 60
    summary = read_json(run / "summary.json")
    assert (summary["best_step"], summary["best_eval_loss"]) == (best, losses[best])
    assert summary["final_eval_loss"] == losses[60]
    assert read_json(run / "checkpoints" / "best" / "state.json")["step"] == best
    assert read_json(run / "checkpoints" / "last" / "state.json")["step"] == 60


def test_seeds(setting: Setting) -> None:
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        assert main(setting.flags(name, seed=seed)) == 0
    one, again, two = (curve(setting.runs / name) for name in ("one", "again", "two"))
    assert one == again
    assert [row["loss"] for row in one] != [row["loss"] for row in two]


def test_random_batches_are_other_batches(setting: Setting) -> None:
    for name, words in (("grouped", []), ("random", ["--no_group_by_length"])):
        assert main(setting.flags(name, *words, max_seq_length=60)) == 0
    grouped, random = (read_rows(setting.runs / name, "train") for name in ("grouped", "random"))
    assert [row["tokens"] for row in grouped] != [row["tokens"] for row in random]


@pytest.mark.parametrize(("accident", "status"), [(interrupted, "interrupted"), (killed, None)])
def test_the_status_of_a_run_that_did_not_end(
    accident: Any, status: str | None, setting: Setting, commands: Commands
) -> None:
    commands.run(setting.flags("it"), Accident("gnn_moe.training.loop:Trainer._step", 6, accident))
    summary = setting.runs / "it" / "summary.json"
    assert (read_json(summary)["status"] if summary.exists() else None) == status


def test_a_name_is_made_up(setting: Setting) -> None:
    words = setting.flags("it")
    del words[words.index("--run_name") : words.index("--run_name") + 2]
    assert main(words) == 0
    (run,) = setting.runs.iterdir()
    assert re.fullmatch(r"hgnn-e3-d16-l2-\d{8}-\d{6}-[a-z]{2}", run.name)
    summary = read_json(run / "summary.json")
    assert summary["run_name"] == run.name
    assert read_json(run / "config.json")["output"]["run_name"] == run.name
    names = {with_run_name(RunConfig()).output.run_name for _ in range(50)}
    assert len(names) > 10


def test_runs_go_to_the_folder_runs(setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(setting.flags("it", output_dir=None)) == 0
    assert (tmp_path / "runs" / "it" / "summary.json").exists()


def test_a_run_as_a_function(setting: Setting, uninterrupted: Path) -> None:
    config = run_config_from_dict(read_json(uninterrupted / "config.json"))
    output = dataclasses.replace(config.output, output_dir=str(setting.runs), run_name="it")
    summary = run_training(dataclasses.replace(config, output=output), ["a", "test"])
    assert isinstance(summary, Summary)
    assert dataclasses.asdict(summary) == read_json(setting.runs / "it" / "summary.json")
    assert curve(setting.runs / "it") == curve(uninterrupted)
    with pytest.raises(BadInput, match="exists; say --resume"):
        run_training(dataclasses.replace(config, output=output), [])


def test_overwrite_replaces_a_run(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(setting.flags("it")) == 0
    (setting.runs / "it" / "left over.txt").write_text("of the old run")
    assert main(setting.flags("it", seed=1)) == 2
    assert "say --resume to go on with it or --overwrite to replace it" in capsys.readouterr().err
    assert read_json(setting.runs / "it" / "config.json")["training"]["seed"] == 42
    assert main(setting.flags("it", "--overwrite", seed=1, epochs=1)) == 0
    assert read_json(setting.runs / "it" / "config.json")["training"]["seed"] == 1
    assert len(read_rows(setting.runs / "it", "train")) == 6
    assert not (setting.runs / "it" / "left over.txt").exists()


@pytest.mark.parametrize("words", [[], ["--overwrite"], ["--resume"]])
def test_a_folder_that_is_no_run_is_left_alone(
    words: list[str], setting: Setting, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = setting.runs / "thesis"
    (folder / "chapters").mkdir(parents=True)
    (folder / "chapters" / "one.txt").write_text("all of it")
    assert main(setting.flags("thesis", *words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--run_name" in error
    assert [path.name for path in folder.iterdir()] == ["chapters"]
    assert (folder / "chapters" / "one.txt").read_text() == "all of it"


def test_an_empty_folder_may_be_used(setting: Setting) -> None:
    (setting.runs / "it").mkdir(parents=True)
    assert main(setting.flags("it")) == 0


def test_a_copied_run_still_reads(uninterrupted: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(uninterrupted, tmp_path / "copy", symlinks=True))
    assert (copied / "checkpoints" / "best").is_symlink()
    torch_model(copied)
