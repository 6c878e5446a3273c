"""The control `top_k`: equal to a loop over tokens and their experts, and to a dense block where there is one expert.

Letters: B rows, T positions, N tokens, E experts, D width.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.config import ModelConfig
from gnn_moe.data.batches import IGNORED
from gnn_moe.errors import BadInput
from gnn_moe.model.dense import FeedForward
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.model.matching import is_near
from gnn_moe.model.router import LOAD_BALANCING, Z, router_losses
from gnn_moe.model.size import model_size
from gnn_moe.model.top_k import FeedForwardExperts, SparseFeedForward
from tests import textbook
from tests.model.cases import assert_same, controls, each, every_config, gradients, random_ids, random_model, randomise


def top_k(experts: int = 4, chosen: int = 2, **changes: Any) -> ModelConfig:
    return dataclasses.replace(controls(experts, **changes)[2], router_top_k=chosen)


def textbook_logits(parameters: dict[str, Tensor], config: ModelConfig, ids_BT: Tensor) -> Tensor:
    """(B, T) → (B, T, V), a row, a token and an expert at a time."""
    rows = []
    for ids_T in ids_BT:
        x_TD = torch.stack([parameters["token_embedding"][i] for i in ids_T.tolist()])
        x_TD = x_TD + parameters["position_embedding"][: len(ids_T)]
        for number in range(config.num_layers):
            p = textbook.part(parameters, f"layers.{number}.attention.")
            normed_TD = textbook.layer_norm(x_TD, p["norm_gain"], p["norm_bias"])
            x_TD = x_TD + textbook.attention(p, model_size(config).heads, normed_TD)
            x_TD = x_TD + mixture(textbook.part(parameters, f"layers.{number}.feed_forward."), config, x_TD)
        final_TD = textbook.layer_norm(x_TD, parameters["norm_gain"], parameters["norm_bias"])
        rows.append(final_TD @ parameters["head_weight"].T + parameters["head_bias"])
    return torch.stack(rows)


def mixture(p: dict[str, Tensor], config: ModelConfig, x_TD: Tensor) -> Tensor:
    """Σ_{e chosen} weight_e · FFN_e(LN(x)) of every token."""
    tokens = []
    for x_D in x_TD:
        normed_D = textbook.layer_norm(x_D, p["norm_gain"], p["norm_bias"])
        odds = [torch.exp(weight_D @ normed_D) for weight_D in p["router_weight"]]
        chosen = sorted(range(len(odds)), key=lambda e: -float(odds[e].detach()))[: config.router_top_k]
        of = chosen if config.router_top_k > 1 else range(len(odds))
        total, update_D = sum(odds[e] for e in of), torch.zeros_like(x_D)
        for e in chosen:
            active_F = textbook.gelu(p["experts.up_weight"][e] @ normed_D + p["experts.up_bias"][e])
            update_D = update_D + odds[e] / total * (p["experts.down_weight"][e] @ active_F + p["experts.down_bias"][e])
        tokens.append(update_D)
    return torch.stack(tokens)


@each([top_k(4, 1), top_k(4, 2), top_k(3, 3), top_k(1, 1)])
def test_equals_the_textbook(config: ModelConfig) -> None:
    model, ids_BT = random_model(config), random_ids(config)
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    logits, expected = model(ids_BT).logits, textbook_logits(parameters, config, ids_BT)
    assert_same({"logits": logits}, {"logits": expected}, 1e-9)
    assert_same(gradients(logits, parameters), gradients(expected, parameters), 1e-9)


def test_one_expert_is_a_dense_block() -> None:
    """E = 1 sends everything through one FFN with weight 1."""
    sparse = random_model(top_k(1, 1))
    width = model_size(sparse.config).width
    x_BTD = torch.randn(2, 5, width, dtype=torch.float64)
    mixed = sparse.layers[0].get_submodule("feed_forward")
    assert isinstance(mixed, SparseFeedForward)
    dense = FeedForward(width, mixed.experts.up_weight.shape[1], 0.0).double()
    with torch.no_grad():
        for name, parameter in dense.named_parameters():
            source = mixed.get_parameter(name) if "norm" in name else mixed.get_parameter(f"experts.{name}")[0]
            parameter.copy_(source)
    found, expected = mixed(x_BTD, torch.float64)[0], dense(x_BTD, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_every_token_gets_all_of_its_experts_whatever_the_others_choose() -> None:
    """Dropless: with every token sent to the same two experts, none is lost."""
    config = top_k(4, 2)
    model = random_model(config)
    ids_BT = random_ids(config)
    with torch.no_grad():
        for layer in model.layers:
            router = layer.get_parameter("feed_forward.router_weight")
            layer.get_parameter("feed_forward.norm_gain").zero_()
            layer.get_parameter("feed_forward.norm_bias").fill_(1.0)
            router.copy_(torch.tensor([0.0, 3.0, 2.0, 0.0])[:, None].expand_as(router))
    parameters: dict[str, Tensor] = dict(model.named_parameters())
    torch.testing.assert_close(model(ids_BT).logits, textbook_logits(parameters, config, ids_BT), rtol=1e-9, atol=1e-9)


def test_results_stand_in_the_order_of_the_tokens() -> None:
    """Row s through expert_S[s] alone, in any order of experts, with one that nobody chose."""
    experts = FeedForwardExperts(4, 8, 16, 0.0).double()
    randomise(experts)
    x_SD, expert_S = torch.randn(9, 8, dtype=torch.float64), torch.tensor([3, 0, 3, 1, 0, 0, 3, 1, 0])
    together_SD = experts(x_SD, expert_S)
    for row in range(9):
        alone_1D = experts(x_SD[[row]], expert_S[[row]])
        torch.testing.assert_close(together_SD[[row]], alone_1D, rtol=1e-12, atol=1e-12)


def test_training_minimises_the_weighted_losses_of_all_layers_and_evaluation_the_cross_entropy() -> None:
    config = top_k(4, 2, dropout_rate=0.0)
    model, ids_BT = random_model(config).train(), random_ids(config)
    targets_BT = random_ids(config, seed=1)
    targets_BT[0, 3:] = IGNORED
    output = model(ids_BT, targets=targets_BT, return_logits=True)
    expected = functional.cross_entropy(output.logits.flatten(0, 1), targets_BT.flatten())
    torch.testing.assert_close(output.loss, expected, rtol=1e-12, atol=0)
    losses = router_losses(output.router_logits, targets_BT.flatten() != IGNORED, 2)
    assert output.router_logits.shape == (2, 14, 4)
    assert_same(output.router_losses, losses, 1e-12)
    objective = expected + 0.01 * losses[LOAD_BALANCING] + 0.001 * losses[Z]
    torch.testing.assert_close(output.objective, objective, rtol=1e-12, atol=0)
    evaluated = model.eval()(ids_BT, targets=targets_BT)
    assert evaluated.router_losses == {}
    assert evaluated.objective is evaluated.loss
    torch.testing.assert_close(evaluated.loss, expected, rtol=1e-12, atol=0)


def test_micro_batches_weigh_their_router_losses_by_tokens() -> None:
    """A mean over micro-batches, each by its predicted tokens; not the whole batch's, of which f·p is no mean."""
    config = top_k(3, 2, dropout_rate=0.0)
    model = random_model(config).train()
    ids_BT, targets_BT = random_ids(config, rows=3), random_ids(config, rows=3, seed=1)
    targets_BT[0, 2:] = IGNORED
    denominator = (targets_BT != IGNORED).sum()
    found, expected = {LOAD_BALANCING: 0.0, Z: 0.0}, {LOAD_BALANCING: 0.0, Z: 0.0}
    for rows in (slice(0, 1), slice(1, 3)):
        piece = model(ids_BT[rows], targets=targets_BT[rows], loss_denominator=denominator)
        alone = model(ids_BT[rows], targets=targets_BT[rows])
        tokens = int((targets_BT[rows] != IGNORED).sum())
        for name in found:
            found[name] += piece.router_losses[name].item()
            expected[name] += alone.router_losses[name].item() * tokens / int(denominator)
    whole = model(ids_BT, targets=targets_BT)
    assert found == pytest.approx(expected, rel=1e-12)
    assert found[Z] == pytest.approx(whole.router_losses[Z].item(), rel=1e-12)
    assert found[LOAD_BALANCING] != pytest.approx(whole.router_losses[LOAD_BALANCING].item(), rel=1e-3)


