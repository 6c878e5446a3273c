"""Dropout: masks of exact zeros and ones at their rate, a function of the seed alone, in the right places.

Letters: B rows, T positions, S sequences (rows × experts × heads), E experts, N tokens, D width, F = 4D.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gnn_moe.config import ModelConfig
from gnn_moe.model import dropout
from gnn_moe.model.dropout import draw_seed, keep_mask
from gnn_moe.model.language_model import build_model
from tests.model.cases import one_of_each, random_ids

TYPES = [torch.bfloat16, torch.float16, torch.float32, torch.float64]
each_type = pytest.mark.parametrize("dtype", TYPES, ids=str)


def mask(seed: int, rate: float, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (64, 1024)) -> Tensor:
    result: Tensor = keep_mask(torch.tensor(seed), shape, rate, dtype)
    return result


def within(mean: float, expected: float, count: int) -> bool:
    """Five standard deviations of a binomial's mean."""
    return abs(mean - expected) <= 5 * math.sqrt(expected * (1 - expected) / count)


@each_type
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.999])
def test_drops_at_its_rate(dtype: torch.dtype, rate: float) -> None:
    kept = mask(11, rate, dtype)
    assert kept.dtype == dtype
    assert kept.shape == (64, 1024)
    assert kept.is_contiguous()
    assert set(kept.flatten().tolist()) == {0.0, 1.0}
    assert within(kept.double().mean().item(), 1 - rate, kept.numel())
    # Nor does it depend on where in the mask, or in the 64-bit word, a number stands.
    lanes = kept.double().reshape(-1, 4).mean(dim=0)
    assert all(within(lane, 1 - rate, kept.numel() // 4) for lane in lanes.tolist())


@each_type
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_numbers_of_a_mask_are_independent(dtype: torch.dtype, rate: float) -> None:
    """Those too that share the draw of a threshold."""
    kept = mask(3, rate, dtype).double().flatten()
    for distance in (1, 2, 3, 4, 1024, 4096):
        both = (kept[distance:] * kept[:-distance]).mean().item()
        assert within(both, (1 - rate) ** 2, len(kept) - distance)


def test_a_rate_between_two_bytes_is_met_in_every_column() -> None:
    """0.1 is 25.6 of 256: 2,048 masks tell it from both 25 and 26 at each of 1,024 places together."""
    dropped = 1 - torch.stack([mask(seed, 0.1, shape=(1024,)) for seed in range(2048)]).double().mean(dim=0)
    assert within(dropped.mean().item(), 0.1, 2048 * 1024)
    # Were the threshold not drawn for each mask anew, the places would differ by more than chance gives them.
    chance = math.sqrt(0.1 * 0.9 / 2048)
    assert 0.9 * chance < dropped.std().item() < 1.1 * chance


@each_type
def test_same_seed_same_mask_other_seed_another(dtype: torch.dtype) -> None:
    assert torch.equal(mask(7, 0.5, dtype), mask(7, 0.5, dtype))
    # Chunks of an attention take neighbouring seeds.
    for other in (8, 9, 2**62):
        agree = (mask(7, 0.5, dtype) == mask(other, 0.5, dtype)).double().mean().item()
        assert within(agree, 0.5, 64 * 1024)


@each_type
@pytest.mark.parametrize("shape", [(), (1,), (3,), (7, 5), (0,), (4, 0, 2)])
def test_any_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    kept = mask(1, 0.5, dtype, shape)
    assert kept.shape == shape
    assert ((kept == 0) | (kept == 1)).all()


@each_type
def test_rates_at_the_edge(dtype: torch.dtype) -> None:
    """Rounded to the type's bits: at rate 0 at most one number in 2^16 is lost."""
    nearly_none = mask(2, 0.0, dtype)
    assert (nearly_none == 0).double().mean().item() <= 8 / 2**16
    nearly_all = mask(2, 1 - 1e-4, dtype)
    assert set(nearly_all.flatten().tolist()) <= {0.0, 1.0}
    assert nearly_all.double().mean().item() <= 3e-4


def test_seeds_come_from_the_generator_of_torch() -> None:
    torch.manual_seed(0)
    first = [int(draw_seed()) for _ in range(3)]
    torch.manual_seed(0)
    assert [int(draw_seed()) for _ in range(3)] == first
    assert len(set(first)) == 3


@each_type
def test_dropout_scales_what_it_keeps(dtype: torch.dtype) -> None:
    x = torch.full((64, 1024), 3.0, dtype=dtype)
    torch.manual_seed(0)
    dropped = dropout.dropout(x, 0.25, training=True)
    assert dropped.dtype == dtype
    assert set(dropped.flatten().tolist()) == {0.0, 4.0}
    assert within((dropped > 0).double().mean().item(), 0.75, x.numel())
    assert dropout.dropout(x, 0.25, training=False) is x
    assert dropout.dropout(x, 0.0, training=True) is x


def test_dropout_passes_the_gradient_where_it_kept() -> None:
    x = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    dropped = dropout.dropout(x, 0.5, training=True)
    (grad,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(grad, (dropped != 0).double() * 2)


@each_type
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_an_integer_mask_keeps_what_the_mask_keeps(dtype: torch.dtype, rate: float) -> None:
    """Whatever the number, and however it lies in memory; what is dropped is 0, be it infinite."""
    seed, x = torch.tensor(7), torch.randn(50, 30).to(dtype)
    x[0, :3] = torch.tensor([math.inf, -0.0, 1e-30])
    kept = keep_mask(seed, (30, 50), rate, torch.bool)
    masked = dropout.keep_in_place(x.clone().T, dropout.integer_mask(x.T, seed, rate))
    assert torch.equal(masked, torch.where(kept, x.T, 0))


def test_an_integer_mask_is_not_for_autograd() -> None:
    x = torch.ones(3, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="has no gradient"):
        dropout.mask_in_place(x, torch.tensor(1), 0.5)


@each_type
def test_mask_as_an_operator_of_torch(dtype: torch.dtype) -> None:
    torch.library.opcheck(keep_mask, (torch.tensor(3), [4, 5], 0.25, dtype))


def masks_of_a_training_pass(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[tuple[int, ...], float]]:
    drawn: list[tuple[tuple[int, ...], float]] = []

    def recorded(seed: Tensor, shape: Any, rate: float, dtype: torch.dtype) -> Tensor:
        drawn.append((tuple(shape), rate))
        made: Tensor = keep_mask(seed, shape, rate, dtype)
        return made

    monkeypatch.setattr(dropout, "keep_mask", recorded)
    with torch.no_grad():
        build_model(config)(random_ids(config))
    return drawn


def test_dropout_stands_where_the_design_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the embeddings, the attention weights, and in each feed-forward map after GELU and after the map; no more."""
    config = one_of_each(3, dropout_rate=0.2, num_layers=2)[0]
    B, T, E, A, D = 2, config.max_seq_length, 3, config.heads, config.embed_dim
    layer = [(B * E * A, T, T), *[(B * T, 4 * D), (B * T, D)] * E]
    found = masks_of_a_training_pass(config, monkeypatch)
    assert {rate for _, rate in found} == {0.2}
    assert [shape for shape, _ in found] == [(B, T, D), *layer, *layer]


def test_no_mask_is_drawn_at_rate_0_or_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert masks_of_a_training_pass(one_of_each(3, dropout_rate=0.0)[0], monkeypatch) == []
    config = one_of_each(3, dropout_rate=0.2)[0]
    state = torch.get_rng_state()
    build_model(config).eval()(random_ids(config))
    assert torch.equal(torch.get_rng_state(), state)
