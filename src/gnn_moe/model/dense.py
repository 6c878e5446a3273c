"""The control `dense`: one transformer block a layer, as large as the coupled model that it is compared with.

Letters: B rows, T positions, N = B·T tokens, D width, F = hidden width of the FFN.

    layer: h = x + Attention(LN1(x)),   x = h + FFN(LN2(h))

A plain pre-norm transformer: no experts, no coupler, no readout; embeddings, final norm and head are those of the
coupled model. D and F are solved for (`gnn_moe.model.matching`), the number of layers stays.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn_moe.config import ModelConfig
from gnn_moe.model.grouped_feed_forward import grouped_feed_forward
from gnn_moe.model.self_attention import SelfAttention
from gnn_moe.model.size import model_size
from gnn_moe.model.stacked import LAYER_NORM_EPSILON


class FeedForward(nn.Module):
    """x ← x + drop(W_d drop(GELU(W_u LN(x) + b_u)) + b_d): (B, T, D) → (B, T, D), in the parameters' type."""

    def __init__(self, width: int, inner_width: int, dropout_rate: float) -> None:
        super().__init__()
        self.dropout_rate = dropout_rate
        self.norm_gain, self.norm_bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.up_weight, self.up_bias = (
            nn.Parameter(torch.empty(inner_width, width)),
            nn.Parameter(torch.empty(inner_width)),
        )
        self.down_weight, self.down_bias = (
            nn.Parameter(torch.empty(width, inner_width)),
            nn.Parameter(torch.empty(width)),
        )

    def forward(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> Tensor:
        """Products are computed in `compute_dtype`; the stream keeps its own type."""
        normed_BTD = functional.layer_norm(x_BTD, x_BTD.shape[-1:], self.norm_gain, self.norm_bias, LAYER_NORM_EPSILON)
        normed_ND = normed_BTD.to(compute_dtype).flatten(0, 1)
        update_ND = grouped_feed_forward(
            normed_ND,
            None,
            self.up_weight[None],
            self.up_bias[None],
            self.down_weight[None],
            self.down_bias[None],
            self.dropout_rate,
            training=self.training,
        )
        return x_BTD + update_ND.view_as(x_BTD)


class DenseLayer(nn.Module):
    """One transformer block, as `gnn_moe.model.language_model.LAYERS` wants it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = model_size(config)
        self.attention = SelfAttention(size.width, size.heads, config.dropout_rate)
        self.feed_forward = FeedForward(size.width, size.feed_forward_width, config.dropout_rate)

    def forward(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> tuple[Tensor, None]:
        return self.feed_forward(self.attention(x_BTD, compute_dtype), compute_dtype), None
