"""Routing: who is chosen, how much, and the losses against their formulas, a token at a time.

Letters: L layers, N tokens, E experts, k experts a token.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gnn_moe.model.router import LOAD_BALANCING, Z, expert_load, route, router_losses

L, N, E = 2, 12, 4


def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(L, N, E, dtype=torch.float64, generator=generator).requires_grad_()


COUNTED = torch.tensor([True] * 7 + [False] * 3 + [True] * 2)


def test_a_tokens_experts_are_its_likeliest_and_their_weights_sum_to_one() -> None:
    logits_NE = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 4.0]], requires_grad=True)
    weight_Nk, expert_Nk = route(logits_NE, 2)
    assert expert_Nk.tolist() == [[1, 2], [0, 2]]
    p = 1 / (1 + math.exp(-1))  # a softmax over the two chosen logits
    torch.testing.assert_close(weight_Nk, torch.tensor([[p, 1 - p], [p, 1 - p]]))
    weight_Nk[:, 0].sum().backward()  # type: ignore[no-untyped-call]
    assert logits_NE.grad is not None
    assert (logits_NE.grad != 0).tolist() == [[False, True, True], [True, False, True]]


def test_one_expert_keeps_its_probability_so_that_its_router_learns() -> None:
    logits_NE = torch.tensor([[0.0, 2.0, 1.0]], requires_grad=True)
    weight_Nk, expert_Nk = route(logits_NE, 1)
    assert expert_Nk.tolist() == [[1]]
    torch.testing.assert_close(weight_Nk[0, 0], logits_NE.softmax(dim=1)[0, 1])
    weight_Nk.sum().backward()  # type: ignore[no-untyped-call]
    assert logits_NE.grad is not None
    assert logits_NE.grad.abs().min() > 0.01


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_losses_equal_their_formulas_token_by_token(top_k: int) -> None:
    logits_LNE = logits()
    found = router_losses(logits_LNE, COUNTED, top_k)
    balancing, z = [], []
    for logits_NE in logits_LNE:
        counted = [token_E for token_E, counts in zip(logits_NE, COUNTED, strict=True) if counts]
        chosen = [0] * E
        for token_E in counted:
            for expert in sorted(range(E), key=lambda e: -float(token_E[e].detach()))[:top_k]:
                chosen[expert] += 1
        mean_E = sum((token_E.exp() / token_E.exp().sum() for token_E in counted), torch.zeros(E)) / len(counted)
        balancing.append(E * sum(chosen[e] / (len(counted) * top_k) * mean_E[e] for e in range(E)))
        z.append(sum(token_E.exp().sum().log() ** 2 for token_E in counted) / len(counted))
    for name, slow in {LOAD_BALANCING: balancing, Z: z}.items():
        expected = torch.stack([torch.as_tensor(value) for value in slow]).mean()
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-9)
        (ours,) = torch.autograd.grad(found[name], logits_LNE, retain_graph=True)
        (theirs,) = torch.autograd.grad(expected, logits_LNE, retain_graph=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_balance_is_one_and_the_worst_is_the_number_of_experts() -> None:
    even_LNE = 9 * torch.eye(E).repeat(1, 3, 1)
    assert router_losses(even_LNE, torch.ones(12, dtype=torch.bool), 1)[LOAD_BALANCING].item() == pytest.approx(1)
    one_LNE = torch.tensor([50.0, 0, 0, 0]).expand(1, 12, E)
    assert router_losses(one_LNE, torch.ones(12, dtype=torch.bool), 1)[LOAD_BALANCING].item() == pytest.approx(E)
    assert router_losses(torch.zeros(1, 12, E), COUNTED, 2)[Z].item() == pytest.approx(math.log(E) ** 2)


def test_load_counts_assignments_of_counted_tokens() -> None:
    logits_LNE = torch.tensor([[[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 1, 2, 3]]])
    counted_N = torch.tensor([True, False, True])
    assert expert_load(logits_LNE, counted_N, 2).tolist() == [[0.25, 0.25, 0.25, 0.25]]
    assert expert_load(logits_LNE, counted_N, 1).tolist() == [[0.5, 0, 0, 0.5]]
    assert expert_load(logits_LNE, ~counted_N, 2).tolist() == [[0.5, 0.5, 0, 0]]
    torch.testing.assert_close(expert_load(logits(), COUNTED, 2).sum(dim=1), torch.ones(L, dtype=torch.float64))


def test_a_batch_of_padding_alone_has_no_loss() -> None:
    none_N = torch.zeros(N, dtype=torch.bool)
    assert [value.item() for value in router_losses(logits(), none_N, 2).values()] == [0, 0]
