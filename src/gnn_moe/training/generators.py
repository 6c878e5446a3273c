"""The generators that dropout draws from: their states, to be saved and put back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_CPU, _CUDA = "generator/cpu", "generator/cuda"


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that a step on the device draws from, by name: byte tensors on the CPU."""
    states = {_CPU: torch.get_rng_state()}
    if device.type == "cuda":
        states[_CUDA] = torch.cuda.get_rng_state(device)
    return states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `generator_states` gave; names of others are passed over."""
    torch.set_rng_state(states[_CPU])
    if _CUDA in states and device.type == "cuda":
        torch.cuda.set_rng_state(states[_CUDA], device)
