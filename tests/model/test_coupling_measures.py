"""What is measured of a trained coupling, against hooks on the plain forward pass and loops over tokens.

Letters: E experts, N tokens, D width, R receivers, K that each of them chooses among.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import COUPLERS, find_coupler
from gnn_moe.data.samples import Samples
from gnn_moe.errors import BadInput
from gnn_moe.hypergraph import build_hyperedges, hgnn_propagation
from gnn_moe.model.couplers import Coupler, build_coupler
from gnn_moe.model.coupling_measures import (
    TOKENS_A_CHANNEL,
    CouplingMeasures,
    measure_coupling,
    samples_to_measure,
)
from gnn_moe.model.exchange import Exchange, off_diagonal, with_own
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.similarity import effective_rank, linear_cka, relative_entropy_of_choice
from tests.model.cases import config_of, controls, each, every_config, one_of_each, random_model, randomise

GNN, GATED = find_coupler("GNN", "hgnn"), find_coupler("HGNN", "hgnn", True)
LENGTHS = (8, 3, 5, 2, 7, 8, 4, 8, 6, 8, 8, 8, 8, 8)


def samples_of(lengths: tuple[int, ...] = LENGTHS, vocabulary: int = 23) -> Samples:
    lengths_R = np.array(lengths)
    return Samples(
        tokens=np.random.default_rng(0).integers(0, vocabulary, lengths_R.sum(), dtype=np.int32),
        starts=np.cumsum(lengths_R) - lengths_R,
        lengths=lengths_R,
        predicted_bytes=lengths_R,
        cut=np.zeros_like(lengths_R),
        available=len(lengths_R),
    )


def measured(model: LanguageModel, samples: Samples | None = None, rows_at_once: int = 4) -> CouplingMeasures:
    return measure_coupling(
        model, samples or samples_of(), rows_at_once=rows_at_once, compute_dtype=model.norm_gain.dtype
    )


def states(model: LanguageModel, samples: Samples, count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(x, y, z) of every layer, each (E, N, D) but x (N, D): row by row, without padding, by hooks."""
    rows: list[list[tuple[Tensor, Tensor, Tensor]]] = [[] for _ in model.layers]
    streams: dict[int, Tensor] = {}
    for number, layer in enumerate(model.coupled_layers()):
        layer.register_forward_pre_hook(lambda _, given, number=number: streams.update({number: given[0][0]}))
        layer.coupler.register_forward_hook(
            lambda _, given, result, number=number: rows[number].append((streams[number], given[0], result))
        )
    with torch.no_grad():
        for row in range(count):
            model(torch.from_numpy(samples.row(row)[:-1].astype(np.int64))[None])
    return [
        (torch.cat([x for x, _, _ in of]), torch.cat([y for _, y, _ in of], 1), torch.cat([z for _, _, z in of], 1))
        for of in rows
    ]


def mean_of_pairs(cka_EE: Tensor) -> float:
    return float(off_diagonal(cka_EE).mean())


@each(one_of_each(3))
def test_measures_equal_those_of_rows_one_by_one(config: ModelConfig) -> None:
    """Padding, batches and what a row does not predict leave no trace."""
    model, samples = random_model(config), samples_of()
    found = measured(model, samples)
    assert found.samples == 13  # the first with 64 tokens or more to predict
    assert found.tokens == sum(LENGTHS[:13]) - 13
    for layer, (x_ND, y_END, z_END) in zip(found.layers, states(model, samples, found.samples), strict=True):
        assert layer.expert_cka == pytest.approx(mean_of_pairs(linear_cka(y_END)), rel=1e-6)
        assert layer.added_cka == pytest.approx(mean_of_pairs(linear_cka(y_END - x_ND)), rel=1e-5)
        assert layer.coupled_cka == pytest.approx(mean_of_pairs(linear_cka(z_END)), rel=1e-6)
        assert np.array(layer.coupled_cka_matrix) == pytest.approx(linear_cka(z_END).numpy(), rel=1e-6)
        with torch.no_grad():
            rounds = model.coupled_layers()[layer.layer].coupler.exchange(y_END)
        assert len(rounds) == len(layer.rounds) == (1 if config.coupler_type == "mean" else config.gnn_layers)
        for one, exchange in zip(layer.rounds, rounds, strict=True):
            assert one.effective_rank == pytest.approx(effective_rank(exchange.mixing_NEE.mean(dim=0)), rel=1e-5)
            for name, weights in (("gate_entropy", exchange.gate_NRK), ("static_entropy", exchange.static_RK)):
                if weights is None:
                    assert getattr(one, name) is None
                else:
                    expected = float(relative_entropy_of_choice(weights).mean())
                    assert getattr(one, name) == pytest.approx(expected, rel=1e-5)


