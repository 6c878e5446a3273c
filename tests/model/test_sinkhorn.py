"""The doubly stochastic mix: sums of rows and columns, how fast columns get there, and logits of any size."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gnn_moe.coupler_types import find_coupler
from gnn_moe.model.couplers import build_coupler
from gnn_moe.model.sinkhorn import SinkhornCoupler, doubly_stochastic, normalise
from tests.model.cases import config_of, random_ids, random_model, randomise


def extremes(experts: int, spread: float) -> Tensor:
    """Logits at either end of a range of `spread`, the slowest to converge among them: many, (..., E, E)."""
    corners = torch.tensor(list(itertools.product([0.0, spread], repeat=min(experts**2, 9))), dtype=torch.float64)
    drawn = torch.rand(200, experts, experts, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * spread
    return drawn if experts > 3 else torch.cat([drawn, corners.view(-1, experts, experts)])


@pytest.mark.parametrize("experts", [1, 2, 3, 5, 16])
def test_rows_sum_to_one_and_columns_nearly(experts: int) -> None:
    mix_SEE = doubly_stochastic(extremes(experts, 2.0))
    assert (mix_SEE > 0).all()
    torch.testing.assert_close(mix_SEE.sum(dim=-1), torch.ones_like(mix_SEE[..., 0]), rtol=0, atol=1e-14)
    assert (mix_SEE.sum(dim=-2) - 1).abs().max() < 1e-4


@pytest.mark.parametrize("spread", [1.0, 4.0, 8.0])
def test_columns_come_near_at_the_rate_that_is_said(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """tanh²(s/2) an iteration, or faster; the logits of slowest convergence are not far from it."""
    logits_SEE, left = extremes(3, spread), []
    for iterations in (4, 5):
        monkeypatch.setattr("gnn_moe.model.sinkhorn.ITERATIONS", iterations)
        columns_SE = doubly_stochastic(logits_SEE).sum(dim=-2)
        left.append((columns_SE.amax(dim=-1) / columns_SE.amin(dim=-1)).log())
    assert (left[1] <= left[0] * math.tanh(spread / 2) ** 2 + 1e-12).all()


def test_two_experts_have_a_closed_form() -> None:
    """[[a, b], [c, d]] gives p = σ((a + d − b − c) / 2) on the diagonal."""
    logits_EE = torch.tensor([[0.3, -0.4], [0.1, 0.9]], dtype=torch.float64)
    p = 1 / (1 + math.exp(-(0.3 + 0.9 + 0.4 - 0.1) / 2))
    expected = torch.tensor([[p, 1 - p], [1 - p, p]], dtype=torch.float64)
    torch.testing.assert_close(doubly_stochastic(logits_EE), expected, rtol=1e-6, atol=1e-6)


def test_as_an_operator_of_torch() -> None:
    logits_GEE = extremes(3, 2.0)[:2].requires_grad_()
    torch.library.opcheck(normalise, (logits_GEE, 2))
    # After two iterations the order of columns and rows still matters.
    assert torch.autograd.gradcheck(lambda logits: normalise(logits, 2)[0], logits_GEE)


@pytest.mark.parametrize("size", [100.0, 1e4, 3e38])
def test_logits_of_any_size_give_numbers(size: float) -> None:
    """exp of the first is beyond float32 already."""
    logits_EE = torch.tensor([[size, 0.0, -size], [0.0, size, 0.0], [0.0, -size, size]], requires_grad=True)
    mix_EE = doubly_stochastic(logits_EE)
    torch.testing.assert_close(mix_EE, torch.eye(3))
    mix_EE.sum().backward()  # type: ignore[no-untyped-call]
    assert logits_EE.grad is not None
    assert logits_EE.grad.isfinite().all()


def test_in_a_model_of_bf16_the_mix_is_of_float32() -> None:
    row = find_coupler("sinkhorn", "hgnn")
    coupler = build_coupler(config_of(row, 3))
    assert isinstance(coupler, SinkhornCoupler)
    randomise(coupler)
    expected = coupler.mixing()
    assert coupler.bfloat16().mixing().dtype == torch.float32
    torch.testing.assert_close(coupler.mixing(), expected, rtol=0.02, atol=0.02)
    torch.testing.assert_close(coupler.mixing().sum(dim=-1), torch.ones(2, 3), rtol=0, atol=1e-6)


def test_from_a_uniform_mix_it_would_never_move() -> None:
    """Why Λ does not start at 0: its gradient there is 0 in every layer, whatever all else is."""
    config = config_of(find_coupler("sinkhorn", "hgnn"), 3)
    model, ids_BT = random_model(config), random_ids(config)
    names = [name for name, _ in model.named_parameters() if name.endswith("mixing_logits")]
    for start in (torch.zeros(3, 3), torch.eye(3)):
        for name in names:
            model.get_parameter(name).data.copy_(start)
        model.zero_grad()
        model(ids_BT, labels=ids_BT).loss.backward()
        for name in names:
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            assert bool(gradient.abs().max() > 1e-9) == bool(start.any())
