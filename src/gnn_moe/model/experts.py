"""All experts of a layer at once: E pre-norm transformer blocks over stacked weights.

Letters: B rows, T positions, N = B·T tokens, E experts, A heads, D width, d = D/A head width, F = 4D.

    h_e = x + Attention_e(LN1_e(x)),   y_e = h_e + FFN_e(LN2_e(h_e))          e = 1..E, all from the same x

Every expert reads the same x, so x is normalised once, each expert's LN1 gain and shift are folded into its QKV
weights, and one product D → 3·E·D gives the queries, keys and values of all experts. In attention experts count as
more rows; what follows is a product an expert.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn_moe.config import ModelConfig
from gnn_moe.model.attention import causal_attention
from gnn_moe.model.feed_forward import feed_forward
from gnn_moe.model.heads import joined_heads, queries_keys_values
from gnn_moe.model.stacked import LAYER_NORM_EPSILON, fold_norm, stacked_linear


class Experts(nn.Module):
    """E transformer blocks that read the same input: (B, T, D) → (E, N, D)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.dropout_rate = config.heads, config.dropout_rate
        experts, width = config.num_experts, config.embed_dim

        def stacked(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(experts, *shape))

        self.norm1_gain, self.norm1_bias = stacked(width), stacked(width)
        self.qkv_weight, self.qkv_bias = stacked(3 * width, width), stacked(3 * width)
        self.output_weight, self.output_bias = stacked(width, width), stacked(width)
        self.norm2_gain, self.norm2_bias = stacked(width), stacked(width)
        self.up_weight, self.up_bias = stacked(4 * width, width), stacked(4 * width)
        self.down_weight, self.down_bias = stacked(width, 4 * width), stacked(width)

    def forward(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> Tensor:
        """The experts' results for every token, (E, N, D) in `compute_dtype`; N runs over rows, then positions."""
        x_ND = x_BTD.flatten(0, 1).to(compute_dtype)
        hidden_END = x_ND + self._attention(x_BTD, compute_dtype)
        return feed_forward(
            hidden_END,
            self.norm2_gain,
            self.norm2_bias,
            self.up_weight,
            self.up_bias,
            self.down_weight,
            self.down_bias,
            self.dropout_rate,
            training=self.training,
        )

    def _attention(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> Tensor:
        weight_EOD, bias_EO = fold_norm(self.qkv_weight, self.qkv_bias, self.norm1_gain, self.norm1_bias)
        normed_BTD = functional.layer_norm(x_BTD, x_BTD.shape[-1:], eps=LAYER_NORM_EPSILON).to(compute_dtype)
        qkv = queries_keys_values(normed_BTD, weight_EOD, bias_EO, self.heads)
        mixed = causal_attention(qkv, self.dropout_rate, training=self.training)
        return stacked_linear(joined_heads(mixed, len(weight_EOD)), self.output_weight, self.output_bias)
