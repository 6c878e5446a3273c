"""The feed-forward half of the experts: both of its forms equal the formula written plainly, dropout included.

Letters: E experts, N tokens, D width, F = 4D.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gnn_moe.model import feed_forward
from gnn_moe.model.dropout import keep_mask
from gnn_moe.model.feed_forward import all_at_once, expert_by_expert
from tests import textbook
from tests.model.cases import assert_same, gradients

E, N, D, F = 3, 10, 6, 24
SEEDS = torch.tensor([1234, 99])
NAMES = ["hidden", "norm2_gain", "norm2_bias", "up_weight", "up_bias", "down_weight", "down_bias"]
SHAPES = [(E, N, D), (E, D), (E, D), (E, F, D), (E, F), (E, D, F), (E, D)]


def inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = {
        name: torch.randn(shape, dtype=torch.float64, generator=generator)
        for name, shape in zip(NAMES, SHAPES, strict=True)
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in made.items()}


def plainly(hidden: Tensor, *parameters: Tensor, masks: list[tuple[Tensor, Tensor]], rate: float) -> Tensor:
    """An expert at a time with the masks given; autograd does the rest."""
    experts = []
    for e, (inner_mask_NF, mask_ND) in enumerate(masks):
        gain, shift, up, up_bias, down, down_bias = (parameter[e] for parameter in parameters)
        active_NF = textbook.gelu(textbook.layer_norm(hidden[e], gain, shift) @ up.T + up_bias)
        update_ND = (active_NF * inner_mask_NF / (1 - rate)) @ down.T + down_bias
        experts.append(hidden[e] + update_ND * mask_ND / (1 - rate))
    return torch.stack(experts)


def masks_of(rate: float, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    if rate == 0:
        return [(torch.ones(N, F), torch.ones(N, D))] * E
    return [
        (keep_mask(SEEDS[0] + e, (N, F), rate, dtype), keep_mask(SEEDS[1] + e, (N, D), rate, dtype)) for e in range(E)
    ]


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_one_expert_at_a_time_equals_the_formula_and_its_gradients(rate: float) -> None:
    given = inputs()
    fast_END = expert_by_expert(*given.values(), SEEDS, rate)[0]
    slow_END = plainly(*given.values(), masks=masks_of(rate, torch.float64), rate=rate)
    assert_same({"output": fast_END}, {"output": slow_END}, 1e-9)
    assert_same(gradients(fast_END, given), gradients(slow_END, given), 1e-9)


def test_bf16_follows_float64() -> None:
    exact, given = inputs(), inputs(torch.float32)
    given["hidden"] = given["hidden"].detach().bfloat16().requires_grad_()
    fast_END = expert_by_expert(*given.values(), SEEDS, 0.3)[0]
    # Masks of one seed differ between types, so the exact form takes those of bf16.
    slow_END = plainly(*exact.values(), masks=masks_of(0.3, torch.bfloat16), rate=0.3)
    assert fast_END.dtype == torch.bfloat16
    pairs = {"output": (fast_END, slow_END)}
    fast, slow = gradients(fast_END.double(), given), gradients(slow_END, exact)
    for name, (ours, theirs) in (pairs | {name: (fast[name], slow[name]) for name in slow}).items():
        assert (ours.double() - theirs).norm() <= 0.02 * theirs.norm(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("computed", [torch.bfloat16, torch.float16], ids=str)
def test_parameters_of_any_type_under_autocast(dtype: torch.dtype, computed: torch.dtype) -> None:
    given = inputs(dtype)
    rest = [given[name] for name in NAMES[1:]]
    compute: Any = feed_forward.feed_forward
    output_END = compute(given["hidden"].to(computed), *rest, 0.3, training=True)
    assert output_END.dtype == computed
    output_END.sum().backward()
    for name, tensor in given.items():
        assert tensor.grad is not None, name
        assert tensor.grad.dtype == dtype, name
        assert tensor.grad.isfinite().all(), name


def test_parameters_get_gradients_of_their_own_type() -> None:
    given = inputs(torch.float32)
    given["hidden"] = given["hidden"].detach().bfloat16().requires_grad_()
    expert_by_expert(*given.values(), SEEDS, 0.3)[0].sum().backward()
    for name, tensor in given.items():
        assert tensor.grad is not None, name
        assert tensor.grad.dtype == (torch.bfloat16 if name == "hidden" else torch.float32)


def test_all_at_once_equals_the_formula_and_its_gradients() -> None:
    given = inputs()
    hidden_END, *parameters = given.values()
    computed: Any = all_at_once
    batched_END = computed(hidden_END, *parameters, 0.0)
    slow_END = plainly(*given.values(), masks=masks_of(0.0, torch.float64), rate=0.0)
    assert_same({"output": batched_END}, {"output": slow_END}, 1e-9)
    assert_same(gradients(batched_END, given), gradients(slow_END, given), 1e-9)


def test_a_device_other_than_the_cpu_computes_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_forward, "expert_by_expert", None)
    hidden_END, *parameters = (tensor.to("meta") for tensor in inputs().values())
    computed: Any = feed_forward.feed_forward
    assert computed(hidden_END, *parameters, 0.3, training=True).shape == (E, N, D)


def test_keeps_less_than_half_of_what_autograd_keeps() -> None:
    storages: dict[int, int] = {}
    given = inputs()
    own = {tensor.untyped_storage().data_ptr() for tensor in given.values()}
    alive = []

    def note(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage().data_ptr()
        if key not in own:
            storages[key] = tensor.untyped_storage().nbytes() // tensor.element_size()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        expert_by_expert(*given.values(), SEEDS, 0.3)
    fast = sum(storages.values())
    storages.clear()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden = given["hidden"]
        normed = functional.layer_norm(hidden, (D,)) * given["norm2_gain"][:, None] + given["norm2_bias"][:, None]
        active = functional.gelu(normed @ given["up_weight"].transpose(1, 2) + given["up_bias"][:, None])
        dropped = functional.dropout(active, 0.3)
        functional.dropout(dropped @ given["down_weight"].transpose(1, 2) + given["down_bias"][:, None], 0.3)
    assert fast <= 0.5 * sum(storages.values())


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_as_an_operator_of_torch(rate: float) -> None:
    torch.library.opcheck(expert_by_expert, (*inputs(torch.float32).values(), SEEDS, rate))
