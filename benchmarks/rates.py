"""The limit: how fast this machine multiplies matrices of the shapes of a step, and how long its products alone take.

Letters: B rows, T positions, N = B·T tokens, E experts, A heads, D width, d = D/A, V vocabulary, G coupler layers,
M hyperedges; m, k, n: a product (m, k) × (k, n). Every product has two more of as many FLOPs in the backward pass.
Attention counts all T² pairs of positions, also those that the causal mask hides and that a kernel may skip.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.hypergraph import count_hyperedges

if TYPE_CHECKING:
    from torch import Tensor

PASSES = ("forward", "to input", "to weight")
REPETITIONS_ON_GPU = 20
"""Calls between two looks at the clock: one alone would be timed with its launch, which a step hides."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """`count` batched products in the forward pass of a step, each with its two in the backward pass."""

    name: str
    batch: int = 1
    m: int
    k: int
    n: int
    count: int

    @property
    def flops(self) -> int:
        """Of one pass, all `count` of them."""
        return 2 * self.batch * self.m * self.k * self.n * self.count


@dataclass(frozen=True, kw_only=True)
class ProductRate:
    """What was measured of one product in one pass."""

    name: str
    shape: str
    flops: int
    seconds: float
    """Of all `count` products of that pass in a step, at the best rate seen."""
    gigaflops_per_second: float


def step_products(config: ModelConfig, training: TrainingConfig) -> list[Product]:
    """The matrix products of one training step; their FLOPs are those of `model_size`."""
    size = training.rows_at_once
    rows = Counter(min(size, training.batch_size - start) for start in range(0, training.batch_size, size))
    return [
        dataclasses.replace(product, count=product.count * pieces)
        for piece, pieces in rows.items()
        for product in _forward_products(config, piece)
    ]


def _forward_products(config: ModelConfig, rows: int) -> list[Product]:
    assert config.architecture == "coupled", "the limit of a control's step is not written down"
    T, D, E, A, L = config.max_seq_length, config.embed_dim, config.num_experts, config.heads, config.num_layers
    N, d = rows * T, D // A
    products = _COUPLER_PRODUCTS[config.coupler_type, config.hgnn_content_gates](config, N)
    coupler = [dataclasses.replace(product, count=product.count * L) for product in products]
    return [
        Product(name="QKV", m=N, k=D, n=3 * E * D, count=L),
        Product(name="attention scores", batch=rows * E * A, m=T, k=d, n=T, count=L),
        Product(name="attention mix", batch=rows * E * A, m=T, k=T, n=d, count=L),
        Product(name="attention output", batch=E, m=N, k=D, n=D, count=L),
        Product(name="FFN up", batch=E, m=N, k=D, n=4 * D, count=L),
        Product(name="FFN down", batch=E, m=N, k=4 * D, n=D, count=L),
        *coupler,
        Product(name="readout", m=N, k=D, n=D, count=L),
        Product(name="head", m=N, k=D, n=config.vocab_size, count=1),
    ]


def _gnn(config: ModelConfig, tokens: int) -> list[Product]:
    E, D, G = config.num_experts, config.embed_dim, config.gnn_layers
    return [
        Product(name="coupler gates", m=tokens * E, k=D, n=2, count=G),
        Product(name="coupler messages", batch=tokens, m=E, k=E, n=D, count=G),
        Product(name="coupler transforms", m=tokens * E, k=D, n=D, count=2 * G),
    ]


def _hypergraph(config: ModelConfig, tokens: int) -> list[Product]:
    E, D, G = config.num_experts, config.embed_dim, config.gnn_layers
    return [
        Product(name="coupler propagation", m=E, k=E, n=tokens * D, count=G),
        Product(name="coupler transform", m=tokens * E, k=D, n=D, count=G),
    ]


def _content_gated(config: ModelConfig, tokens: int) -> list[Product]:
    E, D, G, M = config.num_experts, config.embed_dim, config.gnn_layers, count_hyperedges(config)
    return [
        Product(name="coupler scores", m=tokens * E, k=D, n=1, count=G),
        Product(name="coupler gates", m=tokens, k=E, n=M, count=G),
        Product(name="coupler matrices", m=tokens, k=M, n=E * E, count=G),
        Product(name="coupler propagation", batch=tokens, m=E, k=E, n=D, count=G),
        Product(name="coupler transform", m=tokens * E, k=D, n=D, count=G),
    ]


def _attention(config: ModelConfig, tokens: int) -> list[Product]:
    E, D, A, G = config.num_experts, config.embed_dim, config.heads, config.gnn_layers
    return [
        Product(name="coupler QKV", m=tokens * E, k=D, n=3 * D, count=G),
        Product(name="coupler scores", batch=tokens * A, m=E, k=D // A, n=E, count=G),
        Product(name="coupler mix", batch=tokens * A, m=E, k=E, n=D // A, count=G),
        Product(name="coupler output", m=tokens * E, k=D, n=D, count=G),
    ]


def _nothing(config: ModelConfig, tokens: int) -> list[Product]:
    return []


_COUPLER_PRODUCTS: Mapping[tuple[str, bool], Callable[[ModelConfig, int], list[Product]]] = {
    ("GNN", False): _gnn,
    ("HGNN", False): _hypergraph,
    ("HGNN", True): _content_gated,
    ("sinkhorn", False): _hypergraph,
    ("attention", False): _attention,
    ("mean", False): _nothing,
}
"""By coupler, and whether its hyperedges have gates."""


class ProductRates:
    """The child that times every product of a step alone, in the precision that the step computes in."""

    def __init__(self, products: Sequence[Product], training: TrainingConfig) -> None:
        import torch

        from gnn_moe.training.device import keep_freed_memory, resolve_device, resolve_precision

        self.products, self.device = products, resolve_device(training.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        bf16 = resolve_precision(training.precision, self.device) == "bf16"
        self.dtype = torch.bfloat16 if bf16 else torch.float32

    def run(self, passes: int) -> list[list[float]]:
        """`passes` times: seconds of one product of each shape, in the order of the products and then `PASSES`."""
        return [[seconds for product in self.products for seconds in self._time(product)] for _ in range(passes)]

    def _time(self, product: Product) -> list[float]:
        import torch

        multiply = torch.mm if product.batch == 1 else torch.bmm
        x, weight, y = (
            self._operand(product, *shape)
            for shape in ((product.m, product.k), (product.n, product.k), (product.m, product.n))
        )
        turned = weight.mT.contiguous()
        # A linear map and its gradients: y = x Wᵀ, y W and yᵀ x or xᵀ y, the weight written either way round: a limit
        # has to be of the fastest layout. Results land in made memory.
        passes: list[list[tuple[Tensor, Tensor, Tensor]]] = [
            [(x, weight.mT, torch.empty_like(y)), (x, turned, torch.empty_like(y))],
            [(y, weight, torch.empty_like(x)), (y, turned.mT, torch.empty_like(x))],
            [(y.mT, x, torch.empty_like(weight)), (x.mT, y, torch.empty_like(turned))],
        ]
        if (strips := self._strips(product)) > 1:
            # The mix of few experts and its gradients, in strips; of the two products that make ∂P, one.
            wide, results = x.repeat(strips, strips), turned.view(strips * product.k, -1)
            passes[0].append((wide, results, torch.empty_like(results)))
            passes[1].append((y.view(results.shape), results.mT, torch.empty_like(wide)))
            passes[2].append((wide.mT, results, torch.empty_like(results)))
        return [min(self._best_of_two(partial(multiply, a, b, out=c)) for a, b, c in layouts) for layouts in passes]

    def _strips(self, product: Product) -> int:
        """Strips that the step takes this product in; 1 for a product that it takes as it is."""
        import torch

        from gnn_moe.model.propagation import ROWS_AT_ONCE, strips_of

        few = product.batch == 1 and product.m == product.k and self.device.type == "cpu"
        strips = strips_of(product.m, ROWS_AT_ONCE) if few and self.dtype == torch.bfloat16 else 1
        return strips if product.n % strips == 0 else 1

    def _operand(self, product: Product, rows: int, columns: int) -> Tensor:
        """Numbers that look random, at the price of a copy."""
        import torch

        shape = (rows, columns) if product.batch == 1 else (product.batch, rows, columns)
        numbers = product.batch * rows * columns
        values = torch.randn(8191, device=self.device).to(self.dtype)
        return values.repeat(-(-numbers // len(values)))[:numbers].view(shape)

    def _best_of_two(self, multiply: Callable[[], object]) -> float:
        return min(self._timed(multiply), self._timed(multiply))

    def _timed(self, multiply: Callable[[], object]) -> float:
        repetitions = REPETITIONS_ON_GPU if self.device.type == "cuda" else 1
        self._synchronise()
        start = time.perf_counter()
        for _ in range(repetitions):
            multiply()
        self._synchronise()
        return (time.perf_counter() - start) / repetitions

    def _synchronise(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def best_rates(products: Sequence[Product], passes: Sequence[Sequence[float]]) -> list[ProductRate]:
    """Each product's best time over all passes; `passes` as `ProductRates.run` gives them."""
    best = [min(seen) for seen in zip(*passes, strict=True)]
    rows = [(product, name) for product in products for name in PASSES]
    return [
        ProductRate(
            name=f"{product.name} {name}",
            shape=f"{product.batch} × ({product.m}, {product.k}) × ({product.k}, {product.n})",
            flops=product.flops,
            seconds=seconds * product.count,
            gigaflops_per_second=product.flops / (seconds * product.count) / 1e9,
        )
        for (product, name), seconds in zip(rows, best, strict=True)
    ]
