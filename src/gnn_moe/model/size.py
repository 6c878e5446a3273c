"""Parameters and FLOPs of a model from its config alone, without torch.

FLOPs count 2 a multiply-add in every matrix product, attention over the full T, the head included; training is three
times forward. Experts and their coupler run on every token, so a coupler's weights count E times a token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gnn_moe.config import COUPLED, DENSE, TOP_K, ModelConfig
from gnn_moe.coupler_types import CouplerShape
from gnn_moe.errors import BadInput
from gnn_moe.hypergraph import count_hyperedges
from gnn_moe.model.matching import WITHIN, BlockShape, match_block


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """What a model weighs (parameters) and costs (FLOPs for one token)."""

    width: int
    """Of the model: `embed_dim`, or what was solved for."""
    heads: int
    """Attention heads of an expert or block."""
    feed_forward_width: int
    """Hidden width of an FFN."""
    total_parameters: int
    active_parameters: int
    """Those that a token meets: all but the experts that top_k does not send it to."""
    embedding_parameters: int
    """Token and position embeddings."""
    expert_parameters: int
    """Experts; of a control everything between embeddings and head."""
    coupler_parameters: int
    """Couplers with their readouts."""
    head_parameters: int
    """The head, its bias and the final LayerNorm."""
    non_embedding_parameters: int
    forward_flops_per_token: int
    training_flops_per_token: int
    hyperedges: int
    """Hyperedges of one coupler."""

    @property
    def block(self) -> BlockShape:
        """The sizes of one expert or block."""
        return BlockShape(width=self.width, heads=self.heads, feed_forward_width=self.feed_forward_width)


@dataclass(frozen=True, kw_only=True)
class _LayerCost:
    """Of one layer."""

    expert_parameters: int
    coupler_parameters: int = 0
    idle_parameters: int = 0
    """Those that a token does not meet."""
    flops: int


_COUNTS: Mapping[str, Callable[[ModelSize], int]] = {
    "parameters": lambda size: size.total_parameters,
    "flops": lambda size: size.training_flops_per_token,
}
"""What `--match` may name."""
_UNITS: Mapping[str, str] = {"parameters": "parameters", "flops": "training FLOPs"}


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


@functools.lru_cache
def model_size(config: ModelConfig) -> ModelSize:
    """The size of the model that `build_model(config)` builds; remembered, as a control's is searched for.

    Raises:
        BadInput: a control cannot be matched to the coupled model.
    """
    if config.architecture == COUPLED:
        return _coupled_size(config)
    return _matched_size(config, {DENSE: _size_of_blocks, TOP_K: _size_of_mixture}[config.architecture])


def describe_model(config: ModelConfig) -> str:
    """A model in one line, for people: what it is, its own sizes, and for a control the model that it is matched to."""
    matched = f"{config.coupler_type}, {config.num_experts} experts, D {config.embed_dim}"
    layers = f"{config.num_layers} layers, {config.gnn_layers} coupler layers"
    if config.architecture == COUPLED:
        return f"{matched}, {layers}"
    size = model_size(config)
    own = f"{config.architecture}, D {size.width}, {size.heads} heads, FFN {size.feed_forward_width}"
    if config.architecture == TOP_K:
        own += f", {config.router_top_k} of {config.num_experts} experts"
    return f"{own}, with the {_UNITS[_matched_in(config)]} of {matched}, {layers}"


def _matched_in(config: ModelConfig) -> str:
    return "flops" if config.architecture == TOP_K else config.match


def _coupled_size(config: ModelConfig) -> ModelSize:
    width, shape = config.embed_dim, coupler_shape(config)
    block = BlockShape(width=width, heads=config.heads, feed_forward_width=4 * width)
    readout = width**2 + width + 2 * width
    layer = _LayerCost(
        expert_parameters=config.num_experts * _block_parameters(width, 4 * width),
        coupler_parameters=config.coupler.parameters(shape) + readout,
        flops=config.num_experts * _block_flops(width, 4 * width, config.max_seq_length)
        + config.coupler.forward_flops(shape)
        + 2 * width**2,
    )
    return _size(config, block, layer, hyperedges=shape.hyperedges)


def _matched_size(config: ModelConfig, size_of: Callable[[ModelConfig, BlockShape], ModelSize]) -> ModelSize:
    """A control's size, its width and that of its FFNs solved for."""
    matched, count = _coupled_size(config.matched), _COUNTS[_matched_in(config)]

    def found(width: int, inner: int) -> int:
        return count(size_of(config, BlockShape(width=width, heads=1, feed_forward_width=inner)))

    block = match_block(found, count(matched), matched.width / matched.heads)
    if block is None:
        raise BadInput(
            f"--architecture {config.architecture}: none of its widths comes within {WITHIN:.0%} of the "
            f"{count(matched):,} {_UNITS[_matched_in(config)]} of the coupled model; use a larger --embed_dim than "
            f"{config.embed_dim}"
        )
    return size_of(config, block)


def _size_of_blocks(config: ModelConfig, block: BlockShape) -> ModelSize:
    """One block a layer."""
    layer = _LayerCost(
        expert_parameters=_block_parameters(block.width, block.feed_forward_width),
        flops=_block_flops(block.width, block.feed_forward_width, config.max_seq_length),
    )
    return _size(config, block, layer)


def _size_of_mixture(config: ModelConfig, block: BlockShape) -> ModelSize:
    """Shared attention, a router and E FFNs a layer."""
    experts, chosen = config.num_experts, config.router_top_k
    expert, router = _feed_forward_parameters(block.width, block.feed_forward_width), block.width * experts
    layer = _LayerCost(
        expert_parameters=_attention_parameters(block.width) + router + experts * expert,
        idle_parameters=(experts - chosen) * expert,
        flops=_block_flops(block.width, chosen * block.feed_forward_width, config.max_seq_length)
        + 2 * block.width * experts,
    )
    return _size(config, block, layer)


def _size(config: ModelConfig, block: BlockShape, layer: _LayerCost, hyperedges: int = 0) -> ModelSize:
    """Layers of that cost between the embeddings and the head."""
    width, vocabulary, layers = block.width, config.vocab_size, config.num_layers
    embedding = (vocabulary + config.max_seq_length) * width
    head = vocabulary * width + vocabulary + 2 * width
    inner = layers * (layer.expert_parameters + layer.coupler_parameters)
    forward = layers * layer.flops + 2 * width * vocabulary
    return ModelSize(
        width=width,
        heads=block.heads,
        feed_forward_width=block.feed_forward_width,
        total_parameters=embedding + inner + head,
        active_parameters=embedding + inner + head - layers * layer.idle_parameters,
        embedding_parameters=embedding,
        expert_parameters=layers * layer.expert_parameters,
        coupler_parameters=layers * layer.coupler_parameters,
        head_parameters=head,
        non_embedding_parameters=inner + head,
        forward_flops_per_token=forward,
        training_flops_per_token=3 * forward,
        hyperedges=hyperedges,
    )


def _block_parameters(width: int, inner: int) -> int:
    return _attention_parameters(width) + _feed_forward_parameters(width, inner)


def _attention_parameters(width: int) -> int:
    """With both norms of a block."""
    return 3 * (width**2 + width) + width**2 + width + 4 * width


def _feed_forward_parameters(width: int, inner: int) -> int:
    return inner * width + inner + width * inner + width


def _block_flops(width: int, inner: int, positions: int) -> int:
    weights = 2 * (4 * width**2 + 2 * width * inner)
    attention = 4 * positions * width
    return weights + attention
