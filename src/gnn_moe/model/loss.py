"""Next-token cross-entropy whose logits never exist for a whole batch.

Letters: N tokens, D width, V vocabulary.

The head is the largest product of a small model, and its float32 logits the largest tensor. Here some tokens at a time
make their logits, their loss and, in the same pass, the gradients of hidden states, weight and bias, so that nothing
of size N×V is kept and the logits are computed once. The loss is not twice differentiable, and says so.

Where no gradient is wanted, as in evaluation, the loss of logits is exact to float32. Where one is, it comes from the
probabilities, which in bf16 leaves each token's loss off by up to 0.002 nats, to either side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.data.batches import IGNORED
from gnn_moe.model.memory import HEAD_ROWS_MULTIPLE, head_rows_at_once, most_head_rows
from gnn_moe.model.once import refuse_second_derivative
from gnn_moe.model.workspace import Workspace

_SOFTMAX_BYTES_AT_ONCE = {"cpu": 2**23, "cuda": 2**28}
"""Of the logits that become losses and gradients at a time, while they are in a processor's cache."""
_ROWS_WORTH_A_COPY = 1600
"""Rows of a forward and a backward product that save as much as it takes to write the weight the other way round."""


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
        weight_DV = _for_products(weight_VD, hidden_ND, wanted)
        gradients = _Gradients(hidden_ND, weight_VD, bias_V) if wanted else None
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        sizes = (len(hidden_ND), len(bias_V), hidden_ND.element_size(), hidden_ND.device.type)
        rows = head_rows_at_once(*sizes)
        # Of the most rows that a batch of as many tokens or fewer takes at once, so that the room seldom grows.
        with workspace.lend(most_head_rows(*sizes) * len(bias_V), hidden_ND) as room:
            for start in range(0, max(1, len(hidden_ND)), rows):
                chunk = slice(start, start + rows)
                hidden_CD = hidden_ND[chunk]
                out_CV = room[: len(hidden_CD) * len(bias_V)].view(len(hidden_CD), len(bias_V))
                logits_CV = torch.mm(hidden_CD, weight_DV, out=out_CV)
                if gradients is None:
                    total += _exact_loss(logits_CV, bias_V, target_N[chunk])
                else:
                    total += _loss_to_gradients(logits_CV, bias_V, target_N[chunk], gradients.bias_V)
                    gradients.add(chunk, logits_CV, hidden_CD, weight_DV)
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden_ND, gradients.weight_VD, gradients.bias_V, denominator)
        return (total / denominator).to(torch.promote_types(hidden_ND.dtype, torch.float32))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("losses of the head")
        hidden_ND, weight_VD, bias_V, denominator = ctx.saved_tensors
        scale = grads[0] / denominator
        return hidden_ND * scale.to(hidden_ND.dtype), weight_VD * scale, bias_V * scale, None, None, None, None


