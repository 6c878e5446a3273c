"""Couplers: how the E results of one token are exchanged between the experts.

Letters: E experts, N tokens, D width, G coupler layers, M hyperedges, A heads.

Contract: a coupler maps (E, N, D) to (E, N, D) and never mixes tokens. It computes in the type of its input. It is
built as `Coupler(config)`; its parameters are counted in `gnn_moe.coupler_types`, where it has its one line.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn_moe.config import ModelConfig
from gnn_moe.hypergraph import (
    build_hyperedges,
    hgnn_propagation,
    hypergraph_conv_propagation,
    incidence_matrix,
)
from gnn_moe.model.exchange import Exchange, off_diagonal, with_own
from gnn_moe.model.messages import messages
from gnn_moe.model.propagation import propagate
from gnn_moe.model.strengths import inverse_softplus, levelled, shuffled


class Coupler(nn.Module):
    """Base of the couplers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    def forward(self, x_END: Tensor) -> Tensor:
        raise NotImplementedError

    def coupling(self) -> dict[str, Tensor]:
        """What the coupling has learned, for the record: name → tensor, float32 on the CPU; {} if there is nothing."""
        return {}

    def strengths(self) -> Tensor | None:
        """The learned strengths of each of its graphs, (graphs, strengths of one); None where none are learned.

        Couplers that have them also have `shuffle_strengths` and `level_strengths`.
        """
        return None

    def shuffle_strengths(self, generator: torch.Generator) -> None:
        """Puts the strengths of each graph in another order, in place; the generator is on the CPU."""
        raise NotImplementedError

    def level_strengths(self) -> None:
        """Makes every strength the mean of its graph's, in place; what follows the content stays."""
        raise NotImplementedError

    def exchange(self, x_END: Tensor) -> tuple[Exchange, ...]:
        """How each coupler layer mixes these results, to measure it; () where that is no matrix."""
        return ()


def build_coupler(config: ModelConfig) -> Coupler:
    """The coupler that the config names, with values not yet set."""
    module, name = config.coupler.implementation.split(":")
    coupler: Coupler = getattr(importlib.import_module(module), name)(config)
    return coupler


def by_expert(x_NED: Tensor) -> Tensor:
    """(N, E, D) → (E, N, D), with a gradient that arrives in order.

    A transposed view would hand on a gradient with its experts apart, and every pass over it and over what was kept in
    order would go number by number: GELU's with 8 experts takes four times as long so.
    """
    return torch.stack(x_NED.unbind(dim=1))


class MeanCoupler(Coupler):
    """No exchange: the control. The readout's mean over experts is all that joins them."""

    def forward(self, x_END: Tensor) -> Tensor:
        return x_END

    def exchange(self, x_END: Tensor) -> tuple[Exchange, ...]:
        return (Exchange(mixing_NEE=torch.eye(len(x_END), device=x_END.device)[None]),)


class GNNLayer(nn.Module):
    """One round of gated messages over the complete directed graph of experts.

        m_i = Σ_{j≠i} σ(Λ_ij) · σ(u·x_i + v·x_j + c) · x_j
        x_i ← x_i + GELU(W_n m_i + b_n + W_s x_i + b_s)

    u·x_i and v·x_j are two E-vectors a token, so the gates of a token are one E×E matrix and the messages one product
    of it with the E×D results; no (E², D) tensor is formed.
    """

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.adjacency_logits = nn.Parameter(torch.empty(experts, experts))
        self.receiver_weight = nn.Parameter(torch.empty(width))
        self.sender_weight = nn.Parameter(torch.empty(width))
        self.gate_bias = nn.Parameter(torch.empty(()))
        self.neighbour_weight = nn.Parameter(torch.empty(width, width))
        self.neighbour_bias = nn.Parameter(torch.empty(width))
        self.self_weight = nn.Parameter(torch.empty(width, width))
        self.self_bias = nn.Parameter(torch.empty(width))

    def forward(self, x_NED: Tensor) -> Tensor:
        """(N, E, D) → (N, E, D)."""
        dtype = x_NED.dtype
        message_NED = messages(self.gates(x_NED), x_NED)
        bias_D = (self.neighbour_bias + self.self_bias).to(dtype)
        inner_NED = functional.linear(x_NED, self.self_weight.to(dtype), bias_D)
        inner_NED += functional.linear(message_NED, self.neighbour_weight.to(dtype))
        return functional.gelu(inner_NED).add_(x_NED)

    def gates(self, x_NED: Tensor) -> Tensor:
        """σ(Λ_ij) · σ(u·x_i + v·x_j + c) with a zero diagonal, (N, E, E)."""
        dtype = x_NED.dtype
        gate_weights_D2 = torch.stack([self.receiver_weight, self.sender_weight], dim=1).to(dtype)
        receiver_NE, sender_NE = (x_NED @ gate_weights_D2).unbind(dim=-1)
        content_NEE = torch.sigmoid(receiver_NE[:, :, None] + sender_NE[:, None, :] + self.gate_bias.to(dtype))
        return content_NEE * self.adjacency().to(dtype)

    def adjacency(self) -> Tensor:
        """σ(Λ) with a zero diagonal, (E, E): row i holds how strongly expert i listens to each other expert."""
        strength_EE = torch.sigmoid(self.adjacency_logits)
        return strength_EE.tril(-1) + strength_EE.triu(1)


