"""Does coupling matter to a trained model? The model without it, with a shuffled graph, with uniform weights.

| ablation | what becomes of each coupler |
|---|---|
| `coupler` | the one of `mean`: the experts' results pass unchanged to the readout |
| `shuffle_graph` | its learned strengths are dealt anew among the edges, hyperedges or experts |
| `uniform_weights` | each learned strength becomes the mean of those of its graph |

    ablated = ablate(load_model("runs/first"), "shuffle_graph", torch.Generator().manual_seed(0))

What follows the content (GNN's gates, those of gated hyperedges) stays in the latter two. `coupler` takes more than the
exchange: a coupler's layers also transform each expert's own result, and that goes too. So a loss that rises says that
the model needs its coupler; the graph's part is what the other two show.
"""

from __future__ import annotations

import copy
import dataclasses

import torch

from gnn_moe.config import COUPLED, ModelConfig
from gnn_moe.errors import BadInput, unknown_name
from gnn_moe.model.couplers import Coupler, build_coupler
from gnn_moe.model.language_model import LanguageModel

COUPLER, SHUFFLE_GRAPH, UNIFORM_WEIGHTS = ABLATIONS = ("coupler", "shuffle_graph", "uniform_weights")
"""The values of `--ablate`."""
NO_COUPLER = "mean"
"""The coupler type that exchanges nothing."""


def ablate(model: LanguageModel, ablation: str, generator: torch.Generator) -> LanguageModel:
    """A model without its coupling, or with another one; the model itself is left as it was.

    Args:
        model: trained, and not prepared by Accelerate, which ties its forward to itself.
        ablation: one of `ABLATIONS`.
        generator: on the CPU; `shuffle_graph` draws from it, coupler by coupler.

    Returns:
        A model with couplers of its own, in the same mode. All other parameters are those of `model`, not copies.

    Raises:
        BadInput: the ablation is unknown, or means nothing on this model.
    """
    if ablation not in ABLATIONS:
        raise unknown_name("--ablate", ablation, ABLATIONS)
    check_ablation(model, ablation)
    couplers = [layer.coupler for layer in model.coupled_layers()]
    own = {id(parameter) for coupler in couplers for parameter in coupler.parameters()}
    ablated = copy.deepcopy(model, {id(kept): kept for kept in model.parameters() if id(kept) not in own})
    if ablation == COUPLER:
        ablated.config = _without_coupler(model.config)
    for layer in ablated.coupled_layers():
        if ablation == COUPLER:
            layer.coupler = build_coupler(ablated.config)
        elif ablation == SHUFFLE_GRAPH:
            layer.coupler.shuffle_strengths(generator)
        else:
            layer.coupler.level_strengths()
    return ablated.train(model.training)


def check_ablation(model: LanguageModel, ablation: str) -> None:
    """Checks that an ablation says something of a model.

    Raises:
        BadInput: it has no coupler, nothing to exchange or no strengths that were learned.
    """
    config, asked = model.config, f"--ablate {ablation}"
    if config.architecture != COUPLED:
        raise BadInput(
            f"{asked}: the model is of --architecture {config.architecture}, which has no coupler; "
            f"use a run of --architecture {COUPLED}"
        )
    if config.coupler_type == NO_COUPLER:
        raise BadInput(
            f"{asked}: the model is of --coupler_type {NO_COUPLER}, which exchanges nothing; "
            "use a run of another coupler"
        )
    if config.num_experts == 1:
        raise BadInput(
            f"{asked}: the model is of --num_experts 1, which has nothing to exchange; use a run of 2 experts or more"
        )
    if ablation != COUPLER and any(layer.coupler.strengths() is None for layer in model.coupled_layers()):
        fixed = " with --no_hgnn_learnable_edge_weights" if config.coupler.uses_hypergraph else ""
        raise BadInput(
            f"{asked}: the model is of --coupler_type {config.coupler_type}{fixed}, whose graph has no learned "
            f"strengths; use --ablate {COUPLER}"
        )


def largest_change_of_strengths(before: LanguageModel, after: LanguageModel) -> float | None:
    """How far the strength that moved most moved between two models of the same couplers; None where there are none.

    Strengths are σ(Λ) of GNN, the weights w of a hypergraph, the shares S of sinkhorn.
    """
    changes = [
        float((_strengths(new.coupler) - _strengths(old.coupler)).abs().amax())
        for old, new in zip(before.coupled_layers(), after.coupled_layers(), strict=True)
        if old.coupler.strengths() is not None and new.coupler.strengths() is not None
    ]
    return max(changes, default=None)


def _strengths(coupler: Coupler) -> torch.Tensor:
    strengths = coupler.strengths()
    assert strengths is not None
    return strengths.double()


def _without_coupler(config: ModelConfig) -> ModelConfig:
    # What other couplers alone take would be refused beside `mean`.
    return dataclasses.replace(config, coupler_type=NO_COUPLER, hgnn_content_gates=False, hyperedges=None)
