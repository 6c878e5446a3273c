"""`gnn-moe inspect`: parameters and FLOPs of every kind of model, as built and by hand."""

from __future__ import annotations

import json
import re

import pytest

from gnn_moe import ModelConfig, build_model
from gnn_moe.cli import main
from tests.test_cli import dry_run, resolved

SIZES = (
    "width",
    "heads",
    "feed_forward_width",
    "total_parameters",
    "active_parameters",
    "embedding_parameters",
    "expert_parameters",
    "coupler_parameters",
    "head_parameters",
    "non_embedding_parameters",
    "forward_flops_per_token",
    "training_flops_per_token",
    "hyperedges",
    *("device_type", "precision", "threads", "micro_batch_size", "peak_memory_bytes"),
)


def inspect(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, int]:
    assert main(["inspect", *words, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    return dict(values)


def test_dry_run_counts_with_the_tokenizers_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--tokenizer", "bpe:1000", "--embed_dim", "64", "--dry_run"]) == 0
    output = capsys.readouterr().out
    assert resolved(output)["model"]["vocab_size"] == 1000
    total = inspect(["--vocab_size", "1000", "--embed_dim", "64"], capsys)["total_parameters"]
    assert f"{total:,}" in output


MODELS = {
    "default": [],
    "pairs": ["--coupler_type", "HGNN", "--num_experts", "3"],
    "triplets, fixed": [
        *("--coupler_type", "HGNN", "--static_hyperedge_strategy", "all_triplets", "--num_experts", "5"),
        "--no_hgnn_learnable_edge_weights",
    ],
    "gates": ["--coupler_type", "HGNN", "--hgnn_content_gates", "--num_experts", "3"],
    "legacy": ["--coupler_type", "HGNN", "--hgnn_conv_type", "HypergraphConv"],
    "sinkhorn": ["--coupler_type", "sinkhorn", "--num_experts", "3"],
    "attention": ["--coupler_type", "attention", "--num_experts", "2"],
    "mean": ["--coupler_type", "mean", "--num_experts", "1"],
    "dense": ["--architecture", "dense", "--match", "flops"],
    "top_k": ["--architecture", "top_k", "--router_top_k", "1"],
}
HYPEREDGES = {
    "default": 0,
    "pairs": 3,
    "triplets, fixed": 10,
    "gates": 3,
    "legacy": 6,
    "sinkhorn": 0,
    "attention": 0,
    "mean": 0,
    "dense": 0,
    "top_k": 0,
}


@pytest.mark.parametrize("name", MODELS)
def test_inspect_counts_what_is_built(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*MODELS[name], "--embed_dim", "64", "--num_layers", "2", "--gnn_layers", "3", "--vocab_size", "400"]
    values = inspect(words, capsys)
    assert tuple(values) == SIZES
    assert all(type(value) is (str if name in ("device_type", "precision") else int) for name, value in values.items())
    config = dry_run(words[:-2], capsys)["model"]
    model = build_model(ModelConfig(**{**config, "vocab_size": 400}))
    counts = dict.fromkeys(("embedding", "expert", "coupler", "head"), 0)
    for parameter, tensor in model.named_parameters():
        parts = {"embedding": "embedding", "coupler|readout": "coupler", "layers": "expert", "": "head"}
        counts[next(part for pattern, part in parts.items() if re.search(pattern, parameter))] += tensor.numel()
    assert {f"{part}_parameters": count for part, count in counts.items()} == {key: values[key] for key in SIZES[5:9]}
    assert values["total_parameters"] == sum(counts.values())
    assert values["non_embedding_parameters"] == sum(counts.values()) - counts["embedding"]
    assert values["training_flops_per_token"] == 3 * values["forward_flops_per_token"]
    assert values["hyperedges"] == HYPEREDGES[name]


def test_inspect_counts_flops_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """E 2, D 64, T 128, V 1000, one layer, one GNN layer: 2 a multiply-add."""
    words = ["--num_experts", "2", "--embed_dim", "64", "--num_layers", "1", "--gnn_layers", "1"]
    values = inspect([*words, "--vocab_size", "1000"], capsys)
    expert = 2 * (3 * 64 * 64 + 64 * 64 + 2 * 4 * 64 * 64) + 2 * 2 * 128 * 64
    coupler = 2 * (2 * 2 * 64 + 2 * 2 * 64 + 2 * 2 * 64 * 64)
    readout, head = 2 * 64 * 64, 2 * 64 * 1000
    assert values["forward_flops_per_token"] == 2 * expert + coupler + readout + head


def test_inspect_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--embed_dim", "384"]) == 0
    table = capsys.readouterr().out
    for name in SIZES:
        assert name.replace("_", " ") in table
    assert f"{inspect(['--embed_dim', '384'], capsys)['total_parameters']:,}" in table


@pytest.mark.parametrize(
    ("experts", "width", "millions"), [(2, 384, 55.9), (4, 384, 70.1), (8, 384, 98.4), (4, 256, 39.8), (4, 512, 107.3)]
)
def test_the_totals_of_the_seeds_tables(
    experts: int, width: int, millions: float, capsys: pytest.CaptureFixture[str]
) -> None:
    values = inspect(["--num_experts", str(experts), "--embed_dim", str(width)], capsys)
    assert round(values["total_parameters"] / 1e6, 1) == millions
