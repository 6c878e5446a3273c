"""Next-token cross-entropy whose logits never exist for a whole batch.

Letters: N tokens, D width, V vocabulary.

The head is the largest product of a small model, and its float32 logits the largest tensor. Here some tokens at a time
make their logits, their loss and, in the same pass, the gradients of hidden states, weight and bias, so that nothing
of size N×V is kept and the logits are computed once. The loss is not twice differentiable, and says so.

Where no gradient is wanted, as in evaluation, the loss of the logits, as their type holds them, is exact to float32.
Where one is, it comes from the probabilities, which in bf16 leaves each token's loss off by up to another 0.004 nats,
to either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.data.batches import IGNORED
from gnn_moe.model.head import Head, TrainedHead, trained_head
from gnn_moe.model.memory import HEAD_ROWS_MULTIPLE, head_rows_at_once, most_head_rows
from gnn_moe.model.once import refuse_second_derivative
from gnn_moe.model.workspace import Workspace

_SOFTMAX_BYTES_AT_ONCE = {"cpu": 2**23, "cuda": 2**28}
"""Of the logits that become losses and gradients at a time, while they are in a processor's cache."""


def head_loss(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
    denominator: Tensor,
    workspace: Workspace | None = None,
) -> Tensor:
    """Σ_n −log softmax(W h_n + b)[target_n] / denominator over tokens whose target is not −100: () in float32 or wider.

    Args:
        hidden_ND: final hidden states in the type that the products are computed in.
        weight_VD, bias_V: the head, in the type of the parameters.
        target_N: int64; −100 marks a token that is not predicted.
        denominator: () the number to divide by: the predicted tokens of the whole batch, of which these may be a part.
        workspace: where logits come and go (default: in memory of this call).
    """
    if hidden_ND.device.type == "cpu":
        # Elsewhere the selection would make the host wait for the device.
        hidden_ND, target_N = _predicted(hidden_ND, target_N)
    # Inside `forward` gradients are always off and `needs_input_grad` does not know whether they were wanted.
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden_ND, weight_VD, bias_V))
    loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, target_N, denominator, workspace or Workspace(), wanted
    )
    return loss


