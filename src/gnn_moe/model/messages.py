"""Σ_j Γ_ij x_j, with gates Γ of each token's own.

Letters: E experts, N tokens, D width, S tokens of a block, B = N/S blocks.

A batch of E×E matrices is what a CPU's matrix unit is worst at: two experts fill two of the sixteen rows that it takes
at once. There the gates of S tokens stand along the diagonal of one matrix of S·E rows, so that one product takes them
all, and the gradient of the gates is the diagonal of another: with 2 and 4 experts that takes a third of the time
(docs/performance.md). The zeros between the gates meet other tokens' numbers, which changes nothing while these are
finite; a step in which they are not is not taken, and without gradients, where nothing would notice, each token has
its own product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gnn_moe.model.once import refuse_second_derivative
from gnn_moe.model.propagation import strips_of

_ROWS_OF_A_TILE = 16
"""Rows that a processor's matrix unit takes at once: a product with fewer leaves the rest of it idle."""


def messages(gate_NEE: Tensor, x_NED: Tensor) -> Tensor:
    """Σ_j Γ_ij x_j of every token: (N, E, E), (N, E, D) → (N, E, D).

    In bf16 on a CPU not twice differentiable.
    """
    in_blocks = x_NED.device.type == "cpu" and x_NED.dtype == torch.bfloat16
    if in_blocks and torch.is_grad_enabled() and (gate_NEE.requires_grad or x_NED.requires_grad):
        message_NED: Tensor = messages_in_blocks(gate_NEE, x_NED)
        return message_NED
    return torch.bmm(gate_NEE, x_NED)


@torch.library.custom_op("gnn_moe::messages", mutates_args=())
def messages_in_blocks(gate_NEE: Tensor, x_NED: Tensor) -> Tensor:
    """The product, block by block where whole blocks can be had, with a gradient of its own. Opaque to compile: which
    way it goes is decided when it runs.
    """
    size = _block_size(*x_NED.shape[:2])
    if size == 1:
        return torch.bmm(gate_NEE, x_NED)
    return torch.bmm(_on_the_diagonal(gate_NEE, size), _blocks(x_NED, size)).view(x_NED.shape)


@torch.library.custom_op("gnn_moe::gradient_of_messages", mutates_args=())
def gradient_of_gates(grad_NED: Tensor, x_NED: Tensor) -> Tensor:
    """Σ_d g_id · x_jd of every token, (N, E, E)."""
    tokens, experts, _ = x_NED.shape
    size = _block_size(tokens, experts)
    product = torch.bmm(_blocks(grad_NED, size), _blocks(x_NED, size).transpose(1, 2))
    gate_BEES = product.view(-1, size, experts, size, experts).diagonal(dim1=1, dim2=3)
    return gate_BEES.permute(0, 3, 1, 2).reshape(tokens, experts, experts)


def _block_size(tokens: int, experts: int) -> int:
    """S; 1 where the experts fill a tile, or the tokens make no whole blocks."""
    size = strips_of(experts, _ROWS_OF_A_TILE)
    return 1 if tokens % size else size


def _blocks(x_NED: Tensor, size: int) -> Tensor:
    """(N, E, D) → (B, S·E, D)."""
    tokens, experts, width = x_NED.shape
    return x_NED.view(tokens // size, size * experts, width)


def _on_the_diagonal(gate_NEE: Tensor, size: int) -> Tensor:
    """(N, E, E) → (B, S·E, S·E), zero but for the gates of the S tokens along the diagonal."""
    tokens, experts, _ = gate_NEE.shape
    block = gate_NEE.new_zeros(tokens // size, size, experts, size, experts)
    block.diagonal(dim1=1, dim2=3).copy_(gate_NEE.reshape(-1, size, experts, experts).permute(0, 2, 3, 1))
    return block.view(tokens // size, size * experts, size * experts)


@messages_in_blocks.register_fake
def _(gate_NEE: Tensor, x_NED: Tensor) -> Tensor:
    return x_NED.new_empty(x_NED.shape)


@gradient_of_gates.register_fake
def _(grad_NED: Tensor, x_NED: Tensor) -> Tensor:
    tokens, experts, _ = x_NED.shape
    return x_NED.new_empty(tokens, experts, experts)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_NED: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
    refuse_second_derivative("the messages between experts")
    gate_NEE, x_NED = ctx.saved_tensors
    grad_NED = grad_NED.contiguous()
    grad_gate_NEE = gradient_of_gates(grad_NED, x_NED) if ctx.needs_input_grad[0] else None
    grad_x_NED = messages_in_blocks(gate_NEE.transpose(1, 2), grad_NED) if ctx.needs_input_grad[1] else None
    return grad_gate_NEE, grad_x_NED


messages_in_blocks.register_autograd(_backward, setup_context=_save_for_backward)
