"""Initial values: the statistics of DESIGN §1, by name, and the same tensor in every model that shares it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import find_coupler
from gnn_moe.model.couplers import HypergraphCoupler
from gnn_moe.model.language_model import build_model
from gnn_moe.model.sinkhorn import SinkhornCoupler
from gnn_moe.model.size import model_size
from tests.model.cases import config_of, controls, each, one_of_each, random_ids

D = 64
NORMAL_002 = {
    "token_embedding",
    "position_embedding",
    "head_weight",
    "output_weight",
    "up_weight",
    "down_weight",
    "combine_weight",
    "receiver_weight",
    "sender_weight",
    "neighbour_weight",
    "self_weight",
    "theta_weight",
    "query_weight",
    "key_weight",
    "value_weight",
    "router_weight",
}
NORMAL_1 = {"adjacency_logits", "raw_hyperedge_weights"}
UNIFORM = {"qkv_weight": math.sqrt(6 / (D + 3 * D)), "convolution_weight": math.sqrt(6 / (D + D))}


def check_statistics(values: Tensor, deviation: float, *, normal: bool) -> None:
    """Mean, deviation and shape to five standard errors."""
    count = values.numel()
    assert abs(values.mean().item()) <= 5 * deviation / math.sqrt(count)
    assert abs(values.std().item() / deviation - 1) <= 5 / math.sqrt(2 * count)
    fourth = (values / deviation).pow(4).mean().item()
    assert abs(fourth - (3 if normal else 1.8)) <= 5 * math.sqrt((96 if normal else 2) / count)


def pooled(model: nn.Module) -> dict[str, Tensor]:
    """All values of one kind, over layers and experts."""
    kinds: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        kinds.setdefault(name.rsplit(".", 1)[-1], []).append(parameter.detach().flatten())
    return {kind: torch.cat(values) for kind, values in kinds.items()}


@each([*one_of_each(8, embed_dim=D, vocab_size=101), *controls(8, embed_dim=D, vocab_size=101)])
def test_statistics(config: ModelConfig) -> None:
    for kind, values in pooled(build_model(config)).items():
        if kind in NORMAL_002:
            check_statistics(values, 0.02, normal=True)
        elif kind in NORMAL_1:
            check_statistics(values, 1.0, normal=True)
        elif kind in UNIFORM:
            bound = UNIFORM[kind] * math.sqrt(D / model_size(config).width)
            assert 0.98 * bound < values.abs().max().item() <= bound
            check_statistics(values, bound / math.sqrt(3), normal=False)
        elif kind == "content_gate_weight":
            assert not values.any()
        elif kind == "mixing_logits":
            expected = math.log(9) * torch.eye(8).repeat(4, 1, 1)
            torch.testing.assert_close(values.view(4, 8, 8), expected)
        elif kind == "hyperedge_logits":
            torch.testing.assert_close(nn.functional.softplus(values), torch.ones_like(values))
        else:
            assert kind.endswith(("_gain", "_bias")), f"{kind} has no rule"
            assert (values == (1.0 if kind.endswith("_gain") else 0.0)).all()


def test_no_two_tensors_or_experts_start_equal() -> None:
    model = build_model(one_of_each(4)[0])
    drawn = [
        part.flatten()[:8]
        for name, parameter in model.named_parameters()
        if name.endswith(("weight", "logits", "embedding"))
        for part in (parameter if ".experts." in name else parameter[None])
    ]
    for number, values in enumerate(drawn):
        for other in drawn[:number]:
            assert len(values) != len(other) or not torch.equal(values, other)


def shared(first: ModelConfig, second: ModelConfig, *, seeds: tuple[int, int] = (42, 42)) -> dict[str, bool]:
    """Each tensor that two models share (of a stack, the experts that both have): whether it starts the same."""
    one = dict(build_model(first, seed=seeds[0]).named_parameters())
    two = dict(build_model(second, seed=seeds[1]).named_parameters())
    found = {}
    for name in one.keys() & two.keys():
        a: Tensor = one[name]
        b: Tensor = two[name]
        if ".experts." in name:
            a, b = a[: min(len(a), len(b))], b[: min(len(a), len(b))]
        if a.shape == b.shape:
            found[name] = torch.equal(a, b)
    return found


def test_more_experts_start_like_fewer() -> None:
    row = find_coupler("GNN", "hgnn")
    same = shared(config_of(row, 2), config_of(row, 8))
    assert all(same.values())
    assert sum(".experts." in name for name in same) == 24
    assert not any(name.endswith("adjacency_logits") for name in same)
    assert "layers.1.coupler.layers.1.neighbour_weight" in same


@each(one_of_each(3))
def test_models_with_other_couplers_start_alike(config: ModelConfig) -> None:
    same = shared(config, one_of_each(3)[0])
    assert all(same.values())
    assert {"token_embedding", "head_weight", "layers.1.readout.combine_weight"} <= same.keys()
    deeper = shared(config, config_of(config.coupler, 3, num_layers=3, gnn_layers=3, dropout_rate=0.5))
    assert all(deeper.values())


@each(one_of_each(3))
def test_another_seed_starts_elsewhere(config: ModelConfig) -> None:
    assert all(shared(config, config).values())
    constant = ("_gain", "_bias", "hyperedge_logits", "mixing_logits", "content_gate_weight")
    moved = {name: same for name, same in shared(config, config, seeds=(42, 43)).items() if not name.endswith(constant)}
    assert moved
    assert not any(moved.values())


def test_building_does_not_touch_the_generator_of_torch() -> None:
    state = torch.get_rng_state()
    build_model(one_of_each(3)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("experts", [2, 3, 8])
def test_sinkhorn_starts_as_a_hypergraph_of_all_pairs(experts: int) -> None:
    sinkhorn, hypergraph = (
        build_model(config_of(find_coupler(name, "hgnn"), experts)).eval() for name in ("sinkhorn", "HGNN")
    )
    mixed, propagated = (model.layers[1].get_submodule("coupler") for model in (sinkhorn, hypergraph))
    assert isinstance(mixed, SinkhornCoupler)
    assert isinstance(propagated, HypergraphCoupler)
    torch.testing.assert_close(mixed.mixing(), propagated.propagation().expand(2, experts, experts))
    ids_BT = random_ids(sinkhorn.config)
    torch.testing.assert_close(sinkhorn(ids_BT).logits, hypergraph(ids_BT).logits)


@pytest.mark.parametrize("strategy", ["all_pairs", "all_triplets", "all", "custom"])
def test_a_hypergraph_starts_with_weights_of_one_and_rows_that_sum_to_one(strategy: str) -> None:
    config = config_of(find_coupler("HGNN", "hgnn"), 4, strategy)
    coupler = build_model(config).layers[0].get_submodule("coupler")
    assert isinstance(coupler, HypergraphCoupler)
    weights_M = coupler.hyperedge_weights()
    torch.testing.assert_close(weights_M, torch.ones_like(weights_M))
    torch.testing.assert_close(coupler.propagation().sum(dim=1), torch.ones(4))
