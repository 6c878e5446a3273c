"""Parameters and FLOPs of a model from its config alone, without torch.

FLOPs count 2 a multiply-add in every matrix product, attention over the full T, the head included; training is three
times forward. Experts and their coupler run on every token, so a coupler's weights count E times a token.
"""

from __future__ import annotations

from dataclasses import dataclass

from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import CouplerShape
from gnn_moe.hypergraph import count_hyperedges


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a model weighs (parameters) and costs (FLOPs for one token)."""

    total_parameters: int
    embedding_parameters: int
    """Token and position embeddings."""
    expert_parameters: int
    coupler_parameters: int
    """Couplers with their readouts."""
    head_parameters: int
    """The head, its bias and the final LayerNorm."""
    non_embedding_parameters: int
    forward_flops_per_token: int
    training_flops_per_token: int
    hyperedges: int
    """Hyperedges of one coupler."""


def coupler_shape(config: ModelConfig) -> CouplerShape:
    """The sizes on which the cost of the config's coupler depends."""
    return CouplerShape(
        experts=config.num_experts,
        width=config.embed_dim,
        layers=config.gnn_layers,
        hyperedges=count_hyperedges(config),
        learnable_hyperedge_weights=config.hgnn_learnable_edge_weights,
        heads=config.heads,
    )


def model_size(config: ModelConfig) -> ModelSize:
    """The size of the model that `build_model(config)` builds."""
    width, vocabulary, layers = config.embed_dim, config.vocab_size, config.num_layers
    shape = coupler_shape(config)
    embedding = (vocabulary + config.max_seq_length) * width
    expert = layers * config.num_experts * _expert_parameters(width)
    readout = width**2 + width + 2 * width
    coupler = layers * (config.coupler.parameters(shape) + readout)
    head = vocabulary * width + vocabulary + 2 * width
    expert_flops = config.num_experts * _expert_flops(width, config.max_seq_length)
    layer_flops = expert_flops + config.coupler.forward_flops(shape) + 2 * width**2
    forward = layers * layer_flops + 2 * width * vocabulary
    return ModelSize(
        total_parameters=embedding + expert + coupler + head,
        embedding_parameters=embedding,
        expert_parameters=expert,
        coupler_parameters=coupler,
        head_parameters=head,
        non_embedding_parameters=expert + coupler + head,
        forward_flops_per_token=forward,
        training_flops_per_token=3 * forward,
        hyperedges=shape.hyperedges,
    )


def _expert_parameters(width: int) -> int:
    attention = 3 * (width**2 + width) + width**2 + width
    feed_forward = 4 * width**2 + 4 * width + 4 * width**2 + width
    return attention + feed_forward + 4 * width


def _expert_flops(width: int, positions: int) -> int:
    weights = 2 * 12 * width**2
    attention = 4 * positions * width
    return weights + attention
