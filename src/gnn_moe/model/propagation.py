"""Σ_j P_ij x_j, the same P for every token, with the gradient of P in float32 whatever x is.

Letters: E experts, N tokens, D width, K = N·D.

∂P is one E×E matrix summed over all tokens, and most of it is what the experts have in common. Whatever keeps the rows
of P at a sum of 1 (the degrees of a hypergraph, Sinkhorn's normalisation) takes that away again. Rounded to bf16, as
the product of two bf16 matrices is, ∂P would leave its rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_moe.model.once import refuse_second_derivative

_NUMBERS_AT_ONCE = 2**15
"""Of an expert's results that are there in float32 at a time: few enough to stay in a processor's cache."""

_ROWS_OF_A_TILE = 16
"""Rows that a processor's matrix unit takes at once: a product with fewer leaves the rest of it idle."""


def propagate(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    """Σ_j P_ij x_j for every token: (E, E), (E, N, D) → (E, N, D) in the type of x.

    Not twice differentiable where P is learned.
    """
    if torch.is_grad_enabled() and propagation_EE.requires_grad:
        product_END: Tensor = learned_propagation(propagation_EE, x_END)
        return product_END
    return _product(propagation_EE, x_END)


def strips_of(experts: int) -> int:
    """Strips, a power of 2, that each expert's numbers are cut into to fill a tile; 1 where the experts fill it."""
    return 1 << (_ROWS_OF_A_TILE // experts).bit_length() - 1 if experts <= _ROWS_OF_A_TILE else 1


def _product(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    return (propagation_EE.to(x_END.dtype) @ x_END.flatten(1)).view(x_END.shape)


def _product_in_strips(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    """The same, each expert's numbers cut into as many strips as fill a tile of the CPU's matrix unit.

    (P ⊗ I) holds P once for each strip, so one product takes them all: for 2 experts in bf16 it takes less than half
    the time of the product with P (docs/performance.md). The zeros of I meet other tokens' numbers there, which changes
    nothing while these are finite. A step in which they are not is not taken.
    """
    experts, numbers = len(x_END), x_END[0].numel()
    strips = strips_of(experts)
    if strips == 1 or numbers % strips or x_END.dtype != torch.bfloat16 or x_END.device.type != "cpu":
        return _product(propagation_EE, x_END)
    in_strips = torch.kron(propagation_EE.contiguous(), torch.eye(strips, dtype=propagation_EE.dtype)).to(x_END.dtype)
    return (in_strips @ x_END.reshape(experts * strips, -1)).view(x_END.shape)


@torch.library.custom_op("gnn_moe::propagation", mutates_args=())
def learned_propagation(propagation_EE: Tensor, x_END: Tensor) -> Tensor:
    """The product, with a gradient of its own. Opaque to compile: which way it goes is decided when it runs."""
    return _product_in_strips(propagation_EE, x_END)


@torch.library.custom_op("gnn_moe::gradient_of_propagation", mutates_args=())
def gradient_of_propagation(grad_END: Tensor, x_END: Tensor) -> Tensor:
    """Σ_n g_in · x_jn over all tokens and channels, (E, E), added up in float32 or wider."""
    grad_EK, x_EK = grad_END.flatten(1), x_END.flatten(1)
    if x_EK.dtype in (torch.float32, torch.float64):
        return grad_EK @ x_EK.T
    if x_EK.device.type == "cuda":
        return torch.mm(grad_EK, x_EK.T, out_dtype=torch.float32)
    # A CPU rounds a product of bf16 to bf16. Summing rounded pieces in float32 is not enough: the rest stays wrong.
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
