"""The command line: its flags and defaults, the seed's commands, help without torch, dry_run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gnn_moe import __version__
from gnn_moe.cli import VERBS, main
from tests.small_runs import ROOT

FLAGS = {
    "model": (
        "coupler_type static_hyperedge_strategy hgnn_learnable_edge_weights no_hgnn_learnable_edge_weights num_experts "
        "embed_dim num_layers gnn_layers num_heads dropout_rate hgnn_conv_type hyperedges max_seq_length "
        "hgnn_content_gates no_hgnn_content_gates architecture match router_top_k "
        "load_balancing_weight router_z_weight"
    ),
    "data": "num_train_samples num_eval_samples dataset_name dataset_config_name text_column data_format tokenizer",
    "training": (
        "learning_rate epochs max_batches_per_epoch max_steps eval_every batch_size micro_batch_size weight_decay "
        "warmup_steps gradient_clip group_by_length no_group_by_length seed precision device compile "
        "activation_checkpointing no_activation_checkpointing"
    ),
    "output": "run_name output_dir save_every resume overwrite quiet dry_run cache_dir",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "model": {
        "coupler_type": "GNN",
        "static_hyperedge_strategy": "all_pairs",
        "hgnn_learnable_edge_weights": True,
        "hgnn_conv_type": "hgnn",
        "num_experts": 4,
        "embed_dim": 256,
        "num_layers": 4,
        "gnn_layers": 2,
        "num_heads": 4,
        "dropout_rate": 0.1,
        "max_seq_length": 128,
        "vocab_size": 50257,
    },
    "data": {
        "dataset_name": "sotu",
        "data_format": "lines",
        "tokenizer": "gpt2",
        "num_train_samples": -1,
        "num_eval_samples": -1,
    },
    "training": {
        "batch_size": 32,
        "micro_batch_size": "auto",
        "learning_rate": 5e-4,
        "weight_decay": 0.01,
        "epochs": 8,
        "max_batches_per_epoch": -1,
        "max_steps": -1,
        "eval_every": 200,
        "warmup_steps": 0,
        "gradient_clip": 1.0,
        "group_by_length": True,
        "seed": 42,
        "precision": "auto",
        "device": "auto",
        "compile": False,
    },
    "output": {"run_name": None, "output_dir": "runs", "resume": False, "overwrite": False, "quiet": False},
}
# The seed's four commands after `cd hgnn_moe_dev &&`, as they are written there.
SEED_COMMANDS = {
    "hgnn_efficiency_optimized": r"""python run_gnn_moe.py \
  --coupler_type HGNN \
  --static_hyperedge_strategy all_pairs \
  --hgnn_learnable_edge_weights \
  --num_experts 2 \
  --embed_dim 384 \
  --num_layers 6 \
  --gnn_layers 3 \
  --learning_rate 0.0005 \
  --epochs 15 \
  --max_batches_per_epoch 30 \
  --eval_every 20 \
  --num_train_samples 3000 \
  --num_eval_samples 750 \
  --run_name hgnn_efficiency_optimized""",
    "hgnn_performance_optimized": r"""python run_gnn_moe.py \
  --coupler_type HGNN \
  --static_hyperedge_strategy all_pairs \
  --hgnn_learnable_edge_weights \
  --num_experts 4 \
  --embed_dim 512 \
  --num_layers 8 \
  --gnn_layers 3 \
  --learning_rate 0.0005 \
  --epochs 12 \
  --max_batches_per_epoch 35 \
  --eval_every 25 \
  --num_train_samples 4000 \
  --num_eval_samples 1000 \
  --run_name hgnn_performance_optimized""",
    "gnn_optimized_baseline": r"""python run_gnn_moe.py \
  --coupler_type GNN \
  --num_experts 2 \
  --embed_dim 512 \
  --num_layers 8 \
  --gnn_layers 3 \
  --learning_rate 0.0005 \
  --epochs 10 \
  --max_batches_per_epoch 30 \
  --eval_every 20 \
  --num_train_samples 3000 \
  --num_eval_samples 750 \
  --run_name gnn_optimized_baseline""",
    "hgnn_optimized_comparison": r"""python run_gnn_moe.py \
  --coupler_type HGNN \
  --static_hyperedge_strategy all_pairs \
  --hgnn_learnable_edge_weights \
  --num_experts 2 \
  --embed_dim 512 \
  --num_layers 8 \
  --gnn_layers 3 \
  --learning_rate 0.0005 \
  --epochs 10 \
  --max_batches_per_epoch 30 \
  --eval_every 20 \
  --num_train_samples 3000 \
  --num_eval_samples 750 \
  --run_name hgnn_optimized_comparison""",
}
# (experts, width, layers, coupler layers, epochs, batches, evaluation, training and evaluation samples)
SEED_VALUES = {
    "hgnn_efficiency_optimized": (2, 384, 6, 3, 15, 30, 20, 3000, 750),
    "hgnn_performance_optimized": (4, 512, 8, 3, 12, 35, 25, 4000, 1000),
    "gnn_optimized_baseline": (2, 512, 8, 3, 10, 30, 20, 3000, 750),
    "hgnn_optimized_comparison": (2, 512, 8, 3, 10, 30, 20, 3000, 750),
}


def resolved(output: str) -> dict[str, Any]:
    """The config that --dry_run prints before its table."""
    values, end = json.JSONDecoder().raw_decode(output)
    assert "total parameters" in output[end:]
    assert isinstance(values, dict)
    return values


def dry_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["train", *words, "--dry_run"]) == 0
    return resolved(capsys.readouterr().out)


def test_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    config = dry_run([], capsys)
    for group, values in DEFAULTS.items():
        assert {name: config[group][name] for name in values} == values


@pytest.mark.parametrize("name", SEED_COMMANDS)
def test_the_seeds_commands(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = SEED_COMMANDS[name].replace("\\\n", " ").split()
    assert words[:2] == ["python", "run_gnn_moe.py"]
    config = dry_run(words[2:], capsys)
    experts, width, layers, coupler_layers, epochs, batches, every, train, valid = SEED_VALUES[name]
    expected: dict[str, dict[str, Any]] = {
        "model": {
            "coupler_type": name.partition("_")[0].upper(),
            "num_experts": experts,
            "embed_dim": width,
            "num_layers": layers,
            "gnn_layers": coupler_layers,
            "num_heads": width // 64,
        },
        "data": {"num_train_samples": train, "num_eval_samples": valid},
        "training": {"epochs": epochs, "max_batches_per_epoch": batches, "eval_every": every, "learning_rate": 5e-4},
        "output": {"run_name": name, "dry_run": True},
    }
    for group, values in DEFAULTS.items():
        wanted = {**values, **expected[group]}
        assert {key: config[group][key] for key in wanted} == wanted


def test_the_seeds_commands_are_copied_right() -> None:
    seed = ROOT.parent / "shared" / "seed.md"
    if not seed.exists():
        pytest.skip("the seed is not beside this checkout")
    pattern = re.compile(r"^!cd hgnn_moe_dev && (python run_gnn_moe\.py.*?)(?=\n```|\n\n)", re.MULTILINE | re.DOTALL)
    found = pattern.findall(seed.read_text(encoding="utf-8"))
    assert sorted(found) == sorted(SEED_COMMANDS.values())


def test_help_lists_every_flag_in_its_group() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "100"}
    words = [sys.executable, "-m", "gnn_moe", "train", "--help"]
    text = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", check=True).stdout
    groups = dict(re.findall(r"─ (\w+) options ─+╮\n(.*?)╰─", text, re.DOTALL))
    assert list(groups) == ["model", "data", "training", "output"]
    for group, names in FLAGS.items():
        found = set(re.findall(r"--([a-z][a-z_-]*)", groups[group]))
        for name in names.split():
            assert name in found, f"--{name} is not in the group {group}"
        assert not [name for name in found if "-" in name]
    assert "vocab_size" not in text


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert left.value.code == 0
    assert f"usage: gnn-moe {verb}" in capsys.readouterr().out


FLAGS_OF_VERBS = {
    "inspect": "json coupler_type num_experts embed_dim num_layers gnn_layers max_seq_length hyperedges",
    "evaluate": "split checkpoint ablate ablate_seed coupling json dataset_name dataset_config_name text_column "
    "data_format tokenizer num_eval_samples num_train_samples",
    "generate": "prompt temperature top_k top_p seed",
    "import": "output",
    "compare": "study arm across budget configurations_tried preset scale seeds storage workers timeout retry "
    "heartbeat dry_run output_dir cache_dir num_experts dataset_name learning_rate",
    "sweep": "study vary preset scale design seeds trials objectives storage workers timeout retry heartbeat dry_run "
    "output_dir cache_dir num_experts dataset_name learning_rate",
}


@pytest.mark.parametrize("verb", FLAGS_OF_VERBS)
def test_the_flags_of_a_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    found = set(re.findall(r"--([a-z][a-z_]*)", capsys.readouterr().out))
    assert set(FLAGS_OF_VERBS[verb].split()) <= found


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    usage = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == usage
    for verb in VERBS:
        assert f"\n  {verb} " in usage
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gnn-moe {__version__}\n"


LIGHT = {
    "usage": [],
    "train --help": ["train", "--help"],
    "evaluate --help": ["evaluate", "--help"],
    "generate --help": ["generate", "--help"],
    "import --help": ["import", "--help"],
    "inspect --json": ["inspect", "--json"],
    "sweep --help": ["sweep", "--help"],
    "sweep status --help": ["sweep", "status", "--help"],
    "compare --help": ["compare", "--help"],
    "train --dry_run": ["train", "--dry_run"],
    "a wrong flag": ["train", "--num_expert", "2"],
    "a wrong value": ["train", "--num_experts", "0"],
}


LOADED_AFTER = """
import json, sys
from gnn_moe.cli import main
HEAVY = ("torch", "datasets", "accelerate", "matplotlib", "optuna", "sqlalchemy", "scipy", "pyarrow")
for name, words in json.loads(sys.argv[1]).items():
    try:
        main(words)
    except SystemExit:
        pass
    loaded = [module for module in HEAVY if module in sys.modules]
    print("loaded:", name, *loaded)
