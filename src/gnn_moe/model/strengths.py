"""The learned strengths of a coupler's graph, put in another order or made all alike.

Letters: K strengths of one graph.

A strength is a link function of the number that is learned (σ(Λ), softplus(θ)). Orders are of the learned numbers, so
that they stay what they are to the bit; a mean is one of strengths.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DRAWS = 64
"""Of an order, before none is taken to move anything.

The orders that leave strengths alone are a subgroup: unless it is the whole group, at least half of all orders move
one, and so many draws miss them all once in 2⁶⁴.
"""


def moving_order(count: int, moves: Callable[[Tensor], bool], generator: torch.Generator) -> Tensor:
    """A random order of `count` things, among those that move something; as they are, where none does.

    Args:
        count: of the things.
        moves: whether an order, (count,) int64, moves something; those that do not must be a group.
        generator: on the CPU.

    Returns:
        (count,) int64: which thing comes to each place.
    """
    for _ in range(DRAWS):
        order = torch.randperm(count, generator=generator)
        if moves(order):
            return order
    return torch.arange(count)


def shuffled(learned_K: Tensor, generator: torch.Generator) -> Tensor:
    """The same numbers in another order, (K,), which moves one wherever they are not all equal."""
    order_K = moving_order(len(learned_K), lambda order_K: not torch.equal(learned_K[order_K], learned_K), generator)
    return learned_K[order_K]


def levelled(learned_K: Tensor, link: Callable[[Tensor], Tensor], inverse: Callable[[Tensor], Tensor]) -> Tensor:
    """(K,) of one number, whose strength is the mean of the strengths; equal ones stay as they are, to the bit.

    Example: σ of [0, log 3] is [1/2, 3/4], so both become σ⁻¹(5/8) = log 5/3; the mean of logits would give 0.634.
    """
    if (learned_K == learned_K[:1]).all():
        return learned_K
    return inverse(link(learned_K.double()).mean()).to(learned_K.dtype).expand_as(learned_K)


def inverse_softplus(strength: Tensor) -> Tensor:
    """θ of w = softplus(θ), for w > 0 of any size."""
    return strength + torch.log(-torch.expm1(-strength))
