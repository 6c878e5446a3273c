"""Σ_j P_ij x_j, the same P for every token, with a gradient of P that is not rounded to bf16.

Letters: E experts, N tokens, D width, S strips, K = N·D.

∂P is one E×E matrix summed over all tokens, and most of it is what the experts have in common. Whatever keeps the rows
of P at a sum of 1 (the degrees of a hypergraph, Sinkhorn's normalisation) takes that away again. Rounded to bf16, as
the product of two bf16 matrices is, ∂P would leave its rounding: a second product finds what the first has rounded
off. That makes 16 binary digits and more, with the strips that there are; few strips are added up in float32, in 24.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_moe.model.once import refuse_second_derivative

ROWS_AT_ONCE = 64
"""Rows of a product that mixes experts on a CPU: with fewer its matrix unit waits for memory (docs/performance.md)."""
_FEWEST_STRIPS, _SLICES = 4, 4
"""From how many strips on ∂P comes from products of bf16, and in how many slices of the strips: with more of both, more
roundings even out."""
_NUMBERS_AT_ONCE = 2**15
"""Of an expert's results that are there in float32 at a time: few enough to stay in a processor's cache."""


def propagate(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    """Σ_j P_ij x_j for every token: (E, E), (E, N, D) → (E, N, D) in the type of x.

    Not twice differentiable where P is learned.
    """
    if torch.is_grad_enabled() and propagation_EE.requires_grad:
        product_END: Tensor = learned_propagation(propagation_EE, x_END)
        return product_END
    return _product(propagation_EE, x_END)


def strips_of(experts: int, rows: int) -> int:
    """Strips, a power of 2, that make no more than `rows` rows of all experts' numbers; 1 where there are as many."""
    return 1 << (rows // experts).bit_length() - 1 if experts <= rows else 1


def _product(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    return (propagation_EE.to(x_END.dtype) @ x_END.flatten(1)).view(x_END.shape)


def _product_in_strips(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    """The same, each expert's numbers cut into strips in bf16 on a CPU.

    (P ⊗ I) holds P once for each strip, so one product takes them all, in half of the time of the product with P. The
    zeros of I meet other tokens' numbers there, which changes nothing while these are finite. A step in which they are
    not is not taken.
    """
    strips = _strips(x_END)
    if strips == 1:
        return _product(propagation_EE, x_END)
    in_strips = torch.kron(propagation_EE.contiguous(), torch.eye(strips, dtype=propagation_EE.dtype)).to(x_END.dtype)
    return (in_strips @ x_END.reshape(len(x_END) * strips, -1)).view(x_END.shape)


def _strips(x_END: Tensor) -> int:
    """1 where they would not pay, or the numbers make no equal ones."""
    strips = strips_of(len(x_END), ROWS_AT_ONCE)
    pays = x_END.dtype == torch.bfloat16 and x_END.device.type == "cpu"
    return strips if pays and x_END[0].numel() % strips == 0 else 1


@torch.library.custom_op("gnn_moe::propagation", mutates_args=())
def learned_propagation(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    """The product, with a gradient of its own. Opaque to compile: which way it goes is decided when it runs."""
    return _product_in_strips(propagation_EE, x_END)


@torch.library.custom_op("gnn_moe::gradient_of_propagation", mutates_args=())
def gradient_of_propagation(grad_END: Tensor, x_END: Tensor) -> Tensor:
    """Σ_n g_in · x_jn over all tokens and channels, (E, E) in float32 or wider."""
    grad_EK, x_EK = grad_END.flatten(1), x_END.flatten(1)
    if x_EK.dtype in (torch.float32, torch.float64):
        return grad_EK @ x_EK.T
    if x_EK.device.type == "cuda":
        return torch.mm(grad_EK, x_EK.T, out_dtype=torch.float32)
    strips = _strips(x_END)
    return _from_strips(grad_END, x_END, strips) if strips >= _FEWEST_STRIPS else _from_pieces(grad_EK, x_EK)


def _from_strips(grad_END: Tensor, x_END: Tensor, strips: int) -> Tensor:
    """The second product takes the result of the first away before it is rounded, which leaves what that lost."""
    experts, rows = len(x_END), len(x_END) * strips
    sum_RR = torch.zeros(rows, rows)
    slices = (tensor.reshape(rows, -1).tensor_split(_SLICES, dim=1) for tensor in (grad_END, x_END))
    for grad, x in zip(*slices, strict=True):
        rounded = grad @ x.T
        sum_RR += rounded
        sum_RR += torch.addmm(rounded, grad, x.T, beta=-1)
    return sum_RR.view(experts, strips, experts, strips).diagonal(dim1=1, dim2=3).sum(dim=-1)


def _from_pieces(grad_EK: Tensor, x_EK: Tensor) -> Tensor:
    """In float32, some numbers at a time."""
    sum_EE = torch.zeros(len(grad_EK), len(x_EK), device=x_EK.device)
    for start in range(0, x_EK.shape[1], _NUMBERS_AT_ONCE):
        grad, x = (tensor[:, start : start + _NUMBERS_AT_ONCE].float() for tensor in (grad_EK, x_EK))
        sum_EE.addmm_(grad, x.T)
    return sum_EE


@learned_propagation.register_fake
def _(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    return x_END.new_empty(x_END.shape)


@gradient_of_propagation.register_fake
def _(grad_END: Tensor, x_END: Tensor) -> Tensor:
    wide = torch.promote_types(x_END.dtype, torch.float32)
    return x_END.new_empty(len(grad_END), len(x_END), dtype=wide)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_END: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
    refuse_second_derivative("the results of a coupler that learns its mix")
    propagation_EE, x_END = ctx.saved_tensors
    grad_END = grad_END.contiguous()
    grad_x_END = learned_propagation(propagation_EE.T, grad_END) if ctx.needs_input_grad[1] else None
    return gradient_of_propagation(grad_END, x_END.contiguous()).to(propagation_EE.dtype), grad_x_END


learned_propagation.register_autograd(_backward, setup_context=_save_for_backward)
