"""After one backward pass every parameter has a finite gradient that is not zero, save what is named here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import find_coupler
from gnn_moe.model.language_model import LanguageModel, build_model
from tests.model.cases import config_of, controls, each, every_config, random_model

IDS = torch.tensor([[1, 2, 3, 4, 2], [5, 1, 1, 6, 3]])
TARGETS = torch.tensor([[2, 3, 4, 2, 9], [1, 1, 6, 3, 8]])

ZERO_WITH_ONE_EXPERT = {
    "GNN": {  # nobody sends: the message is 0, whatever these are
        "adjacency_logits",
        "receiver_weight",
        "sender_weight",
        "gate_bias",
        "neighbour_weight",
    },
    "sinkhorn": {"mixing_logits"},  # a doubly stochastic number is 1
    "attention": {"query_weight", "key_weight"},  # a softmax over one expert is 1
    "HGNN": {"hyperedge_logits", "content_gate_weight", "content_gate_bias"},  # P = (1 + w) / (1 + w) = 1
}
"""By coupler, the parameters that do not matter with one expert. (HypergraphConv's weight does: it divides x.)"""


def zeros_of(name: str, config: ModelConfig, gradient: Tensor) -> Tensor:
    """Where the mathematics makes the gradient of a parameter 0, as a mask of its shape."""
    kind, zero = name.rsplit(".", 1)[-1], torch.zeros_like(gradient, dtype=torch.bool)
    if kind == "token_embedding":  # tokens not in the batch
        zero[[token for token in range(config.vocab_size) if token not in IDS]] = True
    if kind == "position_embedding":  # positions not in the batch
        zero[IDS.shape[1] :] = True
    if kind == "qkv_bias":  # key biases add the same to all scores of a query
        zero.view(*zero.shape[:-1], 3, -1)[..., 1, :] = True
    if kind == "adjacency_logits":  # nobody sends to itself
        zero.fill_diagonal_(True)
    if ".experts." in name and config.hgnn_conv_type == "HypergraphConv" and config.hyperedges is not None:
        # Without a residual, the result of an expert that no hyperedge holds is lost.
        zero[[not any(e in members for members in config.hyperedges) for e in range(config.num_experts)]] = True
    if (
        config.architecture == "coupled"
        and config.num_experts == 1
        and kind in ZERO_WITH_ONE_EXPERT.get(config.coupler_type, ())
    ):
        zero.fill_(True)
    if kind in ("hyperedge_logits", "raw_hyperedge_weights") and config.static_hyperedge_strategy == "custom":
        zero |= lonely_hyperedges(kind, config)
    return zero


def lonely_hyperedges(kind: str, config: ModelConfig) -> Tensor:
    """A hyperedge of one expert that is in no other: the default form gives P = (1 + w) / (1 + w) there."""
    edges = config.hyperedges or ()
    alone = [len(members) == 1 and sum(members[0] in other for other in edges) == 1 for members in edges]
    return torch.tensor(alone) & (kind == "hyperedge_logits")


def check_gradients(model: LanguageModel) -> None:
    model.double().train()
    model(IDS, targets=TARGETS).loss.backward()
    largest = max(p.grad.abs().max().item() for p in model.parameters() if p.grad is not None)
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, f"{name} has no gradient"
        assert gradient.isfinite().all(), name
        zero = zeros_of(name, model.config, gradient)
        assert gradient[zero].abs().sum() <= 1e-13 * largest, f"{name} should not matter here"
        if zero.all():
            continue
        for number, (values, known) in enumerate(parts(name, gradient, zero)):
            learns = values.abs().sum() > 1e-13 * largest
            assert learns or known.all(), f"part {number} of {name} does not learn"


def parts(name: str, gradient: Tensor, zero: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """What must learn by itself: a weight between experts, a row of an embedding, an expert of a stack, else a tensor.

    (A unit whose GELU has closed may rest, so a row of any other matrix may be zero.)
    """
    if any(kind in name for kind in ("adjacency", "hyperedge", "mixing")):
        gradient, zero = gradient.flatten(), zero.flatten()
    elif "embedding" not in name and ".experts." not in name:
        gradient, zero = gradient[None], zero[None]
    yield from zip(gradient, zero, strict=True)


@each([*every_config(dropout_rate=0.0), *controls(dropout_rate=0.0)])
def test_every_parameter_learns(config: ModelConfig) -> None:
    check_gradients(build_model(config))
    check_gradients(random_model(config))


@each([*every_config([1, 3], dropout_rate=0.1), *controls(dropout_rate=0.1)])
def test_every_parameter_learns_with_dropout(config: ModelConfig) -> None:
    torch.manual_seed(0)
    check_gradients(random_model(config))


@pytest.mark.parametrize("conv_type", ["hgnn", "HypergraphConv"])
def test_hyperedge_weight_of_two_experts_against_a_finite_difference(conv_type: str) -> None:
    config = config_of(find_coupler("HGNN", conv_type), 2, dropout_rate=0.0)
    for model in (build_model(config).double(), random_model(config)):
        name = "hyperedge_logits" if conv_type == "hgnn" else "raw_hyperedge_weights"
        for layer in range(config.num_layers):
            weight = model.get_parameter(f"layers.{layer}.coupler.{name}")
            (gradient,) = torch.autograd.grad(model(IDS, targets=TARGETS).loss, weight)
            step, losses = 1e-5, []
            for shift in (step, -step):
                with torch.no_grad():
                    weight.add_(shift)
                    losses.append(model(IDS, targets=TARGETS).loss.item())
                    weight.sub_(shift)
            difference = (losses[0] - losses[1]) / (2 * step)
            assert weight.numel() == 1
            assert gradient.item() != 0
            assert gradient.item() == pytest.approx(difference, rel=1e-5, abs=1e-10)
