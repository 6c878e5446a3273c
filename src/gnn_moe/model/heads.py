"""Queries, keys and values of all experts, head by head, from one input.

Letters: E experts, B rows, T positions, N = B·T tokens, A heads, D width, d = D/A head width, O = 3D,
P = 3·E·D, S = E·B.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def queries_keys_values(x_BTD: Tensor, weight_EOD: Tensor, bias_EO: Tensor, heads: int) -> Tensor:
    """(B, T, D), (E, 3D, D), (E, 3D) → (3, E·B, A, T, d) contiguous, in the type of x, from one product.

    One tensor holds all three, so that its gradient need not be put together.
    """
    rows, positions, width = x_BTD.shape
    experts = len(weight_EOD)
    weight_PD, bias_P = weight_EOD.flatten(0, 1).to(x_BTD.dtype), bias_EO.flatten().to(x_BTD.dtype)
    split_BTE3Ad = functional.linear(x_BTD, weight_PD, bias_P).view(rows, positions, experts, 3, heads, width // heads)
    return split_BTE3Ad.permute(3, 2, 0, 4, 1, 5).contiguous().flatten(1, 2)


def joined_heads(mixed_SATd: Tensor, experts: int) -> Tensor:
    """(E·B, A, T, d) → (E, N, D): the heads of a token beside each other again."""
    sequences, heads, positions, head_width = mixed_SATd.shape
    tokens = sequences // experts * positions
    return mixed_SATd.transpose(1, 2).reshape(experts, tokens, heads * head_width)
