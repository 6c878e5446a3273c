"""AdamW and its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gnn_moe.config import TrainingConfig
from gnn_moe.model.head import by_columns

LOWEST_LEARNING_RATE = 1e-6


class _AdamW(torch.optim.AdamW):
    """torch's AdamW, given a matrix that lies in memory by columns the other way round.

    The fused form goes by memory, not by index. It copies a gradient that does not lie by rows, and then does not use
    the copy: of the head's weight, that takes as long as all the rest of its step (docs/performance.md). `_init_group`
    is torch's own; the tests hold a matrix by columns to one by rows, should it ever change.
    """

    def _init_group(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        *others: list[Tensor],
    ) -> bool:
        given = (group, parameters, grads, exp_avgs, exp_avg_sqs, *others)
        has_complex: bool = super()._init_group(*given)  # type: ignore[no-untyped-call]
        for number, parameter in enumerate(parameters):
            if by_columns(parameter):
                grads[number] = grads[number].mT.contiguous()
                for updated in (parameters, exp_avgs, exp_avg_sqs):
                    if not by_columns(updated[number]):
                        raise RuntimeError("moments must lie in memory as their parameter does")
                    updated[number] = updated[number].mT
        return has_complex


def build_optimiser(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Fused AdamW (betas 0.9 and 0.999, eps 1e-8) with weight decay on every parameter, as the seed's tables had."""
    return _AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(step: int, total_steps: int, config: TrainingConfig) -> float:
    """The rate of step `step` (0-based): a line up over `warmup_steps`, then half a cosine down to 1e-6."""
    highest = config.learning_rate
    if step < config.warmup_steps:
        return highest * (step + 1) / config.warmup_steps
    lowest = min(LOWEST_LEARNING_RATE, highest)
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    return lowest + (highest - lowest) * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Sets the rate of every parameter group."""
    for group in optimiser.param_groups:
        group["lr"] = rate
