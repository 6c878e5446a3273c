"""Where a number stopped being finite: in compiled layers too, and in whichever micro-batch has it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gnn_moe.config import ModelConfig
from gnn_moe.data.batches import Batch
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.training.compiling import any_shape, compile_layers
from gnn_moe.training.diagnosis import find_non_finite
from gnn_moe.training.loader import collate_pieces
from tests.data.test_unigram import samples_of

CPU = torch.device("cpu")
# Token 9 stands in the third row only, which is in the second piece of two.
SAMPLES = samples_of([1, 1, 2], [2, 2, 3], [9, 9, 4], [3, 1, 2])
PIECES = collate_pieces(SAMPLES, np.arange(4), size=2, positions=2)
# torch 2.13 looks at the gradient of the layer's input while it traces; where warnings are errors, hiding it fails.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")


@pytest.fixture(params=["eager", "compiled"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """A small model that has done a step, its layers compiled or not."""
    sizes = {"vocab_size": 10, "embed_dim": 16, "num_heads": 2, "num_layers": 2, "num_experts": 2, "gnn_layers": 1}
    model = build_model(ModelConfig(**sizes, max_seq_length=4, dropout_rate=0.0))  # type: ignore[arg-type]
    if request.param == "compiled":
        torch.compiler.reset()
        compile_layers(model, backend="eager")
    step(model, PIECES)
    return model


def step(model: LanguageModel, pieces: list[Batch]) -> float:
    """The loss of the pieces, backwards too."""
    total = 0.0
    with any_shape():
        for piece in pieces:
            loss = model(piece.input_ids, targets=piece.targets).loss
            assert loss is not None
            loss.backward()
            total += float(loss.detach())
    return total


def test_a_layer_is_named_by_its_part_in_whichever_piece_it_happens(model: LanguageModel) -> None:
    with torch.no_grad():
        model.token_embedding[9] = torch.linspace(-1e38, 1e38, 16)
    assert math.isfinite(step(model, PIECES[:1]))
    assert not math.isfinite(step(model, PIECES))
    assert find_non_finite(model, PIECES, CPU) == "output of layers.0.experts"


def test_a_gradient_is_named_that_only_all_pieces_have(model: LanguageModel) -> None:
    """2e38 is a float32; twice that is not."""

    def blow_up(grad: torch.Tensor) -> torch.Tensor:
        return torch.full_like(grad, 2e38)

    dict(model.named_parameters())["layers.1.readout.combine_bias"].register_hook(blow_up)  # type: ignore[no-untyped-call]
    assert find_non_finite(model, PIECES[:1], CPU).startswith("a place not found again")
    assert find_non_finite(model, PIECES, CPU) == "gradient of layers.1.readout.combine_bias"


def test_a_router_is_named_by_its_part_or_by_its_losses() -> None:
    sizes = {"vocab_size": 10, "embed_dim": 16, "num_heads": 2, "num_layers": 2, "num_experts": 2}
    config = ModelConfig(architecture="top_k", **sizes, max_seq_length=4, dropout_rate=0.0)  # type: ignore[arg-type]
    for size, found in ((1e38, "output of layers.1.feed_forward"), (1e25, "the losses of the routers")):
        model = build_model(config)
        with torch.no_grad():
            router = model.get_parameter("layers.1.feed_forward.router_weight")
            router.copy_(size * torch.sign(router))
        assert find_non_finite(model, PIECES, CPU) == found
