"""Next-token cross-entropy whose logits never exist for a whole batch.

Letters: N tokens, D width, V vocabulary.

The head is the largest product of a small model, and its float32 logits the largest tensor. Here a few hundred tokens
at a time make their logits, their loss and, in the same pass, the gradients of hidden states, weight and bias, so
that nothing of size N×V is kept and the logits are computed once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from gnn_moe.data.batches import IGNORED

_LOGITS_AT_ONCE = 2**25
_ROWS_MULTIPLE = 64


def head_loss(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor, target_N: Tensor, denominator: Tensor) -> Tensor:
    """Σ_n −log softmax(W h_n + b)[target_n] / denominator over tokens whose target is not −100: () in float32 or wider.

    Args:
        hidden_ND: final hidden states in the type that the products are computed in.
        weight_VD, bias_V: the head, in the type of the parameters.
        target_N: int64; −100 marks a token that is not predicted.
        denominator: () the number to divide by: the predicted tokens of the whole batch, of which these may be a part.
    """
    if hidden_ND.device.type == "cpu":
        # Elsewhere the selection would make the host wait for the device.
        hidden_ND, target_N = _predicted(hidden_ND, target_N)
    # Inside `forward` gradients are always off and `needs_input_grad` does not know whether they were wanted.
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (hidden_ND, weight_VD, bias_V))
    loss: Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, bias_V, target_N, denominator, wanted
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
        wanted: bool,
    ) -> Tensor:
        weight, bias = weight_VD.to(hidden_ND.dtype), bias_V.to(hidden_ND.dtype)
        gradients = _Gradients(hidden_ND, weight_VD, bias_V) if wanted else None
        total = torch.zeros((), dtype=torch.float64, device=hidden_ND.device)
        size = max(1, _LOGITS_AT_ONCE // len(weight) // _ROWS_MULTIPLE) * _ROWS_MULTIPLE
        for start in range(0, len(hidden_ND), size):
            chunk = slice(start, start + size)
            logits_CV = functional.linear(hidden_ND[chunk], weight, bias)
            loss_C, grad_logits_CV = _chunk_loss(logits_CV, target_N[chunk])
            total += loss_C.sum(dtype=torch.float64)
            if gradients is not None:
                gradients.add(chunk, grad_logits_CV, hidden_ND[chunk], weight)
        if gradients is not None:
            ctx.save_for_backward(gradients.hidden_ND, gradients.weight_VD, gradients.bias_V, denominator)
        return (total / denominator).to(torch.promote_types(hidden_ND.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, weight_VD, bias_V, denominator = ctx.saved_tensors
        scale = grads[0] / denominator
        return hidden_ND * scale.to(hidden_ND.dtype), weight_VD * scale, bias_V * scale, None, None, None


class _Gradients:
    """The gradients of the summed loss, gathered over chunks; those of the parameters in float32 or wider."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> None:
        self.hidden_ND = torch.empty_like(hidden_ND)
        self.weight_VD = torch.zeros_like(weight_VD)
        self.bias_V = torch.zeros_like(bias_V)

    def add(self, chunk: slice, grad_logits_CV: Tensor, hidden_CD: Tensor, weight_VD: Tensor) -> None:
        torch.mm(grad_logits_CV, weight_VD, out=self.hidden_ND[chunk])
        self.weight_VD += grad_logits_CV.T @ hidden_CD
        self.bias_V += grad_logits_CV.sum(dim=0)


def _chunk_loss(logits_CV: Tensor, target_C: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's loss (0 where ignored) and d loss / d logits = softmax − one at the target, in place of the logits.

    The normaliser is summed in float32 or wider. The gradient is not divided by the number of tokens yet: in bf16 that
    quotient would be off by up to 0.4 % for every token alike.
    """
    kept_C1 = (target_C != IGNORED)[:, None]
    # Any other target outside the vocabulary is an error of `gather`, not token 0.
    target_C1 = target_C.masked_fill(target_C == IGNORED, 0)[:, None]
    shifted_CV = logits_CV.sub_(logits_CV.amax(dim=1, keepdim=True))
    target_logit_C1 = shifted_CV.gather(1, target_C1)
    exp_CV = shifted_CV.exp_()
    normaliser_C1 = exp_CV.sum(dim=1, keepdim=True, dtype=torch.promote_types(exp_CV.dtype, torch.float32))
    loss_C1 = (normaliser_C1.log() - target_logit_C1) * kept_C1
    softmax_CV = exp_CV.mul_((kept_C1 / normaliser_C1).to(exp_CV.dtype))
    grad_logits_CV = softmax_CV.scatter_add_(1, target_C1, -kept_C1.to(exp_CV.dtype))
    return loss_C1[:, 0], grad_logits_CV
