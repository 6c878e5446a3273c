"""No token sees a later one: every coupler and strategy, fresh and trained, eager and compiled, with dropout too.

Letters: B rows, T positions, E experts, N tokens, D width, M hyperedges.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch_geometric.nn
from numpy.random import SFC64
from torch import Tensor

from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.coupler_types import find_coupler
from gnn_moe.data.samples import Samples
from gnn_moe.errors import BadInput
from gnn_moe.hypergraph import build_hyperedges, count_hyperedges
from gnn_moe.interop.original import leak_warning
from gnn_moe.model import grouped_feed_forward
from gnn_moe.model.causality import ROUNDING, check_causality, rows_to_ask
from gnn_moe.model.couplers import Coupler, HypergraphConvCoupler
from gnn_moe.model.experts import Experts
from gnn_moe.model.language_model import CoupledLayer, LanguageModel, build_model
from gnn_moe.training.compiling import any_shape, compile_layers
from gnn_moe.training.optimiser import build_optimiser
from tests.model.cases import (
    assert_causal,
    assert_same,
    config_of,
    controls,
    each,
    every_config,
    gradients,
    one_of_each,
    random_ids,
    random_model,
)

LogitsOf = Callable[[Tensor], Tensor]


def evaluation_logits(model: LanguageModel) -> LogitsOf:
    def logits_of(ids_BT: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor | None = model.eval()(ids_BT).logits
        assert logits is not None
        return logits

    return logits_of


def training_logits(model: LanguageModel) -> LogitsOf:
    """In training mode; every pass draws the same dropout."""

    def logits_of(ids_BT: Tensor) -> Tensor:
        torch.manual_seed(5)
        logits: Tensor | None = model.train()(ids_BT).logits
        assert logits is not None
        return logits.detach()

    return logits_of


def train(model: LanguageModel, steps: int = 3) -> None:
    optimiser = build_optimiser(model, TrainingConfig(learning_rate=0.01))
    model.train()
    for step in range(steps):
        ids_BT = random_ids(model.config, rows=4, seed=100 + step)
        model(ids_BT, labels=ids_BT).loss.backward()
        optimiser.step()
        optimiser.zero_grad()


@each([*every_config(), *controls()[:2]])
def test_causal_fresh_and_trained(config: ModelConfig) -> None:
    ids_BT = random_ids(config)
    assert_causal(evaluation_logits(build_model(config)), ids_BT, config.vocab_size)
    model = random_model(config, dtype=torch.float32)
    train(model)
    assert_causal(evaluation_logits(model), ids_BT, config.vocab_size)
    check = check_causality(model.train(), random_ids(config, rows=3))
    assert check.causal
    assert check.largest_change == 0
    assert check.least_effect > ROUNDING
    assert check.changes == 12
    assert model.training


@each(
    [
        *every_config([4], dropout_rate=0.3),
        *one_of_each(1, static_hyperedge_strategy="all", dropout_rate=0.3),
        *controls(dropout_rate=0.3)[:2],
    ]
)
def test_causal_in_training_with_dropout(config: ModelConfig) -> None:
    model = random_model(config, dtype=torch.float32)
    logits_of, ids_BT = training_logits(model), random_ids(config)
    assert torch.equal(logits_of(ids_BT), logits_of(ids_BT))
    assert not torch.equal(logits_of(ids_BT), evaluation_logits(model)(ids_BT))
    assert_causal(logits_of, ids_BT, config.vocab_size)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.3])
def test_routed_tokens_see_no_later_one(dropout_rate: float) -> None:
    """To rounding: a token that goes to another expert changes how many rows a product has, and so its last bits.

    One row with dropout: which experts its tokens go to moves the masks of the rows after it.
    """
    config = controls(dropout_rate=dropout_rate)[2]
    ids_BT = random_ids(config, rows=1 if dropout_rate else 2)
    for model in (build_model(config).double(), random_model(config)):
        logits_of = training_logits(model) if dropout_rate else evaluation_logits(model)
        assert_causal(logits_of, ids_BT, config.vocab_size, tolerance=1e-9)
        if not dropout_rate:
            train(model)
            assert_causal(logits_of, ids_BT, config.vocab_size, tolerance=1e-9)


@each([*one_of_each(), *controls()])
def test_no_gradient_reaches_a_later_token(config: ModelConfig) -> None:
    """The same by calculus: the logits before t do not depend on the embeddings from t on."""
    model, ids_BT = random_model(config), torch.arange(config.max_seq_length)[None]
    for position in range(1, config.max_seq_length):
        logits_BTV = model(ids_BT).logits
        (grad_VD,) = torch.autograd.grad(logits_BTV[0, :position].square().sum(), model.token_embedding)
        assert grad_VD[:position].abs().sum(dim=1).all()
        assert not grad_VD[position:].any()


SHAPES = ((4, 24), (2, 24), (7, 64), (5, 5))
"""Rows and positions; a layer is compiled for the first."""


@pytest.mark.slow
# torch 2.13 looks at the gradient of the layer's input while it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@each(one_of_each(num_layers=1, dropout_rate=0.2, max_seq_length=64))
def test_causal_compiled(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled as the training loop does it: causal, and equal to eager, also for shapes that it has not seen.

    HGNN in bf16, as a CPU trains it. GNN, and HGNN with gates, in training mode too: that is most of the time. HGNN
    without gates is trained compiled by `test_a_run_compiles_nothing_after_its_second_step`.
    """
    autocast = config.coupler.hgnn_conv_type == "hgnn"
    trained = config.coupler_type == "GNN" or config.hgnn_content_gates
    if autocast:
        config = dataclasses.replace(config, max_seq_length=7)
    shapes = [(2, 7)] if autocast else SHAPES
    model = random_model(config, dtype=torch.float32 if autocast else torch.float64)
    plain, ids_BT, tolerance = copy.deepcopy(model), random_ids(config, *shapes[0]), 0.1 if autocast else 1e-9
    torch.compiler.reset()
    compile_layers(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast), any_shape():
        assert_causal(evaluation_logits(model), ids_BT, config.vocab_size)
        if trained:
            assert_causal(training_logits(model), ids_BT, config.vocab_size)
            check_gradient_along_a_line(model, ids_BT, None if autocast else 1e-6)
            plain.load_state_dict(model.state_dict())
        with torch.compiler.set_stance("fail_on_recompile"):
            for rows, positions in shapes:
                ids_BT = random_ids(config, rows, positions)
                logits, expected = evaluation_logits(model)(ids_BT), evaluation_logits(plain)(ids_BT)
                torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
                if config.coupler_type == "GNN":
                    # Compiled code draws other seeds; where masks follow from no seed, the two are comparable.
                    with monkeypatch.context() as patched:
                        patched.setattr("gnn_moe.model.dropout.np.random.SFC64", lambda seed: SFC64(7))
                        assert_same(loss_and_gradients(model, ids_BT), loss_and_gradients(plain, ids_BT), 1e-9)


