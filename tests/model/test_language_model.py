"""The whole model against its slow form, a plain transformer, and what it promises about rows, padding and labels.

Letters: B rows, T positions, E experts, D width.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gnn_moe
from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import find_coupler
from gnn_moe.data.batches import IGNORED
from gnn_moe.errors import BadInput
from gnn_moe.model.language_model import LanguageModel, build_model
from tests import textbook
from tests.model.cases import (
    assert_same,
    config_of,
    controls,
    each,
    every_config,
    gradients,
    one_of_each,
    random_ids,
    random_model,
    relabelled,
)


@each([*every_config([4]), *one_of_each(2, num_heads=1), *one_of_each(1, static_hyperedge_strategy="all")])
def test_equals_the_textbook(config: ModelConfig) -> None:
    model, ids_BT = random_model(config), random_ids(config)
    parameters = dict(model.named_parameters())
    logits = model(ids_BT).logits
    expected = textbook.logits(parameters, config, ids_BT)
    assert_same({"logits": logits}, {"logits": expected}, 1e-9)
    assert_same(gradients(logits, parameters), gradients(expected, parameters), 1e-9)
    targets_BT = random_ids(config, seed=1)
    targets_BT[0, :2] = IGNORED
    loss = model(ids_BT, targets=targets_BT).loss
    expected = textbook.loss(parameters, config, ids_BT, targets_BT)
    assert_same({"loss": loss}, {"loss": expected}, 1e-9)
    assert_same(gradients(loss, parameters), gradients(expected, parameters), 1e-9)


def plain_transformer_loss(model: LanguageModel, ids_BT: Tensor) -> Tensor:
    """The same function of the model's parameters through torch's own pre-norm block, one a layer, then Readout."""
    config, positions = model.config, ids_BT.shape[1]
    block = nn.TransformerEncoderLayer(
        config.embed_dim,
        config.heads,
        4 * config.embed_dim,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    ).double()
    names = {
        "norm1.weight": "norm1_gain",
        "norm1.bias": "norm1_bias",
        "self_attn.in_proj_weight": "qkv_weight",
        "self_attn.in_proj_bias": "qkv_bias",
        "self_attn.out_proj.weight": "output_weight",
        "self_attn.out_proj.bias": "output_bias",
        "norm2.weight": "norm2_gain",
        "norm2.bias": "norm2_bias",
        "linear1.weight": "up_weight",
        "linear1.bias": "up_bias",
        "linear2.weight": "down_weight",
        "linear2.bias": "down_bias",
    }
    future_TT = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    x_BTD = model.token_embedding[ids_BT] + model.position_embedding[:positions]
    for layer in model.layers:
        values = {theirs: layer.get_parameter(f"experts.{ours}")[0] for theirs, ours in names.items()}
        y_BTD = torch.func.functional_call(block, values, (x_BTD,), {"src_mask": future_TT})
        read = {name: value for name, value in layer.named_parameters() if name.startswith("readout")}
        combined = functional.gelu(y_BTD @ read["readout.combine_weight"].T + read["readout.combine_bias"])
        x_BTD = x_BTD + functional.layer_norm(
            combined, combined.shape[-1:], read["readout.norm_gain"], read["readout.norm_bias"]
        )
    final = functional.layer_norm(x_BTD, x_BTD.shape[-1:], model.norm_gain, model.norm_bias)
    logits = final @ model.head_weight.T + model.head_bias
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())


def test_one_expert_with_mean_is_a_plain_transformer() -> None:
    config = config_of(find_coupler("mean", "hgnn"), 1, dropout_rate=0.0)
    model, ids_BT = random_model(config).train(), random_ids(config, rows=3)
    parameters = dict(model.named_parameters())
    loss, expected = model(ids_BT, labels=ids_BT).loss, plain_transformer_loss(model, ids_BT)
    assert_same({"loss": loss}, {"loss": expected}, 1e-12)
    assert_same(gradients(loss, parameters), gradients(expected, parameters), 1e-12)


@each([*every_config([2, 5]), *controls(5)[2:]])
def test_names_of_experts_do_not_matter(config: ModelConfig) -> None:
    model, ids_BT = random_model(config), random_ids(config)
    other_config, values = relabelled(
        config, model.state_dict(), [4, 2, 0, 3, 1] if config.num_experts == 5 else [1, 0]
    )
    other = LanguageModel(other_config).double().eval()
    other.load_state_dict(values)
    torch.testing.assert_close(other(ids_BT).logits, model(ids_BT).logits, rtol=1e-11, atol=1e-11)


@each([*one_of_each(4), *controls()])
def test_rows_are_independent_and_padding_changes_nothing_before_it(config: ModelConfig) -> None:
    model, ids_BT = random_model(config), random_ids(config, rows=3)
    logits_BTV = model(ids_BT).logits
    for row in range(3):
        torch.testing.assert_close(model(ids_BT[[row]]).logits[0], logits_BTV[row], rtol=1e-11, atol=1e-11)
    swapped_BTV = model(ids_BT[[2, 0, 1]]).logits
    torch.testing.assert_close(swapped_BTV, logits_BTV[[2, 0, 1]], rtol=1e-11, atol=1e-11)
    for length in (1, 3):
        short_BTV = model(ids_BT[:, :length]).logits
        torch.testing.assert_close(short_BTV, logits_BTV[:, :length], rtol=1e-11, atol=1e-11)
        padded_BT = ids_BT.clone()
        padded_BT[:, length:] = 0
        tolerance = 1e-12 if config.architecture == "top_k" else 0  # other tokens, so products of other sizes
        found_BTV, expected_BTV = model(padded_BT).logits[:, :length], logits_BTV[:, :length]
        torch.testing.assert_close(found_BTV, expected_BTV, rtol=tolerance, atol=tolerance)


@each([*one_of_each(2), *controls()])
def test_labels_are_shifted_inside_and_targets_are_aligned(config: ModelConfig) -> None:
    model, ids_BT = random_model(config), random_ids(config)
    logits_BTV = model(ids_BT).logits
    labels_BT = ids_BT.clone()
    labels_BT[1, 4:] = IGNORED
    expected = functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten())
    loss = model(ids_BT, labels=labels_BT).loss
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    targets_BT = functional.pad(labels_BT[:, 1:], (0, 1), value=IGNORED)
    assert torch.equal(model(ids_BT, targets=targets_BT).loss, loss)
    # The first label is of the given token: it is not predicted.
    labels_BT[:, 0] = IGNORED
    assert torch.equal(model(ids_BT, labels=labels_BT).loss, loss)
    denominator = torch.tensor(100.0)
    shared = model(ids_BT, targets=targets_BT, loss_denominator=denominator).loss
    torch.testing.assert_close(shared * 100 / (targets_BT != IGNORED).sum(), loss, rtol=1e-12, atol=0)


def test_token_0_is_predicted_like_any_other() -> None:
    config = one_of_each(2)[0]
    model, ids_BT = random_model(config), torch.tensor([[3, 0, 0, 5]])
    logits_BTV = model(ids_BT).logits
    expected = functional.cross_entropy(logits_BTV[0, :-1], torch.tensor([0, 0, 5]))
    torch.testing.assert_close(model(ids_BT, labels=ids_BT).loss, expected, rtol=1e-12, atol=0)
    alone = model(ids_BT[:, :2], labels=ids_BT[:, :2]).loss
    assert alone.item() == pytest.approx(-logits_BTV[0, 0].log_softmax(dim=0)[0].item())


def test_logits_come_with_a_loss_only_where_asked_for() -> None:
    config = one_of_each(2)[0]
    model, ids_BT = random_model(config), random_ids(config)
    plain = model(ids_BT)
    assert plain.loss is None
    assert plain.logits.shape == (2, config.max_seq_length, config.vocab_size)
    assert model(ids_BT, labels=ids_BT).logits is None
    assert model(ids_BT, targets=ids_BT).logits is None
    both = model(ids_BT, labels=ids_BT, return_logits=True)
    assert both.loss is not None
    assert torch.equal(both.logits, plain.logits)


def test_bad_calls_say_what_to_do() -> None:
    config = one_of_each(2)[0]
    model, ids_BT = random_model(config), random_ids(config)
    with pytest.raises(BadInput, match="labels and targets"):
        model(ids_BT, labels=ids_BT, targets=ids_BT)
    with pytest.raises(BadInput, match=r"labels are \(.*\) and input_ids \("):
        model(ids_BT, labels=ids_BT[:1])
    with pytest.raises(BadInput, match="8 tokens is longer than max_seq_length 7"):
        model(random_ids(config, positions=8))
    with pytest.raises(BadInput, match="max_seq_length"):
        model.hidden_states(random_ids(config, positions=8), torch.float64)


@each([*one_of_each(3, dropout_rate=0.0), *controls(dropout_rate=0.0)])
def test_micro_batches_add_up_to_the_whole_batch(config: ModelConfig) -> None:
    """Rows of unequal length: a mean of means would be off by far more."""
    ids_BT, targets_BT = random_ids(config, rows=6, seed=2), random_ids(config, rows=6, seed=3)
    for row, length in enumerate([7, 1, 3, 7, 2, 5]):
        targets_BT[row, length:] = IGNORED
    denominator = (targets_BT != IGNORED).sum()
    whole = build_model(config).double()
    whole_loss = whole(ids_BT, targets=targets_BT).loss
    whole_loss.backward()
    for size in (1, 2, 4):
        model, total = build_model(config).double(), torch.zeros((), dtype=torch.float64)
        for start in range(0, 6, size):
            rows = slice(start, start + size)
            output = model(ids_BT[rows], targets=targets_BT[rows], loss_denominator=denominator)
            output.loss.backward()
            total += output.loss.detach()
        assert total.item() == pytest.approx(whole_loss.item(), rel=1e-6)
        for (name, piecewise), expected in zip(model.named_parameters(), whole.parameters(), strict=True):
            assert piecewise.grad is not None
            assert expected.grad is not None
            torch.testing.assert_close(piecewise.grad, expected.grad, rtol=1e-5, atol=1e-6, msg=name)
        means = sum(model(ids_BT[[r]], targets=targets_BT[[r]]).loss.item() for r in range(6)) / 6
        assert means != pytest.approx(whole_loss.item(), rel=1e-6)


@each([one_of_each(3, dropout_rate=0.5)[0], *controls(dropout_rate=0.5)])
def test_evaluation_mode_has_no_dropout_and_training_mode_has(config: ModelConfig) -> None:
    model, ids_BT = random_model(config), random_ids(config)
    without = LanguageModel(dataclasses.replace(config, dropout_rate=0.0)).double()
    without.load_state_dict(model.state_dict())
    assert torch.equal(model(ids_BT).logits, without.train()(ids_BT).logits)
    model.train()
    torch.manual_seed(0)
    first = model(ids_BT).logits
    assert not torch.equal(first, model(ids_BT).logits)
    torch.manual_seed(0)
    assert torch.equal(first, model(ids_BT).logits)


@each([one_of_each(3)[0], *controls()])
def test_parts_of_the_model_compute_in_the_autocast_type_and_the_loss_in_float32(config: ModelConfig) -> None:
    model, ids_BT = build_model(config), random_ids(config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(ids_BT, labels=ids_BT, return_logits=True)
    assert output.logits.dtype == torch.bfloat16
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}


def test_coupling_names_every_layer() -> None:
    graph, hypergraph, gated, _, sinkhorn, _, mean = one_of_each(4)
    assert {name: value.shape for name, value in build_model(graph).coupling().items()} == {
        "layer_0/adjacency": (2, 4, 4),
        "layer_1/adjacency": (2, 4, 4),
    }
    weights = build_model(hypergraph).coupling()
    assert list(weights) == ["layer_0/hyperedge_weights", "layer_1/hyperedge_weights"]
    torch.testing.assert_close(weights["layer_0/hyperedge_weights"], torch.ones(6))
    assert build_model(gated).coupling().keys() == weights.keys()
    mixing = build_model(sinkhorn).coupling()["layer_1/mixing"]
    torch.testing.assert_close(mixing, (0.5 * torch.eye(4) + 0.125).expand(2, 4, 4))
    assert build_model(mean).coupling() == {}


def test_the_library_is_reached_from_the_package() -> None:
    model = gnn_moe.build_model(gnn_moe.ModelConfig(vocab_size=11, embed_dim=8, num_layers=1, num_heads=2))
    assert isinstance(model, LanguageModel)
    assert model.training
    assert gnn_moe.load_model.__name__ == "load_model"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = gnn_moe.no_such_name


@each([*one_of_each(3, dropout_rate=0.2), *controls(dropout_rate=0.2)])
def test_checkpointed_layers_give_the_same_gradients(config: ModelConfig) -> None:
    """With the same dropout, whose masks are drawn anew in the backward pass."""
    model, ids_BT = random_model(config).train(), random_ids(config)
    losses, found = [], []
    for checkpointed in (False, True):
        model.checkpoint_layers = checkpointed
        torch.manual_seed(0)
        objective = model(ids_BT, labels=ids_BT).objective
        assert objective is not None
        model.zero_grad()
        objective.backward()
        losses.append(objective.item())
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert losses[0] == losses[1]
    assert_same(found[1], found[0], 1e-12)
