"""The textbook's hypergraph couplers: `torch_geometric` message passing over the experts of every token.

All tokens are one graph of B·T unconnected token graphs, each with nodes and hyperedges of its own. It is built in one
of three ways (`FORMS`): by arithmetic on indices, or as a list of graph objects, one a token, that torch_geometric
batches. Only a contestant with a hypergraph imports this file.

Letters: B rows, T positions, N = B·T tokens, E experts, D width, M hyperedges, I incidences (an expert in a hyperedge).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.data import Batch, Data
from torch_geometric.nn import HypergraphConv, MessagePassing
from torch_geometric.utils import scatter

from benchmarks.cases import ContestantName
from benchmarks.textbook_couplers import Of, TextbookCoupler, Views
from gnn_moe.config import ModelConfig
from gnn_moe.hypergraph import build_hyperedges


class HGNNConv(MessagePassing):  # type: ignore[misc]
    """y = D_v⁻¹ (I + H W D_e⁻¹ Hᵀ) x Θ + b, as two rounds of messages: nodes → hyperedges → nodes."""

    def __init__(self, width: int) -> None:
        super().__init__(aggr="add", flow="source_to_target", node_dim=0)
        self.lin = nn.Linear(width, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_PD: Tensor, index_2I: Tensor, weight_Q: Tensor) -> Tensor:
        """P nodes, Q hyperedges; weight_Q holds one positive number a hyperedge."""
        x_PD = self.lin(x_PD)
        nodes, edges = len(x_PD), len(weight_Q)
        node_I, edge_I = index_2I
        size_Q = scatter(torch.ones_like(edge_I), edge_I, dim=0, dim_size=edges, reduce="sum")
        degree_P = 1 + scatter(weight_Q[edge_I], node_I, dim=0, dim_size=nodes, reduce="sum")
        edge_QD = self.propagate(index_2I, x=x_PD, norm=weight_Q / size_Q, size=(nodes, edges))
        # Degrees stand outside the sum, so the second round passes the hyperedges' features on as they are.
        plain_P = x_PD.new_ones(nodes)
        node_PD: Tensor = self.propagate(index_2I.flip([0]), x=edge_QD, norm=plain_P, size=(edges, nodes))
        y_PD: Tensor = (x_PD + node_PD) / degree_P[:, None] + self.bias
        return y_PD

    def message(self, x_j: Tensor, norm_i: Tensor) -> Tensor:
        return norm_i[:, None] * x_j


class TextbookHypergraph(TextbookCoupler):
    """Both hypergraph forms over one graph of all tokens, its indices made by arithmetic."""

    hyperedge_index_2I: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hyperedges = build_hyperedges(config)
        incidences = [(expert, number) for number, members in enumerate(hyperedges) for expert in members]
        self.register_buffer("hyperedge_index_2I", torch.tensor(incidences).T.contiguous(), persistent=False)
        self.experts, self.hyperedges = config.num_experts, len(hyperedges)
        self.legacy = config.hgnn_conv_type == "HypergraphConv"
        width = config.embed_dim
        self.convolutions = nn.ModuleList(
            HypergraphConv(width, width) if self.legacy else HGNNConv(width) for _ in range(config.gnn_layers)
        )
        self.weight_logits = nn.Parameter(torch.zeros(self.hyperedges)) if config.hgnn_learnable_edge_weights else None
        self.gates = nn.ModuleList(nn.Linear(width, 1) for _ in self.convolutions if config.hgnn_content_gates)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        shape = x[0].shape
        x_NED = torch.stack([expert_BTD.flatten(0, 1) for expert_BTD in x], dim=1)
        x_PD, index_2I = self._graph(x_NED)
        weight_Q = self._weights(x_PD).repeat(len(x_NED))
        for number, convolution in enumerate(self.convolutions):
            if self.legacy:
                x_PD = convolution(x_PD, index_2I, weight_Q)
            else:
                gate_Q = self._gate(number, x_PD, index_2I) if len(self.gates) else 1
                x_PD = x_PD + functional.gelu(convolution(x_PD, index_2I, weight_Q * gate_Q))
        return [expert_ND.view(shape) for expert_ND in x_PD.view_as(x_NED).unbind(dim=1)]

    def _gate(self, number: int, x_PD: Tensor, index_2I: Tensor) -> Tensor:
        """2σ of the mean over its members of each hyperedge's score (Q,)."""
        node_I, edge_I = index_2I
        mean_QD = scatter(x_PD[node_I], edge_I, dim=0, reduce="mean")
        gate_Q: Tensor = 2 * torch.sigmoid(self.gates[number](mean_QD)[:, 0])
        return gate_Q

    def _weights(self, like: Tensor) -> Tensor:
        if self.weight_logits is None:
            return like.new_ones(self.hyperedges)
        return self.weight_logits if self.legacy else functional.softplus(self.weight_logits)

    def _graph(self, x_NED: Tensor) -> tuple[Tensor, Tensor]:
        """The nodes of all tokens and their incidences: token t's experts are nodes t·E.., its hyperedges t·M.. ."""
        tokens_N = torch.arange(len(x_NED), device=x_NED.device)
        offsets_2N = torch.stack([tokens_N * self.experts, tokens_N * self.hyperedges])
        index_2NI = offsets_2N[:, :, None] + self.hyperedge_index_2I[:, None, :]
        return x_NED.flatten(0, 1), index_2NI.flatten(1)

    def counterparts(self, of: Of) -> Views:
        kind = "convolution" if self.legacy else "theta"
        for number, convolution in enumerate(self.convolutions):
            values: Any = convolution
            yield f"layers.{number}.{kind}_weight", of(values.lin.weight)
            yield f"layers.{number}.{kind}_bias", of(values.bias)
        for number, gate in enumerate(self.gates):
            assert isinstance(gate, nn.Linear)
            yield f"layers.{number}.content_gate_weight", of(gate.weight)[0]
            yield f"layers.{number}.content_gate_bias", of(gate.bias)[0]
        if self.weight_logits is not None:
            yield "raw_hyperedge_weights" if self.legacy else "hyperedge_logits", of(self.weight_logits)


