"""What the tests of the model share: every case of the table of couplers, values that hide nothing, comparisons.

Letters: B rows, T positions, E experts, D width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gnn_moe import coupler_types
from gnn_moe.config import ModelConfig
from gnn_moe.coupler_types import CouplerType
from gnn_moe.hyperedges import STRATEGIES, Hyperedges
from gnn_moe.hypergraph import build_hyperedges
from gnn_moe.model.language_model import LanguageModel, build_model

MOST_EXPERTS = 8


def custom_hyperedges(experts: int) -> Hyperedges:
    """Sizes 1 to 3, one set of experts twice, and from four experts on some that no hyperedge holds."""
    last = experts - 1
    return {1: ((0,),), 2: ((1,), (0, 1))}.get(experts, ((1, 0), (last, 0, 1), (1,), (0, 1)))


def config_of(row: CouplerType, experts: int, strategy: str = "all_pairs", **changes: Any) -> ModelConfig:
    """A tiny model with the coupler of one row of the table."""
    sizes: dict[str, Any] = {
        "vocab_size": 23,
        "embed_dim": 8,
        "num_layers": 2,
        "gnn_layers": 2,
        "num_heads": 2,
        "max_seq_length": 7,
        "num_experts": experts,
        "coupler_type": row.coupler_type,
        "static_hyperedge_strategy": strategy,
    }
    if row.uses_hypergraph:
        sizes["hgnn_conv_type"], sizes["hgnn_content_gates"] = row.hgnn_conv_type, row.hgnn_content_gates
        sizes["hyperedges"] = custom_hyperedges(experts) if strategy == "custom" else None
    return ModelConfig(**{**sizes, **changes})


def name_of(config: ModelConfig) -> str:
    words = {"coupled": [], "dense": ["dense", config.match], "top_k": ["top_k"]}[config.architecture]
    words += [config.coupler_type]
    if config.coupler.uses_hypergraph:
        words += [config.hgnn_conv_type, config.static_hyperedge_strategy]
        words += ["gates"] * config.hgnn_content_gates + ["fixed"] * (not config.hgnn_learnable_edge_weights)
    return "-".join([*words, f"E{config.num_experts}"])


def every_config(experts: Iterable[int] = range(1, MOST_EXPERTS + 1), **changes: Any) -> list[ModelConfig]:
    """Every row of the table × strategy × number of experts for which the strategy has a hyperedge."""
    counts, found = list(experts), []
    for row in coupler_types.COUPLERS:
        for strategy, fewest in STRATEGIES.items() if row.uses_hypergraph else [("all_pairs", 1)]:
            found += [config_of(row, E, strategy, **changes) for E in counts if fewest <= E]
            if row.uses_hypergraph:
                fixed = {**changes, "hgnn_learnable_edge_weights": False}
                found += [config_of(row, E, strategy, **fixed) for E in counts[:3] if fewest <= E]
    return found


def each(configs: Iterable[ModelConfig]) -> pytest.MarkDecorator:
    """One test a config, named by it."""
    return pytest.mark.parametrize("config", [pytest.param(config, id=name_of(config)) for config in configs])


def one_of_each(experts: int = 3, **changes: Any) -> list[ModelConfig]:
    """One config a row of the table."""
    return [config_of(row, experts, **changes) for row in coupler_types.COUPLERS]


def controls(experts: int = 3, **changes: Any) -> list[ModelConfig]:
    """The architectures that are not coupled, each matched to the same coupled model."""
    row = coupler_types.COUPLERS[0]
    kinds: list[dict[str, Any]] = [
        {"architecture": "dense"},
        {"architecture": "dense", "match": "flops"},
        {"architecture": "top_k", "router_top_k": min(2, experts)},
    ]
    return [config_of(row, experts, **{**changes, **kind}) for kind in kinds]


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Values large enough that no term of a formula hides below a tolerance, whatever the initial values are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
            if name.endswith("_gain"):
                parameter.add_(1)
            if name.endswith("raw_hyperedge_weights"):
                # Degrees near zero would multiply rounding; they stay on either side of it.
                parameter.abs_().add_(0.3).neg_()
                parameter[::3].neg_().add_(2)


def random_model(config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A model with large random values, in evaluation mode."""
    model = build_model(config)
    randomise(model, seed)
    return model.to(dtype).eval()


def random_ids(config: ModelConfig, rows: int = 2, positions: int | None = None, *, seed: int = 0) -> Tensor:
    """(B, T) token ids, T = `max_seq_length` unless given."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocab_size, (rows, positions or config.max_seq_length), generator=generator)


def gradients(output: Tensor, inputs: Mapping[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    """The gradient of one random linear function of `output` for every input; zeros for one that does not matter."""
    cotangent = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(seed))
    found = torch.autograd.grad(output, list(inputs.values()), cotangent, allow_unused=True, materialize_grads=True)
    return dict(zip(inputs, found, strict=True))


def assert_same(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(
            actual[name], values, rtol=tolerance, atol=tolerance, msg=partial("{}: {}".format, name)
        )


def relabelled(config: ModelConfig, tensors: Mapping[str, Tensor], order: list[int]) -> tuple[ModelConfig, Any]:
    """The same model when expert `order[k]` is called k: its config and its parameters."""
    changed = {}
    for name, values in tensors.items():
        if "experts." in name or name.endswith("router_weight"):
            changed[name] = values[order]
        elif name.endswith("adjacency_logits"):
            changed[name] = values[order][:, order]
        elif name.endswith("mixing_logits"):
            changed[name] = values[:, order][:, :, order]
        else:
            changed[name] = values
    if not config.coupler.uses_hypergraph:
        return config, changed
    edges = tuple(tuple(order.index(expert) for expert in members) for members in build_hyperedges(config))
    return dataclasses.replace(config, static_hyperedge_strategy="custom", hyperedges=edges), changed


def assert_causal(
    logits_of: Callable[[Tensor], Tensor], ids_BT: Tensor, vocabulary: int, tolerance: float = 0.0
) -> None:
    """Changing one token changes no logit before it and none of another row, to the bit; it does change its own.

    With a tolerance, a change of no more than it is none.
    """
    before_BTV = logits_of(ids_BT)
    rows, positions = ids_BT.shape
    for row, position in [(0, 0), (rows - 1, 0), (0, positions // 2), (0, positions - 1), (rows - 1, positions - 1)]:
        changed_BT = ids_BT.clone()
        changed_BT[row, position] = (ids_BT[row, position] + vocabulary // 2) % vocabulary
        moved_BT = ((logits_of(changed_BT) - before_BTV).abs() > tolerance).any(dim=-1)
        assert moved_BT[row, position:].all(), f"token {position} of row {row} does not reach its own logits"
        moved_BT[row, position:] = False
        assert not moved_BT.any(), f"token {position} of row {row} leaks to {moved_BT.nonzero().tolist()}"


class LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the most numbers that any tensor made inside it holds."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result
