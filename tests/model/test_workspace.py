"""Memory kept between steps: one block for all shapes, wherever first asked for; another for who borrows meanwhile."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor

from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.model.memory import most_head_rows
from gnn_moe.model.workspace import Workspace
from tests.model.cases import one_of_each, random_ids

FLOAT, SHORT = torch.empty(0), torch.empty(0, dtype=torch.bfloat16)


def address(workspace: Workspace, numbers: int, like: Tensor = FLOAT) -> int:
    with workspace.lend(numbers, like) as room:
        assert room.shape == (numbers,)
        assert room.dtype == like.dtype
        return room.data_ptr()


def test_one_block_is_lent_again_for_what_fits() -> None:
    workspace = Workspace()
    first = address(workspace, 24)
    assert [address(workspace, numbers) for numbers in (6, 24, 1)] == [first] * 3
    larger = address(workspace, 2**20)
    assert address(workspace, 24) == larger
    address(workspace, 4, SHORT)
    address(workspace, 4)


def test_two_borrowers_at_once_have_two_rooms() -> None:
    workspace = Workspace()
    with workspace.lend(8, FLOAT) as first, workspace.lend(8, FLOAT) as second:
        assert first.data_ptr() != second.data_ptr()
    with workspace.lend(8, FLOAT) as again, workspace.lend(8, FLOAT) as once_more:
        assert {again.data_ptr(), once_more.data_ptr()} == {first.data_ptr(), second.data_ptr()}


def test_who_asks_for_less_leaves_the_large_room_to_who_needs_it() -> None:
    """As evaluations, for a whole micro-batch, and both halves of a step take turns."""
    workspace = Workspace()
    large = address(workspace, 2**20)
    with workspace.lend(2**19, FLOAT), workspace.lend(2**19, FLOAT):
        pass
    assert address(workspace, 2**20) == large
    with workspace.lend(2**19, FLOAT) as first, workspace.lend(2**19, FLOAT) as second:
        assert {first.data_ptr(), second.data_ptr()} >= {large}
        assert first.data_ptr() != large  # the smaller one goes first
    assert sorted(len(room) for room in workspace._rooms) == [2**19, 2**20]
    address(workspace, 2**21)
    assert sorted(len(room) for room in workspace._rooms) == [2**19, 2**21]


def test_the_room_comes_back_from_a_borrower_that_failed() -> None:
    workspace = Workspace()
    first = address(workspace, 8)
    with pytest.raises(ValueError, match="mine"), workspace.lend(8, FLOAT):
        raise ValueError("mine")
    assert address(workspace, 8) == first


def test_an_evaluation_leaves_room_that_training_can_write_to() -> None:
    workspace = Workspace()
    with torch.inference_mode(), workspace.lend(9, FLOAT) as made:
        made.fill_(0.0)
    with workspace.lend(9, FLOAT) as again:
        again.fill_(1.0)
    assert again.tolist() == [1.0] * 9


def test_other_devices_have_no_room_kept() -> None:
    workspace, like = Workspace(), torch.empty(0, device="meta")
    with workspace.lend(6, like) as lent:
        assert lent.device.type == "meta"
    assert workspace._rooms == []


def trained() -> tuple[LanguageModel, Tensor]:
    config = one_of_each(2)[0]
    model, ids_BT = build_model(config).eval(), random_ids(config, 2)
    model(ids_BT, labels=ids_BT)
    return model, ids_BT


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_and_pickles_are_empty(again: Callable[[LanguageModel], LanguageModel]) -> None:
    model, ids_BT = trained()
    assert model.workspace._rooms
    other = again(model)
    assert other.workspace._rooms == []
    assert torch.equal(other(ids_BT, labels=ids_BT).loss, model(ids_BT, labels=ids_BT).loss)


def test_a_model_holds_as_much_as_its_memory_plan_says_until_it_is_released() -> None:
    model, ids_BT = trained()
    (room,) = model.workspace._rooms
    assert len(room) <= model.config.vocab_size * most_head_rows(ids_BT.numel(), model.config.vocab_size, 4, "cpu")
    model.workspace.release()
    assert model.workspace._rooms == []


def test_threads_that_ask_one_model_do_not_disturb_each_other() -> None:
    model, ids_BT = trained()
    batches = [ids_BT.roll(shift, dims=1) for shift in range(4)]
    expected = [model(ids, labels=ids).loss.item() for ids in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(25):
            assert list(pool.map(lambda ids: model(ids, labels=ids).loss.item(), batches)) == expected


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
