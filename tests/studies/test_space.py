"""`--vary`: values of each field's own type, ranges, and every way of getting it wrong."""

from __future__ import annotations

from typing import Any

import pytest

from gnn_moe.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from gnn_moe.errors import BadInput
from gnn_moe.studies.space import (
    GROUPS,
    Range,
    Values,
    fields,
    parse_variation,
    parse_variations,
    values_of,
    with_values,
    words_of,
)

VALUES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "whole numbers": ("num_experts=2,4,8,16", (2, 4, 8, 16)),
    "numbers": ("learning_rate=1e-3,5e-4,0.1", (0.001, 0.0005, 0.1)),
    "whole numbers of a field of numbers": ("weight_decay=0,1", (0.0, 1.0)),
    "words": ("coupler_type=GNN,HGNN,mean", ("GNN", "HGNN", "mean")),
    "words of a Literal": ("data_format=packed,lines", ("packed", "lines")),
    "architectures": ("architecture=coupled,dense,top_k", ("coupled", "dense", "top_k")),
    "free texts": ("tokenizer=gpt2,bpe:300", ("gpt2", "bpe:300")),
    "a folder with dots": ("dataset_name=../a,b", ("../a", "b")),
    "truth values": ("hgnn_learnable_edge_weights=true,False", (True, False)),
    "a number or none": ("num_heads=None,4", (None, 4)),
    "a number or a word": ("micro_batch_size=auto,8", ("auto", 8)),
    "all": ("num_train_samples=-1,100", (-1, 100)),
    "one": ("num_layers=6", (6,)),
    "invalid, which is found point by point": ("num_experts=0,-2", (0, -2)),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_have_the_type_of_their_field(name: str) -> None:
    text, expected = VALUES[name]
    found = parse_variation(text)
    assert isinstance(found, Values)
    assert found.values == expected
    assert [type(value) for value in found.values] == [type(value) for value in expected]
    assert parse_variation(str(found)) == found


@pytest.mark.parametrize(
    ("text", "low", "high", "log", "whole"),
    [
        ("learning_rate=1e-5..1e-2:log", 1e-5, 1e-2, True, False),
        ("dropout_rate=0..0.5", 0.0, 0.5, False, False),
        ("num_experts=2..16:log", 2, 16, True, True),
        ("num_layers=4..8", 4, 8, False, True),
        ("warmup_steps=0..100", 0, 100, False, True),
    ],
)
def test_ranges(text: str, low: float, high: float, log: bool, whole: bool) -> None:
    found = parse_variation(text)
    assert found == Range(field=text.split("=", maxsplit=1)[0], low=low, high=high, log=log, whole=whole)
    assert parse_variation(str(found)) == found
    assert isinstance(found, Range)
    assert found.holds(low)
    assert found.holds(high)
    assert not found.holds(high + 1)
    assert not found.holds(None)


REFUSED = {
    "unknown field": ("num_expert=2", ["--vary 'num_expert'", "did you mean num_experts?", "learning_rate"]),
    "unknown word": ("coupler_type=GMN", ["--vary coupler_type 'GMN'", "did you mean GNN?"]),
    "unknown architecture": ("architecture=dence", ["--vary architecture 'dence'", "did you mean dense?", "top_k"]),
    "unknown word of a Literal": ("data_format=line", ["'line'", "did you mean lines?"]),
    "no number": ("num_experts=2,two", ["--vary num_experts=two", "'two' is not a whole number"]),
    "no whole number": ("num_experts=2.5", ["'2.5' is not a whole number"]),
    "no truth value": ("compile=maybe", ["'maybe' is not true or false"]),
    "no values": ("num_experts=", ["has no values"]),
    "no equals sign": ("num_experts", ["has no values"]),
    "an empty value": ("num_experts=2,,4", ["num_experts has an empty value"]),
    "a value twice": ("num_experts=2,4,2", ["2 stands twice"]),
    "a value twice in two spellings": ("learning_rate=1e-3,0.001", ["0.001 stands twice"]),
    "reversed": ("learning_rate=1e-2..1e-5", ["the range is reversed", "1e-05..0.01"]),
    "empty": ("num_experts=4..4", ["the range is empty"]),
    "log of 0": ("warmup_steps=0..10:log", ["a log scale has no 0"]),
    "half a range": ("learning_rate=1e-5..", ["a range is LOW..HIGH"]),
    "three ends": ("num_experts=2..4..8", ["a range is LOW..HIGH"]),
    "an infinite end": ("learning_rate=1e-5..inf", ["a range is LOW..HIGH"]),
    "a fraction in whole numbers": ("num_experts=2..4.5", ["two whole numbers"]),
    "not a number": ("learning_rate=nan,1e-3", ["learning_rate=nan: must be a finite number"]),
    "infinite": ("learning_rate=1e-3,inf", ["learning_rate=inf: must be a finite number"]),
    "too large": ("dropout_rate=1e31", ["of at most 1e+30"]),
    "too large a whole number": ("num_experts=99999999999999999999,3", ["must be a finite number of at most"]),
    "seed": ("seed=1,2", ["--seeds 1,2,3"]),
    "vocabulary": ("vocab_size=300", ["it follows from --tokenizer"]),
    "hyperedges": ("hyperedges=a.json", ["a sweep a file"]),
    "output": ("run_name=a,b", ["--vary 'run_name' is not known"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_names_the_field_the_value_and_the_way_out(name: str) -> None:
    text, named = REFUSED[name]
    with pytest.raises(BadInput) as error:
        parse_variations([text])
    assert "\n" not in str(error.value)
    for part in named:
        assert part in str(error.value)


def refusal(name: str) -> str:
    """What the config says of a word in a field; empty where it takes it."""
    group = next(group for group in GROUPS.values() if name in group.__dataclass_fields__)
    try:
        group(**{name: "no such word"})
    except BadInput as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", sorted(fields()))
def test_a_word_that_no_config_takes_is_refused_before_any_point_runs(name: str) -> None:
    assert (words_of(name) is not None) or "use one of" not in refusal(name)


def test_a_field_is_varied_once() -> None:
    with pytest.raises(BadInput, match="num_experts is varied twice"):
        parse_variations(["num_experts=2", "embed_dim=16", "num_experts=4"])


def test_the_groups_share_no_field() -> None:
    names = [f for group in (ModelConfig, DataConfig, TrainingConfig) for f in group.__dataclass_fields__]
    assert sorted(names) == sorted(fields())


def test_values_go_back_into_their_groups() -> None:
    config = with_values(RunConfig(), {"num_experts": 3, "tokenizer": "bpe:300", "epochs": 2})
    assert (config.model.num_experts, config.data.tokenizer, config.training.epochs) == (3, "bpe:300", 2)
    assert with_values(RunConfig(), values_of(config)) == config