@pytest.mark.slow
# torch 2.13 looks at the gradient of the layer's input while it traces.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@each(controls(num_layers=1, dropout_rate=0.2, max_seq_length=64)[2:])
def test_top_k_computes_the_same_compiled(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(config)
    plain, ids_BT = copy.deepcopy(model), random_ids(config, *SHAPES[0])
    torch.compiler.reset()
    compile_layers(model)
    with any_shape():
        assert_causal(evaluation_logits(model), ids_BT, config.vocab_size, tolerance=1e-9)
        check_gradient_along_a_line(model, ids_BT, 1e-6)
        plain.load_state_dict(model.state_dict())
        monkeypatch.setattr("gnn_moe.model.dropout.np.random.SFC64", lambda seed: SFC64(7))
        with torch.compiler.set_stance("fail_on_recompile"):
            for rows, positions in SHAPES:
                ids_BT = random_ids(config, rows, positions)
                logits, expected = evaluation_logits(model)(ids_BT), evaluation_logits(plain)(ids_BT)
                torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
                assert_same(loss_and_gradients(model, ids_BT), loss_and_gradients(plain, ids_BT), 1e-9)


def loss_and_gradients(model: LanguageModel, ids_BT: Tensor) -> dict[str, Tensor]:
    """Of what training minimises, in training mode."""
    objective = model.train()(ids_BT, labels=ids_BT).objective
    assert objective is not None
    return {"objective": objective.detach(), **gradients(objective, dict(model.named_parameters()))}


def check_gradient_along_a_line(model: LanguageModel, ids_BT: Tensor, tolerance: float | None) -> None:
    """The gradient is that of the loss with the very dropout that the forward pass drew (None: bf16, finite only)."""

    def loss() -> Tensor:
        torch.manual_seed(3)
        value: Tensor = model.train()(ids_BT, labels=ids_BT).loss
        return value

    direction = [torch.randn_like(parameter) for parameter in model.parameters()]
    grads = torch.autograd.grad(loss(), list(model.parameters()))
    assert all(grad.isfinite().all() for grad in grads)
    if tolerance is None:
        return
    slope = sum((grad * along).sum().item() for grad, along in zip(grads, direction, strict=True))
    step, losses = 1e-6, []
    for shift in (step, -2 * step):
        with torch.no_grad():
            for parameter, along in zip(model.parameters(), direction, strict=True):
                parameter.add_(along, alpha=shift)
        losses.append(loss().item())
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), rel=tolerance)