def test_the_router_learns_from_the_text_and_from_each_of_its_losses() -> None:
    config = top_k(4, 2, dropout_rate=0.0)
    model, ids_BT = build_model(config).double(), random_ids(config)
    output = model(ids_BT, labels=ids_BT)
    routers = [model.get_parameter(f"layers.{number}.feed_forward.router_weight") for number in range(2)]
    for loss in (output.loss, *output.router_losses.values()):
        for gradient in torch.autograd.grad(loss, routers, retain_graph=True):
            assert (gradient.abs().sum(dim=1) > 1e-12).all()


def test_routing_does_not_depend_on_the_type_of_the_products() -> None:
    """The router computes in float32 under autocast too."""
    config = top_k(4, 2)
    model, ids_BT = build_model(config).eval(), random_ids(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_LNE = model(ids_BT).router_logits
    assert logits_LNE.dtype == torch.float32
    assert LanguageModel(config).bfloat16().get_parameter("layers.0.feed_forward.router_weight").dtype == torch.bfloat16
    assert build_model(config).bfloat16().eval()(ids_BT).router_logits.dtype == torch.float32


@each(every_config([2, 3, 8], embed_dim=16))
def test_every_coupled_model_has_a_mixture_of_equal_active_flops(config: ModelConfig) -> None:
    for chosen in (1, 2):
        sparse = model_size(dataclasses.replace(config, architecture="top_k", router_top_k=chosen))
        assert is_near(sparse.training_flops_per_token, model_size(config).training_flops_per_token)
        expert = (2 * sparse.width + 1) * sparse.feed_forward_width + sparse.width
        idle = (config.num_experts - chosen) * expert * config.num_layers
        assert sparse.total_parameters - sparse.active_parameters == idle


def test_a_model_too_small_to_match_is_bad_input() -> None:
    sizes = {"vocab_size": 10, "embed_dim": 1, "num_heads": 1, "num_experts": 2, "max_seq_length": 4}
    config = ModelConfig(architecture="top_k", coupler_type="mean", **sizes)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="top_k: none of its widths comes within 1% of the"):
        model_size(config)