def test_batches_of_any_size_give_the_same_measures() -> None:
    model = random_model(config_of(GNN, 3))
    few, many = (dataclasses.asdict(measured(model, rows_at_once=rows)) for rows in (1, 14))
    flat = [[layer["added_cka"], layer["rounds"][1]["gate_entropy"]] for layer in (*few["layers"], *many["layers"])]
    assert np.array(flat[:2]) == pytest.approx(np.array(flat[2:]), rel=1e-5)


def test_experts_that_are_one_are_alike() -> None:
    """Identical experts have CKA 1, and their coupled results too where all receive alike."""
    config = config_of(find_coupler("HGNN", "hgnn"), 3)
    model = random_model(config)
    for name, parameter in model.named_parameters():
        if ".experts." in name:
            parameter.data.copy_(parameter.data[:1].expand_as(parameter))
    for layer in measured(model).layers:
        for matrix in (layer.expert_cka_matrix, layer.added_cka_matrix, layer.coupled_cka_matrix):
            assert np.array(matrix) == pytest.approx(np.ones((3, 3)), abs=1e-9)
    assert measured(random_model(config)).layers[0].added_cka < 0.9  # type: ignore[operator]


def test_a_model_is_left_as_it_was() -> None:
    model = random_model(config_of(GNN, 3, dropout_rate=0.5)).train()
    before = {name: values.clone() for name, values in model.state_dict().items()}
    assert measured(model) == measured(model)
    assert model.training
    assert all(torch.equal(before[name], values) for name, values in model.state_dict().items())


def test_as_many_samples_as_the_width_asks_for() -> None:
    samples = samples_of((9,) * 30)
    assert samples_to_measure(samples, 8) == TOKENS_A_CHANNEL == 8
    assert samples_to_measure(samples, 9) == 9
    assert samples_to_measure(samples, 1000) == 30
    found = measured(random_model(config_of(GNN, 2, max_seq_length=8)), samples)
    assert (found.samples, found.tokens) == (8, 64)
    assert found.chance_cka == pytest.approx(8 / 72)


def test_what_says_nothing_is_none() -> None:
    """One sender to choose among, one hyperedge, one expert."""
    one = measured(random_model(config_of(GNN, 2))).layers[0]
    assert (one.rounds[0].gate_entropy, one.rounds[0].static_entropy) == (None, None)
    one = measured(random_model(config_of(GATED, 3, "all"))).layers[0]
    assert (one.rounds[0].gate_entropy, one.rounds[0].static_entropy) == (None, None)
    one = measured(random_model(config_of(GNN, 1))).layers[0]
    assert (one.expert_cka, one.added_cka, one.coupled_cka) == (None, None, None)
    assert one.rounds[0].effective_rank == pytest.approx(1)


@pytest.mark.parametrize("config", controls()[1:])
def test_a_control_without_couplers_is_refused(config: ModelConfig) -> None:
    with pytest.raises(BadInput, match=f"--architecture {config.architecture}.*use a run of --architecture coupled"):
        measured(random_model(config))


def test_ranks_at_their_ends() -> None:
    """Each keeps its own: E. All receive the mean: 1."""
    mean = measured(random_model(config_of(find_coupler("mean", "hgnn"), 5))).layers[0]
    assert mean.rounds[0].effective_rank == pytest.approx(5)
    assert (mean.rounds[0].gate_entropy, mean.rounds[0].static_entropy) == (None, None)
    assert mean.coupled_cka_matrix == mean.expert_cka_matrix
    model = random_model(config_of(GNN, 3))
    for open_gates, rank in ((False, 3), (True, 1)):
        for layer in model.coupled_layers():
            for name, parameter in layer.coupler.named_parameters():
                if name.endswith(("adjacency_logits", "gate_bias")):
                    parameter.data.fill_(1e4 if open_gates else -1e4)
        assert measured(model).layers[0].rounds[0].effective_rank == pytest.approx(rank)


@pytest.mark.parametrize("experts", range(1, 9))
def test_no_rank_lies_outside_its_bounds(experts: int) -> None:
    """Of mixes so near the identity, or near the mean, that rounding decides the last digit."""
    generator = torch.Generator().manual_seed(experts)
    for ideal_EE in (torch.eye(experts), torch.full((experts, experts), 1 / experts)):
        for _ in range(50):
            noise_EE = 1e-9 * torch.randn(experts, experts, generator=generator, dtype=torch.float64)
            assert 1 <= effective_rank(ideal_EE * torch.rand((), generator=generator) + noise_EE) <= experts