class TokenGraph(Data):  # type: ignore[misc]
    """The experts of one token as nodes, with hyperedges that batching must offset by their own number."""

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key == "hyperedge_index":
            return torch.tensor([[self.num_nodes], [self.hyperedges]])
        return super().__inc__(key, value, *args, **kwargs)

    def __cat_dim__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        return 1 if key == "hyperedge_index" else super().__cat_dim__(key, value, *args, **kwargs)


class TextbookGraphList(TextbookHypergraph):
    """One graph object a token, built in every forward pass and batched as a list: what the original did.

    As there, each graph takes its features by `x[t]`, whose gradient is a tensor of all tokens' size, mostly zeros:
    the backward pass costs N² so.
    """

    def _graph(self, x_NED: Tensor) -> tuple[Tensor, Tensor]:
        graphs = [
            TokenGraph(x=x_ED, hyperedge_index=self.hyperedge_index_2I, hyperedges=self.hyperedges)
            for x_ED in self._features(x_NED)
        ]
        batch: Any = Batch.from_data_list(graphs)
        return batch.x, batch.hyperedge_index

    def _features(self, x_NED: Tensor) -> Sequence[Tensor]:
        return [x_NED[t] for t in range(len(x_NED))]


class TextbookUnboundGraphList(TextbookGraphList):
    """The same list with `x.unbind()`, whose gradient is one `stack`: only building the objects is lost."""

    def _features(self, x_NED: Tensor) -> Sequence[Tensor]:
        return x_NED.unbind()


FORMS: Mapping[ContestantName, type[TextbookHypergraph]] = {
    "textbook": TextbookHypergraph,
    "textbook_list": TextbookGraphList,
    "textbook_unbound": TextbookUnboundGraphList,
}
"""How each contestant builds the graph of all tokens."""
