"""`--compile`: each layer once, for batches of every shape.

All layers have one code, so torch compiles one graph for training and one for evaluation, whatever the depth.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch.fx.experimental import _config as shapes

from gnn_moe.config import TrainingConfig
from gnn_moe.model.language_model import LanguageModel


def compile_layers(model: LanguageModel, backend: str = "inductor") -> None:
    """Has every layer compiled at its first call, which must be inside `any_shape`."""
    for layer in model.layers:
        layer.compile(dynamic=True, backend=backend)


def any_shape() -> AbstractContextManager[None]:
    """Inside it, sizes that are equal in the first batch need not be so in the next.

    torch would take them for one size (64 rows of 64 tokens, 128 tokens of width 128) and compile again for the first
    batch in which they differ.
    """
    context: AbstractContextManager[None] = shapes.patch(use_duck_shape=False)  # type: ignore[attr-defined]
    return context


def least_rows(training: TrainingConfig) -> int:
    """Rows that a batch must have for the code of a usual one: torch compiles a batch of one row apart from others.

    `backed_size_oblivious`, which would take one row too, makes inductor (torch 2.13) fix the number of positions.
    """
    return min(2, training.rows_at_once) if training.compile else 1
