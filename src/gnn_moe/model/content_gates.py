"""HGNN whose hyperedges open and close with what their members found: the counterpart of GNN's gates.

Letters: E experts, N tokens, D width, M hyperedges.

    w_h(token) = w_h · 2σ(mean_{j∈h} a·x_j + c)                         a, c for each coupler layer, 0 at the start
    x_i ← x_i + GELU(Σ_j P_ij x_j · Θ + b),   P = D_v⁻¹ (I + H W D_e⁻¹ Hᵀ) of the token's own weights

With a = 0 and c = 0 every gate is 1, and this is the HGNN coupler. P is then E×E a token, so unlike there cost and
memory grow with M: a token makes 2·M·E² FLOPs of its P, and keeps its M gates for the backward pass; the M·E² shares
of the hyperedges in P are kept once. Gates and P are in float32: D_v⁻¹ takes away most of a gradient of P, and where
that is rounded to bf16 on its way, the gates learn the rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn_moe.config import ModelConfig
from gnn_moe.hypergraph import hgnn_pairs, hgnn_token_propagation
from gnn_moe.model.couplers import HGNNCoupler, by_expert
from gnn_moe.model.exchange import Exchange
from gnn_moe.model.messages import messages


class ContentGatedLayer(nn.Module):
    """One round of propagation along hyperedges that the token gates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.content_gate_weight = nn.Parameter(torch.empty(width))
        self.content_gate_bias = nn.Parameter(torch.empty(()))
        self.theta_weight = nn.Parameter(torch.empty(width, width))
        self.theta_bias = nn.Parameter(torch.empty(width))

    def forward(self, x_NED: Tensor, weight_M: Tensor, mean_EM: Tensor, pairs_MEE: Tensor) -> Tensor:
        """(N, E, D) → (N, E, D); mean_EM holds 1 / |h| where an expert is in h, pairs_MEE is of `hgnn_pairs`.

        All but the tokens are in float32 or wider.
        """
        dtype = x_NED.dtype
        weight_NM = self.token_weights(x_NED, weight_M, mean_EM)
        mixed_NED = messages(hgnn_token_propagation(pairs_MEE, weight_NM).to(dtype), x_NED)
        inner_NED = functional.linear(mixed_NED, self.theta_weight.to(dtype), self.theta_bias.to(dtype))
        return functional.gelu(inner_NED).add_(x_NED)

    def token_weights(self, x_NED: Tensor, weight_M: Tensor, mean_EM: Tensor) -> Tensor:
        """w_h · 2σ(mean_{j∈h} a·x_j + c), (N, M) in float32 or wider; arguments as above."""
        # a·x_j first: the mean of numbers, not of vectors, so that nothing of size N×M×D is formed.
        score_NE = (x_NED @ self.content_gate_weight[:, None].to(x_NED.dtype))[..., 0].to(mean_EM.dtype)
        gate_NM = torch.sigmoid(score_NE @ mean_EM + self.content_gate_bias.to(mean_EM.dtype))
        return gate_NM * (2 * weight_M)


class ContentGatedCoupler(HGNNCoupler):
    """G residual hypergraph convolutions, each with gates of its own on the hyperedge weights that all share."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, ContentGatedLayer)

    def forward(self, x_END: Tensor) -> Tensor:
        weight_M, mean_EM, pairs_MEE = self._hypergraph(x_END.dtype)
        x_NED = x_END.transpose(0, 1).contiguous()
        for layer in self.layers:
            x_NED = layer(x_NED, weight_M, mean_EM, pairs_MEE)
        return by_expert(x_NED)

    def exchange(self, x_END: Tensor) -> tuple[Exchange, ...]:
        """The token's hyperedge weights as gates among all M, and P of them."""
        weight_M, mean_EM, pairs_MEE = self._hypergraph(x_END.dtype)
        x_NED, found = x_END.transpose(0, 1).contiguous(), []
        for layer in self.layers:
            assert isinstance(layer, ContentGatedLayer)
            weight_NM = layer.token_weights(x_NED, weight_M, mean_EM)
            mixing_NEE = hgnn_token_propagation(pairs_MEE, weight_NM).float()
            found.append(Exchange(mixing_NEE=mixing_NEE, gate_NRK=weight_NM[:, None], static_RK=self._shares()))
            x_NED = layer(x_NED, weight_M, mean_EM, pairs_MEE)
        return tuple(found)

    def _hypergraph(self, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """w (M,), 1 / |h| where an expert is in h (E, M), and `hgnn_pairs` (M, E, E), in float32 or wider."""
        mean_EM = self.incidence_EM / self.incidence_EM.sum(dim=0)
        pairs_MEE = hgnn_pairs(self.incidence_EM)
        wide = torch.promote_types(dtype, torch.float32)
        return self.hyperedge_weights().to(wide), mean_EM.to(wide), pairs_MEE.to(wide)
