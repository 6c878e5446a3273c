"""Ablations of trained models: what they change, what they keep to the bit, and what they refuse.

Letters: E experts, G coupler layers, K strengths of one graph.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import COUPLERS, find_coupler
from gnn_moe.errors import BadInput
from gnn_moe.model.ablations import ABLATIONS, COUPLER, SHUFFLE_GRAPH, UNIFORM_WEIGHTS, ablate
from gnn_moe.model.ablations import largest_change_of_strengths as largest_change
from gnn_moe.model.exchange import off_diagonal
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.model.strengths import inverse_softplus, levelled, moving_order, shuffled
from tests.model.cases import config_of, controls, each, one_of_each, random_ids, random_model

GNN, HGNN, GATED = find_coupler("GNN", "hgnn"), find_coupler("HGNN", "hgnn"), find_coupler("HGNN", "hgnn", True)
LEGACY, SINKHORN, MEAN = (
    find_coupler("HGNN", "HypergraphConv"),
    find_coupler("sinkhorn", "hgnn"),
    find_coupler("mean", "hgnn"),
)
COUPLED = [config for config in one_of_each(4) if config.coupler_type != "mean"]
WITH_STRENGTHS = [config for config in COUPLED if config.coupler_type != "attention"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        found: Tensor | None = model(random_ids(model.config)).logits
    assert found is not None
    return found


def strengths(model: LanguageModel) -> list[Tensor]:
    """(G or 1, K) of each layer."""
    found = [layer.coupler.strengths() for layer in model.coupled_layers()]
    return [values for values in found if values is not None]


@each(COUPLED)
def test_without_its_coupler_a_model_is_that_of_mean_with_the_same_other_weights(config: ModelConfig) -> None:
    model = random_model(config)
    ablated = ablate(model, COUPLER, generator())
    other = random_model(
        dataclasses.replace(config, coupler_type="mean", hgnn_content_gates=False, hyperedges=None), seed=5
    )
    other.load_state_dict({name: values for name, values in model.state_dict().items() if ".coupler." not in name})
    assert ablated.config == other.config
    assert torch.equal(logits(ablated), logits(other))
    assert not torch.allclose(logits(ablated), logits(model))


def test_without_a_coupler_of_custom_hyperedges() -> None:
    model = random_model(config_of(HGNN, 3, "custom"))
    assert ablate(model, COUPLER, generator()).config.hyperedges is None


@each([config for config in COUPLED if config.hgnn_conv_type != "HypergraphConv"])
def test_a_coupler_that_does_nothing_can_be_ablated_without_a_change(config: ModelConfig) -> None:
    """Transforms of 0 leave GELU(0) = 0 beside the residual, which the legacy form alone does not have."""
    model = random_model(config)
    transforms = ("neighbour_weight", "neighbour_bias", "self_weight", "self_bias", "theta_weight", "theta_bias")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".coupler." in name and name.endswith((*transforms, "output_weight")):
                parameter.zero_()
    for ablation in ABLATIONS if config.coupler_type != "attention" else [COUPLER]:
        assert torch.equal(logits(ablate(model, ablation, generator())), logits(model)), ablation


@each(COUPLED)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_model_itself_stays_as_it_was(config: ModelConfig, ablation: str) -> None:
    model = random_model(config).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    if ablation != COUPLER and config.coupler_type == "attention":
        return
    ablated = ablate(model, ablation, generator())
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())
    assert model.config == config
    assert ablated.training
    # All else is shared, so that a large model fits twice.
    for name, parameter in ablated.named_parameters():
        assert (parameter is model.get_parameter(name)) == (".coupler." not in name)


@each(WITH_STRENGTHS)
def test_shuffling_moves_strengths_and_keeps_each_graphs_own(config: ModelConfig) -> None:
    model = random_model(config)
    ablated = ablate(model, SHUFFLE_GRAPH, generator())
    for before_GK, after_GK in zip(strengths(model), strengths(ablated), strict=True):
        for before_K, after_K in zip(before_GK, after_GK, strict=True):
            assert not torch.allclose(before_K, after_K)
            torch.testing.assert_close(before_K.sort().values, after_K.sort().values, rtol=1e-9, atol=1e-12)
    assert not torch.equal(logits(ablated), logits(model))
    again, other = (ablate(model, SHUFFLE_GRAPH, generator(seed)) for seed in (0, 1))
    assert torch.equal(logits(again), logits(ablated))
    assert not torch.equal(logits(other), logits(ablated))
    changes = [(new - old).abs().amax() for old, new in zip(strengths(model), strengths(ablated), strict=True)]
    assert largest_change(model, ablated) == max(changes)
    assert largest_change(model, ablate(model, COUPLER, generator())) is None


@each(WITH_STRENGTHS)
def test_learned_numbers_are_shuffled_to_the_bit(config: ModelConfig) -> None:
    """In float32, where σ and softplus of two of them may be equal."""
    model = random_model(config, dtype=torch.float32)
    ablated = ablate(model, SHUFFLE_GRAPH, generator())
    names = [name for name, _ in model.named_parameters() if not torch.equal(*both(model, ablated, name))]
    ends = ("adjacency_logits", "hyperedge_logits", "raw_hyperedge_weights", "mixing_logits")
    assert names
    assert all(name.endswith(ends) for name in names)
    for name in names:
        before, after = both(model, ablated, name)
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
        if name.endswith("adjacency_logits"):
            assert torch.equal(before.diagonal(), after.diagonal())


def both(model: LanguageModel, ablated: LanguageModel, name: str) -> tuple[Tensor, Tensor]:
    return model.get_parameter(name).detach(), ablated.get_parameter(name).detach()


def test_a_shuffled_mix_is_the_mix_of_other_names() -> None:
    """S_π(i)π(j): what a model computes whose experts of this layer alone change places before and after."""
    model = random_model(config_of(SINKHORN, 3, num_layers=1, gnn_layers=1))
    (before,), (after,) = (
        [values.view(3, 3) for values in strengths(one)] for one in (model, ablate(model, SHUFFLE_GRAPH, generator()))
    )
    orders = [torch.tensor(order) for order in ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])]
    assert any(torch.allclose(before[order][:, order], after) for order in orders)
    for dim in (0, 1):
        torch.testing.assert_close(after.sum(dim=dim), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-4)


@each(WITH_STRENGTHS)
def test_uniform_strengths_are_the_mean_of_each_graphs(config: ModelConfig) -> None:
    """The mean of strengths, not of logits; those that follow the content stay."""
    model = random_model(config)
    ablated = ablate(model, UNIFORM_WEIGHTS, generator())
    for before_GK, after_GK in zip(strengths(model), strengths(ablated), strict=True):
        if config.coupler_type == "sinkhorn":
            before_GEE, after_GEE = before_GK.view(-1, 4, 4), after_GK.view(-1, 4, 4)
            all_one_mean(off_diagonal(before_GEE).flatten(1), off_diagonal(after_GEE).flatten(1))
            all_one_mean(before_GEE.diagonal(dim1=1, dim2=2), after_GEE.diagonal(dim1=1, dim2=2))
        else:
            all_one_mean(before_GK, after_GK)
    assert not torch.equal(logits(ablated), logits(model))
    twice = ablate(ablated, UNIFORM_WEIGHTS, generator())
    assert torch.equal(logits(twice), logits(ablated))
    for name, values in model.named_parameters():
        if "content_gate" in name:
            assert torch.equal(values, ablated.get_parameter(name))


def all_one_mean(before_GK: Tensor, after_GK: Tensor) -> None:
    means_G1 = before_GK.mean(dim=1, keepdim=True)
    torch.testing.assert_close(after_GK, means_G1.expand_as(after_GK), rtol=1e-9, atol=1e-12)


@each([config for config in WITH_STRENGTHS if config.hgnn_conv_type == "hgnn" and config.coupler_type != "GNN"])
def test_equal_strengths_stay_as_they_are_to_the_bit(config: ModelConfig) -> None:
    """Those that hypergraphs and mixes start from: no ablation of them changes anything, but for the coupler itself."""
    model = build_model(config).eval()
    for ablation in (SHUFFLE_GRAPH, UNIFORM_WEIGHTS):
        ablated = ablate(model, ablation, generator())
        assert all(torch.equal(values, ablated.get_parameter(name)) for name, values in model.named_parameters())
        assert torch.equal(logits(ablated), logits(model))
        assert largest_change(model, ablated) == 0


def test_equal_strengths_of_a_gnn_stay_as_they_are_to_the_bit() -> None:
    model = random_model(config_of(GNN, 3), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("adjacency_logits"):
            with torch.no_grad():
                parameter.fill_(0.1).diagonal().uniform_()
    for ablation in (SHUFFLE_GRAPH, UNIFORM_WEIGHTS):
        assert torch.equal(logits(ablate(model, ablation, generator())), logits(model))


@each([config_of(HGNN, 2), config_of(HGNN, 4, "all"), config_of(SINKHORN, 2)])
def test_one_strength_has_no_other_order(config: ModelConfig) -> None:
    model = random_model(config)
    ablated = ablate(model, SHUFFLE_GRAPH, generator())
    assert all(torch.equal(values, ablated.get_parameter(name)) for name, values in model.named_parameters())
    assert largest_change(model, ablated) == 0


@pytest.mark.parametrize("seed", range(8))
def test_two_strengths_always_change_places(seed: int) -> None:
    assert shuffled(torch.tensor([1.0, 2.0]), generator(seed)).tolist() == [2.0, 1.0]


def test_an_order_that_moves_is_found_where_there_is_one() -> None:
    """One number in nine is another: of nine orders, eight move it."""
    learned_K = torch.zeros(9)
    learned_K[4] = 1
    for seed in range(20):
        assert shuffled(learned_K, generator(seed))[4] == 0
    assert moving_order(3, lambda order: False, generator()).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_of_equals_is_that_number_to_the_bit(dtype: torch.dtype) -> None:
    """Through the link and back it would be another now and then."""
    for learned in torch.linspace(-3, 3, 100, dtype=dtype):
        assert torch.equal(levelled(learned.expand(3), torch.sigmoid, torch.logit), learned.expand(3))


def test_a_mean_goes_through_the_link() -> None:
    """σ of [0, log 3] has the mean 5/8, and softplus⁻¹ holds at either end."""
    found = levelled(torch.tensor([0.0, math.log(3)]), torch.sigmoid, torch.logit)
    assert found.tolist() == pytest.approx([math.log(5 / 3)] * 2)
    strength = torch.tensor([1e-9, 1e-3, 1.0, 30.0, 900.0], dtype=torch.float64)
    torch.testing.assert_close(torch.nn.functional.softplus(inverse_softplus(strength)), strength, rtol=1e-6, atol=0)


REFUSED: list[tuple[ModelConfig, tuple[str, ...], str]] = [
    *((config, ABLATIONS, f"--architecture {config.architecture}") for config in controls()[1:]),
    (config_of(MEAN, 3), ABLATIONS, "--coupler_type mean"),
    (config_of(GNN, 1), ABLATIONS, "--num_experts 1"),
    (config_of(find_coupler("attention", "hgnn"), 3), (SHUFFLE_GRAPH, UNIFORM_WEIGHTS), "--coupler_type attention"),
    (
        config_of(GATED, 3, hgnn_learnable_edge_weights=False),
        (SHUFFLE_GRAPH, UNIFORM_WEIGHTS),
        "--coupler_type HGNN with --no_hgnn_learnable_edge_weights",
    ),
]


@pytest.mark.parametrize(("config", "ablations", "named"), REFUSED, ids=[named for _, _, named in REFUSED])
def test_what_means_nothing_is_refused(config: ModelConfig, ablations: tuple[str, ...], named: str) -> None:
    model = build_model(config)
    for ablation in ablations:
        with pytest.raises(BadInput) as refused:
            ablate(model, ablation, generator())
        assert f"--ablate {ablation}: " in str(refused.value)
        assert f"{named}, " in str(refused.value)
        assert "; use " in str(refused.value)
        assert "\n" not in str(refused.value)


def test_an_unknown_ablation_is_refused() -> None:
    with pytest.raises(BadInput, match="did you mean shuffle_graph"):
        ablate(build_model(config_of(GNN, 2)), "shuffle", generator())


def test_every_row_of_the_table_says_whether_it_has_strengths() -> None:
    """A coupler with strengths can shuffle and level them; one without returns None."""
    assert {config.coupler for config in [*WITH_STRENGTHS, *COUPLED]} | {MEAN} == set(COUPLERS)
    for config in one_of_each(3):
        has = bool(strengths(random_model(config)))
        assert has == (config.coupler_type not in ("mean", "attention"))
    assert LEGACY in {config.coupler for config in WITH_STRENGTHS}
