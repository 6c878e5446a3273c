"""The whole model written slowly and obviously: the reference that the fast forms are held to.

One expert, one head, one pair of experts and one hyperedge at a time; attention with a mask tensor; the logits of the
whole batch at once; no dropout. Everything is written from DESIGN §1, none of it calls `gnn_moe`'s model, and it runs
in the type of the parameters that it is given, which are a model's own by name.

Letters: B rows, T positions, N tokens, E experts, D width, d head width, V vocabulary, G coupler layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch_geometric.nn
from torch import Tensor
from torch.nn import functional

from gnn_moe.config import ModelConfig

Parameters = Mapping[str, Tensor]
Edges = list[list[int]]


def part(parameters: Parameters, prefix: str) -> dict[str, Tensor]:
    """The parameters under a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in parameters.items() if name.startswith(prefix)}


def logits(parameters: Parameters, config: ModelConfig, ids_BT: Tensor) -> Tensor:
    """(B, T) → (B, T, V)."""
    rows = []
    for ids_T in ids_BT:
        x_TD = torch.stack(
            [
                parameters["token_embedding"][token] + parameters["position_embedding"][position]
                for position, token in enumerate(ids_T.tolist())
            ]
        )
        for number in range(config.num_layers):
            x_TD = layer(part(parameters, f"layers.{number}."), config, x_TD)
        final_TD = layer_norm(x_TD, parameters["norm_gain"], parameters["norm_bias"])
        rows.append(final_TD @ parameters["head_weight"].T + parameters["head_bias"])
    return torch.stack(rows)


