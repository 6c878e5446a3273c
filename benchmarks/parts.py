"""A step's parts, each alone: its seconds, the bytes of its weights, the bytes it keeps for its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from operator import call
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Forward = Callable[[], Sequence[Tensor]]
Forwards = Mapping[str, list[Forward]]
"""Each part's forward passes, one a layer."""
EMBEDDINGS, EXPERTS, COUPLER, HEAD, OPTIMISER = "embeddings", "experts", "coupler", "head and loss", "optimiser"


def part_of(parameter_name: str) -> str:
    """The part that a parameter belongs to; both contestants name their modules so. A coupler has its readout."""
    words = set(parameter_name.split("."))
    if "experts" in words:
        return EXPERTS
    if words & {"coupler", "readout"}:
        return COUPLER
    return EMBEDDINGS if "embedding" in parameter_name else HEAD


def time_parts(
    forwards: Callable[[], Forwards],
    timed: Callable[[Callable[[], object]], float],
    model: nn.Module,
    repetitions: int,
    together: Callable[[Callable[[], object]], object] = call,
) -> dict[str, float]:
    """Median seconds of each part's forward and backward passes over all layers, after one that does not count.

    `together` makes one layer's passes, as often and in as many threads as a step does.
    """
    seconds: dict[str, float] = {}
    for name, calls in forwards().items():
        totals = []
        for _ in range(repetitions + 1):
            # A step's first backward pass finds no gradients to add to.
            model.zero_grad()
            totals.append(sum(timed(partial(together, partial(_there_and_back, each))) for each in calls))
        seconds[name] = float(np.median(totals[1:]))
    model.zero_grad()
    return seconds


def _there_and_back(forward: Forward) -> None:
    outputs = forward()
    torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])


def part_memory(
    model: nn.Module, optimiser: torch.optim.Optimizer, forwards: Callable[[], Forwards]
) -> dict[str, dict[str, int]]:
    """Bytes by part: parameters, gradients (as many), optimiser state, and activations kept for the backward pass."""
    found: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        row = found.setdefault(part_of(name), dict.fromkeys(("parameters", "gradients", "optimiser", "activations"), 0))
        row["parameters"] += parameter.nbytes
        row["gradients"] += parameter.nbytes
        row["optimiser"] += _state_bytes(optimiser.state.get(parameter, {}))
    for part, calls in forwards().items():
        found[part]["activations"] = sum(saved_bytes(each, model) for each in calls)
    return found


def _state_bytes(state: Mapping[str, Any]) -> int:
    return sum(value.nbytes for value in state.values() if isinstance(value, Tensor))


def saved_bytes(forward: Forward, model: nn.Module) -> int:
    """Bytes of the storages, each counted once, that a forward pass keeps for its backward; weights do not count."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in chain(model.parameters(), model.buffers())}
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = forward()
    assert outputs[0].requires_grad  # while the graph lives, no storage's address is given out twice
    return sum(storages.values())
