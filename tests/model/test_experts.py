"""The experts' fast forms piece by piece: folded norms, stacked maps, one attention over all experts.

Letters: B rows, T positions, E experts, N tokens, D width, O outputs.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gnn_moe.model.experts import Experts
from gnn_moe.model.stacked import fold_norm, stacked_linear
from tests import textbook
from tests.model.cases import assert_same, gradients, one_of_each, randomise

E, N, D, OUT = 3, 4, 5, 7


def test_folding_gain_and_shift_into_the_weights_changes_nothing() -> None:
    weight, bias = torch.randn(E, OUT, D, dtype=torch.float64), torch.randn(E, OUT, dtype=torch.float64)
    gain, shift = torch.randn(E, D, dtype=torch.float64), torch.randn(E, D, dtype=torch.float64)
    x_ND = torch.randn(N, D, dtype=torch.float64)
    folded_weight, folded_bias = fold_norm(weight, bias, gain, shift)
    for e in range(E):
        expected = functional.linear(gain[e] * x_ND + shift[e], weight[e], bias[e])
        torch.testing.assert_close(functional.linear(x_ND, folded_weight[e], folded_bias[e]), expected)


def test_stacked_maps_are_maps_one_by_one() -> None:
    weight, bias = torch.randn(E, OUT, D, dtype=torch.float64), torch.randn(E, OUT, dtype=torch.float64)
    x_END = torch.randn(E, N, D, dtype=torch.float64)
    expected = torch.stack([functional.linear(x_END[e], weight[e], bias[e]) for e in range(E)])
    torch.testing.assert_close(stacked_linear(x_END, weight, bias), expected)
    assert stacked_linear(x_END.bfloat16(), weight, bias).dtype == torch.bfloat16


@pytest.mark.parametrize("experts", range(1, 9))
@pytest.mark.parametrize("heads", [1, 2, 8])
def test_experts_equal_transformer_blocks_one_by_one(experts: int, heads: int) -> None:
    config = one_of_each(experts, num_heads=heads, static_hyperedge_strategy="all")[0]
    stack = Experts(config)
    randomise(stack)
    stack = stack.double().eval()
    generator = torch.Generator().manual_seed(0)
    x_BTD = torch.randn(2, 5, config.embed_dim, dtype=torch.float64, generator=generator).requires_grad_()
    fast_END = stack(x_BTD, torch.float64)
    parameters = dict(stack.named_parameters())
    slow = []
    for e in range(experts):
        own = {name: values[e] for name, values in parameters.items()}
        slow.append(torch.cat([textbook.expert(own, heads, x_TD) for x_TD in x_BTD]))
    inputs = {"x": x_BTD, **parameters}
    assert_same({"output": fast_END}, {"output": torch.stack(slow)}, 1e-9)
    assert_same(gradients(fast_END, inputs), gradients(torch.stack(slow), inputs), 1e-9)


def test_attention_of_all_experts_needs_no_mask_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def recorded(query: torch.Tensor, *rest: torch.Tensor, **options: object) -> torch.Tensor:
        calls.append((tuple(query.shape), options))
        return query

    monkeypatch.setattr(functional, "scaled_dot_product_attention", recorded)
    config = one_of_each(4)[0]
    stack = Experts(config).eval()
    randomise(stack)
    stack(torch.randn(2, 6, config.embed_dim), torch.float32)
    ((shape, options),) = calls
    assert shape[0] * shape[1] == 2 * 4 * config.heads
    assert options["is_causal"] is True
    assert "attn_mask" not in options
