"""Next-token cross-entropy whose logits never exist for a whole batch.

Letters: N tokens, D width, V vocabulary.

The head is the largest product of a small model, and its float32 logits the largest tensor. Here a few hundred tokens
at a time make their logits, their loss and, in the same pass, the gradients of hidden states, weight and bias, so
that nothing of size N×V is kept and the logits are computed once. The loss is not twice differentiable, and says so.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gnn_moe.data.batches import IGNORED
from gnn_moe.model.memory import LOGITS_BYTES
from gnn_moe.model.once import refuse_second_derivative
from gnn_moe.model.workspace import Workspace

_ROWS_MULTIPLE = 64
"""Rows of a product are a multiple of this."""
_SOFTMAX_BYTES_AT_ONCE = {"cpu": 2**23, "cuda": 2**30}
"""Of the logits that become gradients at a time, while they are in a processor's cache."""


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
    chosen = order_N[: -(-predicted // _ROWS_MULTIPLE) * _ROWS_MULTIPLE]
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
        weight_DV, bias = _for_products(weight_VD, hidden_ND.dtype), bias_V.to(hidden_ND.dtype)
        gradients = _Gradients(hidden_ND, weight_VD, bias_V) if wanted else None
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        size = _even(len(hidden_ND), _rows_at_once(LOGITS_BYTES, weight_DV, _ROWS_MULTIPLE))
        for start in range(0, max(1, len(hidden_ND)), size):
            chunk = slice(start, start + size)
            hidden_CD = hidden_ND[chunk]
            logits_CV = torch.mm(hidden_CD, weight_DV, out=workspace.take(len(hidden_CD), len(bias_V), hidden_ND))
            total += _chunk_loss(logits_CV, bias, target_N[chunk], None if gradients is None else gradients.bias_V)
            if gradients is not None:
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


def _for_products(weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in a type, (D, V), with the rows of its product: a matrix unit takes it a third faster so."""
    return weight_VD.T if weight_VD.dtype == dtype else weight_VD.to(dtype).T.contiguous()


def _rows_at_once(bytes_at_once: dict[str, int], like_XV: Tensor, multiple: int) -> int:
    """How many rows of V numbers fit, rounded down to a multiple but at least one of it."""
    limit = bytes_at_once.get(like_XV.device.type, bytes_at_once["cuda"])
    return max(1, limit // (like_XV.shape[1] * like_XV.element_size()) // multiple) * multiple


def _even(rows: int, most: int) -> int:
    """Rows of a piece where pieces of at most `most` rows, a multiple of 64 each, are to be alike."""
    pieces = max(1, math.ceil(rows / most))
    return max(1, math.ceil(rows / pieces / _ROWS_MULTIPLE)) * _ROWS_MULTIPLE


def _chunk_loss(products_CV: Tensor, bias_V: Tensor, target_C: Tensor, grad_bias_V: Tensor | None) -> Tensor:
    """The summed loss, () float64, of logits without their bias, which become its gradient by the logits, in place.

    The gradient by the bias is added to `grad_bias_V` if there is one.
    """
    rows = _rows_at_once(_SOFTMAX_BYTES_AT_ONCE, products_CV, 1)
    losses = []
    for logits_RV, target_R in zip(torch.split(products_CV, rows), torch.split(target_C, rows), strict=True):
        losses.append(_losses_to_gradients(logits_RV.add_(bias_V), target_R))
        if grad_bias_V is not None:
            grad_bias_V += logits_RV.sum(dim=0)
    return torch.cat(losses).sum(dtype=torch.float64)


def _losses_to_gradients(logits_RV: Tensor, target_R: Tensor) -> Tensor:
    """Each token's loss (R,), 0 where ignored; the logits become d loss / d logits = softmax − one at the target.

    torch's softmax computes in float32 or wider whatever the logits are, and takes a third of the time of its steps
    one by one. The gradient is not divided by the number of tokens yet: in bf16 that quotient would be off by up to
    0.4 % for every token alike.
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
    # Not `scatter_` or `scatter_add_`, which on a CPU copy all of the logits to float32 and back.
    logits_RV.index_put_((rows_R, target_R1[:, 0]), -kept_R1[:, 0].to(logits_RV.dtype), accumulate=True)
    return losses_R1[:, 0]
