"""Solving for sizes: the nearest there is, and 1 % at most."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.errors import BadInput
from gnn_moe.model import size
from gnn_moe.model.language_model import LanguageModel
from gnn_moe.model.matching import BlockShape, is_near, match_block, nearest
from gnn_moe.model.memory import peak_memory, workload_of
from gnn_moe.model.size import ModelSize, model_size
from tests.model.cases import each, every_config


def test_nearest_is_the_nearest() -> None:
    def count(n: int) -> int:
        return 3 * n * n + 5 * n + 7

    for step in (1, 2, 8):
        for target in range(1, 4000, 17):
            best = min(range(step, 50 * step, step), key=lambda n: abs(count(n) - target))
            assert abs(count(nearest(count, target, step)) - target) == abs(count(best) - target)
            assert nearest(count, target, step) % step == 0


def test_a_block_that_cannot_come_near_is_none() -> None:
    assert match_block(lambda width, inner: 1000 * width * inner, 3500, 4.0) is None
    block = match_block(lambda width, inner: width * inner, 4 * 640**2, 64.0)
    assert block is not None
    assert (block.width, block.heads, block.feed_forward_width) == (640, 10, 2560)


def counts(config: ModelConfig) -> tuple[ModelSize, ModelSize]:
    """The control's and the coupled model's."""
    return model_size(config), model_size(config.matched)


SEED = [(2, 384, 6, 3), (4, 384, 4, 2), (8, 384, 4, 2), (4, 256, 4, 2), (4, 512, 8, 3)]
"""(experts, width, layers, coupler layers) of the seed's tables and configurations."""


@pytest.mark.parametrize("vocab_size", [300, 4000, 50257])
@pytest.mark.parametrize(("experts", "width", "layers", "coupler_layers"), SEED)
def test_dense_is_as_large_as_the_coupled_model(
    experts: int, width: int, layers: int, coupler_layers: int, vocab_size: int
) -> None:
    """Far nearer than 1 % at sizes that people train, in multiples of 8, with a block of usual proportions."""
    for coupler in ("GNN", "HGNN"):
        sizes = {"num_experts": experts, "embed_dim": width, "num_layers": layers, "gnn_layers": coupler_layers}
        for match in ("parameters", "flops"):
            dense, coupled = counts(
                ModelConfig(architecture="dense", match=match, coupler_type=coupler, vocab_size=vocab_size, **sizes)  # type: ignore[arg-type]
            )
            count = "total_parameters" if match == "parameters" else "training_flops_per_token"
            assert getattr(dense, count) == pytest.approx(getattr(coupled, count), rel=2e-3)
            assert (dense.width % 8, dense.feed_forward_width % 8, dense.width % dense.heads) == (0, 0, 0)
            assert 3.6 < dense.feed_forward_width / dense.width < 4.6
            assert 56 <= dense.width / dense.heads <= 72  # 64 in the experts


@pytest.mark.parametrize("chosen", [1, 2])
@pytest.mark.parametrize(("experts", "width", "layers", "coupler_layers"), SEED)
def test_the_sparse_mixture_costs_as_much_as_the_coupled_model(
    experts: int, width: int, layers: int, coupler_layers: int, chosen: int
) -> None:
    """With experts of usual proportions, four widths or so wide, however many run on every token there."""
    sparse, coupled = counts(
        ModelConfig(
            architecture="top_k",
            router_top_k=chosen,
            num_experts=experts,
            embed_dim=width,
            num_layers=layers,
            gnn_layers=coupler_layers,
        )
    )
    assert sparse.training_flops_per_token == pytest.approx(coupled.training_flops_per_token, rel=2e-3)
    assert 3.4 < sparse.feed_forward_width / sparse.width < 4.8
    assert 56 <= sparse.width / sparse.heads <= 72


@each(every_config([1, 3, 8]))
def test_every_coupled_model_has_a_dense_one(config: ModelConfig) -> None:
    for match in ("parameters", "flops"):
        dense, coupled = counts(ModelConfig(**{**vars(config), "architecture": "dense", "match": match}))
        assert is_near(dense.total_parameters, coupled.total_parameters) or match == "flops"
        assert is_near(dense.training_flops_per_token, coupled.training_flops_per_token) or match == "parameters"


def test_solved_widths_do_not_drift() -> None:
    """A checkpoint's config names the coupled model: if these moved, it would no longer load."""
    sizes = {"num_experts": 4, "embed_dim": 384, "num_layers": 4, "gnn_layers": 2}
    found = [
        model_size(ModelConfig(coupler_type=coupler, **kind, **sizes)).block  # type: ignore[arg-type]
        for kind in ({"architecture": "dense"}, {"architecture": "dense", "match": "flops"}, {"architecture": "top_k"})
        for coupler in ("GNN", "HGNN")
    ]
    assert [(block.width, block.heads, block.feed_forward_width) for block in found] == [
        (552, 8, 2160),
        (544, 8, 2136),
        (704, 11, 2712),
        (648, 9, 2816),
        (600, 10, 2368),
        (576, 9, 2136),
    ]


def test_a_width_is_solved_for_once_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer asks for it, and so does the plan of its memory; a wide model has a thousand candidates."""
    solved: list[int] = []

    def counted(count: Callable[[int, int], int], target: int, head_width: float) -> BlockShape | None:
        solved.append(target)
        return match_block(count, target, head_width)

    monkeypatch.setattr(size, "match_block", counted)
    model_size.cache_clear()
    config = ModelConfig(architecture="dense", embed_dim=64, num_layers=5, vocab_size=100)
    with torch.device("meta"):
        LanguageModel(config)
    workload = workload_of(config, TrainingConfig(), rows=4, precision="fp32", device_type="cpu")
    assert peak_memory(dataclasses.replace(config), workload).total > 0
    assert len(solved) == 1


def test_a_model_too_small_to_match_is_bad_input() -> None:
    config = ModelConfig(architecture="dense", vocab_size=10, embed_dim=2, num_heads=1, num_experts=1)
    with pytest.raises(BadInput, match="dense: none of its widths comes within 1% of the 790 parameters of"):
        model_size(config)