class OriginalHypergraphConv(Coupler):
    """What the original computed: all tokens in one graph, the hyperedge ids of token n shifted by n·E, not by n·M."""

    def __init__(self, config: ModelConfig, source: HypergraphConvCoupler) -> None:
        super().__init__(config)
        self.config, self.source = config, source

    def forward(self, x_END: Tensor) -> Tensor:
        experts, tokens, width = x_END.shape
        pairs = [(e, m) for m, members in enumerate(build_hyperedges(self.config)) for e in members]
        index = torch.tensor([[e + n * experts, m + n * experts] for n in range(tokens) for e, m in pairs]).T
        weights_M = self.source.hyperedge_weights()
        weights = weights_M.new_zeros(int(index[1].max()) + 1)
        for n in range(tokens):
            weights[n * experts : n * experts + len(weights_M)] = weights_M
        convolution = torch_geometric.nn.HypergraphConv(width, width).to(x_END.dtype)
        x = x_END.transpose(0, 1).flatten(0, 1)
        for layer in self.source.layers:
            values: dict[str, Tensor] = {
                "lin.weight": layer.get_parameter("convolution_weight"),
                "bias": layer.get_parameter("convolution_bias"),
            }
            x = torch.func.functional_call(convolution, values, (x, index, weights))
        return x.view(tokens, experts, width).transpose(0, 1)


def with_the_originals_coupler(config: ModelConfig) -> LanguageModel:
    model = random_model(config)
    for layer in model.layers:
        assert isinstance(layer, CoupledLayer)
        assert isinstance(layer.coupler, HypergraphConvCoupler)
        layer.coupler = OriginalHypergraphConv(config, layer.coupler)
    return model


LEGACY = find_coupler("HGNN", "HypergraphConv")


@pytest.mark.parametrize(
    ("strategy", "experts"),
    [("all_pairs", 4), ("all_pairs", 5), ("all_pairs", 8), ("all_triplets", 5), ("all_triplets", 6)],
)
def test_the_leak_of_the_original_would_be_caught(strategy: str, experts: int) -> None:
    config = config_of(LEGACY, experts, strategy)
    ids_BT = random_ids(config)
    leaking = with_the_originals_coupler(config)
    with pytest.raises(AssertionError, match="leaks to"):
        assert_causal(evaluation_logits(leaking), ids_BT, config.vocab_size)
    check = check_causality(leaking, ids_BT)
    assert not check.causal
    assert check.largest_change > ROUNDING
    assert_causal(evaluation_logits(random_model(config)), ids_BT, config.vocab_size)
    assert len(leak_warning(config)) == 1


@pytest.mark.parametrize(("strategy", "experts"), [("all_pairs", 2), ("all_pairs", 3), ("all_triplets", 4)])
def test_where_the_original_did_not_leak_it_computed_what_we_do(strategy: str, experts: int) -> None:
    config = config_of(LEGACY, experts, strategy)
    ids_BT = random_ids(config)
    original, ours = with_the_originals_coupler(config), random_model(config)
    assert count_hyperedges(config) <= experts
    torch.testing.assert_close(original(ids_BT).logits, ours(ids_BT).logits, rtol=1e-10, atol=1e-10)
    # Its graph is one product over all tokens: equal to rounding, causal to the bit.
    assert_causal(evaluation_logits(original), ids_BT, config.vocab_size)
    assert leak_warning(config) == []


