"""Parameters and FLOPs from the config alone: the totals of the seed's tables, and the built module's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gnn_moe.config import ModelConfig
from gnn_moe.hypergraph import build_hyperedges
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.size import model_size
from tests.model.cases import controls, each, every_config


@pytest.mark.parametrize(
    ("experts", "width", "millions"),
    [(2, 384, 55.9), (4, 384, 70.1), (8, 384, 98.4), (4, 256, 39.8), (4, 512, 107.3)],
)
def test_totals_of_the_seeds_tables(experts: int, width: int, millions: float) -> None:
    config = ModelConfig(num_experts=experts, embed_dim=width, num_layers=4, gnn_layers=2, max_seq_length=128)
    size = model_size(config)
    assert round(size.total_parameters / 1e6, 1) == millions
    with torch.device("meta"):
        built = LanguageModel(config)
    assert sum(parameter.numel() for parameter in built.parameters()) == size.total_parameters


def counted(model: LanguageModel) -> dict[str, int]:
    groups = dict.fromkeys(["embedding", "expert", "coupler", "head"], 0)
    for name, parameter in model.named_parameters():
        if name.endswith("embedding"):
            group = "embedding"
        elif ".coupler." in name or ".readout." in name:
            group = "coupler"
        else:
            group = "expert" if name.startswith("layers.") else "head"
        groups[group] += parameter.numel()
    return groups


@each([*every_config(), *controls()])
def test_every_group_is_the_built_modules(config: ModelConfig) -> None:
    with torch.device("meta"):
        groups = counted(LanguageModel(config))
    size = model_size(config)
    assert groups["embedding"] == size.embedding_parameters
    assert groups["expert"] == size.expert_parameters
    assert groups["coupler"] == size.coupler_parameters
    assert groups["head"] == size.head_parameters
    assert sum(groups.values()) == size.total_parameters
    assert size.non_embedding_parameters == size.total_parameters - size.embedding_parameters
    assert size.hyperedges == (len(build_hyperedges(config)) if config.architecture == "coupled" else 0)


def flops_of_grouped_product(rows: list[int], weight: list[int], *rest: object, **named: object) -> int:
    """(S, D) × E of (D, O): every row once. torch 2.13 has no count of its own."""
    return 2 * rows[0] * weight[1] * weight[2]


def flops(config: ModelConfig, rows: int) -> int:
    # On no device: the fused forms of a CPU hide their products, the plain ones show them.
    with torch.device("meta"):
        model, ids_BT = LanguageModel(config), torch.empty(rows, config.max_seq_length, dtype=torch.int64)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: flops_of_grouped_product})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        model.logits(model.eval().hidden_states(ids_BT, torch.bfloat16))
    return int(counter.get_total_flops())


@each([*every_config([1, 3, 4]), *controls()[:2], *controls(embed_dim=64)[2:]])
def test_flops_are_those_of_the_products(config: ModelConfig) -> None:
    """One row more costs T tokens; what does not depend on the tokens (folded norms, P) drops out."""
    size = model_size(config)
    assert flops(config, 3) - flops(config, 2) == size.forward_flops_per_token * config.max_seq_length
    assert size.training_flops_per_token == 3 * size.forward_flops_per_token


def test_size_is_known_without_torch() -> None:
    code = """
import sys
from gnn_moe.config import ModelConfig
from gnn_moe.model.size import model_size
assert model_size(ModelConfig(coupler_type="HGNN", num_experts=100)).hyperedges == 4950
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
