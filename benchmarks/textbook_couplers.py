"""The textbook's couplers: E tensors (B, T, D) → E tensors (B, T, D).

GNN is a loop over all ordered pairs of experts with concatenated features, attention is `nn.MultiheadAttention` over
the experts of a token. `benchmarks.textbook_hypergraph` has the others, which are built with `torch_geometric`: a
contestant that needs none of it must not have its 90 MB in memory.

Letters: B rows, T positions, N = B·T tokens, E experts, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cases import ContestantName
from gnn_moe.config import ModelConfig

Of = Callable[[Tensor], Tensor]
Views = Iterator[tuple[str, Tensor]]


class TextbookCoupler(nn.Module):
    """Base of the couplers; this one is `mean`: no exchange."""

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        return x

    def counterparts(self, of: Of) -> Views:
        """As `benchmarks.textbook`."""
        yield from ()


class TextbookGNNLayer(nn.Module):
    """m_i = Σ_{j≠i} σ(Λ_ij) σ(gate(x_i ‖ x_j)) x_j;  x_i ← x_i + GELU(W_n m_i + b_n + W_s x_i + b_s)."""

    def __init__(self, experts: int, width: int) -> None:
        super().__init__()
        self.adjacency_logits = nn.Parameter(torch.randn(experts, experts))
        self.gate = nn.Linear(2 * width, 1)
        self.neighbour = nn.Linear(width, width)
        self.self_loop = nn.Linear(width, width)

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        strength_EE = torch.sigmoid(self.adjacency_logits)
        updated = []
        for i, receiver_BTD in enumerate(x):
            message_BTD = torch.zeros_like(receiver_BTD)
            for j, sender_BTD in enumerate(x):
                if i != j:
                    gate_BT1 = torch.sigmoid(self.gate(torch.cat([receiver_BTD, sender_BTD], dim=-1)))
                    message_BTD = message_BTD + strength_EE[i, j] * gate_BT1 * sender_BTD
            updated.append(receiver_BTD + functional.gelu(self.neighbour(message_BTD) + self.self_loop(receiver_BTD)))
        return updated

    def counterparts(self, of: Of) -> Views:
        receiver_D, sender_D = of(self.gate.weight)[0].chunk(2)
        yield "adjacency_logits", of(self.adjacency_logits)
        yield "receiver_weight", receiver_D
        yield "sender_weight", sender_D
        yield "gate_bias", of(self.gate.bias)[0]
        yield "neighbour_weight", of(self.neighbour.weight)
        yield "neighbour_bias", of(self.neighbour.bias)
        yield "self_weight", of(self.self_loop.weight)
        yield "self_bias", of(self.self_loop.bias)


class TextbookGNN(TextbookCoupler):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TextbookGNNLayer(config.num_experts, config.embed_dim) for _ in range(config.gnn_layers)
        )

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        for layer in self.layers:
            x = layer(x)
        return x

    def counterparts(self, of: Of) -> Views:
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, TextbookGNNLayer)
            for name, view in layer.counterparts(of):
                yield f"layers.{number}.{name}", view


class TextbookSinkhorn(TextbookCoupler):
    """One matrix a coupler layer, its columns and rows divided by their sums 20 times; one product over all tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.embed_dim
        self.mixing_logits = nn.Parameter(torch.zeros(config.gnn_layers, config.num_experts, config.num_experts))
        self.transforms = nn.ModuleList(nn.Linear(width, width) for _ in range(config.gnn_layers))

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        for transform, logits_EE in zip(self.transforms, self.mixing_logits, strict=True):
            mix_EE = logits_EE.exp()
            for _ in range(20):
                mix_EE = mix_EE / mix_EE.sum(dim=0, keepdim=True)
                mix_EE = mix_EE / mix_EE.sum(dim=1, keepdim=True)
            mixed = torch.einsum("ij,jbtd->ibtd", mix_EE, torch.stack(x))
            x = [own + functional.gelu(transform(other)) for own, other in zip(x, mixed, strict=True)]
        return x

    def counterparts(self, of: Of) -> Views:
        yield "mixing_logits", of(self.mixing_logits)
        for number, transform in enumerate(self.transforms):
            assert isinstance(transform, nn.Linear)
            yield f"layers.{number}.theta_weight", of(transform.weight)
            yield f"layers.{number}.theta_bias", of(transform.bias)


class TextbookAttentionLayer(nn.Module):
    """x ← x + MultiheadAttention over the E results of a token, (N, E, D) → (N, E, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)

    def forward(self, x_NED: Tensor) -> Tensor:
        mixed_NED: Tensor = self.attention(x_NED, x_NED, x_NED, need_weights=False)[0]
        return x_NED + mixed_NED


class TextbookAttention(TextbookCoupler):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TextbookAttentionLayer(config.embed_dim, config.heads) for _ in range(config.gnn_layers)
        )

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        shape = x[0].shape
        x_NED = torch.stack([expert_BTD.flatten(0, 1) for expert_BTD in x], dim=1)
        for layer in self.layers:
            x_NED = layer(x_NED)
        return [expert_ND.view(shape) for expert_ND in x_NED.unbind(dim=1)]

    def counterparts(self, of: Of) -> Views:
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, TextbookAttentionLayer)
            packed = of(layer.attention.in_proj_weight).chunk(3)
            for name, view in zip(("query", "key", "value"), packed, strict=True):
                yield f"layers.{number}.{name}_weight", view
            yield f"layers.{number}.output_weight", of(layer.attention.out_proj.weight)


def build_textbook_coupler(config: ModelConfig, kind: ContestantName) -> TextbookCoupler:
    """The textbook form of the coupler that the config names; `kind` is how hypergraphs are built."""
    if config.coupler.uses_hypergraph:
        from benchmarks.textbook_hypergraph import FORMS

        return FORMS[kind](config)
    others: dict[str, Callable[[], TextbookCoupler]] = {
        "GNN": lambda: TextbookGNN(config),
        "sinkhorn": lambda: TextbookSinkhorn(config),
        "attention": lambda: TextbookAttention(config),
        "mean": TextbookCoupler,
    }
    return others[config.coupler_type]()