"""


def test_what_computes_nothing_loads_no_torch(tmp_path: Path) -> None:
    """One after the other in one process, where what is loaded stays loaded."""
    words = [sys.executable, "-c", LOADED_AFTER, json.dumps(LIGHT)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    shown = [line for line in done.stdout.splitlines() if line.startswith("loaded: ")]
    assert shown == [f"loaded: {name}" for name in LIGHT]
    assert list(tmp_path.iterdir()) == []


def test_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--run_name", "it", "--cache_dir", str(tmp_path / "cache"), "--dataset_name", "nowhere/at_all"]
    assert main(["train", *words, "--dry_run"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_flags_also_take_their_no_form(capsys: pytest.CaptureFixture[str]) -> None:
    config = dry_run(["--no_hgnn_learnable_edge_weights", "--no_group_by_length"], capsys)
    assert config["model"]["hgnn_learnable_edge_weights"] is False
    assert config["training"]["group_by_length"] is False
    config = dry_run(["--hgnn_learnable_edge_weights", "--max_batches_per_epoch", "-1", "--seed", "7"], capsys)
    assert config["model"]["hgnn_learnable_edge_weights"] is True
    assert config["training"]["max_batches_per_epoch"] == -1


def test_a_crash_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect of ours is not dressed up as bad input."""

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("gnn_moe.model.size.model_size", broken)
    with pytest.raises(ZeroDivisionError):
        main(["inspect", "--json"])
