"""Backward passes written by hand are differentiated once: a second time is refused, never answered with a constant."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gnn_moe.model
from gnn_moe.model import attention, feed_forward, grouped_feed_forward, loss, messages, propagation, sinkhorn, top_k
from gnn_moe.model.language_model import build_model
from tests.model.cases import each, one_of_each, random_ids

E, N, D, F = 2, 5, 4, 8
"""Experts, tokens, width and hidden width."""
SEED, SEEDS, RATE = torch.tensor(1), torch.tensor([1, 2]), 0.3
FEED_FORWARD = [(E, F, D), (E, F), (E, D, F), (E, D)]


Form = tuple[list[tuple[int, ...]], Callable[..., Tensor]]
FORMS: dict[str, Form] = {
    feed_forward.__name__: (
        [(E, N, D), (E, D), (E, D), *FEED_FORWARD],
        lambda *given: feed_forward.expert_by_expert(*given, SEEDS, RATE)[0],
    ),
    grouped_feed_forward.__name__: (
        [(N, D), *FEED_FORWARD],
        lambda x, *given: grouped_feed_forward.group_by_group(x, torch.tensor([2, N]), *given, SEEDS, RATE)[0],
    ),
    attention.__name__: ([(3, E, N, D)], lambda qkv: attention.dropped_attention(qkv, SEED, RATE)),
    messages.__name__: ([(N, E, E), (N, E, D)], messages.messages_in_blocks),
    propagation.__name__: ([(E, E), (E, N, D)], propagation.learned_propagation),
    sinkhorn.__name__: ([(1, E, E)], sinkhorn.doubly_stochastic),
    loss.__name__: (
        [(N, D), (F, D), (F,)],
        lambda hidden, weight, bias: loss.head_loss(hidden, weight, bias, torch.arange(N), torch.tensor(5.0)),
    ),
}
"""Shapes of what each form differentiates by, and the form."""
INPUTS = [(name, number) for name, (shapes, _) in FORMS.items() for number in range(len(shapes))]


@pytest.mark.parametrize(("name", "number"), INPUTS)
def test_a_second_derivative_is_refused(name: str, number: int) -> None:
    """By whichever input alone, after a weighted sum: the gradient that comes in is then a constant."""
    shapes, form = FORMS[name]
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    given[number].requires_grad_()
    output = form(*given)
    total = (output * torch.randn(output.shape, dtype=torch.float64, generator=generator)).sum()
    (grad,) = torch.autograd.grad(total, given[number], retain_graph=True)
    assert grad.abs().max() > 0
    with pytest.raises(RuntimeError, match=r"not twice differentiable: .* leave out create_graph=True$"):
        torch.autograd.grad(total, given[number], create_graph=True)


@each(one_of_each()[:1])
def test_so_is_that_of_a_whole_model(config: gnn_moe.ModelConfig) -> None:
    ids_BT = random_ids(config)
    total = build_model(config)(ids_BT, targets=ids_BT).loss
    with pytest.raises(RuntimeError, match="not twice differentiable"):
        total.backward(create_graph=True)


def test_a_new_order_of_rows_may_be_differentiated_as_often_as_one_likes() -> None:
    order, inverse = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    x_SD = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: top_k.reorder(x.sin(), order, inverse), x_SD)


def test_no_other_file_has_a_backward_pass_of_its_own() -> None:
    folder = Path(gnn_moe.model.__path__[0])
    texts = {file.stem: file.read_text(encoding="utf-8") for file in folder.glob("*.py")}
    own = {name for name, text in texts.items() if "register_autograd(" in text or "autograd.Function)" in text}
    assert own == {name.rsplit(".", 1)[1] for name in (*FORMS, top_k.__name__)}
