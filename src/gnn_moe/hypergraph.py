"""Hypergraphs over the experts of one layer: strategy → hyperedges → incidence → propagation matrix.

Letters: E experts, M hyperedges; H (E, M) incidence. The matrices are built from tensors that the caller passes, so
that gradients reach the hyperedge weights; torch itself is not imported, and M is known without it.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

from gnn_moe.config import ModelConfig
from gnn_moe.hyperedges import Hyperedges

if TYPE_CHECKING:
    from torch import Tensor

_SUBSET_SIZE = {"all_pairs": 2, "all_triplets": 3}


def build_hyperedges(config: ModelConfig) -> Hyperedges:
    """The hyperedges of a checked config, each a tuple of experts counted from 0; () where its coupler has none."""
    if not config.coupler.uses_hypergraph:
        return ()
    if config.static_hyperedge_strategy == "custom":
        assert config.hyperedges is not None
        return config.hyperedges
    size = _SUBSET_SIZE.get(config.static_hyperedge_strategy, config.num_experts)
    return tuple(itertools.combinations(range(config.num_experts), size))


def count_hyperedges(config: ModelConfig) -> int:
    """M of one coupler, without listing the hyperedges."""
    if not config.coupler.uses_hypergraph:
        return 0
    if config.static_hyperedge_strategy == "custom":
        assert config.hyperedges is not None
        return len(config.hyperedges)
    return math.comb(config.num_experts, _SUBSET_SIZE.get(config.static_hyperedge_strategy, config.num_experts))


def incidence_matrix(hyperedges: Hyperedges, experts: int) -> list[list[float]]:
    """H as nested lists (E, M): 1 where an expert belongs to a hyperedge."""
    members = [set(hyperedge) for hyperedge in hyperedges]
    return [[float(expert in hyperedge) for hyperedge in members] for expert in range(experts)]


def hgnn_propagation(incidence_EM: Tensor, weight_M: Tensor) -> Tensor:
    """P = D_v⁻¹ (I + H W D_e⁻¹ Hᵀ), D_v = diag(1 + H w), D_e = diag(hyperedge sizes): (E, E), rows sum to 1.

    The row-stochastic operator of HGNN+ (Gao et al., 2022) with a self-loop, so that one hyperedge over two experts
    still has a weight that matters. Two experts, one hyperedge, w = 1: D_v = 2, P = [[3/4, 1/4], [1/4, 3/4]].
    """
    weighted_EM = incidence_EM * weight_M
    degree_E = 1 + weighted_EM.sum(dim=1)
    exchange_EE = (weighted_EM / incidence_EM.sum(dim=0)) @ incidence_EM.T
    identity_EE = exchange_EE.new_ones(len(exchange_EE)).diag()
    return (identity_EE + exchange_EE) / degree_E[:, None]


def hgnn_pairs(incidence_EM: Tensor) -> Tensor:
    """H_im H_jm / |m|: what a hyperedge of weight 1 adds to H W D_e⁻¹ Hᵀ, (M, E, E)."""
    mean_EM = incidence_EM / incidence_EM.sum(dim=0)
    return incidence_EM.T[:, :, None] * mean_EM.T[:, None, :]


def hgnn_token_propagation(pairs_MEE: Tensor, weight_NM: Tensor) -> Tensor:
    """P = D_v⁻¹ (I + H W D_e⁻¹ Hᵀ) of N tokens, each with hyperedge weights of its own: (N, E, E), rows sum to 1.

    One product N×M by M×E². The rows of H W D_e⁻¹ Hᵀ sum to H w, so D_v = diag(1 + H w) is read off the sum.
    """
    experts = pairs_MEE.shape[1]
    exchange_NEE = (weight_NM @ pairs_MEE.flatten(1)).view(-1, experts, experts)
    total_NEE = exchange_NEE + exchange_NEE.new_ones(experts).diag()
    return total_NEE / total_NEE.sum(dim=-1, keepdim=True)


def hypergraph_conv_propagation(incidence_EM: Tensor, weight_M: Tensor) -> Tensor:
    """D(w)⁻¹ H B⁻¹ Hᵀ (E, E), as `torch_geometric.nn.HypergraphConv` computes it: W stands in the degree only.

    B = diag(hyperedge sizes). As there, the row of an expert whose degree is 0 is 0.
    """
    degree_E = (incidence_EM * weight_M).sum(dim=1)
    inverse_degree_E = 1 / degree_E.masked_fill(degree_E == 0, math.inf)
    exchange_EE = (incidence_EM / incidence_EM.sum(dim=0)) @ incidence_EM.T
    return inverse_degree_E[:, None] * exchange_EE
