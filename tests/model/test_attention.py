"""Causal attention with dropout on its weights, made a few sequences at a time, equals its formula written plainly.

Letters: S sequences, T positions, d head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from gnn_moe.model import attention
from gnn_moe.model.attention import causal_attention, dropped_attention
from gnn_moe.model.dropout import keep_mask
from tests.model.cases import assert_same, gradients

S, T, d = 6, 5, 4
SEED, RATE = 1234, 0.3
AT_ONCE = [1, 2 * T * T, 4 * T * T + 3, 2**20]
"""Weights at once: one sequence, 2, 4 (so that the last chunk is short), all."""


def inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(S, T, d, dtype=torch.float64, generator=generator) for name in ("q", "k", "v")}
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in tensors.items()}


def mask_of(at_once: int, rate: float = RATE, seed: int = SEED) -> Tensor:
    """The mask (S, T, T): each chunk of sequences has the seed of the whole plus its first sequence."""
    size = max(1, at_once // T**2)
    starts = range(0, S, size)
    return torch.cat([keep_mask(torch.tensor(seed + s), (min(size, S - s), T, T), rate, torch.float64) for s in starts])


def plain(qkv: Iterable[Tensor], mask_STT: Tensor, rate: float = RATE) -> Tensor:
    q, k, v = qkv
    future_TT = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights_STT = (q @ k.transpose(1, 2) / math.sqrt(d)).masked_fill(future_TT, -math.inf).softmax(dim=-1)
    return (weights_STT * mask_STT / (1 - rate)) @ v


def attend(qkv: Iterable[Tensor], rate: float, *, training: bool) -> Tensor:
    mixed_BHTd: Tensor = causal_attention(torch.stack(list(qkv))[:, None], rate, training=training)
    return mixed_BHTd[0]


def dropped(qkv: Iterable[Tensor], rate: float = RATE, seed: int = SEED) -> Tensor:
    output_STd: Tensor = dropped_attention(torch.stack(list(qkv)), torch.tensor(seed), rate)
    return output_STd


@pytest.mark.parametrize("at_once", AT_ONCE)
@pytest.mark.parametrize("rate", [0.05, RATE, 0.9])
def test_equals_the_formula(at_once: int, rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_WEIGHTS_AT_ONCE", at_once)
    tensors, mask_STT = inputs(), mask_of(at_once, rate)
    # In the backward pass mask and weights are made again, whatever has been drawn meanwhile.
    fast = dropped(tensors.values(), rate)
    torch.rand(3)
    slow = plain(tensors.values(), mask_STT, rate)
    assert 0 < mask_STT.mean() < 1
    assert_same({"output": fast}, {"output": slow}, 1e-12)
    assert_same(gradients(fast, tensors), gradients(slow, tensors), 1e-12)


def test_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_WEIGHTS_AT_ONCE", 2 * T * T)
    tensors = tuple(tensor.detach()[:3].requires_grad_() for tensor in inputs().values())
    assert torch.autograd.gradcheck(lambda *qkv: dropped(qkv), tensors)


def test_gradient_need_not_be_contiguous() -> None:
    tensors = inputs()
    fast = dropped(tensors.values())
    cotangent = torch.randn(d, T, S, dtype=torch.float64).permute(2, 1, 0)
    slow = plain(tensors.values(), mask_of(2**20))
    found = torch.autograd.grad(fast, list(tensors.values()), cotangent)
    expected = torch.autograd.grad(slow, list(tensors.values()), cotangent)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_mean_over_seeds_is_the_attention_without_dropout() -> None:
    tensors = [tensor.detach() for tensor in inputs().values()]
    draws = torch.stack([dropped(tensors, 0.5, seed) for seed in range(2000)])
    expected = plain(tensors, torch.ones(S, T, T), 0.0)
    error = draws.std(dim=0) / math.sqrt(len(draws))
    assert ((draws.mean(dim=0) - expected).abs() <= 5 * error).all()
    assert (error > 0).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_without_dropout_it_is_plain_attention(training: bool, rate: float) -> None:
    tensors = inputs()
    torch.manual_seed(0)
    result = attend(tensors.values(), rate, training=training)
    expected = plain(tensors.values(), torch.ones(S, T, T), 0.0)
    if training and rate > 0:
        assert not torch.allclose(result, expected)
        torch.manual_seed(0)
        assert torch.equal(attend(tensors.values(), rate, training=True), result)
        assert not torch.equal(attend(tensors.values(), rate, training=True), result)
    else:
        assert_same({"output": result}, {"output": expected}, 1e-12)
        assert_same(gradients(result, tensors), gradients(expected, tensors), 1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_smaller_types_follow(dtype: torch.dtype) -> None:
    tensors = inputs(dtype)
    result = dropped(tensors.values())
    assert result.dtype == dtype
    mask_STT = keep_mask(torch.tensor(SEED), (S, T, T), RATE, dtype).double()
    expected = plain([tensor.double() for tensor in tensors.values()], mask_STT)
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    assert (result.double() - expected).norm() < tolerance * expected.norm()
    leaves = {str(n): tensor for n, tensor in enumerate(tensors.values())}
    found = gradients(result.double(), leaves)
    exact = gradients(expected, leaves)
    for name, values in exact.items():
        assert (found[name].double() - values.double()).norm() < tolerance * values.double().norm(), name


def test_as_operators_of_torch() -> None:
    qkv_3STd, seed = torch.stack(list(inputs().values())).detach(), torch.tensor(SEED)
    torch.library.opcheck(dropped_attention, (qkv_3STd.clone().requires_grad_(), seed, RATE))
    grad_STd = torch.randn(S, T, d, dtype=torch.float64)
    torch.library.opcheck(attention.dropped_attention_backward, (grad_STd, qkv_3STd, seed, RATE))


def test_no_weights_are_kept_for_the_backward_pass() -> None:
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    long = [torch.randn(S, 32, d, requires_grad=True) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        attend(long, RATE, training=True)
    assert kept
    assert max(kept) == 3 * S * 32 * d
