"""The feed-forward maps of experts that get different rows: drop(W_d drop(GELU(W_u x + b_u)) + b_d).

Letters: S rows, R rows with those that fill pieces up, C rows of a piece, E experts, D width, F hidden width,
O outputs. Rows stand in the order of their experts; `end_E` holds where each expert's rows end, so the last is S.

No row is dropped: each expert computes just its rows. On a CPU it does so in pieces that stay in the cache and have
few different sizes, a last short one filled up with rows of zeros: torch keeps kernels for every size that it has
seen, and the heap gaps for every size of block. Only the rows and the input of GELU are kept for the backward pass, as
in `gnn_moe.model.feed_forward`; that form is not twice differentiable, and says so. Elsewhere autograd differentiates
torch's grouped products, which read the ends on the device, so that the host need not wait for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.model.dropout import draw_seed, dropout, integer_mask, keep_in_place, mask_in_place
from gnn_moe.model.memory import PIECE_ROWS, PIECE_ROWS_MULTIPLE
from gnn_moe.model.once import refuse_second_derivative

_ALIGNMENT_BYTES = 16
"""Rows of a grouped product must be multiples of this."""


def grouped_feed_forward(
    x_SD: Tensor,
    end_E: Tensor | None,
    up_weight_EFD: Tensor,
    up_bias_EF: Tensor,
    down_weight_EDF: Tensor,
    down_bias_ED: Tensor,
    rate: float,
    *,
    training: bool,
) -> Tensor:
    """Every row through its expert's map, (S, D) → (S, D).

    Args:
        x_SD: the rows, in the type to compute in.
        end_E: int64, where each expert's rows end; None where there is one expert.
        up_weight_EFD: W_u; this and the following are parameters, in their own type.
        up_bias_EF: b_u.
        down_weight_EDF: W_d.
        down_bias_ED: b_d.
        rate: of the dropout after GELU and after the map.
        training: whether there is dropout.
    """
    rate = rate if training else 0.0
    parameters = (up_weight_EFD, up_bias_EF, down_weight_EDF, down_bias_ED)
    if x_SD.device.type != "cpu":
        return all_at_once(x_SD, end_E, *parameters, rate)
    seeds_2 = torch.stack([draw_seed(), draw_seed()]) if rate else torch.zeros(2, dtype=torch.int64)
    output_SD: Tensor = group_by_group(x_SD.contiguous(), end_E, *parameters, seeds_2, rate)[0]
    return output_SD


def all_at_once(
    x_SD: Tensor,
    end_E: Tensor | None,
    up_weight_EFD: Tensor,
    up_bias_EF: Tensor,
    down_weight_EDF: Tensor,
    down_bias_ED: Tensor,
    rate: float,
) -> Tensor:
    """The map in grouped products that autograd differentiates: (S, D) → (S, D)."""
    active_SF = functional.gelu(_grouped_linear(x_SD, end_E, up_weight_EFD, up_bias_EF))
    update_SD = _grouped_linear(dropout(active_SF, rate, training=True), end_E, down_weight_EDF, down_bias_ED)
    return dropout(update_SD, rate, training=True)


def _grouped_linear(x_SD: Tensor, end_E: Tensor | None, weight_EOD: Tensor, bias_EO: Tensor) -> Tensor:
    weight_EOD, bias_EO = weight_EOD.to(x_SD.dtype), bias_EO.to(x_SD.dtype)
    if end_E is None:
        return functional.linear(x_SD, weight_EOD[0], bias_EO[0])
    if _has_grouped_product(weight_EOD):
        product_SO = functional.grouped_mm(x_SD, weight_EOD.transpose(1, 2), offs=end_E.to(torch.int32))
    else:  # the host waits for the ends here
        groups = torch.tensor_split(x_SD, end_E[:-1].cpu())
        product_SO = torch.cat([x_CD @ weight_OD.T for x_CD, weight_OD in zip(groups, weight_EOD, strict=True)])
    expert_S = torch.searchsorted(end_E, torch.arange(x_SD.shape[0], device=x_SD.device), right=True)
    # An embedding: its gradient is summed in one order, that of an index is not.
    return product_SO + functional.embedding(expert_S, bias_EO)


def _has_grouped_product(weight_EOD: Tensor) -> bool:
    """Whether torch multiplies groups of such rows without asking the host where they end: in bf16, where aligned."""
    aligned = all(size * weight_EOD.element_size() % _ALIGNMENT_BYTES == 0 for size in weight_EOD.shape[1:])
    return weight_EOD.dtype == torch.bfloat16 and aligned


def _pieces(x_SD: Tensor, end_E: Tensor | None) -> Iterator[tuple[int, list[tuple[int, slice, slice]]]]:
    """Each expert that has rows with its pieces: a number for the seed, rows of x, a place among filled-up rows.

    The number counts from the expert's own first piece, so that the masks of a row depend on the rows before it only.
    """
    start = place = 0
    for expert, end in enumerate([len(x_SD)] if end_E is None else end_E.tolist()):
        pieces = []
        for number, first in enumerate(range(start, end, PIECE_ROWS)):
            rows = slice(first, min(first + PIECE_ROWS, end))
            size = -(-(rows.stop - rows.start) // PIECE_ROWS_MULTIPLE) * PIECE_ROWS_MULTIPLE
            pieces.append(((expert << 32) + number, rows, slice(place, place + size)))
            place += size
        yield expert, pieces
        start = end


def _filled(x_CD: Tensor, place: slice) -> Tensor:
    """Rows of zeros after those of a piece, as many as its place has more."""
    missing = place.stop - place.start - len(x_CD)
    return functional.pad(x_CD, (0, 0, 0, missing)) if missing else x_CD


@torch.library.custom_op("gnn_moe::grouped_feed_forward", mutates_args=())
def group_by_group(
    x_SD: Tensor,
    end_E: Tensor | None,
    up_weight_EFD: Tensor,
    up_bias_EF: Tensor,
    down_weight_EDF: Tensor,
    down_bias_ED: Tensor,
    seeds_2: Tensor,
    rate: float,
) -> tuple[Tensor, Tensor]:
    """The map on a CPU, with what its backward pass needs besides x: (S, D) and GELU's input (R, F).

    `seeds_2`, (2,) int64, are of the masks after GELU and after the map; each piece adds its number. Not twice
    differentiable.
    """
    dtype, scale, used = x_SD.dtype, 1 / (1 - rate), 0
    output_SD, inner_RF = _results(x_SD, up_weight_EFD)
    for e, pieces in _pieces(x_SD, end_E):
        up_FD, down_DF = up_weight_EFD[e].to(dtype), down_weight_EDF[e].to(dtype)
        for number, rows, place in pieces:
            x_CD, inner_CF = _filled(x_SD[rows], place), inner_RF[place]
            torch.addmm(up_bias_EF[e].to(dtype), x_CD, up_FD.T, out=inner_CF)
            active_CF = mask_in_place(functional.gelu(inner_CF), seeds_2[0] + number, rate)
            update_CD = torch.add(down_bias_ED[e].to(dtype), active_CF @ down_DF.T, alpha=scale)
            mask_in_place(update_CD, seeds_2[1] + number, rate)
            torch.mul(update_CD[: rows.stop - rows.start], scale, out=output_SD[rows])
            used = place.stop
    inner_RF[used:].zero_()
    return output_SD, inner_RF


@torch.library.custom_op("gnn_moe::grouped_feed_forward_backward", mutates_args=())
def group_by_group_backward(
    grad_SD: Tensor,
    x_SD: Tensor,
    end_E: Tensor | None,
    inner_RF: Tensor,
    up_weight_EFD: Tensor,
    down_weight_EDF: Tensor,
    seeds_2: Tensor,
    rate: float,
) -> list[Tensor]:
    """The gradients with respect to x and the four parameters, shaped and typed as they are."""
    dtype, scale = x_SD.dtype, 1 / (1 - rate)
    grad_x_SD, grad_up_EFD, grad_up_bias_EF, grad_down_EDF, grad_down_bias_ED = gradients = _gradients(
        x_SD, up_weight_EFD, down_weight_EDF
    )
    for e, pieces in _pieces(x_SD, end_E):
        up_FD, down_DF = up_weight_EFD[e].to(dtype), down_weight_EDF[e].to(dtype)
        for number, rows, place in pieces:
            x_CD, grad_CD, inner_CF = _filled(x_SD[rows], place), _filled(grad_SD[rows], place), inner_RF[place]
            grad_update_CD = mask_in_place(grad_CD * scale, seeds_2[1] + number, rate)
            grad_down_bias_ED[e] += grad_update_CD.sum(dim=0)
            grad_product_CD = grad_update_CD.mul_(scale)
            active_CF, grad_active_CF = functional.gelu(inner_CF), grad_product_CD @ down_DF
            if rate:
                mask_CF = integer_mask(inner_CF, seeds_2[0] + number, rate)
                keep_in_place(active_CF, mask_CF)
                keep_in_place(grad_active_CF, mask_CF)
            grad_down_EDF[e] += grad_product_CD.T @ active_CF
            grad_inner_CF = torch.ops.aten.gelu_backward(grad_active_CF, inner_CF)
            grad_up_bias_EF[e] += grad_inner_CF.sum(dim=0)
            grad_up_EFD[e] += grad_inner_CF.T @ x_CD
            grad_x_SD[rows] = (grad_inner_CF @ up_FD)[: rows.stop - rows.start]
    return gradients


def _results(x_SD: Tensor, up_weight_EFD: Tensor) -> tuple[Tensor, Tensor]:
    """Room for what `group_by_group` returns."""
    rows = x_SD.shape[0] + PIECE_ROWS_MULTIPLE * up_weight_EFD.shape[0]
    return torch.empty_like(x_SD), x_SD.new_empty(rows, up_weight_EFD.shape[1])


def _gradients(x_SD: Tensor, up_weight_EFD: Tensor, down_weight_EDF: Tensor) -> list[Tensor]:
    """What `group_by_group_backward` adds up to."""
    up_bias_EF, down_bias_ED = (weight.new_empty(weight.shape[:2]) for weight in (up_weight_EFD, down_weight_EDF))
    return [torch.zeros_like(like) for like in (x_SD, up_weight_EFD, up_bias_EF, down_weight_EDF, down_bias_ED)]


@group_by_group.register_fake
def _(x_SD: Tensor, end_E: Tensor | None, up_weight_EFD: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    return _results(x_SD, up_weight_EFD)


@group_by_group_backward.register_fake
def _(
    grad_SD: Tensor,
    x_SD: Tensor,
    end_E: Tensor | None,
    inner_RF: Tensor,
    up_weight_EFD: Tensor,
    down_weight_EDF: Tensor,
    *rest: object,
) -> list[Tensor]:
    return _gradients(x_SD, up_weight_EFD, down_weight_EDF)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x_SD, end_E, up_EFD, _, down_EDF, _, seeds_2, ctx.rate = inputs
    _, inner_RF = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(inner_RF)
    ctx.save_for_backward(x_SD, end_E, inner_RF, up_EFD, down_EDF, seeds_2)


def _backward(ctx, grad_SD: Tensor | None, unused: None) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
    refuse_second_derivative("the experts' feed-forward maps")
    if grad_SD is None:
        return (None,) * 8
    grad_x_SD, *rest = group_by_group_backward(grad_SD.contiguous(), *ctx.saved_tensors, ctx.rate)
    return (grad_x_SD, None, *rest, None, None)


group_by_group.register_autograd(_backward, setup_context=_save_for_backward)
