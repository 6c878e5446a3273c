"""Where a sparse mixture sends its tokens, and the losses that keep the experts in use: pure functions of logits.

Letters: L layers, N tokens, E experts, k experts a token.

With p = softmax of a token's logits, f_e = the share of all assignments that go to expert e, and means over tokens:

    load balancing = E Σ_e f_e · mean p_e          1 where all experts get as much  (Switch; Fedus et al., 2021)
    z              = mean (log Σ_e exp logit_e)²    keeps logits small               (ST-MoE; Zoph et al., 2022)

Both are means over the layers too, so that their weights mean the same at any depth. The default weights, 0.01 and
0.001, are those of both papers and of OLMoE (Muennighoff et al., 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

LOAD_BALANCING, Z = "load_balancing_loss", "router_z_loss"


def route(logits_NE: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest experts of each token: their weights (N, k) and numbers (N, k), likeliest first.

    Weights are the probabilities of the chosen divided by their sum, as in ST-MoE and Mixtral: a softmax over their
    logits. One chosen expert keeps its probability, as in Switch: 1 would leave its router without a gradient.
    """
    chosen_Nk, expert_Nk = logits_NE.topk(top_k, dim=-1)
    if top_k > 1:
        return chosen_Nk.softmax(dim=-1), expert_Nk
    return (chosen_Nk - logits_NE.logsumexp(dim=-1, keepdim=True)).exp(), expert_Nk


def expert_load(logits_LNE: Tensor, counted_N: Tensor, top_k: int) -> Tensor:
    """f: the share of the counted tokens' assignments that each expert gets, (L, E); each layer's sum to 1.

    Args:
        logits_LNE: of every layer's router.
        counted_N: bool, the tokens that count: padding does not.
        top_k: k.
    """
    _, expert_LNk = logits_LNE.topk(top_k, dim=-1)
    chosen_LNE = torch.zeros_like(logits_LNE).scatter(-1, expert_LNk, 1.0) * counted_N[:, None]
    return chosen_LNE.sum(dim=1) / (top_k * _count(counted_N, logits_LNE))


def router_losses(logits_LNE: Tensor, counted_N: Tensor, top_k: int) -> dict[str, Tensor]:
    """Both losses by name, each () in the type of the logits; arguments as for `expert_load`.

    The load-balancing loss is a product of two means over tokens, so the mean of that of two halves of a batch is not
    that of the whole: the fewer tokens, the more evenly each few of them are pushed to spread.
    """
    tokens = _count(counted_N, logits_LNE)
    mean_LE = (logits_LNE.softmax(dim=-1) * counted_N[:, None]).sum(dim=1) / tokens
    load_LE = expert_load(logits_LNE.detach(), counted_N, top_k)
    squared_LN = logits_LNE.logsumexp(dim=-1).square() * counted_N
    return {
        LOAD_BALANCING: logits_LNE.shape[-1] * (load_LE * mean_LE).sum(dim=-1).mean(),
        Z: (squared_LN.sum(dim=-1) / tokens).mean(),
    }


def _count(counted_N: Tensor, like: Tensor) -> Tensor:
    """How many tokens count, at least 1."""
    return counted_N.sum().clamp(min=1).to(like.dtype)