def loss(parameters: Parameters, config: ModelConfig, ids_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross-entropy over the targets that are not −100: (), nats a token."""
    return functional.cross_entropy(logits(parameters, config, ids_BT).flatten(0, 1), targets_BT.flatten())


def layer(parameters: Parameters, config: ModelConfig, x_TD: Tensor) -> Tensor:
    """x + Readout(Couple(y_1..y_E)) for one row: (T, D) → (T, D)."""
    results = [
        expert({name: value[number] for name, value in part(parameters, "experts.").items()}, config.heads, x_TD)
        for number in range(config.num_experts)
    ]
    coupled = couple(part(parameters, "coupler."), config, results)
    return x_TD + readout(part(parameters, "readout."), coupled)


def expert(parameters: Parameters, heads: int, x_TD: Tensor) -> Tensor:
    """One pre-norm transformer block: (T, D) → (T, D)."""
    normed_TD = layer_norm(x_TD, parameters["norm1_gain"], parameters["norm1_bias"])
    hidden_TD = x_TD + attention(parameters, heads, normed_TD)
    normed_TD = layer_norm(hidden_TD, parameters["norm2_gain"], parameters["norm2_bias"])
    inner_TF = gelu(normed_TD @ parameters["up_weight"].T + parameters["up_bias"])
    return hidden_TD + inner_TF @ parameters["down_weight"].T + parameters["down_bias"]


def attention(parameters: Parameters, heads: int, x_TD: Tensor) -> Tensor:
    """Causal multi-head attention, a head at a time, with its mask written out."""
    positions, width = x_TD.shape
    head_width = width // heads
    weights, biases = parameters["qkv_weight"].chunk(3), parameters["qkv_bias"].chunk(3)
    query_TD, key_TD, value_TD = (x_TD @ weight.T + bias for weight, bias in zip(weights, biases, strict=True))
    future_TT = torch.tensor([[key > query for key in range(positions)] for query in range(positions)])
    mixed = []
    for head in range(heads):
        columns = slice(head * head_width, (head + 1) * head_width)
        scores_TT = query_TD[:, columns] @ key_TD[:, columns].T / math.sqrt(head_width)
        mixed.append(scores_TT.masked_fill(future_TT, -math.inf).softmax(dim=-1) @ value_TD[:, columns])
    return torch.cat(mixed, dim=1) @ parameters["output_weight"].T + parameters["output_bias"]


def readout(parameters: Parameters, coupled: list[Tensor]) -> Tensor:
    """LayerNorm(GELU(W_c · mean_e z_e + b_c)): E tensors (T, D) → (T, D)."""
    mean_TD = sum(coupled[1:], coupled[0]) / len(coupled)
    active_TD = gelu(mean_TD @ parameters["combine_weight"].T + parameters["combine_bias"])
    return layer_norm(active_TD, parameters["norm_gain"], parameters["norm_bias"])


def layer_norm(x: Tensor, gain_D: Tensor, bias_D: Tensor) -> Tensor:
    """(x − mean) / √(variance + 1e-5) · gain + bias."""
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = (centred**2).mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(variance + 1e-5) * gain_D + bias_D


def gelu(x: Tensor) -> Tensor:
    """The exact form, x Φ(x)."""
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def couple(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """One coupler: E tensors (N, D) → E tensors (N, D).

    A new row of the table of couplers needs its slow form here; until then the contract tests fail with this KeyError.
    """
    row = config.coupler
    return COUPLE[row.coupler_type, row.hgnn_conv_type, row.hgnn_content_gates](parameters, config, x)


def couple_mean(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """No exchange."""
    return x


def couple_gnn(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """m_i = Σ_{j≠i} σ(Λ_ij) σ(gate · (x_i ‖ x_j) + c) x_j;  x_i ← x_i + GELU(W_n m_i + b_n + W_s x_i + b_s)."""
    experts = range(len(x))
    for number in range(config.gnn_layers):
        p = part(parameters, f"layers.{number}.")
        gate_2D = torch.cat([p["receiver_weight"], p["sender_weight"]])
        updated = []
        for i in experts:
            message_ND = torch.zeros_like(x[i])
            for j in experts:
                if j == i:
                    continue
                gate_N = torch.sigmoid(torch.cat([x[i], x[j]], dim=1) @ gate_2D + p["gate_bias"])
                message_ND = message_ND + torch.sigmoid(p["adjacency_logits"][i, j]) * gate_N[:, None] * x[j]
            from_neighbours = message_ND @ p["neighbour_weight"].T + p["neighbour_bias"]
            from_self = x[i] @ p["self_weight"].T + p["self_bias"]
            updated.append(x[i] + gelu(from_neighbours + from_self))
        x = updated
    return x


def couple_hgnn(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """(x_i + Σ_{m∋i} w_m mean_{j∈m} x_j) / (1 + Σ_{m∋i} w_m), then x_i ← x_i + GELU(· Θ + b)."""
    edges = hyperedges(config)
    weights = hyperedge_weights(parameters, len(edges), x[0])
    for number in range(config.gnn_layers):
        p = part(parameters, f"layers.{number}.")
        updated = []
        for i in range(len(x)):
            total_ND, degree = x[i], torch.ones_like(weights[0])
            for weight, members in zip(weights, edges, strict=True):
                if i in members:
                    mean_ND = sum((x[j] for j in members), torch.zeros_like(x[i])) / len(members)
                    total_ND = total_ND + weight * mean_ND
                    degree = degree + weight
            updated.append(x[i] + gelu(total_ND / degree @ p["theta_weight"].T + p["theta_bias"]))
        x = updated
    return x


def couple_content_gated(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """The same with w_m · 2σ(mean_{j∈m} a·x_j + c) for w_m, a number a token."""
    edges = hyperedges(config)
    weights = hyperedge_weights(parameters, len(edges), x[0])
    for number in range(config.gnn_layers):
        p = part(parameters, f"layers.{number}.")
        totals, degrees = list(x), [torch.ones_like(x_ND[:, 0]) for x_ND in x]
        for weight, members in zip(weights, edges, strict=True):
            scores_N = [x[j] @ p["content_gate_weight"] for j in members]
            weight_N = (
                weight * 2 * torch.sigmoid(sum(scores_N[1:], scores_N[0]) / len(members) + p["content_gate_bias"])
            )
            mean_ND = sum((x[j] for j in members), torch.zeros_like(x[0])) / len(members)
            for i in members:
                totals[i] = totals[i] + weight_N[:, None] * mean_ND
                degrees[i] = degrees[i] + weight_N
        mixed = [total_ND / degree_N[:, None] for total_ND, degree_N in zip(totals, degrees, strict=True)]
        x = [x[i] + gelu(mixed[i] @ p["theta_weight"].T + p["theta_bias"]) for i in range(len(x))]
    return x


def couple_hypergraph_conv(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """`torch_geometric.nn.HypergraphConv`, run token by token."""
    edges, width = hyperedges(config), x[0].shape[1]
    weights_M = parameters.get("raw_hyperedge_weights", x[0].new_ones(len(edges)))
    index = torch.tensor([[e, m] for m, members in enumerate(edges) for e in members]).T
    convolution = torch_geometric.nn.HypergraphConv(width, width).to(x[0].dtype)
    tokens = []
    for token_ED in torch.stack(x).unbind(dim=1):
        x_ED = token_ED
        for number in range(config.gnn_layers):
            p = part(parameters, f"layers.{number}.")
            values = {"lin.weight": p["convolution_weight"], "bias": p["convolution_bias"]}
            x_ED = torch.func.functional_call(convolution, values, (x_ED, index, weights_M))
        tokens.append(x_ED)
    return list(torch.stack(tokens, dim=1))


def couple_sinkhorn(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """x_i ← x_i + GELU(Σ_j S_ij x_j · Θ + b); S: exp Λ with columns, then rows divided by their sums, 20 times."""
    experts = range(len(x))
    for number in range(config.gnn_layers):
        p = part(parameters, f"layers.{number}.")
        rows = [torch.exp(row_E) for row_E in parameters["mixing_logits"][number]]
        for _ in range(20):
            columns_E = sum(rows[1:], rows[0])
            rows = [row_E / columns_E for row_E in rows]
            rows = [row_E / row_E.sum() for row_E in rows]
        mixed = [sum((rows[i][j] * x[j] for j in experts), torch.zeros_like(x[i])) for i in experts]
        x = [x[i] + gelu(mixed[i] @ p["theta_weight"].T + p["theta_bias"]) for i in experts]
    return x


def couple_attention(parameters: Parameters, config: ModelConfig, x: list[Tensor]) -> list[Tensor]:
    """x_i ← x_i + W_o Σ_j softmax_j(q_i·k_j / √d) v_j, a head and a pair of experts at a time."""
    head_width = x[0].shape[1] // config.heads
    for number in range(config.gnn_layers):
        p = part(parameters, f"layers.{number}.")
        query, key, value = ([x_j @ p[f"{name}_weight"].T for x_j in x] for name in ("query", "key", "value"))
        updated = []
        for i in range(len(x)):
            mixed = []
            for head in range(config.heads):
                columns = slice(head * head_width, (head + 1) * head_width)
                scores_N = [(query[i] * k)[:, columns].sum(dim=1) / math.sqrt(head_width) for k in key]
                share_NE = torch.stack(scores_N, dim=1).softmax(dim=1)
                mixed.append(sum(share_NE[:, j, None] * value[j][:, columns] for j in range(len(x))))
            updated.append(x[i] + torch.cat([torch.as_tensor(m) for m in mixed], dim=1) @ p["output_weight"].T)
        x = updated
    return x


COUPLE: dict[tuple[str, str | None, bool], Callable[[Parameters, ModelConfig, list[Tensor]], list[Tensor]]] = {
    ("GNN", None, False): couple_gnn,
    ("HGNN", "hgnn", False): couple_hgnn,
    ("HGNN", "hgnn", True): couple_content_gated,
    ("HGNN", "HypergraphConv", False): couple_hypergraph_conv,
    ("sinkhorn", None, False): couple_sinkhorn,
    ("attention", None, False): couple_attention,
    ("mean", None, False): couple_mean,
}
"""By coupler, form and whether its hyperedges have gates."""


def hyperedge_weights(parameters: Parameters, count: int, like: Tensor) -> list[Tensor]:
    """w = softplus(θ), or 1 where the weights are fixed."""
    if "hyperedge_logits" not in parameters:
        return [like.new_ones(())] * count
    return [torch.log1p(torch.exp(logit)) for logit in parameters["hyperedge_logits"]]


def hyperedges(config: ModelConfig) -> Edges:
    """The experts of each hyperedge, in the order in which the weights are kept."""
    E = config.num_experts
    custom: Any = config.hyperedges
    return {
        "all_pairs": [[i, j] for i in range(E) for j in range(i + 1, E)],
        "all_triplets": [[i, j, k] for i in range(E) for j in range(i + 1, E) for k in range(j + 1, E)],
        "all": [list(range(E))],
        "custom": [list(members) for members in custom or ()],
    }[config.static_hyperedge_strategy]
