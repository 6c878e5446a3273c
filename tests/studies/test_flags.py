"""A config → its command → the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnn_moe.config import DataConfig, ModelConfig, OutputConfig, RunConfig, TrainingConfig
from gnn_moe.coupler_types import coupler_type_names
from gnn_moe.parsing import parse_flags
from gnn_moe.studies.flags import train_words, write_hyperedges

SIZES = st.integers(1, 10**6)
COUNTS = SIZES | st.just(-1)
RATES = st.floats(min_value=0, exclude_min=True, allow_infinity=False, allow_nan=False)
# What a command line carries. "None" is how a flag says that there is nothing.
TEXTS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=20).filter(
    lambda text: text != "None"
)
NAMES = TEXTS.filter(lambda text: text not in (".", "..") and not {"/", "\\"} & set(text))


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    heads = draw(st.none() | st.integers(1, 16))
    model: dict[str, Any] = {
        "coupler_type": draw(st.sampled_from(coupler_type_names())),
        "static_hyperedge_strategy": draw(st.sampled_from(["all_pairs", "all"])),
        "hgnn_learnable_edge_weights": draw(st.booleans()),
        "num_experts": draw(st.integers(2, 64)),
        "embed_dim": draw(st.integers(1, 64)) * (heads or 64),
        "num_heads": heads,
        "num_layers": draw(SIZES),
        "gnn_layers": draw(SIZES),
        "max_seq_length": draw(SIZES),
        "dropout_rate": draw(st.floats(0, 1, exclude_max=True)),
    }
    data: dict[str, Any] = {
        "dataset_name": draw(TEXTS),
        "dataset_config_name": draw(st.none() | TEXTS),
        "text_column": draw(TEXTS),
        "data_format": draw(st.sampled_from(["lines", "packed"])),
        "tokenizer": draw(TEXTS),
        "num_train_samples": draw(COUNTS),
        "num_eval_samples": draw(COUNTS),
    }
    training: dict[str, Any] = {
        **{name: draw(RATES) for name in ("learning_rate", "gradient_clip", "weight_decay")},
        **{name: draw(SIZES) for name in ("epochs", "eval_every", "batch_size")},
        **{name: draw(st.booleans()) for name in ("activation_checkpointing", "group_by_length", "compile")},
        "max_batches_per_epoch": draw(COUNTS),
        "micro_batch_size": draw(st.just("auto") | SIZES),
        "warmup_steps": draw(st.integers(0, 10**6)),
        "seed": draw(st.integers(0, 2**63 - 1)),
        "precision": draw(st.sampled_from(["auto", "bf16", "fp32"])),
        "device": draw(st.sampled_from(["auto", "cpu", "cuda:1"])),
    }
    output: dict[str, Any] = {
        "run_name": draw(NAMES),
        "output_dir": draw(TEXTS),
        "save_every": draw(st.none() | SIZES),
        "cache_dir": draw(st.none() | TEXTS),
        "resume": draw(st.booleans()),
        "quiet": draw(st.booleans()),
    }
    return RunConfig(
        model=ModelConfig(**model),
        data=DataConfig(**data),
        training=TrainingConfig(**training),
        output=OutputConfig(**output),
    )


@settings(max_examples=25, deadline=None)
@given(config=configs())
def test_the_words_are_parsed_back(config: RunConfig) -> None:
    assert parse_flags(RunConfig, train_words(config), "gnn-moe train") == config


def test_defaults_are_left_out() -> None:
    assert train_words(RunConfig()) == []
    config = RunConfig(training=TrainingConfig(learning_rate=3e-4, group_by_length=False))
    assert train_words(config) == ["--learning_rate", "0.0003", "--no_group_by_length"]


def test_a_value_that_begins_with_a_dash_is_no_flag() -> None:
    config = RunConfig(data=DataConfig(dataset_name="--resume", tokenizer="-x"), output=OutputConfig(run_name="-"))
    assert parse_flags(RunConfig, train_words(config), "gnn-moe train") == config


def test_custom_hyperedges_travel_in_a_file(tmp_path: Path) -> None:
    model = ModelConfig(
        coupler_type="HGNN", static_hyperedge_strategy="custom", hyperedges=((0, 1), (1, 2, 3)), num_experts=4
    )
    config = RunConfig(model=model)
    write_hyperedges(config, tmp_path / "edges.json")
    words = train_words(config, tmp_path / "edges.json")
    assert parse_flags(RunConfig, words, "gnn-moe train") == config
    with pytest.raises(ValueError, match="no flag but a file"):
        train_words(config)
