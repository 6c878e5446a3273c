"""Causal self-attention of one pre-norm block: what the controls `dense` and `top_k` share.

Letters: B rows, T positions, A heads, D width, d = D/A head width.

    x ← x + Attention(LN(x))
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn_moe.model.attention import causal_attention
from gnn_moe.model.heads import joined_heads, queries_keys_values
from gnn_moe.model.stacked import LAYER_NORM_EPSILON


class SelfAttention(nn.Module):
    """The residual attention of one block: (B, T, D) → (B, T, D), in the parameters' type."""

    def __init__(self, width: int, heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.heads, self.dropout_rate = heads, dropout_rate
        self.norm_gain, self.norm_bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.qkv_weight = nn.Parameter(torch.empty(3 * width, width))
        self.qkv_bias = nn.Parameter(torch.empty(3 * width))
        self.output_weight = nn.Parameter(torch.empty(width, width))
        self.output_bias = nn.Parameter(torch.empty(width))

    def forward(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> Tensor:
        """Products are computed in `compute_dtype`; the stream keeps its own type."""
        width = x_BTD.shape[-1]
        normed_BTD = functional.layer_norm(x_BTD, (width,), self.norm_gain, self.norm_bias, LAYER_NORM_EPSILON)
        qkv = queries_keys_values(normed_BTD.to(compute_dtype), self.qkv_weight[None], self.qkv_bias[None], self.heads)
        mixed_BATd = causal_attention(qkv, self.dropout_rate, training=self.training)
        mixed_BTD = joined_heads(mixed_BATd, 1).view_as(normed_BTD)
        return x_BTD + functional.linear(
            mixed_BTD, self.output_weight.to(compute_dtype), self.output_bias.to(compute_dtype)
        )
