"""The contract of the couplers, over every row of their table × strategy × 1 to 8 experts.

Letters: E experts, N tokens, D width, M hyperedges.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gnn_moe import coupler_types
from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import COUPLERS, CouplerType, coupler_type_names, find_coupler
from gnn_moe.hypergraph import count_hyperedges
from gnn_moe.model.couplers import Coupler, HypergraphCoupler, build_coupler
from gnn_moe.model.size import coupler_shape
from tests import textbook
from tests.model.cases import (
    LargestTensor,
    assert_same,
    config_of,
    each,
    every_config,
    gradients,
    one_of_each,
    randomise,
    relabelled,
)

TOKENS = 4


def random_coupler(config: ModelConfig, dtype: torch.dtype = torch.float64) -> Coupler:
    coupler = build_coupler(config)
    randomise(coupler)
    return coupler.to(dtype)


def random_results(config: ModelConfig, tokens: int = TOKENS, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (config.num_experts, tokens, config.embed_dim)
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(3))


def flops(config: ModelConfig, tokens: int) -> int:
    coupler, x_END = random_coupler(config), random_results(config, tokens)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        coupler(x_END)
    return int(counter.get_total_flops())


def check_never_mixes_tokens(coupler: Coupler, x_END: Tensor) -> None:
    """To the bit: a token's result depends on that token alone."""
    before_END = coupler(x_END)
    for token in range(x_END.shape[1]):
        changed_END = x_END.clone()
        changed_END[:, token] += 1
        moved_N = (coupler(changed_END) != before_END).any(dim=2).any(dim=0)
        assert moved_N.nonzero().flatten().tolist() == [token]
    order = torch.randperm(x_END.shape[1], generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(coupler(x_END[:, order]), before_END[:, order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(coupler(x_END[:, :1]), before_END[:, :1], rtol=1e-12, atol=1e-12)


@each(every_config())
class TestContract:
    def test_shape_and_type(self, config: ModelConfig) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            # The parameters stay in float32: a coupler computes in the type of its input.
            coupler = random_coupler(config, torch.float32)
            for tokens in (1, TOKENS):
                x_END = random_results(config, tokens, dtype)
                result = coupler(x_END)
                assert result.shape == x_END.shape
                assert result.dtype == dtype
                assert result.isfinite().all()

    def test_never_mixes_tokens(self, config: ModelConfig) -> None:
        with torch.no_grad():
            check_never_mixes_tokens(random_coupler(config), random_results(config))

    def test_equals_the_textbook(self, config: ModelConfig) -> None:
        coupler, x_END = random_coupler(config), random_results(config).requires_grad_()
        parameters = dict(coupler.named_parameters())
        fast_END = coupler(x_END)
        slow_END = torch.stack(textbook.couple(parameters, config, list(x_END)))
        inputs = {"x": x_END, **parameters}
        assert_same({"output": fast_END}, {"output": slow_END}, 1e-9)
        assert_same(gradients(fast_END, inputs), gradients(slow_END, inputs), 1e-9)

    def test_leaves_its_input_alone(self, config: ModelConfig) -> None:
        x_END = random_results(config)
        kept_END = x_END.clone()
        random_coupler(config)(x_END)
        assert torch.equal(x_END, kept_END)

    def test_names_of_experts_do_not_matter(self, config: ModelConfig) -> None:
        coupler, x_END = random_coupler(config), random_results(config)
        order = torch.randperm(config.num_experts, generator=torch.Generator().manual_seed(7)).tolist()
        other_config, values = relabelled(config, coupler.state_dict(), order)
        other = build_coupler(other_config).double()
        other.load_state_dict(values)
        torch.testing.assert_close(other(x_END[order]), coupler(x_END)[order], rtol=1e-12, atol=1e-12)

    def test_parameters_are_those_of_the_table(self, config: ModelConfig) -> None:
        built = sum(parameter.numel() for parameter in build_coupler(config).parameters())
        assert config.coupler.parameters(coupler_shape(config)) == built

    def test_flops_are_those_of_the_table(self, config: ModelConfig) -> None:
        # What does not depend on the tokens (P of a hypergraph) is no cost of a token: the difference leaves it out.
        assert config.coupler.forward_flops(coupler_shape(config)) * 5 == flops(config, 8) - flops(config, 3)

    def test_record(self, config: ModelConfig) -> None:
        layers, experts = config.gnn_layers, config.num_experts
        for values in random_coupler(config).coupling().values():
            assert values.dtype == torch.float32
            assert not values.requires_grad
            assert values.shape in {(layers, experts, experts), (count_hyperedges(config),)}


class LeakyCoupler(Coupler):
    """A coupler that takes a bit of the token before."""

    def forward(self, x_END: Tensor) -> Tensor:
        return x_END + 1e-6 * x_END.roll(1, dims=1)


def extra_row(**changes: Any) -> CouplerType:
    values: dict[str, Any] = {
        "coupler_type": "leaky",
        "implementation": f"{__name__}:LeakyCoupler",
        "parameters": lambda shape: 0,
        "forward_flops": lambda shape: 0,
        "kept_numbers": lambda shape: 0,
    }
    return CouplerType(**{**values, **changes})


def test_the_contract_fails_a_coupler_that_mixes_tokens() -> None:
    config = one_of_each(2)[0]
    with pytest.raises(AssertionError):
        check_never_mixes_tokens(LeakyCoupler(config), random_results(config))


def test_a_new_row_of_the_table_is_under_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {config.coupler_type for config in every_config()}
    monkeypatch.setattr(coupler_types, "COUPLERS", (*COUPLERS, extra_row()))
    added = [config for config in every_config() if config.coupler_type not in before]
    assert [config.num_experts for config in added] == list(range(1, 9))
    assert coupler_type_names() == ["GNN", "HGNN", "sinkhorn", "attention", "mean", "leaky"]
    coupler = build_coupler(added[1])
    assert type(coupler).__name__ == "LeakyCoupler"
    with pytest.raises(KeyError, match="leaky"):
        textbook.couple({}, added[1], [])


def test_the_table_holds_what_the_design_names() -> None:
    rows = [(row.coupler_type, row.hgnn_conv_type, row.hgnn_content_gates) for row in COUPLERS]
    assert len(set(rows)) == len(rows)
    assert set(rows) == set(textbook.COUPLE)
    assert find_coupler("HGNN", "HypergraphConv") is not find_coupler("HGNN", "hgnn")
    assert find_coupler("GNN", "HypergraphConv") is find_coupler("GNN", "hgnn")


def largest_tensor(config: ModelConfig, tokens: int) -> int:
    coupler, x_END = random_coupler(config), random_results(config, tokens).requires_grad_()
    with LargestTensor() as largest:
        coupler(x_END).sum().backward()
    return int(largest.numbers)


def test_gnn_forms_no_message_for_each_pair() -> None:
    config = config_of(find_coupler("GNN", "hgnn"), 8)
    assert largest_tensor(config, 32) == 32 * 8 * 8  # (N, E, D) and (N, E, E); (N, E², D) would be 8 times that.


@pytest.mark.parametrize("conv_type", ["hgnn", "HypergraphConv"])
def test_memory_of_a_hypergraph_does_not_depend_on_its_hyperedges(conv_type: str) -> None:
    config = config_of(find_coupler("HGNN", conv_type), 8, "all_triplets", embed_dim=4)
    assert count_hyperedges(config) == 56
    assert largest_tensor(config, 256) == 256 * 8 * 4
    assert flops(config, 9) - flops(config, 8) == flops(
        dataclasses.replace(config, static_hyperedge_strategy="all"), 9
    ) - flops(dataclasses.replace(config, static_hyperedge_strategy="all"), 8)


def test_hyperedge_weights_are_positive_and_start_at_one() -> None:
    config = config_of(find_coupler("HGNN", "hgnn"), 4)
    coupler = random_coupler(config)
    assert isinstance(coupler, HypergraphCoupler)
    with torch.no_grad():
        coupler.get_parameter("hyperedge_logits").copy_(torch.linspace(-30, 30, 6))
    assert (coupler.hyperedge_weights() > 0).all()
    torch.testing.assert_close(coupler.propagation().sum(dim=1), torch.ones(4, dtype=torch.float64))
    fixed = build_coupler(dataclasses.replace(config, hgnn_learnable_edge_weights=False))
    assert isinstance(fixed, HypergraphCoupler)
    assert fixed.hyperedge_weights().tolist() == [1.0] * 6
    assert not any("hyperedge" in name for name, _ in fixed.named_parameters())


def test_adjacency_names_the_listener_first() -> None:
    """Row i is what expert i receives: with Λ_01 alone open, expert 0 hears expert 1 and expert 1 hears nobody."""
    config = config_of(find_coupler("GNN", "hgnn"), 2, gnn_layers=1)
    coupler, x_END = random_coupler(config), random_results(config)
    closed, opened = -1e9, 1e9
    with torch.no_grad():
        coupler.get_parameter("layers.0.adjacency_logits").copy_(torch.tensor([[opened, opened], [closed, opened]]))
    assert coupler.coupling()["adjacency"].tolist() == [[[0.0, 1.0], [0.0, 0.0]]]
    changed_END = x_END + torch.tensor([0.0, 1.0])[:, None, None]
    assert not torch.equal(coupler(changed_END)[0], coupler(x_END)[0])
    changed_END = x_END + torch.tensor([1.0, 0.0])[:, None, None]
    assert torch.equal(coupler(changed_END)[1], coupler(x_END)[1])