class GNNCoupler(Coupler):
    """G rounds of gated messages; each has its own adjacency and weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(GNNLayer(config.num_experts, config.embed_dim) for _ in range(config.gnn_layers))

    def forward(self, x_END: Tensor) -> Tensor:
        x_NED = x_END.transpose(0, 1).contiguous()
        for layer in self.layers:
            x_NED = layer(x_NED)
        return by_expert(x_NED)

    def coupling(self) -> dict[str, Tensor]:
        """`adjacency` (G, E, E)."""
        adjacency = [layer.adjacency() for layer in self._rounds()]
        return {"adjacency": torch.stack(adjacency).detach().float().cpu()}

    def strengths(self) -> Tensor:
        """σ(Λ) off the diagonal, (G, E(E − 1))."""
        return torch.stack([off_diagonal(layer.adjacency()).flatten() for layer in self._rounds()]).detach()

    def shuffle_strengths(self, generator: torch.Generator) -> None:
        self._change_logits(lambda logits_K: shuffled(logits_K, generator))

    def level_strengths(self) -> None:
        self._change_logits(lambda logits_K: levelled(logits_K, torch.sigmoid, torch.logit))

    def exchange(self, x_END: Tensor) -> tuple[Exchange, ...]:
        """Gates of each receiver among the other experts; the mix is D⁻¹ (I + gates), as P is of a hypergraph."""
        x_NED, found = x_END.transpose(0, 1).contiguous(), []
        for layer in self._rounds():
            gate_NEE = layer.gates(x_NED).float()
            gates = {"gate_NRK": off_diagonal(gate_NEE), "static_RK": off_diagonal(layer.adjacency())}
            found.append(Exchange(mixing_NEE=with_own(gate_NEE), **gates))
            x_NED = layer(x_NED)
        return tuple(found)

    def _rounds(self) -> list[GNNLayer]:
        return [layer for layer in self.layers if isinstance(layer, GNNLayer)]

    @torch.no_grad()
    def _change_logits(self, change: Callable[[Tensor], Tensor]) -> None:
        """Λ of every round off its diagonal, which nothing reads."""
        for layer in self._rounds():
            other_EE = ~torch.eye(len(layer.adjacency_logits), dtype=torch.bool, device=layer.adjacency_logits.device)
            layer.adjacency_logits[other_EE] = change(layer.adjacency_logits[other_EE])


class HypergraphCoupler(Coupler):
    """What the hypergraph forms share: the incidence H, P and G layers `layer(x_END, propagation_EE)`.

    H, W and the hyperedge sizes fold into one E×E matrix P before any token is touched, so cost and memory per token
    do not depend on the number of hyperedges.
    """

    incidence_EM: Tensor

    def __init__(self, config: ModelConfig, layer: Callable[[int], nn.Module]) -> None:
        super().__init__(config)
        incidence = torch.tensor(incidence_matrix(build_hyperedges(config), config.num_experts))
        self.register_buffer("incidence_EM", incidence, persistent=False)
        self.layers = nn.ModuleList(layer(config.embed_dim) for _ in range(config.gnn_layers))

    def forward(self, x_END: Tensor) -> Tensor:
        propagation_EE = self.propagation()
        for layer in self.layers:
            x_END = layer(x_END, propagation_EE)
        return x_END

    def hyperedge_weights(self) -> Tensor:
        """w (M,)."""
        raise NotImplementedError

    def propagation(self) -> Tensor:
        """P (E, E)."""
        raise NotImplementedError

    def coupling(self) -> dict[str, Tensor]:
        """`hyperedge_weights` (M,)."""
        return {"hyperedge_weights": self.hyperedge_weights().detach().float().cpu()}

    def strengths(self) -> Tensor | None:
        """w (1, M), which all coupler layers share."""
        return None if self.learned_weights() is None else self.hyperedge_weights().detach()[None]

    @torch.no_grad()
    def shuffle_strengths(self, generator: torch.Generator) -> None:
        learned_M = self.learned_weights()
        assert learned_M is not None
        learned_M.copy_(shuffled(learned_M, generator))

    def exchange(self, x_END: Tensor) -> tuple[Exchange, ...]:
        """P, the same for every token."""
        found = Exchange(mixing_NEE=self.propagation()[None], static_RK=self._shares())
        return (found,) * len(self.layers)

    def learned_weights(self) -> nn.Parameter | None:
        """What is learned of w (M,); None where w = 1."""
        raise NotImplementedError

    def _shares(self) -> Tensor | None:
        """w (1, M), or None where one is negative, as raw weights may be: those are no shares of anything."""
        weight_M = self.hyperedge_weights()
        return weight_M[None] if bool((weight_M >= 0).all()) else None

    def _weights_parameter(self, config: ModelConfig) -> nn.Parameter | None:
        """One number a hyperedge, or None where the weights are fixed at 1."""
        return nn.Parameter(torch.empty(self.incidence_EM.shape[1])) if config.hgnn_learnable_edge_weights else None

    def _ones(self) -> Tensor:
        return self.incidence_EM.new_ones(self.incidence_EM.shape[1])


class HGNNLayer(nn.Module):
    """x_i ← x_i + GELU(Σ_j P_ij x_j · Θ + b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.theta_weight = nn.Parameter(torch.empty(width, width))
        self.theta_bias = nn.Parameter(torch.empty(width))

    def forward(self, x_END: Tensor, propagation_EE: Tensor) -> Tensor:
        """(E, N, D) → (E, N, D)."""
        mixed_END = propagate(propagation_EE, x_END)
        dtype = x_END.dtype
        inner_END = functional.linear(mixed_END, self.theta_weight.to(dtype), self.theta_bias.to(dtype))
        return functional.gelu(inner_END).add_(x_END)


class HGNNCoupler(HypergraphCoupler):
    """G residual hypergraph convolutions with P = D_v⁻¹ (I + H W D_e⁻¹ Hᵀ), w = softplus(θ) > 0, w = 1 at the start."""

    def __init__(self, config: ModelConfig, layer: Callable[[int], nn.Module] = HGNNLayer) -> None:
        super().__init__(config, layer)
        self.hyperedge_logits = self._weights_parameter(config)

    def learned_weights(self) -> nn.Parameter | None:
        return self.hyperedge_logits

    @torch.no_grad()
    def level_strengths(self) -> None:
        assert self.hyperedge_logits is not None
        self.hyperedge_logits.copy_(levelled(self.hyperedge_logits, functional.softplus, inverse_softplus))

    def hyperedge_weights(self) -> Tensor:
        return self._ones() if self.hyperedge_logits is None else functional.softplus(self.hyperedge_logits)

    def propagation(self) -> Tensor:
        return hgnn_propagation(self.incidence_EM, self.hyperedge_weights())


class HypergraphConvLayer(nn.Module):
    """x ← P x Θ + b: linear, without residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution_weight = nn.Parameter(torch.empty(width, width))
        self.convolution_bias = nn.Parameter(torch.empty(width))

    def forward(self, x_END: Tensor, propagation_EE: Tensor) -> Tensor:
        """(E, N, D) → (E, N, D)."""
        dtype = x_END.dtype
        mixed_END = propagate(propagation_EE, x_END)
        return functional.linear(mixed_END, self.convolution_weight.to(dtype), self.convolution_bias.to(dtype))


class HypergraphConvCoupler(HypergraphCoupler):
    """The original's form: `torch_geometric.nn.HypergraphConv`, G times, with raw weights and P = D(w)⁻¹ H B⁻¹ Hᵀ.

    It is linear throughout and keeps no residual, so it folds to one fixed weighted mean of the experts; degrees can
    be near zero or negative. It exists to load old checkpoints and to be compared with.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, HypergraphConvLayer)
        self.raw_hyperedge_weights = self._weights_parameter(config)

    def learned_weights(self) -> nn.Parameter | None:
        return self.raw_hyperedge_weights

    @torch.no_grad()
    def level_strengths(self) -> None:
        assert self.raw_hyperedge_weights is not None
        self.raw_hyperedge_weights.copy_(levelled(self.raw_hyperedge_weights, torch.clone, torch.clone))

    def hyperedge_weights(self) -> Tensor:
        return self._ones() if self.raw_hyperedge_weights is None else self.raw_hyperedge_weights

    def propagation(self) -> Tensor:
        return hypergraph_conv_propagation(self.incidence_EM, self.hyperedge_weights())


