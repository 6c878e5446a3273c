"""The control `top_k`: the usual sparse mixture of experts, each token to the k likeliest of E feed-forward maps.

Letters: B rows, T positions, N = B·T tokens, E experts, k experts a token, S = N·k, D width, F hidden width.

    layer: h = x + Attention(LN1(x)),   x = h + Σ_{e chosen} weight_e · FFN_e(LN2(h))

Attention is shared. D and F are solved for, so that a token costs as much as in the coupled model. No token is dropped:
tokens are sorted by expert, each expert is one product over its own, and the results are put back in order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn_moe.config import ModelConfig
from gnn_moe.model.grouped_feed_forward import grouped_feed_forward
from gnn_moe.model.router import route
from gnn_moe.model.self_attention import SelfAttention
from gnn_moe.model.size import model_size
from gnn_moe.model.stacked import LAYER_NORM_EPSILON


@torch.library.custom_op("gnn_moe::reorder", mutates_args=())
def reorder(x_SD: Tensor, order_S: Tensor, inverse_S: Tensor) -> Tensor:
    """Row s of the result is row order[s] of x; `inverse_S` is the order that undoes it.

    Its gradient is put back in one pass and one order, where that of an index would be added up.
    """
    return x_SD.index_select(0, order_S)


@reorder.register_fake
def _(x_SD: Tensor, order_S: Tensor, inverse_S: Tensor) -> Tensor:
    return torch.empty_like(x_SD)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, *orders = inputs
    ctx.save_for_backward(*orders)


def _backward(ctx, grad_SD: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
    order_S, inverse_S = ctx.saved_tensors
    return reorder(grad_SD, inverse_S, order_S), None, None


reorder.register_autograd(_backward, setup_context=_save_for_backward)


class FeedForwardExperts(nn.Module):
    """E feed-forward maps, each over the rows that are sent to it: (S, D) → (S, D)."""

    def __init__(self, experts: int, width: int, inner_width: int, dropout_rate: float) -> None:
        super().__init__()
        self.dropout_rate = dropout_rate
        self.up_weight = nn.Parameter(torch.empty(experts, inner_width, width))
        self.up_bias = nn.Parameter(torch.empty(experts, inner_width))
        self.down_weight = nn.Parameter(torch.empty(experts, width, inner_width))
        self.down_bias = nn.Parameter(torch.empty(experts, width))

    def forward(self, x_SD: Tensor, expert_S: Tensor) -> Tensor:
        """Row s through expert `expert_S[s]`; the results stand in the order of x."""
        order_S = expert_S.argsort(stable=True)
        inverse_S = order_S.argsort()
        numbers_E = torch.arange(len(self.up_weight), device=x_SD.device)
        end_E = (expert_S[:, None] == numbers_E).sum(dim=0).cumsum(dim=0)
        output_SD = grouped_feed_forward(
            reorder(x_SD, order_S, inverse_S),
            end_E,
            self.up_weight,
            self.up_bias,
            self.down_weight,
            self.down_bias,
            self.dropout_rate,
            training=self.training,
        )
        returned_SD: Tensor = reorder(output_SD, inverse_S, order_S)
        return returned_SD


class SparseFeedForward(nn.Module):
    """x ← x + Σ_{e chosen} weight_e · FFN_e(LN(x)), in the parameters' type."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = model_size(config)
        self.top_k = config.router_top_k
        self.norm_gain, self.norm_bias = nn.Parameter(torch.empty(size.width)), nn.Parameter(torch.empty(size.width))
        self.router_weight = nn.Parameter(torch.empty(config.num_experts, size.width))
        self.experts = FeedForwardExperts(config.num_experts, size.width, size.feed_forward_width, config.dropout_rate)

    def forward(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(B, T, D) → (B, T, D) and the router's logits (N, E), which are computed in float32 or wider."""
        normed_BTD = functional.layer_norm(x_BTD, x_BTD.shape[-1:], self.norm_gain, self.norm_bias, LAYER_NORM_EPSILON)
        normed_ND = normed_BTD.flatten(0, 1)
        wide = torch.promote_types(normed_ND.dtype, torch.float32)
        logits_NE = functional.linear(normed_ND.to(wide), self.router_weight.to(wide))
        weight_Nk, expert_Nk = route(logits_NE, self.top_k)
        sent_SD = normed_ND.to(compute_dtype).repeat_interleave(self.top_k, dim=0)
        result_NkD = self.experts(sent_SD, expert_Nk.flatten()).view(*expert_Nk.shape, -1)
        update_ND = (weight_Nk.to(compute_dtype)[..., None] * result_NkD).sum(dim=1)
        return x_BTD + update_ND.view_as(x_BTD), logits_NE


class TopKLayer(nn.Module):
    """Shared attention and a sparse mixture, as `gnn_moe.model.language_model.LAYERS` wants it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = model_size(config)
        self.attention = SelfAttention(size.width, size.heads, config.dropout_rate)
        self.feed_forward = SparseFeedForward(config)

    def forward(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        mixed: tuple[Tensor, Tensor] = self.feed_forward(self.attention(x_BTD, compute_dtype), compute_dtype)
        return mixed
