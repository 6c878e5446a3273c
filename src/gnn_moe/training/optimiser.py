"""AdamW and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from gnn_moe.config import TrainingConfig

LOWEST_LEARNING_RATE = 1e-6


def build_optimiser(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Fused AdamW (betas 0.9 and 0.999, eps 1e-8) with weight decay on every parameter, as the seed's tables had."""
    return torch.optim.AdamW(
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
