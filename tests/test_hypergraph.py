"""Hypergraphs: strategies, incidence, and both propagation matrices against their formula in dense matrices.

Letters: E experts, M hyperedges; H (E, M).
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch_geometric.nn
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.errors import BadInput
from gnn_moe.hyperedges import STRATEGIES, Hyperedges, check_hyperedges, read_hyperedges
from gnn_moe.hypergraph import (
    build_hyperedges,
    count_hyperedges,
    hgnn_pairs,
    hgnn_propagation,
    hgnn_token_propagation,
    hypergraph_conv_propagation,
    incidence_matrix,
)
from tests import textbook
from tests.model.cases import custom_hyperedges, each, every_config

HYPERGRAPHS = [c for c in every_config() if c.coupler.uses_hypergraph and not c.hgnn_content_gates]


@each(every_config())
def test_hyperedges_of_a_strategy(config: ModelConfig) -> None:
    if not config.coupler.uses_hypergraph:
        assert build_hyperedges(config) == ()
        assert count_hyperedges(config) == 0
        return
    edges = build_hyperedges(config)
    assert [list(members) for members in edges] == textbook.hyperedges(config)
    E = config.num_experts
    expected = {
        "all_pairs": E * (E - 1) // 2,
        "all_triplets": E * (E - 1) * (E - 2) // 6,
        "all": 1,
        "custom": len(custom_hyperedges(E)),
    }[config.static_hyperedge_strategy]
    assert len(edges) == count_hyperedges(config) == expected > 0


def test_incidence() -> None:
    assert incidence_matrix(((0, 2), (1,)), 4) == [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]


def dense(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """H (E, M) filled member by member, and positive weights (M,) that require a gradient."""
    edges = build_hyperedges(config)
    H = torch.zeros(config.num_experts, len(edges), dtype=torch.float64)
    for m, members in enumerate(edges):
        for e in members:
            H[e, m] = 1
    w = torch.rand(len(edges), dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    return H, w.requires_grad_()


@each(HYPERGRAPHS)
def test_propagation_equals_the_formula_in_matrices(config: ModelConfig) -> None:
    H, w = dense(config)
    W, D_e, eye = torch.diag(w), torch.diag(H.sum(dim=0)), torch.eye(config.num_experts, dtype=torch.float64)
    expected = torch.linalg.inv(torch.diag(1 + H @ w)) @ (eye + H @ W @ torch.linalg.inv(D_e) @ H.T)
    incidence = torch.tensor(incidence_matrix(build_hyperedges(config), config.num_experts), dtype=torch.float64)
    P = hgnn_propagation(incidence, w)
    torch.testing.assert_close(P, expected, rtol=1e-12, atol=1e-12)
    cotangent = torch.randn(P.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(P, w, cotangent)
    (exact,) = torch.autograd.grad(expected, w, cotangent)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(P.sum(dim=1), torch.ones(config.num_experts, dtype=torch.float64), rtol=1e-12, atol=0)
    assert (P >= 0).all()


@each(HYPERGRAPHS)
def test_propagation_of_a_token_is_that_of_its_own_weights(config: ModelConfig) -> None:
    H, w = dense(config)
    weights = torch.stack([w, 3 * w, w.flip(0), torch.zeros_like(w)])
    P = hgnn_token_propagation(hgnn_pairs(H), weights)
    expected = torch.stack([hgnn_propagation(H, token_weights) for token_weights in weights])
    torch.testing.assert_close(P, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(P[-1], torch.eye(config.num_experts, dtype=torch.float64))


@each(HYPERGRAPHS)
@pytest.mark.parametrize("sign", [1, -1])
def test_legacy_propagation_is_that_of_torch_geometric(config: ModelConfig, sign: int) -> None:
    """HypergraphConv with Θ = I on unit vectors gives its matrix; negative raw weights are allowed there."""
    H, w = dense(config)
    w = (sign * w).detach()
    experts = config.num_experts
    convolution = torch_geometric.nn.HypergraphConv(experts, experts, bias=False).double()
    with torch.no_grad():
        convolution.lin.weight.copy_(torch.eye(experts))
        index = H.nonzero().T
        expected = convolution(torch.eye(experts, dtype=torch.float64), index, w)
    P = hypergraph_conv_propagation(H, w)
    torch.testing.assert_close(P, expected, rtol=1e-12, atol=1e-12)
    assert P.isfinite().all()


def test_worked_example() -> None:
    H, w = torch.ones(2, 1), torch.ones(1)
    assert hgnn_propagation(H, w).tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert hypergraph_conv_propagation(H, w).tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_one_hyperedge_over_two_experts_has_a_weight_that_matters() -> None:
    H = torch.ones(2, 1)
    weak, strong = hgnn_propagation(H, torch.tensor([0.01])), hgnn_propagation(H, torch.tensor([100.0]))
    assert weak[0, 1] < 0.01
    assert strong[0, 1] > 0.49


def test_counting_lists_nothing() -> None:
    """More hyperedges than any list would end with."""
    config = ModelConfig(coupler_type="HGNN", static_hyperedge_strategy="all_triplets", num_experts=10**6)
    assert count_hyperedges(config) == math.comb(10**6, 3)


@pytest.mark.parametrize(
    ("strategy", "experts", "custom", "message"),
    [
        ("all_triplets", 2, None, "--num_experts 2: use all_pairs, or 3 experts and more"),
        ("all_triplets", 1, None, "--num_experts 1: use --coupler_type mean, or more experts"),
        ("all_pairs", 1, None, "--num_experts 1: use --coupler_type mean, or more experts"),
        ("all_pairs", 3, ((0, 1),), "--hyperedges is for --static_hyperedge_strategy custom, not all_pairs"),
        ("custom", 3, None, "needs --hyperedges FILE"),
        ("custom", 3, (), "at least one hyperedge"),
        ("custom", 3, ((0, 1), ()), "hyperedge 1 is empty; name its experts, from 0 to 2"),
        ("custom", 3, ((0, 3),), "hyperedge 0 names expert 3; --num_experts 3 has experts 0 to 2"),
        ("custom", 3, ((0, -1),), "hyperedge 0 names expert -1"),
        ("custom", 3, ((0, 1), (2, 1, 2)), r"hyperedge 1, \[2, 1, 2\], repeats an expert"),
    ],
)
def test_what_is_no_hypergraph_is_bad_input(
    strategy: str, experts: int, custom: Hyperedges | None, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        check_hyperedges(strategy, experts, custom)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_with_its_fewest_experts_is_fine(strategy: str) -> None:
    check_hyperedges(strategy, STRATEGIES[strategy], ((0,),) if strategy == "custom" else None)


def test_hyperedges_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    path.write_text("[[0, 1], [1, 2, 3]]")
    assert read_hyperedges(str(path)) == ((0, 1), (1, 2, 3))
    with pytest.raises(BadInput, match=r"absent.json: cannot be read \(No such file"):
        read_hyperedges(str(path.with_name("absent.json")))
    with pytest.raises(BadInput, match="cannot be read"):
        read_hyperedges(str(path.parent))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[[0, 1]", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{}", "not a list of lists"),
        (b"[0, 1]", "not a list of lists"),
        (b'[["0"]]', "not a list of lists"),
        (b"[[0.0, 1]]", "not a list of lists"),
        (b"[[true, 0]]", "not a list of lists"),
        (b"null", "not a list of lists"),
    ],
)
def test_a_file_of_something_else_is_bad_input(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "edges.json"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_hyperedges(str(path))
    assert str(caught.value).startswith(f"--hyperedges {path}")
    assert "give a JSON file" in str(caught.value)
