"""The second half of every expert: h ← h + drop(W_d drop(GELU(W_u LN2(h) + b_u)) + b_d).

Letters: E experts, N tokens, D width, F = 4D.

Left to autograd, this half keeps 15 of the 21 numbers an expert, token and channel that a block keeps for its backward
pass. On a CPU one expert is computed at a time, so that what follows a product finds its result in the cache, and
only h, the statistics of its norm and the input of GELU are kept; norm, GELU and masks are made again in the backward
pass, the masks from their seeds. That form is not twice differentiable, and says so. Other devices compute all
experts in batched products.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.model.dropout import draw_seed, dropout, integer_mask, keep_in_place, mask_in_place
from gnn_moe.model.once import refuse_second_derivative
from gnn_moe.model.stacked import LAYER_NORM_EPSILON, fold_norm, stacked_linear


def feed_forward(
    hidden_END: Tensor,
    norm_gain_ED: Tensor,
    norm_bias_ED: Tensor,
    up_weight_EFD: Tensor,
    up_bias_EF: Tensor,
    down_weight_EDF: Tensor,
    down_bias_ED: Tensor,
    rate: float,
    *,
    training: bool,
) -> Tensor:
    """Every expert's residual feed-forward map, (E, N, D) → (E, N, D).

    Args:
        hidden_END: h, in the type to compute in.
        norm_gain_ED: of LN2; this and the following are parameters, in their own type.
        norm_bias_ED: of LN2.
        up_weight_EFD: W_u.
        up_bias_EF: b_u.
        down_weight_EDF: W_d.
        down_bias_ED: b_d.
        rate: of the dropout after GELU and after the map.
        training: whether there is dropout.
    """
    rate = rate if training else 0.0
    parameters = (norm_gain_ED, norm_bias_ED, up_weight_EFD, up_bias_EF, down_weight_EDF, down_bias_ED)
    if hidden_END.device.type != "cpu":
        return all_at_once(hidden_END, *parameters, rate)
    if norm_gain_ED.dtype not in (hidden_END.dtype, torch.float32):
        # The only two types that torch's LayerNorm takes beside bf16 on a CPU.
        parameters = (norm_gain_ED.float(), norm_bias_ED.float(), *parameters[2:])
    seeds_2 = torch.stack([draw_seed(), draw_seed()]) if rate else torch.zeros(2, dtype=torch.int64)
    output_END: Tensor = expert_by_expert(hidden_END.contiguous(), *parameters, seeds_2, rate)[0]
    return output_END


def all_at_once(
    hidden_END: Tensor,
    norm_gain_ED: Tensor,
    norm_bias_ED: Tensor,
    up_weight_EFD: Tensor,
    up_bias_EF: Tensor,
    down_weight_EDF: Tensor,
    down_bias_ED: Tensor,
    rate: float,
) -> Tensor:
    """The map in batched products that autograd differentiates: (E, N, D) → (E, N, D)."""
    weight_EFD, bias_EF = fold_norm(up_weight_EFD, up_bias_EF, norm_gain_ED, norm_bias_ED)
    normed_END = functional.layer_norm(hidden_END, hidden_END.shape[-1:], eps=LAYER_NORM_EPSILON)
    active_ENF = functional.gelu(stacked_linear(normed_END.to(hidden_END.dtype), weight_EFD, bias_EF))
    update_END = stacked_linear(dropout(active_ENF, rate, training=True), down_weight_EDF, down_bias_ED)
    return hidden_END + dropout(update_END, rate, training=True)


@torch.library.custom_op("gnn_moe::feed_forward", mutates_args=())
def expert_by_expert(
    hidden_END: Tensor,
    norm_gain_ED: Tensor,
    norm_bias_ED: Tensor,
    up_weight_EFD: Tensor,
    up_bias_EF: Tensor,
    down_weight_EDF: Tensor,
    down_bias_ED: Tensor,
    seeds_2: Tensor,
    rate: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The map on a CPU, with what its backward pass needs: (E, N, D), GELU's input, mean and 1/deviation of LN2.

    `seeds_2`, (2,) int64, are of the masks after GELU and after the map; each expert has the next. Not twice
    differentiable.
    """
    dtype, scale = hidden_END.dtype, 1 / (1 - rate)
    output_END, inner_ENF, mean_EN1, deviation_EN1 = _results(hidden_END, norm_gain_ED, up_weight_EFD)
    for e, hidden_ND in enumerate(hidden_END):
        normed_ND, mean_EN1[e], deviation_EN1[e] = _norm(hidden_ND, norm_gain_ED[e], norm_bias_ED[e])
        torch.addmm(up_bias_EF[e].to(dtype), normed_ND, up_weight_EFD[e].to(dtype).T, out=inner_ENF[e])
        active_NF = mask_in_place(functional.gelu(inner_ENF[e]), seeds_2[0] + e, rate)
        product_ND = active_NF @ down_weight_EDF[e].to(dtype).T
        update_ND = torch.add(down_bias_ED[e].to(dtype), product_ND, alpha=scale)
        torch.add(hidden_ND, mask_in_place(update_ND, seeds_2[1] + e, rate), alpha=scale, out=output_END[e])
    return output_END, inner_ENF, mean_EN1, deviation_EN1


