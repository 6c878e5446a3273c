"""Messages between the experts of a token: one product a block of tokens, and what one product a token gives.

Letters: E experts, N tokens, D width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnn_moe.model.couplers import by_expert
from gnn_moe.model.messages import gradient_of_gates, messages, messages_in_blocks

D = 24
each_shape = pytest.mark.parametrize(
    ("tokens", "experts"), [(32, 2), (32, 3), (32, 4), (33, 4), (32, 8), (32, 11), (5, 16), (8, 20), (0, 2)]
)


def random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def with_gradients(gate_NEE: Tensor, x_NED: Tensor, grad_NED: Tensor, *, one_by_one: bool) -> tuple[Tensor, ...]:
    """Messages and both gradients; token by token in float64, or as the coupler has them."""
    if one_by_one:
        gate_NEE, x_NED, grad_NED = gate_NEE.double(), x_NED.double(), grad_NED.double()
    gate_NEE, x_NED = gate_NEE.clone().requires_grad_(), x_NED.clone().requires_grad_()
    sent = torch.einsum("nij,njd->nid", gate_NEE, x_NED) if one_by_one else messages(gate_NEE, x_NED)
    return sent, *torch.autograd.grad(sent, (gate_NEE, x_NED), grad_NED)


@each_shape
def test_blocks_of_tokens_are_as_good_as_tokens(tokens: int, experts: int) -> None:
    given = random(tokens, experts, experts), random(tokens, experts, D), random(tokens, experts, D)
    expected = with_gradients(*given, one_by_one=True)
    for found, wanted in zip(with_gradients(*given, one_by_one=False), expected, strict=True):
        assert found.dtype == torch.bfloat16
        # Sums are in float32: what differs is the one rounding to 8 bits.
        assert (found.double() - wanted).norm() <= 2**-8 * wanted.norm()


@each_shape
def test_other_types_have_autograds_own_product(tokens: int, experts: int) -> None:
    shapes = (tokens, experts, experts), (tokens, experts, D), (tokens, experts, D)
    given = [random(*shape, dtype=torch.float64) for shape in shapes]
    expected = with_gradients(*given, one_by_one=True)
    torch.testing.assert_close(with_gradients(*given, one_by_one=False), expected, rtol=1e-12, atol=1e-12)


def test_without_gradients_a_token_is_its_own_product() -> None:
    """In evaluation, what is not finite stays where it is."""
    gate_NEE, x_NED = random(16, 2, 2), random(16, 2, D)
    whole = messages(gate_NEE, x_NED)
    x_NED[3] = torch.inf
    found = messages(gate_NEE, x_NED)
    others = torch.arange(16) != 3
    assert torch.equal(found[others], whole[others])
    assert not found[3].isfinite().any()


@each_shape
def test_both_products_as_operators_of_torch(tokens: int, experts: int) -> None:
    gate_NEE, x_NED = random(tokens, experts, experts).requires_grad_(), random(tokens, experts, D).requires_grad_()
    torch.library.opcheck(messages_in_blocks, (gate_NEE, x_NED))
    torch.library.opcheck(gradient_of_gates, (random(tokens, experts, D), x_NED.detach()))


@pytest.mark.parametrize("experts", [2, 8])
def test_gradients_reach_a_coupler_in_order(experts: int) -> None:
    """Even those of a mean over experts, which are one row for all of them."""
    x_NED = random(16, experts, D).requires_grad_()
    turned = by_expert(x_NED)
    assert torch.equal(turned, x_NED.transpose(0, 1))
    (grad_NED,) = torch.autograd.grad(turned.mean(dim=0).sum(), x_NED)
    assert grad_NED.is_contiguous()
    assert torch.equal(grad_NED, torch.full_like(x_NED, 1 / experts))
