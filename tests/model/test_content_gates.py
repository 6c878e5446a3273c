"""HGNN's gates: closed to nothing at the start, a number a token and hyperedge, and what they cost.

Letters: E experts, N tokens, D width, M hyperedges.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from gnn_moe.coupler_types import find_coupler
from gnn_moe.hypergraph import count_hyperedges
from gnn_moe.model.content_gates import ContentGatedCoupler
from gnn_moe.model.couplers import Coupler, build_coupler
from gnn_moe.model.language_model import build_model
from tests.model.cases import LargestTensor, config_of, random_ids, random_model, randomise

GATED = find_coupler("HGNN", "hgnn", True)


def results(experts: int, tokens: int, width: int = 8) -> Tensor:
    return torch.randn(experts, tokens, width, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("strategy", ["all_pairs", "all_triplets", "all", "custom"])
def test_open_gates_are_no_gates(strategy: str) -> None:
    """a = 0 and c = 0 give the HGNN coupler; so fresh models of both compute the same."""
    config = config_of(GATED, 5, strategy)
    plain = dataclasses.replace(config, hgnn_content_gates=False)
    gated, ungated = build_coupler(config), build_coupler(plain)
    randomise(ungated)
    gated.load_state_dict(ungated.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in gated.named_parameters():
            if "content_gate" in name:
                parameter.zero_()
    x_END = results(5, 6)
    torch.testing.assert_close(gated.double()(x_END), ungated.double()(x_END), rtol=1e-13, atol=1e-13)
    ids_BT = random_ids(config)
    fresh = [build_model(each).eval()(ids_BT).logits for each in (config, plain)]
    torch.testing.assert_close(fresh[0], fresh[1], rtol=1e-6, atol=1e-6)


def shut(coupler: Coupler, bias: float) -> None:
    """Gates that look at the first channel alone, a thousand times as steep as it."""
    with torch.no_grad():
        for layer in coupler.get_submodule("layers"):  # type: ignore[attr-defined]
            layer.content_gate_weight.zero_()[0] = 1000.0
            layer.content_gate_bias.fill_(bias)


def test_a_gate_follows_the_mean_of_its_members_in_each_token_alone() -> None:
    """Experts 0 and 1 say yes in token 0, none in token 1; a hyperedge with expert 2 stays shut in both."""
    config = config_of(GATED, 3, gnn_layers=1)
    coupler = build_coupler(config).double()
    assert isinstance(coupler, ContentGatedCoupler)
    randomise(coupler)
    shut(coupler, bias=-500.0)
    x_END = results(3, 2)
    x_END[:, :, 0] = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    moved = x_END.clone()
    moved[1, :, 1:] += 1
    changed_EN = (coupler(moved) - coupler(x_END)).abs().amax(dim=2) > 1e-9
    assert changed_EN.tolist() == [[True, False], [True, True], [False, False]]


def test_nothing_of_hyperedges_times_width_is_formed() -> None:
    """The largest tensor is N×M or N×E², never N×M×D."""
    config = config_of(GATED, 8, "all_triplets", embed_dim=16)
    M, tokens = count_hyperedges(config), 64
    coupler, x_END = build_coupler(config).double(), results(8, tokens, 16).requires_grad_()
    randomise(coupler)
    with LargestTensor() as largest:
        coupler(x_END).sum().backward()
    assert M == 56
    assert largest.numbers == tokens * 8 * 16 > tokens * M


def test_gates_learn_from_the_first_step() -> None:
    config = config_of(GATED, 3, dropout_rate=0.0)
    for model in (build_model(config).double(), random_model(config)):
        model(random_ids(config), labels=random_ids(config)).loss.backward()
        gates = {name: p.grad for name, p in model.named_parameters() if "content_gate" in name}
        assert len(gates) == 8
        assert all(gradient is not None and gradient.any() for gradient in gates.values())
