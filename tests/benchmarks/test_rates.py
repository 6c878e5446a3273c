"""The products of a step are those that `model_size` counts, and rates are of the best time seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from benchmarks.rates import PASSES, Product, ProductRates, best_rates, step_products
from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.model.size import model_size
from tests.model.cases import each, every_config

Operands = tuple[tuple[int, ...], tuple[int, ...], bool]
"""Shapes of both, and whether the rows of the second lie one after the other."""
TRAINING = TrainingConfig(device="cpu", precision="fp32")


@pytest.mark.parametrize("micro_batch_size", ["auto", 4, 3])
@each(every_config(experts=(1, 3, 5), num_layers=3, gnn_layers=2, embed_dim=24, num_heads=3))
def test_products_have_the_flops_of_the_model(config: ModelConfig, micro_batch_size: int | Literal["auto"]) -> None:
    training = TrainingConfig(batch_size=8, micro_batch_size=micro_batch_size)
    flops = len(PASSES) * sum(product.flops for product in step_products(config, training))
    assert flops == model_size(config).training_flops_per_token * training.batch_size * config.max_seq_length


def test_micro_batches_are_products_of_their_own() -> None:
    products = step_products(ModelConfig(num_layers=2), TrainingConfig(batch_size=8, micro_batch_size=3))
    assert [(p.m // 128, p.count) for p in products if p.name == "QKV"] == [(3, 4), (2, 2)]


def test_the_best_time_counts_once_a_product() -> None:
    products = [Product(name="a", m=10, k=10, n=10, count=4), Product(name="b", m=1, k=1, n=1, count=1)]
    rates = best_rates(products, [[2e-6, 1e-6, 3e-6, 5e-6, 5e-6, 5e-6], [1e-6, 4e-6, 3e-6, 6e-6, 5e-6, 4e-6]])
    assert [rate.name for rate in rates[:3]] == ["a forward", "a to input", "a to weight"]
    assert [rate.seconds for rate in rates] == pytest.approx([4e-6, 4e-6, 12e-6, 5e-6, 5e-6, 4e-6])
    assert rates[0].gigaflops_per_second == pytest.approx(2000 / 1e-6 / 1e9)
    assert rates[0].flops == 8000


class Products:
    """In place of the clock: each product is computed, and takes what its operands' shapes say."""

    def __init__(self, seconds: Mapping[Operands, float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds, self.seen = seconds, list[Operands]()
        monkeypatch.setattr("gnn_moe.training.device.keep_freed_memory", lambda: None)
        monkeypatch.setattr(ProductRates, "_timed", lambda rates, multiply: self.timed(multiply))
        for name in ("mm", "bmm"):
            monkeypatch.setattr(torch, name, partial(self.multiply, getattr(torch, name)))

    def multiply(self, multiply: Any, a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        self.seen.append((tuple(a.shape), tuple(b.shape), b.is_contiguous()))
        assert out.is_contiguous()
        # Rounded to bf16 the same product, whichever way round an operand lies.
        torch.testing.assert_close(multiply(a, b, out=out), a @ b)
        return out

    def timed(self, multiply: Callable[[], object]) -> float:
        multiply()
        return self.seconds[self.seen[-1]]


@pytest.mark.parametrize("slower", [(0, 0, 0), (1, 0, 1), (0, 1, 0), (1, 1, 1)])
@pytest.mark.parametrize("batch", [1, 6])
def test_each_pass_times_its_own_product_in_the_faster_of_two_layouts(
    batch: int, slower: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """m 3, k 4, n 5: no two of x Wᵀ, y W, yᵀ x and xᵀ y have operands of the same shapes."""
    first = (batch,) if batch > 1 else ()
    layouts: list[list[Operands]] = [
        [((*first, 3, 4), (*first, 4, 5), written) for written in (False, True)],
        [((*first, 3, 5), (*first, 5, 4), written) for written in (True, False)],
        [((*first, 5, 3), (*first, 3, 4), True), ((*first, 4, 3), (*first, 3, 5), True)],
    ]
    seconds = {
        operands: number + 1.0 + 0.5 * (which == loser)
        for number, (two, loser) in enumerate(zip(layouts, slower, strict=True))
        for which, operands in enumerate(two)
    }
    products = Products(seconds, monkeypatch)
    rates = ProductRates([Product(name="a", batch=batch, m=3, k=4, n=5, count=1)], TRAINING)
    assert rates.run(1) == [[1.0, 2.0, 3.0]]
    assert set(products.seen) == set(seconds)


def test_the_mix_of_few_experts_is_timed_in_the_strips_that_a_step_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 experts in bf16 make 64 rows of 32 strips each."""
    monkeypatch.setattr("gnn_moe.training.device.resolve_precision", lambda *_: "bf16")
    mix: Operands = ((64, 64), (64, 4), True)
    gradient: Operands = ((64, 4), (4, 64), False)
    plain: list[Operands] = [((2, 2), (2, 128), False), ((2, 2), (2, 128), True), ((128, 2), (2, 2), True)]
    plain += [((2, 128), (128, 2), True), ((2, 128), (128, 2), False)]
    products = Products({mix: 1.0, gradient: 2.0, **dict.fromkeys(plain, 3.0)}, monkeypatch)
    rates = ProductRates([Product(name="mix", m=2, k=2, n=128, count=1)], TRAINING)
    assert rates.run(1) == [[1.0, 2.0, 1.0]]
    assert set(products.seen) == {mix, gradient, *plain}


def test_every_product_is_timed_in_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnn_moe.training.device.keep_freed_memory", lambda: None)
    products = [Product(name="a", m=3, k=4, n=5, count=1), Product(name="b", batch=6, m=3, k=4, n=5, count=1)]
    passes = ProductRates(products, TRAINING).run(2)
    assert [len(seconds) for seconds in passes] == [len(PASSES) * len(products)] * 2
    assert all(value > 0 for seconds in passes for value in seconds)
