"""Memory kept between steps: one block for all shapes, wherever it was first asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from gnn_moe.model.language_model import build_model
from gnn_moe.model.workspace import Workspace
from tests.model.cases import one_of_each, random_ids

FLOAT, SHORT = torch.empty(0), torch.empty(0, dtype=torch.bfloat16)


def test_one_block_is_taken_again_for_what_fits() -> None:
    workspace = Workspace()
    first = workspace.take(4, 6, FLOAT)
    assert (first.shape, first.dtype) == ((4, 6), torch.float32)
    for shape in ((6, 4), (2, 3), (24, 1)):
        again = workspace.take(*shape, FLOAT)
        assert again.shape == shape
        assert again.is_contiguous()
        assert again.data_ptr() == first.data_ptr()
    assert workspace.take(5, 5, FLOAT).shape == (5, 5)
    assert workspace.take(2, 2, SHORT).dtype == torch.bfloat16


def test_an_evaluation_leaves_room_that_training_can_write_to() -> None:
    workspace = Workspace()
    with torch.inference_mode():
        made = workspace.take(3, 3, FLOAT)
    workspace.take(3, 3, FLOAT).fill_(1.0)
    assert made.tolist() == [[1.0] * 3] * 3


def test_other_devices_get_new_memory() -> None:
    workspace, like = Workspace(), torch.empty(0, device="meta")
    assert workspace.take(2, 3, like).device.type == "meta"
    assert workspace.take(2, 3, like) is not workspace.take(2, 3, like)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_model_trains_the_same_after_an_evaluation_of_other_shapes(
    context: Callable[[], AbstractContextManager[None]],
) -> None:
    config = one_of_each(2)[0]
    ids, more = random_ids(config, 2), random_ids(config, 5)
    fresh, used = build_model(config).eval(), build_model(config).eval()
    with context():
        used(more, labels=more)
    losses = [model(ids, labels=ids).loss for model in (fresh, used)]
    assert torch.equal(*losses)
    grads = [
        torch.autograd.grad(loss, list(model.parameters())) for loss, model in zip(losses, (fresh, used), strict=True)
    ]
    assert all(torch.equal(*pair) for pair in zip(*grads, strict=True))
