"""Causal attention, with dropout on its weights that a CPU can afford.

Letters: S independent sequences (rows × experts × heads), T positions, d head width.

torch's fused CPU kernel takes no dropout, and its unfused form holds T² weights a sequence for the whole batch and
layer. Here the weights of a few sequences exist at a time: the backward pass makes them, and their dropout mask, again
from the mask's seed. That form is not twice differentiable, and says so. Without dropout, and on other devices,
torch's fused kernels are used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.model.dropout import draw_seed, integer_mask, keep_in_place, mask_in_place
from gnn_moe.model.once import refuse_second_derivative

_WEIGHTS_AT_ONCE = 2**20
"""Attention weights that exist at a time: few enough to stay in a processor's cache."""


def causal_attention(qkv_3BHTd: Tensor, rate: float, *, training: bool) -> Tensor:
    """softmax(q kᵀ / √d, over positions up to the query's own) with dropout, times v.

    Args:
        qkv_3BHTd: queries, keys and values, (3, B, H, T, d) contiguous; B rows, of every expert, H heads. One tensor,
            so that its gradient need not be put together.
        rate: of the dropout on the attention weights.
        training: whether there is dropout.

    Returns:
        (B, H, T, d).
    """
    if training and rate > 0 and qkv_3BHTd.device.type == "cpu":
        output_STd: Tensor = dropped_attention(qkv_3BHTd.flatten(1, 2), draw_seed(), rate)
        return output_STd.view(qkv_3BHTd.shape[1:])
    query, key, value = qkv_3BHTd
    return functional.scaled_dot_product_attention(
        query, key, value, dropout_p=rate if training else 0.0, is_causal=True
    )


def _chunks(sequences: int, positions: int) -> list[slice]:
    size = max(1, _WEIGHTS_AT_ONCE // positions**2)
    return [slice(start, min(start + size, sequences)) for start in range(0, sequences, size)]


def _future(query_STd: Tensor) -> Tensor:
    """(T, T): −∞ where a key is later than the query, 0 elsewhere."""
    return query_STd.new_full((query_STd.shape[1],) * 2, -math.inf).triu(1)


def _weights(query_STd: Tensor, key_STd: Tensor, future_TT: Tensor) -> Tensor:
    scores_STT = torch.baddbmm(future_TT, query_STd, key_STd.transpose(1, 2), alpha=1 / math.sqrt(query_STd.shape[2]))
    return scores_STT.softmax(dim=-1)


@torch.library.custom_op("gnn_moe::dropped_attention", mutates_args=())
def dropped_attention(qkv_3STd: Tensor, seed: Tensor, rate: float) -> Tensor:
    """Causal attention with dropout on its weights, on a CPU: (3, S, T, d) contiguous → (S, T, d).

    Not twice differentiable.
    """
    query_STd, key_STd, value_STd = qkv_3STd
    output_STd, future_TT = torch.empty_like(query_STd), _future(query_STd)
    for chunk in _chunks(*query_STd.shape[:2]):
        weights_STT = _weights(query_STd[chunk], key_STd[chunk], future_TT)
        mask_in_place(weights_STT, seed + chunk.start, rate)
        torch.bmm(weights_STT, value_STd[chunk], out=output_STd[chunk])
    return output_STd.mul_(1 / (1 - rate))


@torch.library.custom_op("gnn_moe::dropped_attention_backward", mutates_args=())
def dropped_attention_backward(grad_STd: Tensor, qkv_3STd: Tensor, seed: Tensor, rate: float) -> Tensor:
    """The gradient of `dropped_attention` with respect to queries, keys and values, (3, S, T, d)."""
    grad_qkv_3STd = torch.empty_like(qkv_3STd)
    grad_STd, future_TT = grad_STd * (1 / (1 - rate)), _future(grad_STd)
    for chunk in _chunks(*grad_STd.shape[:2]):
        (query, key, value), grad = qkv_3STd[:, chunk], grad_STd[chunk]
        grad_query, grad_key, grad_value = grad_qkv_3STd[:, chunk]
        weights_STT = _weights(query, key, future_TT)
        mask_STT = integer_mask(weights_STT, seed + chunk.start, rate)
        kept_STT = keep_in_place(weights_STT.clone(), mask_STT)
        torch.bmm(kept_STT.transpose(1, 2), grad, out=grad_value)
        grad_weights_STT = keep_in_place(torch.bmm(grad, value.transpose(1, 2)), mask_STT)
        grad_scores_STT = torch._softmax_backward_data(grad_weights_STT, weights_STT, -1, weights_STT.dtype)
        grad_scores_STT.mul_(1 / math.sqrt(query.shape[2]))
        torch.bmm(grad_scores_STT, key, out=grad_query)
        torch.bmm(grad_scores_STT.transpose(1, 2), query, out=grad_key)
    return grad_qkv_3STd


@dropped_attention.register_fake
def _(qkv_3STd: Tensor, seed: Tensor, rate: float) -> Tensor:
    return torch.empty_like(qkv_3STd[0])


@dropped_attention_backward.register_fake
def _(grad_STd: Tensor, qkv_3STd: Tensor, seed: Tensor, rate: float) -> Tensor:
    return torch.empty_like(qkv_3STd)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    *tensors, ctx.rate = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, grad_STd: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    refuse_second_derivative("the results of attention with dropout")
    return dropped_attention_backward(grad_STd.contiguous(), *ctx.saved_tensors, ctx.rate), None, None


dropped_attention.register_autograd(_backward, setup_context=_save_for_backward)
