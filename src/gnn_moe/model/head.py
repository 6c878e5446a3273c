"""The products of the head: logits, and the gradients that the gradient of logits makes.

Letters: N tokens, C tokens of a chunk, D width, V vocabulary, K = D + `HEAD_BIAS_ROWS`.

A processor's matrix unit takes V columns of D weights with less effort than V rows of them, and so it writes their
gradient. Where the weight lies in memory like that (`lay_out_by_columns`), the products of a training step in bf16 on a
CPU take the bias along as one more row of it: no pass over the logits adds the bias, and none sums up its gradient
(docs/performance.md).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.model.memory import HEAD_BIAS_ROWS


def lay_out_by_columns(weight_VD: Tensor) -> None:
    """Puts the head's weight into memory column by column; its values, and what is saved of it, stay.

    For training in bf16 on a CPU, before there is an optimiser: moments must lie in memory as their weight does.
    """
    weight_VD.data = weight_VD.data.T.contiguous().T


def by_columns(matrix: Tensor) -> bool:
    """Whether a tensor is a matrix that lies in memory column by column, and not also row by row."""
    return matrix.dim() == 2 and matrix.mT.is_contiguous() and not matrix.is_contiguous()


class Head:
    """Logits of some tokens at a time, in any type and on any device."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> None:
        self.hidden_ND, self.weight_DV = hidden_ND, weight_VD.to(hidden_ND.dtype).T
        self.bias_V: Tensor | None = bias_V
        """What has yet to be added to the logits, (V,)."""

    def logits(self, tokens: slice | Tensor, room: Tensor | None = None) -> Tensor:
        """(C, V) of chosen tokens, at the start of `room` if there is one; the bias may have yet to be added."""
        return _product(self.hidden_ND[tokens], self.weight_DV, room)


class TrainedHead(Head):
    """A head that gathers the gradients of a summed loss; those of the parameters in their type.

    For each chunk of tokens: `logits`, then `add_bias` and `add_bias_gradient` piece by piece, then `add_gradients`.
    """

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> None:
        super().__init__(hidden_ND, weight_VD, bias_V)
        self.grad_hidden_ND, self.grad_weight_VD = torch.empty_like(hidden_ND), torch.empty_like(weight_VD)
        self.grad_bias_V = torch.zeros_like(bias_V)

    def add_bias(self, logits_RV: Tensor) -> None:
        """To some rows of logits, in place."""
        assert self.bias_V is not None
        logits_RV.add_(self.bias_V.to(logits_RV.dtype))

    def add_bias_gradient(self, grad_logits_RV: Tensor) -> None:
        """What these rows add to it."""
        self.grad_bias_V += grad_logits_RV.sum(dim=0)

    def add_gradients(self, chunk: slice, grad_logits_CV: Tensor) -> None:
        """What a chunk adds to all others."""
        torch.mm(grad_logits_CV, self.weight_DV.T, out=self.grad_hidden_ND[chunk])
        _add(self.grad_weight_VD, grad_logits_CV.T @ self.hidden_ND[chunk], first=chunk.start == 0)


class HeadByColumns(TrainedHead):
    """The head of a weight that lies by columns, in bf16 on a CPU, with the bias inside the products."""

    def __init__(self, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> None:
        vocabulary, width = weight_VD.shape
        self.bias_V = None
        self.hidden_NK = functional.pad(hidden_ND, (0, HEAD_BIAS_ROWS))
        self.hidden_NK[:, width] = 1
        weight_KV = hidden_ND.new_zeros(width + HEAD_BIAS_ROWS, vocabulary)
        weight_KV[:width], weight_KV[width] = weight_VD.T, bias_V
        self.weight_KV, self.weight_DV = weight_KV, weight_KV[:width]
        self.grad_hidden_ND, self.grad_weight_KV = torch.empty_like(hidden_ND), weight_VD.new_empty(weight_KV.shape)
        self.grad_weight_VD, self.grad_bias_V = self.grad_weight_KV[:width].T, self.grad_weight_KV[width]

    def add_bias(self, logits_RV: Tensor) -> None:
        """It is in the product."""

    def add_bias_gradient(self, grad_logits_RV: Tensor) -> None:
        """It comes with the weight's."""

    def logits(self, tokens: slice | Tensor, room: Tensor | None = None) -> Tensor:
        return _product(self.hidden_NK[tokens], self.weight_KV, room)

    def add_gradients(self, chunk: slice, grad_logits_CV: Tensor) -> None:
        torch.mm(grad_logits_CV, self.weight_DV.T, out=self.grad_hidden_ND[chunk])
        # hᵀ in order: as a view the product takes a third longer.
        grad_weight_KV = self.hidden_NK[chunk].T.contiguous() @ grad_logits_CV
        _add(self.grad_weight_KV, grad_weight_KV, first=chunk.start == 0)


def trained_head(hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor) -> TrainedHead:
    """The form for these hidden states, in the type to compute in, and this head in the type of its parameters."""
    inside = by_columns(weight_VD) and hidden_ND.dtype == torch.bfloat16 and hidden_ND.device.type == "cpu"
    return (HeadByColumns if inside else TrainedHead)(hidden_ND, weight_VD, bias_V)


def _product(hidden_CK: Tensor, weight_KV: Tensor, room: Tensor | None) -> Tensor:
    shape = len(hidden_CK), weight_KV.shape[1]
    return torch.mm(hidden_CK, weight_KV, out=None if room is None else room[: shape[0] * shape[1]].view(shape))


def _add(total: Tensor, addend: Tensor, *, first: bool) -> None:
    if first:
        total.copy_(addend)
    else:
        total += addend