def exchanges(config: ModelConfig, tokens: int = 5) -> tuple[Coupler, Tensor, tuple[Exchange, ...]]:
    coupler = build_coupler(config).double()
    randomise(coupler)
    x_END = torch.randn(config.num_experts, tokens, config.embed_dim, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        return coupler, x_END.double(), coupler.exchange(x_END.double())


@each([config for config in every_config(range(1, 5)) if config.coupler_type != "mean"])
def test_mixes_and_gates_are_of_their_kind(config: ModelConfig) -> None:
    """Rows of a mix sum to 1, but for the legacy form; gates and what is learned are not negative."""
    _, x_END, found = exchanges(config)
    assert len(found) == config.gnn_layers
    for one in found:
        assert one.mixing_NEE.shape[1:] == (config.num_experts, config.num_experts)
        assert one.mixing_NEE.shape[0] in (1, x_END.shape[1])
        if config.hgnn_conv_type == "hgnn":
            rows = one.mixing_NEE.sum(dim=-1)
            torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-6)
        for weights in (one.gate_NRK, one.static_RK):
            assert weights is None or bool((weights >= 0).all())
    assert {config.coupler for config in one_of_each()} == set(COUPLERS)


def test_gates_of_a_gnn_equal_the_formula() -> None:
    """Of the second round too, which reads what the first one wrote."""
    coupler, x_END, found = exchanges(config_of(GNN, 3))
    p = {name: values.detach() for name, values in coupler.named_parameters()}
    for number, one in enumerate(found):
        layer = coupler.get_submodule(f"layers.{number}")
        u, v, c = (p[f"layers.{number}.{name}"] for name in ("receiver_weight", "sender_weight", "gate_bias"))
        logits = p[f"layers.{number}.adjacency_logits"]
        assert one.gate_NRK is not None
        for token in range(5):
            for i in range(3):
                others = [j for j in range(3) if j != i]
                content = [torch.sigmoid(u @ x_END[i, token] + v @ x_END[j, token] + c) for j in others]
                gates = [float(torch.sigmoid(logits[i, j]) * gate) for j, gate in zip(others, content, strict=True)]
                assert one.gate_NRK[token, i].tolist() == pytest.approx(gates, rel=1e-6)
                received = {i: 1.0, **dict(zip(others, gates, strict=True))}
                shares = [received[j] / (1 + sum(gates)) for j in range(3)]
                assert one.mixing_NEE[token, i].tolist() == pytest.approx(shares, rel=1e-6)
        x_END = layer(x_END.transpose(0, 1)).transpose(0, 1).detach()


def test_gates_of_hyperedges_make_the_mix_of_their_token() -> None:
    config = config_of(GATED, 4)
    coupler, x_END, found = exchanges(config)
    incidence_EM = coupler.get_buffer("incidence_EM").double()
    assert len(build_hyperedges(config)) == 6
    for one in found:
        assert one.gate_NRK is not None
        for token in range(x_END.shape[1]):
            expected_EE = hgnn_propagation(incidence_EM, one.gate_NRK[token, 0])
            torch.testing.assert_close(one.mixing_NEE[token].double(), expected_EE, rtol=1e-5, atol=1e-6)
    p = {name: values.detach() for name, values in coupler.named_parameters()}
    score = float((x_END[0, 0] + x_END[1, 0]) @ p["layers.0.content_gate_weight"] / 2)
    bias = float(p["layers.0.content_gate_bias"])
    weight = float(torch.nn.functional.softplus(p["hyperedge_logits"][0]))
    gate_NRK = found[0].gate_NRK
    assert gate_NRK is not None
    assert float(gate_NRK[0, 0, 0]) == pytest.approx(weight * 2 / (1 + math.exp(-score - bias)))


def test_gates_of_a_later_round_read_what_the_one_before_wrote() -> None:
    config = config_of(GATED, 4, gnn_layers=1)
    first, second = (build_coupler(config).double() for _ in range(2))
    both, x_END, found = exchanges(config_of(GATED, 4))
    for one, number in ((first, 0), (second, 1)):
        named = both.state_dict().items()
        values = {f"layers.0.{name[9:]}" if name.startswith(f"layers.{number}.") else name: v for name, v in named}
        one.load_state_dict({name: values[name] for name in one.state_dict()})
    with torch.no_grad():
        (alone,) = second.exchange(first(x_END))
    assert alone.gate_NRK is not None
    torch.testing.assert_close(found[1].gate_NRK, alone.gate_NRK, rtol=1e-12, atol=1e-12)


def test_a_matrix_without_its_diagonal() -> None:
    assert off_diagonal(torch.arange(9).view(3, 3)).tolist() == [[1, 2], [3, 5], [6, 7]]
    assert off_diagonal(torch.zeros(2, 1, 1)).shape == (2, 1, 0)
    assert with_own(torch.tensor([[0.0, 1.0], [3.0, 0.0]])).tolist() == [[0.5, 0.5], [0.75, 0.25]]