class AttentionLayer(nn.Module):
    """x_i ← x_i + W_o Σ_j softmax_j(q_i·k_j / √d) v_j over the E results of one token, j = i included, A heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_weight = nn.Parameter(torch.empty(width, width))
        self.key_weight = nn.Parameter(torch.empty(width, width))
        self.value_weight = nn.Parameter(torch.empty(width, width))
        self.output_weight = nn.Parameter(torch.empty(width, width))

    def forward(self, x_NED: Tensor) -> Tensor:
        """(N, E, D) → (N, E, D)."""
        tokens, experts, _ = x_NED.shape
        share, value = self.attention(x_NED)
        mixed = torch.bmm(share, value).view(tokens, self.heads, experts, -1)
        return x_NED + functional.linear(mixed.transpose(1, 2).flatten(2), self.output_weight.to(x_NED.dtype))

    def attention(self, x_NED: Tensor) -> tuple[Tensor, Tensor]:
        """softmax_j(q_i·k_j / √d), (N·A, E, E), and v, (N·A, E, d)."""
        tokens, experts, width = x_NED.shape
        head_width = width // self.heads
        weight = torch.cat([self.query_weight, self.key_weight, self.value_weight]).to(x_NED.dtype)
        split = functional.linear(x_NED, weight).view(tokens, experts, 3, self.heads, head_width)
        query, key, value = split.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)
        # Plain products: a sequence here is the E experts of one token, not what fused kernels are made for.
        scores = torch.bmm(query, key.transpose(1, 2)) * (1 / math.sqrt(head_width))
        return scores.softmax(dim=-1), value


class AttentionCoupler(Coupler):
    """G rounds of softmax attention among the experts of a token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layers = nn.ModuleList(AttentionLayer(config.embed_dim, config.heads) for _ in range(config.gnn_layers))

    def forward(self, x_END: Tensor) -> Tensor:
        x_NED = x_END.transpose(0, 1).contiguous()
        for layer in self.layers:
            x_NED = layer(x_NED)
        return by_expert(x_NED)

    def exchange(self, x_END: Tensor) -> tuple[Exchange, ...]:
        """Shares of each receiver and head among all experts, itself too; the mix is their mean over heads."""
        x_NED, found = x_END.transpose(0, 1).contiguous(), []
        for layer in self.layers:
            assert isinstance(layer, AttentionLayer)
            tokens, experts, _ = x_NED.shape
            share_NAEE = layer.attention(x_NED)[0].float().view(tokens, layer.heads, experts, experts)
            found.append(Exchange(mixing_NEE=share_NAEE.mean(dim=1), gate_NRK=share_NAEE.flatten(1, 2)))
            x_NED = layer(x_NED)
        return tuple(found)
