"""Queries, keys and values head by head equal one plain product an expert, and its gradients.

Letters: E experts, B rows, T positions, A heads, D width, d head width.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gnn_moe.model.heads import joined_heads, queries_keys_values
from tests.model.cases import assert_same, gradients

E, B, T, A, d = 3, 2, 5, 2, 4
D = A * d


def inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x": (B, T, D), "weight": (E, 3 * D, D), "bias": (E, 3 * D)}
    drawn = {name: torch.randn(shape, dtype=torch.float64, generator=generator) for name, shape in shapes.items()}
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in drawn.items()}


def number_by_number(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(3, E·B, A, T, d). Of the 3D numbers that an expert makes of a token the first D are its query, d a head."""
    result = x.new_empty(3, E * B, A, T, d)
    for q in range(3):
        for e in range(E):
            for a in range(A):
                numbers = slice(q * D + a * d, q * D + (a + 1) * d)
                for b in range(B):
                    result[q, e * B + b, a] = x[b] @ weight[e, numbers].T + bias[e, numbers]
    return result


def test_equals_a_product_an_expert_row_and_head() -> None:
    given = inputs()
    fast, slow = queries_keys_values(given["x"], given["weight"], given["bias"], A), number_by_number(*given.values())
    assert fast.is_contiguous()
    assert_same({"output": fast}, {"output": slow}, 1e-12)
    assert_same(gradients(fast, given), gradients(slow, given), 1e-12)


def test_bf16_within_two_percent() -> None:
    """Weights in float32, as the parameters are; x says the type."""
    exact, given = inputs(), inputs(torch.float32)
    found = queries_keys_values(given["x"].bfloat16(), given["weight"], given["bias"], A)
    expected = number_by_number(*exact.values())
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).norm() < 0.02 * expected.norm()
    ours, theirs = gradients(found.double(), given), gradients(expected, exact)
    for name, gradient in theirs.items():
        assert ours[name].dtype == torch.float32
        assert (ours[name].double() - gradient).norm() < 0.02 * gradient.norm(), name


@pytest.mark.parametrize("experts", [1, E])
def test_joined_heads_are_those_of_a_token(experts: int) -> None:
    mixed = torch.arange(experts * B * A * T * d).view(experts * B, A, T, d)
    joined = joined_heads(mixed, experts)
    assert joined.shape == (experts, B * T, D)
    for e in range(experts):
        for b in range(B):
            for t in range(T):
                assert torch.equal(joined[e, b * T + t], mixed[e * B + b, :, t].flatten())
