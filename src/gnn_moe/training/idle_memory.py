"""Memory that a CPU's heap keeps idle: beyond what was planned for the process it goes back to the kernel.

A heap that keeps what is freed fills with holes, since no two batches have one shape. Handing them back costs page
faults, so it is done only where the process outgrows its plan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from gnn_moe.model.language_model import LanguageModel
from gnn_moe.training.device import release_freed_memory
from gnn_moe.training.process_memory import resident_bytes

_SLACK = 1.05
"""Times the plan that a process may hold: at the plan itself, a heap that creeps around it would go back every step."""


def hand_back_above(planned_bytes: int, device: torch.device) -> None:
    """Hands idle memory back if this process, which computes on a CPU, is a twentieth larger than planned."""
    if device.type == "cpu" and resident_bytes() > _SLACK * planned_bytes:
        release_freed_memory(device)


def hand_back_between_layers(model: LanguageModel, planned_bytes: Callable[[], int], device: torch.device) -> None:
    """Has every layer do so before it computes.

    For checkpointed layers, which are computed again in the backward pass: each frees all that it made, so that a
    single step leaves more holes than it holds tensors.
    """

    def before(*_: Any) -> None:
        hand_back_above(planned_bytes(), device)

    for layer in model.layers:
        layer.register_forward_pre_hook(before)
