"""The settings: every bad value is refused with its flag and its value, and a tree survives JSON."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from gnn_moe.config import (
    DataConfig,
    ModelConfig,
    OutputConfig,
    RunConfig,
    Sampling,
    TrainingConfig,
    changed_fields,
    model_config_from_dict,
    run_config_from_dict,
    to_dict,
)
from gnn_moe.errors import BadInput
from tests.model.cases import each, every_config

NAN, INFINITE = float("nan"), float("inf")

SIZES = [
    "router_top_k",
    "vocab_size",
    "num_experts",
    "embed_dim",
    "num_layers",
    "gnn_layers",
    "max_seq_length",
    "num_heads",
]
POSITIVE = ["epochs", "eval_every", "batch_size", "micro_batch_size", "learning_rate", "gradient_clip"]

BAD: list[tuple[type, str, Any]] = [
    *[(ModelConfig, name, value) for name in SIZES for value in (0, -1, -7)],
    *[
        (ModelConfig, name, value)
        for name in ("load_balancing_weight", "router_z_weight")
        for value in (-0.1, NAN, INFINITE)
    ],
    *[(ModelConfig, "dropout_rate", value) for value in (-0.1, 1.0, 1.5, NAN, INFINITE)],
    *[(TrainingConfig, name, value) for name in POSITIVE for value in (0, -1)],
    *[(TrainingConfig, name, value) for name in ("learning_rate", "gradient_clip") for value in (NAN, INFINITE)],
    *[(TrainingConfig, "weight_decay", value) for value in (-0.01, NAN, INFINITE)],
    *[(TrainingConfig, "warmup_steps", value) for value in (-1, -100)],
    *[(TrainingConfig, "max_batches_per_epoch", value) for value in (0, -2)],
    *[(TrainingConfig, "seed", value) for value in (-1, 2**63)],
    *[(DataConfig, name, value) for name in ("num_train_samples", "num_eval_samples") for value in (0, -2)],
    *[(OutputConfig, "save_every", value) for value in (0, -5)],
    *[(OutputConfig, "run_name", value) for value in ("", ".", "..", "../x", "/etc", "a/b", "a\\b", "a\0b")],
    *[(Sampling, "temperature", value) for value in (-1.0, NAN, INFINITE)],
    *[(Sampling, "top_k", value) for value in (0, -1)],
    *[(Sampling, "top_p", value) for value in (0.0, -0.5, 1.5, NAN)],
    *[(Sampling, "seed", value) for value in (-1, 2**63)],
]


@pytest.mark.parametrize(("group", "name", "value"), BAD)
def test_a_bad_value_is_refused_by_flag_and_value(group: type, name: str, value: Any) -> None:
    with pytest.raises(BadInput) as caught:
        group(**{name: value})
    shown = repr(value) if isinstance(value, str) else str(value)
    assert str(caught.value).startswith(f"--{name} {shown} ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("name", "value", "known", "nearest"),
    [
        ("coupler_type", "gnn", ["GNN", "HGNN", "sinkhorn", "attention", "mean"], "GNN"),
        ("coupler_type", "HGN", ["GNN", "HGNN", "sinkhorn", "attention", "mean"], "HGNN"),
        ("coupler_type", "attenton", ["GNN", "HGNN", "sinkhorn", "attention", "mean"], "attention"),
        ("architecture", "Dense", ["coupled", "dense", "top_k"], "dense"),
        ("hgnn_conv_type", "hypergraphconv", ["hgnn", "HypergraphConv"], "HypergraphConv"),
        ("static_hyperedge_strategy", "all_pair", ["all_pairs", "all_triplets", "all", "custom"], "all_pairs"),
        ("static_hyperedge_strategy", "zzz", ["all_pairs", "all_triplets", "all", "custom"], None),
    ],
)
def test_an_unknown_name_lists_the_known_ones(name: str, value: str, known: list[str], nearest: str | None) -> None:
    with pytest.raises(BadInput) as caught:
        ModelConfig(**{name: value})  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith(f"--{name} {value!r} is not known")
    assert message.endswith(f"use one of {', '.join(known)}")
    assert (f"did you mean {nearest}?" in message) == (nearest is not None)


def test_all_triplets_needs_three_experts() -> None:
    with pytest.raises(
        BadInput, match="--static_hyperedge_strategy all_triplets has no hyperedge with --num_experts 2"
    ):
        ModelConfig(coupler_type="HGNN", static_hyperedge_strategy="all_triplets", num_experts=2)
    # A coupler without hyperedges does not read the strategy.
    ModelConfig(coupler_type="GNN", static_hyperedge_strategy="all_triplets", num_experts=2)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (((0, 4),), "names expert 4; --num_experts 4 has experts 0 to 3"),
        (((0, 1, 0),), "repeats an expert"),
        (((),), "is empty"),
        (None, "needs --hyperedges FILE"),
    ],
)
def test_custom_hyperedges_are_checked(edges: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ModelConfig(coupler_type="HGNN", static_hyperedge_strategy="custom", hyperedges=edges)


def test_width_and_heads() -> None:
    with pytest.raises(BadInput, match="--embed_dim 256 is not divisible by --num_heads 3: use one of 1, 2, 4, 8, 16"):
        ModelConfig(embed_dim=256, num_heads=3)
    with pytest.raises(BadInput, match="--embed_dim 100 is not divisible by --num_heads 8"):
        ModelConfig(embed_dim=100)
    # A = D/64 where 64 divides D, else 8.
    widths = {64: 1, 256: 4, 384: 6, 512: 8, 96: 8, 8: 8, 320: 5}
    assert {width: ModelConfig(embed_dim=width).heads for width in widths} == widths
    assert ModelConfig(embed_dim=256, num_heads=16).heads == 16


def test_values_at_the_edge_are_fine() -> None:
    # Built is checked: none of these raises.
    ModelConfig(dropout_rate=0.0, num_experts=1, num_layers=1, gnn_layers=1, max_seq_length=1)
    TrainingConfig(weight_decay=0.0, warmup_steps=0, max_batches_per_epoch=-1, micro_batch_size=1, seed=0)
    TrainingConfig(seed=2**63 - 1, max_batches_per_epoch=1)
    DataConfig(num_train_samples=-1, num_eval_samples=1)
    OutputConfig(run_name="a name.with-dots_", save_every=1)
    Sampling(temperature=0.0, top_k=None, top_p=1.0)


@pytest.mark.parametrize("name", ["dataset_name", "text_column", "tokenizer"])
def test_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=f"--{name} is empty: leave it out for the default"):
        DataConfig(**{name: ""})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config_class", "values"),
    [
        (TrainingConfig, {"precision": "fp16"}),
        (TrainingConfig, {"device": None}),
        (TrainingConfig, {"group_by_length": "false"}),
        (DataConfig, {"data_format": "pack"}),
        (DataConfig, {"tokenizer": 5}),
        (DataConfig, {"dataset_config_name": 5}),
        (ModelConfig, {"coupler_type": None}),
        (ModelConfig, {"static_hyperedge_strategy": 3}),
        (ModelConfig, {"hgnn_learnable_edge_weights": "no"}),
        (ModelConfig, {"coupler_type": "HGNN", "static_hyperedge_strategy": "custom", "hyperedges": "ab"}),
        (ModelConfig, {"coupler_type": "HGNN", "static_hyperedge_strategy": "custom", "hyperedges": ((0.5, 1),)}),
        (ModelConfig, {"coupler_type": "GNN", "hyperedges": ((0, 1),)}),
        (ModelConfig, {"coupler_type": "HGNN", "hgnn_content_gates": 1}),
        (ModelConfig, {"coupler_type": "GNN", "hgnn_content_gates": True}),
        (ModelConfig, {"architecture": None}),
        (ModelConfig, {"architecture": "dense", "match": "size"}),
        (ModelConfig, {"match": "flops"}),
        (OutputConfig, {"run_name": 5}),
    ],
)
def test_values_of_another_kind_are_bad_input(config_class: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"--{list(values)[-1]}"):
        config_class(**values)


def test_hyperedges_are_kept_as_tuples() -> None:
    lists: Any = [[0, 1], [1, 2]]
    config = ModelConfig(coupler_type="HGNN", static_hyperedge_strategy="custom", hyperedges=lists)
    assert config.hyperedges == ((0, 1), (1, 2))
    assert hash(config)


def test_a_control_names_the_model_that_it_is_matched_to() -> None:
    coupled = ModelConfig(coupler_type="HGNN", num_experts=3, hgnn_content_gates=True)
    dense = dataclasses.replace(coupled, architecture="dense", match="flops")
    assert dense.matched == coupled == coupled.matched
    with pytest.raises(BadInput, match="--match flops is for --architecture dense, not coupled: drop one of them"):
        dataclasses.replace(dense, architecture="coupled")
    sparse = dataclasses.replace(coupled, architecture="top_k", router_top_k=3, router_z_weight=0.0)
    assert sparse.matched == coupled
    with pytest.raises(BadInput, match="--router_top_k 3 is for --architecture top_k, not dense: drop one of them"):
        dataclasses.replace(sparse, architecture="dense")
    with pytest.raises(BadInput, match="--router_top_k 4 is more than --num_experts 3: use at most 3"):
        dataclasses.replace(sparse, router_top_k=4)


def test_resume_needs_a_name() -> None:
    with pytest.raises(BadInput, match="--resume needs --run_name"):
        OutputConfig(resume=True)


def test_resume_and_overwrite_exclude_each_other() -> None:
    with pytest.raises(BadInput, match="--resume and --overwrite"):
        OutputConfig(resume=True, overwrite=True)


def test_defaults_are_those_of_the_issue() -> None:
    config = to_dict(RunConfig())
    expected: dict[str, dict[str, Any]] = {
        "model": {
            "coupler_type": "GNN",
            "static_hyperedge_strategy": "all_pairs",
            "hgnn_learnable_edge_weights": True,
            "hgnn_conv_type": "hgnn",
            "num_experts": 4,
            "embed_dim": 256,
            "num_layers": 4,
            "gnn_layers": 2,
            "dropout_rate": 0.1,
            "max_seq_length": 128,
        },
        "data": {
            "dataset_name": "sotu",
            "data_format": "lines",
            "tokenizer": "gpt2",
            "num_train_samples": -1,
            "num_eval_samples": -1,
        },
        "training": {
            "learning_rate": 5e-4,
            "epochs": 8,
            "max_batches_per_epoch": -1,
            "max_steps": -1,
            "eval_every": 200,
            "batch_size": 32,
            "micro_batch_size": "auto",
            "group_by_length": True,
            "weight_decay": 0.01,
            "warmup_steps": 0,
            "gradient_clip": 1.0,
            "seed": 42,
            "precision": "auto",
            "device": "auto",
        },
        "output": {"output_dir": "runs", "run_name": None, "resume": False, "overwrite": False},
    }
    for group, values in expected.items():
        assert {name: config[group][name] for name in values} == values


def test_nobody_changes_a_config() -> None:
    config = ModelConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.num_experts = 8  # type: ignore[misc]
    assert hash(config) == hash(ModelConfig())
    with pytest.raises(TypeError):
        ModelConfig(8)  # type: ignore[call-arg]


@each(every_config([3]))
def test_a_tree_survives_json(config: ModelConfig) -> None:
    tree = RunConfig(
        model=config,
        data=DataConfig(dataset_name="wikitext", num_train_samples=5),
        training=TrainingConfig(learning_rate=1e-3, micro_batch_size=2),
        output=OutputConfig(run_name="x", save_every=3),
    )
    values = json.loads(json.dumps(to_dict(tree)))
    assert run_config_from_dict(values) == tree
    assert model_config_from_dict(values["model"]) == config


def test_what_is_left_out_has_its_default() -> None:
    assert run_config_from_dict({}) == RunConfig()
    assert run_config_from_dict({"model": {"num_experts": 2}}).model == ModelConfig(num_experts=2)


@pytest.mark.parametrize("group", ["model", "data", "training", "output"])
def test_an_unknown_field_is_named(group: str) -> None:
    with pytest.raises(BadInput, match="config field 'no_such_field' is not known"):
        run_config_from_dict({group: {"no_such_field": 1}})


def test_an_unknown_group_and_a_bad_value_are_named() -> None:
    with pytest.raises(BadInput, match="unknown group 'modle'; the groups are model, data, training, output"):
        run_config_from_dict({"modle": {}})
    with pytest.raises(BadInput, match="--num_experts 0"):
        run_config_from_dict({"model": {"num_experts": 0}})
    with pytest.raises(BadInput, match="did you mean num_experts"):
        run_config_from_dict({"model": {"num_expert": 2}})


def test_changed_fields() -> None:
    assert changed_fields(ModelConfig(), ModelConfig()) == []
    assert changed_fields(ModelConfig(), ModelConfig(num_experts=2, dropout_rate=0.0)) == [
        ("num_experts", 4, 2),
        ("dropout_rate", 0.1, 0.0),
    ]


def test_config_brings_no_torch() -> None:
    code = "import sys, gnn_moe, gnn_moe.config, gnn_moe.hypergraph; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