@torch.library.custom_op("gnn_moe::feed_forward_backward", mutates_args=())
def expert_by_expert_backward(
    grad_END: Tensor,
    hidden_END: Tensor,
    inner_ENF: Tensor,
    mean_EN1: Tensor,
    deviation_EN1: Tensor,
    norm_gain_ED: Tensor,
    norm_bias_ED: Tensor,
    up_weight_EFD: Tensor,
    down_weight_EDF: Tensor,
    seeds_2: Tensor,
    rate: float,
) -> list[Tensor]:
    """The gradients with respect to the first seven arguments of `expert_by_expert`, shaped and typed as they are."""
    dtype, scale = hidden_END.dtype, 1 / (1 - rate)
    grad_hidden_END, *parameter_grads = _gradients(hidden_END, norm_gain_ED, up_weight_EFD, down_weight_EDF)
    grad_gain_ED, grad_shift_ED, grad_up_EFD, grad_up_bias_EF, grad_down_EDF, grad_down_bias_ED = parameter_grads
    for e, (hidden_ND, inner_NF) in enumerate(zip(hidden_END, inner_ENF, strict=True)):
        grad_update_ND = mask_in_place(grad_END[e] * scale, seeds_2[1] + e, rate)
        grad_down_bias_ED[e] = grad_update_ND.sum(dim=0)
        grad_product_ND = grad_update_ND.mul_(scale)
        active_NF, grad_active_NF = functional.gelu(inner_NF), grad_product_ND @ down_weight_EDF[e].to(dtype)
        if rate:
            mask_NF = integer_mask(inner_NF, seeds_2[0] + e, rate)
            keep_in_place(active_NF, mask_NF)
            keep_in_place(grad_active_NF, mask_NF)
        grad_down_EDF[e] = grad_product_ND.T @ active_NF
        grad_inner_NF = torch.ops.aten.gelu_backward(grad_active_NF, inner_NF)
        grad_up_bias_EF[e] = grad_inner_NF.sum(dim=0)
        # Gain and shift as if folded into W_u and b_u: torch's own sums of them are in bf16, token by token.
        plain_ND = torch.native_layer_norm(hidden_ND, hidden_ND.shape[1:], None, None, LAYER_NORM_EPSILON)[0]
        grad_folded_FD = (grad_inner_NF.T @ plain_ND).to(up_weight_EFD.dtype)
        grad_gain_ED[e] = (grad_folded_FD * up_weight_EFD[e]).sum(dim=0)
        grad_shift_ED[e] = grad_up_bias_EF[e] @ up_weight_EFD[e]
        grad_up_FD = torch.mul(grad_folded_FD, norm_gain_ED[e], out=grad_up_EFD[e])
        grad_up_FD.addr_(grad_up_bias_EF[e], norm_bias_ED[e])
        grad_through_norm_ND = torch.ops.aten.native_layer_norm_backward(
            grad_inner_NF @ up_weight_EFD[e].to(dtype),
            hidden_ND,
            hidden_ND.shape[1:],
            mean_EN1[e],
            deviation_EN1[e],
            norm_gain_ED[e],
            norm_bias_ED[e],
            [True, False, False],
        )[0]
        torch.add(grad_END[e], grad_through_norm_ND, out=grad_hidden_END[e])
    return [grad_hidden_END, *parameter_grads]


def _results(hidden_END: Tensor, norm_gain_ED: Tensor, up_weight_EFD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Room for what `expert_by_expert` returns."""
    inner_ENF = hidden_END.new_empty(*hidden_END.shape[:2], up_weight_EFD.shape[1])
    mean_EN1, deviation_EN1 = (norm_gain_ED.new_empty(*hidden_END.shape[:2], 1) for _ in range(2))
    return torch.empty_like(hidden_END), inner_ENF, mean_EN1, deviation_EN1


def _gradients(
    hidden_END: Tensor, norm_gain_ED: Tensor, up_weight_EFD: Tensor, down_weight_EDF: Tensor
) -> list[Tensor]:
    """Room for what `expert_by_expert_backward` returns."""
    up_bias_EF, down_bias_ED = (weight.new_empty(weight.shape[:2]) for weight in (up_weight_EFD, down_weight_EDF))
    like = (hidden_END, norm_gain_ED, norm_gain_ED, up_weight_EFD, up_bias_EF, down_weight_EDF, down_bias_ED)
    return [torch.empty_like(tensor) for tensor in like]


def _norm(hidden_ND: Tensor, gain_D: Tensor, bias_D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LN2 in the type of h, with mean and 1/deviation (N, 1) in the parameters' type."""
    return torch.native_layer_norm(hidden_ND, hidden_ND.shape[1:], gain_D, bias_D, LAYER_NORM_EPSILON)


@expert_by_expert.register_fake
def _(
    hidden_END: Tensor, norm_gain_ED: Tensor, norm_bias_ED: Tensor, up_weight_EFD: Tensor, *rest: object
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _results(hidden_END, norm_gain_ED, up_weight_EFD)


@expert_by_expert_backward.register_fake
def _(
    grad_END: Tensor,
    hidden_END: Tensor,
    inner_ENF: Tensor,
    mean_EN1: Tensor,
    deviation_EN1: Tensor,
    norm_gain_ED: Tensor,
    norm_bias_ED: Tensor,
    up_weight_EFD: Tensor,
    down_weight_EDF: Tensor,
    *rest: object,
) -> list[Tensor]:
    return _gradients(hidden_END, norm_gain_ED, up_weight_EFD, down_weight_EDF)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    hidden_END, gain_ED, shift_ED, up_EFD, _, down_EDF, _, seeds_2, ctx.rate = inputs
    _, *kept = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*kept)
    ctx.save_for_backward(hidden_END, *kept, gain_ED, shift_ED, up_EFD, down_EDF, seeds_2)


def _backward(ctx, grad_END: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    refuse_second_derivative("the experts' feed-forward maps")
    if grad_END is None:
        return (None,) * 9
    return (*expert_by_expert_backward(grad_END.contiguous(), *ctx.saved_tensors, ctx.rate), None, None)


expert_by_expert.register_autograd(_backward, setup_context=_save_for_backward)
