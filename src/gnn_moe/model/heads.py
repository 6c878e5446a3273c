"""Queries, keys and values of all experts, head by head, from one input.

Letters: E experts, B rows, T positions, N = B·T tokens, A heads, D width, d = D/A head width, O = 3D.

On a CPU one expert is computed at a time, so that its product is still in the cache when it is put in order by heads:
for all experts at once that takes as long again as half of the product (docs/performance.md).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def queries_keys_values(x_BTD: Tensor, weight_EOD: Tensor, bias_EO: Tensor, heads: int) -> Tensor:
    """(B, T, D), (E, 3D, D), (E, 3D) → (3, E·B, A, T, d) contiguous, in the type of x."""
    project = expert_by_expert if x_BTD.device.type == "cpu" else all_at_once
    projected_3EBATd: Tensor = project(x_BTD, weight_EOD.to(x_BTD.dtype), bias_EO.to(x_BTD.dtype), heads)
    return projected_3EBATd.flatten(1, 2)


def joined_heads(mixed_SATd: Tensor, experts: int) -> Tensor:
    """(E·B, A, T, d) → (E, N, D): the heads of a token beside each other again."""
    by_token_STD = mixed_SATd.transpose(1, 2).flatten(2)
    return by_token_STD.reshape(experts, -1, by_token_STD.shape[2])


def all_at_once(x_BTD: Tensor, weight_EOD: Tensor, bias_EO: Tensor, heads: int) -> Tensor:
    """In one product: (3, E, B, A, T, d)."""
    qkv = functional.linear(x_BTD, weight_EOD.flatten(0, 1), bias_EO.flatten())
    split_BTE3Ad = qkv.view(*x_BTD.shape[:2], len(weight_EOD), 3, heads, -1)
    return split_BTE3Ad.permute(3, 2, 0, 4, 1, 5).contiguous()


@torch.library.custom_op("gnn_moe::project_to_heads", mutates_args=())
def expert_by_expert(x_BTD: Tensor, weight_EOD: Tensor, bias_EO: Tensor, heads: int) -> Tensor:
    """In one product an expert: (3, E, B, A, T, d)."""
    projected, x_ND = _room(x_BTD, weight_EOD, heads), x_BTD.flatten(0, 1)
    for e, (weight_OD, bias_O) in enumerate(zip(weight_EOD, bias_EO, strict=True)):
        qkv_NO = torch.addmm(bias_O, x_ND, weight_OD.T)
        split_BT3Ad = qkv_NO.view(*x_BTD.shape[:2], 3, heads, -1)
        projected[:, e].copy_(split_BT3Ad.permute(2, 0, 3, 1, 4))
    return projected


def _room(x_BTD: Tensor, weight_EOD: Tensor, heads: int) -> Tensor:
    rows, positions, width = x_BTD.shape
    return x_BTD.new_empty(3, len(weight_EOD), rows, heads, positions, width // heads)


@expert_by_expert.register_fake
def _(x_BTD: Tensor, weight_EOD: Tensor, bias_EO: Tensor, heads: int) -> Tensor:
    return _room(x_BTD, weight_EOD, heads)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x_BTD, weight_EOD, _, _ = inputs
    ctx.save_for_backward(x_BTD, weight_EOD)


def _backward(ctx, grad_3EBATd: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    """All at once: the sum over experts that a gradient of x is comes out of one product, rounded once."""
    x_BTD, weight_EOD = ctx.saved_tensors
    numbers = weight_EOD.shape[0] * weight_EOD.shape[1]
    grad_qkv = grad_3EBATd.permute(2, 4, 1, 0, 3, 5).reshape(-1, numbers)
    grad_x_ND = grad_qkv @ weight_EOD.flatten(0, 1)
    grad_weight = grad_qkv.T @ x_BTD.flatten(0, 1)
    grad_bias = grad_qkv.sum(dim=0)
    return grad_x_ND.view_as(x_BTD), grad_weight.view_as(weight_EOD), grad_bias.view(weight_EOD.shape[:2]), None


expert_by_expert.register_autograd(_backward, setup_context=_save_for_backward)