def _predicted(hidden_ND: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that are predicted, so that padding costs no head product.

    A few that are not fill the number up to a multiple of 64: a CPU keeps kernels for every shape that it has seen.
    """
    order_N = torch.argsort((target_N == IGNORED).to(torch.int8), stable=True)
    predicted = int((target_N != IGNORED).sum())
    chosen = order_N[: -(-predicted // HEAD_ROWS_MULTIPLE) * HEAD_ROWS_MULTIPLE]
    return hidden_ND[chosen], target_N[chosen]


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor,
        target_N: Tensor,
        denominator: Tensor,
        workspace: Workspace,
        wanted: bool,
    ) -> Tensor:
        head = (trained_head if wanted else Head)(hidden_ND, weight_VD, bias_V)
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        sizes = (len(hidden_ND), len(bias_V), hidden_ND.element_size(), hidden_ND.device.type)
        rows = head_rows_at_once(*sizes)
        # Of the most rows that a batch of as many tokens or fewer takes at once, so that the room seldom grows.
        with workspace.lend(most_head_rows(*sizes) * len(bias_V), hidden_ND) as room:
            for start in range(0, max(1, len(hidden_ND)), rows):
                chunk = slice(start, start + rows)
                logits_CV = head.logits(chunk, room)
                if isinstance(head, TrainedHead):
                    total += _loss_to_gradients(head, chunk, logits_CV, target_N[chunk])
                    head.add_gradients(chunk, logits_CV)
                else:
                    total += _exact_losses(logits_CV, head.bias_V, target_N[chunk]).sum(dtype=torch.float64)
        if isinstance(head, TrainedHead):
            ctx.save_for_backward(head.grad_hidden_ND, head.grad_weight_VD, head.grad_bias_V, denominator)
        return (total / denominator).to(torch.promote_types(hidden_ND.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("losses of the head")
        hidden_ND, weight_VD, bias_V, denominator = ctx.saved_tensors
        scale = grads[0] / denominator
        return hidden_ND * scale.to(hidden_ND.dtype), weight_VD * scale, bias_V * scale, None, None, None, None


def _pieces(logits_CV: Tensor, target_C: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of a chunk, with their targets, as many as a cache holds."""
    limit = _SOFTMAX_BYTES_AT_ONCE.get(logits_CV.device.type, _SOFTMAX_BYTES_AT_ONCE["cuda"])
    rows = max(1, limit // (logits_CV.shape[1] * logits_CV.element_size()))
    return zip(torch.split(logits_CV, rows), torch.split(target_C, rows), strict=True)


def _exact_losses(products_CV: Tensor, bias_V: Tensor | None, target_C: Tensor) -> Tensor:
    """Each token's loss (C,), 0 where ignored, computed in float32 or wider; `bias_V` is yet to be added."""
    wide = torch.promote_types(products_CV.dtype, torch.float32)
    losses = []
    for products_RV, target_R in _pieces(products_CV, target_C):
        logits_RV = products_RV.to(wide) if bias_V is None else products_RV.to(wide) + bias_V.to(wide)
        losses.append(functional.cross_entropy(logits_RV, target_R, reduction="none", ignore_index=IGNORED))
    return torch.cat(losses)


def _loss_to_gradients(head: TrainedHead, chunk: slice, products_CV: Tensor, target_C: Tensor) -> Tensor:
    """The summed loss, () float64, of a chunk's products, which become its gradient by the logits, in place."""
    may_wait, losses = products_CV.device.type == "cpu", []
    for logits_RV, target_R in _pieces(products_CV, target_C):
        head.add_bias(logits_RV)
        losses.append(_losses_to_gradients(logits_RV, target_R, may_wait=may_wait))
        head.add_bias_gradient(logits_RV)
    losses_C = torch.cat(losses)
    if may_wait and bool((lost_C := losses_C.isinf()).any()):
        losses_C[lost_C] = _lost_losses(head, chunk.start + lost_C.nonzero()[:, 0], target_C[lost_C])
    return losses_C.sum(dtype=torch.float64)


def _lost_losses(head: Head, token_L: Tensor, target_L: Tensor) -> Tensor:
    """The losses (L,) of tokens by their number, from logits that are made again, in products of 64 rows."""
    losses = []
    pieces = (torch.split(of_all, HEAD_ROWS_MULTIPLE) for of_all in (token_L, target_L))
    for token_R, target_R in zip(*pieces, strict=True):
        filled_R = functional.pad(token_R, (0, HEAD_ROWS_MULTIPLE - len(token_R)))
        losses.append(_exact_losses(head.logits(filled_R)[: len(token_R)], head.bias_V, target_R))
    return torch.cat(losses)


def _losses_to_gradients(logits_RV: Tensor, target_R: Tensor, *, may_wait: bool) -> Tensor:
    """Each token's loss (R,), 0 where ignored; the logits become d loss / d logits = softmax − one at the target.

    torch's softmax computes in float32 or wider whatever the logits are, and takes less than half of the time of its
    steps one by one. The gradient is not divided by the number of tokens yet: in bf16 that quotient would be off by up
    to 0.4 % for every token alike.

    Args:
        logits_RV: in any type.
        target_R: −100 is ignored.
        may_wait: whether the host may look at numbers. Then ∞ stands for a loss whose probability is too small for
            its type (over 87 in bf16 and float32); elsewhere a pass over the logits is the price of having it.
    """
    kept_R1 = (target_R != IGNORED)[:, None]
    # Any other target outside the vocabulary is an error of `gather`, not token 0.
    target_R1 = target_R.masked_fill(target_R == IGNORED, 0)[:, None]
    wide = torch.promote_types(logits_RV.dtype, torch.float32)
    if may_wait:
        at_R1, ahead_R1 = target_R1, torch.zeros((), dtype=wide)
    else:
        greatest_R1, at_R1 = logits_RV.max(dim=1, keepdim=True)
        ahead_R1 = greatest_R1.to(wide) - logits_RV.gather(1, target_R1)
    torch.softmax(logits_RV, dim=1, out=logits_RV)
    probability_R1 = logits_RV.gather(1, at_R1).to(wide)
    # The numbers below `tiny` have few digits, if any.
    losses_R1 = ahead_R1 - torch.where(probability_R1 < torch.finfo(logits_RV.dtype).tiny, 0, probability_R1).log()
    # On a CPU a look at the targets saves a pass; elsewhere it would make the host wait.
    if not may_wait or not bool(kept_R1.all()):
        logits_RV.mul_(kept_R1)
    rows_R = torch.arange(len(logits_RV), device=logits_RV.device)
    less_one_R1 = logits_RV.gather(1, target_R1) - kept_R1.to(logits_RV.dtype)
    # Not `scatter_`, which on a CPU copies all of the logits to float32 and back.
    logits_RV.index_put_((rows_R, target_R1[:, 0]), less_one_R1[:, 0])
    return losses_R1.masked_fill(~kept_R1, 0)[:, 0]
