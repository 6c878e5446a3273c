"""The control `dense` is a plain pre-norm transformer.

Letters: B rows, T positions, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnn_moe.config import ModelConfig
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.size import model_size
from tests.model.cases import assert_same, controls, each, gradients, random_ids, random_model

NAMES = {
    "norm1.weight": "attention.norm_gain",
    "norm1.bias": "attention.norm_bias",
    "self_attn.in_proj_weight": "attention.qkv_weight",
    "self_attn.in_proj_bias": "attention.qkv_bias",
    "self_attn.out_proj.weight": "attention.output_weight",
    "self_attn.out_proj.bias": "attention.output_bias",
    "norm2.weight": "feed_forward.norm_gain",
    "norm2.bias": "feed_forward.norm_bias",
    "linear1.weight": "feed_forward.up_weight",
    "linear1.bias": "feed_forward.up_bias",
    "linear2.weight": "feed_forward.down_weight",
    "linear2.bias": "feed_forward.down_bias",
}
"""Parameters of torch's own block → ours."""


def plain_transformer_loss(model: LanguageModel, ids_BT: Tensor) -> Tensor:
    """The same function of the model's parameters through torch's own pre-norm blocks and cross-entropy."""
    size, positions = model_size(model.config), ids_BT.shape[1]
    block = nn.TransformerEncoderLayer(
        size.width,
        size.heads,
        size.feed_forward_width,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=True,
    ).double()
    future_TT = torch.ones(positions, positions, dtype=torch.bool).triu(1)
    x_BTD = model.token_embedding[ids_BT] + model.position_embedding[:positions]
    for layer in model.layers:
        values = {
            theirs: layer.get_parameter(ours).view_as(layer.get_parameter(ours)) for theirs, ours in NAMES.items()
        }
        x_BTD = torch.func.functional_call(block, values, (x_BTD,), {"src_mask": future_TT})
    final = functional.layer_norm(x_BTD, x_BTD.shape[-1:], model.norm_gain, model.norm_bias)
    logits = final @ model.head_weight.T + model.head_bias
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())


@each([config for config in controls(dropout_rate=0.0) if config.architecture == "dense"])
def test_dense_is_a_plain_transformer(config: ModelConfig) -> None:
    model, ids_BT = random_model(config).train(), random_ids(config, rows=3)
    parameters = dict(model.named_parameters())
    loss, expected = model(ids_BT, labels=ids_BT).loss, plain_transformer_loss(model, ids_BT)
    assert_same({"loss": loss}, {"loss": expected}, 1e-12)
    assert_same(gradients(loss, parameters), gradients(expected, parameters), 1e-12)
    assert len(parameters) == 6 + 12 * config.num_layers