def test_a_leak_through_attention_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attention that sees everything fails the same check."""

    def everything(qkv_3BHTd: Tensor, rate: float, *, training: bool) -> Tensor:
        query, key, value = qkv_3BHTd
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr("gnn_moe.model.experts.causal_attention", everything)
    config = one_of_each()[0]
    assert isinstance(build_model(config).layers[0].get_submodule("experts"), Experts)
    with pytest.raises(AssertionError, match="leaks to"):
        assert_causal(evaluation_logits(random_model(config)), random_ids(config), config.vocab_size)
    assert not check_causality(random_model(config), random_ids(config)).causal


class NextRow(Coupler):
    """A leak between rows alone: each token's experts get a little of the same token's in the next row."""

    def __init__(self, config: ModelConfig, positions: int) -> None:
        super().__init__(config)
        self.positions = positions

    def forward(self, x_END: Tensor) -> Tensor:
        return x_END + 1e-3 * x_END.roll(self.positions, dims=1)


def test_a_leak_between_rows_is_caught_even_where_all_rows_are_one_text() -> None:
    config = one_of_each()[0]
    model = random_model(config)
    for layer in model.layers:
        assert isinstance(layer, CoupledLayer)
        layer.coupler = NextRow(config, config.max_seq_length)
    check = check_causality(model, random_ids(config, rows=1).expand(3, -1))
    assert not check.causal
    assert ROUNDING < check.largest_change < 0.1


def test_a_token_between_two_experts_is_no_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later tokens change how many rows a product has, on a GPU so its last bits, and so a token's expert in a tie."""
    computed: Any = grouped_feed_forward.grouped_feed_forward

    def rounded(x_SD: Tensor, end_E: Tensor, *rest: Any, **named: Any) -> Tensor:
        """As kernels do that are chosen by size."""
        output_SD: Tensor = computed(x_SD, end_E, *rest, **named)
        return output_SD * (1 + torch.finfo(x_SD.dtype).eps * (end_E[0] % 5))

    monkeypatch.setattr("gnn_moe.model.top_k.grouped_feed_forward", rounded)
    config = dataclasses.replace(controls(2, max_seq_length=32)[2], router_top_k=1)
    model, ids_BT = random_model(config, dtype=torch.float32), random_ids(config, rows=8)
    read: list[Tensor] = []
    mixture = model.get_submodule("layers.1.feed_forward")
    hook = mixture.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    with torch.no_grad():
        model(ids_BT)
        hook.remove()
        names = ("norm_gain", "norm_bias", "router_weight")
        gain_D, bias_D, router_ED = (mixture.get_parameter(name) for name in names)
        normed_BTD = torch.nn.functional.layer_norm(read[0], gain_D.shape, gain_D, bias_D)
        # To six tokens both experts are as likely, to rounding: the two differ along what none of them has.
        router_ED[1] = router_ED[0] + torch.linalg.svd(normed_BTD[:6, 1])[2][-1]
    changed_BT = torch.cat([ids_BT[:, :16], random_ids(config, rows=8, positions=16, seed=5)], dim=1)
    past = [model.hidden_states(ids, torch.float32)[:, :16].detach() for ids in (ids_BT, changed_BT)]
    assert (past[0] - past[1]).abs().max() > 0.1, "no token went to another expert"
    check = check_causality(model, ids_BT, rounds=8)
    assert check.causal
    assert check.largest_change < 1e-12
    assert check.least_effect > ROUNDING
    assert check.changes == 64


def test_a_routed_model_that_leaks_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything(qkv_3BHTd: Tensor, rate: float, *, training: bool) -> Tensor:
        query, key, value = qkv_3BHTd
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr("gnn_moe.model.self_attention.causal_attention", everything)
    config = controls()[2]
    check = check_causality(random_model(config, dtype=torch.float32), random_ids(config))
    assert not check.causal
    assert check.largest_change > ROUNDING


def test_causality_is_asked_with_the_longest_rows_cut_to_one_length() -> None:
    lengths = np.array([3, 9, 4, *[6] * 8])
    tokens = np.arange(lengths.sum(), dtype=np.int32)
    starts = np.cumsum(lengths) - lengths
    none = np.zeros_like(lengths)
    samples = Samples(
        tokens=tokens, starts=starts, lengths=lengths, predicted_bytes=none, cut=none, available=len(lengths)
    )
    rows_BT = rows_to_ask(samples, 7)
    assert rows_BT.dtype == torch.int64
    assert rows_BT.tolist() == [tokens[start : start + 6].tolist() for start in [3, *starts[3:10]]]
    assert rows_to_ask(samples, 5).shape == (8, 5)


def test_causality_needs_two_tokens() -> None:
    config = one_of_each()[0]
    with pytest.raises(BadInput, match="1 rows of 1 tokens"):
        check_causality(random_model(config), random_ids(config, rows=1, positions=1))