class _Gradients:
    """The gradients of the summed loss, gathered over chunks; those of the parameters in float32 or wider."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> None:
        self.hidden_ND = torch.empty_like(hidden_ND)
        self.weight_VD = torch.empty_like(weight_VD)
        self.bias_V = torch.zeros_like(bias_V)

    def add(self, chunk: slice, grad_logits_CV: Tensor, hidden_CD: Tensor, weight_DV: Tensor) -> None:
        """What a chunk adds, but for the bias, whose gradient comes with the softmax."""
        torch.mm(grad_logits_CV, weight_DV.T, out=self.hidden_ND[chunk])
        grad_weight_VD = grad_logits_CV.T @ hidden_CD
        if chunk.start == 0:
            self.weight_VD.copy_(grad_weight_VD)
        else:
            self.weight_VD += grad_weight_VD


def _for_products(weight_VD: Tensor, hidden_ND: Tensor, wanted: bool) -> Tensor:
    """The weight in the type of the hidden states, (D, V).

    With the rows of its product a matrix unit takes it a third faster, forwards. That is worth a copy on a CPU where
    there are many rows.
    """
    weight_DV = weight_VD.to(hidden_ND.dtype).T
    copied = wanted and hidden_ND.device.type == "cpu" and len(hidden_ND) >= _ROWS_WORTH_A_COPY
    return weight_DV.contiguous() if copied and weight_VD.dtype != hidden_ND.dtype else weight_DV


def _pieces(logits_CV: Tensor, target_C: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The rows of a chunk, with their targets, as many as a cache holds."""
    limit = _SOFTMAX_BYTES_AT_ONCE.get(logits_CV.device.type, _SOFTMAX_BYTES_AT_ONCE["cuda"])
    rows = max(1, limit // (logits_CV.shape[1] * logits_CV.element_size()))
    return zip(torch.split(logits_CV, rows), torch.split(target_C, rows), strict=True)


def _exact_loss(products_CV: Tensor, bias_V: Tensor, target_C: Tensor) -> Tensor:
    """The summed loss, () float64, of logits without their bias, computed in float32 or wider."""
    wide = torch.promote_types(products_CV.dtype, torch.float32)
    losses = [
        functional.cross_entropy(logits_RV.to(wide) + bias_V.to(wide), target_R, reduction="sum", ignore_index=IGNORED)
        for logits_RV, target_R in _pieces(products_CV, target_C)
    ]
    return torch.stack(losses).sum(dtype=torch.float64)


def _loss_to_gradients(products_CV: Tensor, bias_V: Tensor, target_C: Tensor, grad_bias_V: Tensor) -> Tensor:
    """The summed loss, () float64, of logits without their bias, which become its gradient by the logits, in place.

    The gradient by the bias is added to `grad_bias_V`.
    """
    bias_V, losses = bias_V.to(products_CV.dtype), []
    for logits_RV, target_R in _pieces(products_CV, target_C):
        losses.append(_losses_to_gradients(logits_RV.add_(bias_V), target_R))
        grad_bias_V += logits_RV.sum(dim=0)
    return torch.cat(losses).sum(dtype=torch.float64)


def _losses_to_gradients(logits_RV: Tensor, target_R: Tensor) -> Tensor:
    """Each token's loss (R,), 0 where ignored; the logits become d loss / d logits = softmax − one at the target.

    torch's softmax computes in float32 or wider whatever the logits are, and takes less than half of the time of its
    steps one by one. The gradient is not divided by the number of tokens yet: in bf16 that quotient would be off by up
    to 0.4 % for every token alike.
    """
    kept_R1 = (target_R != IGNORED)[:, None]
    # Any other target outside the vocabulary is an error of `gather`, not token 0.
    target_R1 = target_R.masked_fill(target_R == IGNORED, 0)[:, None]
    wide = torch.promote_types(logits_RV.dtype, torch.float32)
    distance_R1 = (logits_RV.amax(dim=1, keepdim=True).to(wide) - logits_RV.gather(1, target_R1)) * kept_R1
    torch.softmax(logits_RV, dim=1, out=logits_RV)
    # log Σ exp(logit − greatest) = −log of the greatest probability, which is never so small that it is lost.
    losses_R1 = distance_R1 - logits_RV.amax(dim=1, keepdim=True).to(wide).log() * kept_R1
    # On a CPU a look at the targets saves a pass; elsewhere it would make the host wait.
    if logits_RV.device.type != "cpu" or not bool(kept_R1.all()):
        logits_RV.mul_(kept_R1)
    rows_R = torch.arange(len(logits_RV), device=logits_RV.device)
    less_one_R1 = logits_RV.gather(1, target_R1) - kept_R1.to(logits_RV.dtype)
    # Not `scatter_`, which on a CPU copies all of the logits to float32 and back.
    logits_RV.index_put_((rows_R, target_R1[:, 0]), less_one_R1[:, 0])
    return losses_R1[:, 0]
