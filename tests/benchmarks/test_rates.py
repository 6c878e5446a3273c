"""The products of a step are those that `model_size` counts, and rates are of the best time seen."""

from __future__ import annotations

from typing import Literal

import pytest

from benchmarks.rates import PASSES, Product, ProductRates, best_rates, step_products
from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.model.size import model_size
from tests.model.cases import each, every_config


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


def test_every_product_is_timed_in_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnn_moe.training.device.keep_freed_memory", lambda: None)
    products = [Product(name="a", m=3, k=4, n=5, count=1), Product(name="b", batch=6, m=3, k=4, n=5, count=1)]
    passes = ProductRates(products, TrainingConfig(device="cpu", precision="fp32")).run(2)
    assert [len(seconds) for seconds in passes] == [len(PASSES) * len(products)] * 2
    assert all(value > 0 for seconds in passes for value in seconds)
