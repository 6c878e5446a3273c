"""Where a number stopped being finite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gnn_moe.data.batches import Batch


def find_non_finite(model: nn.Module, batches: Iterable[Batch], device: torch.device) -> str:
    """Names the first part of the model, in the order of computation, that holds or gives a number that is not finite.

    Parameters are looked at first, then each module's output on the batches, then the gradients, from the loss
    backwards.

    Args:
        model: the model, at the parameters at which the loss or gradient was not finite; its gradients are replaced.
        batches: the pieces of the batch that gave it.
        device: where the model is.
    """
    for name, parameter in model.named_parameters():
        if not parameter.detach().isfinite().all():
            return f"parameter {name}"
    model.zero_grad()
    # Compiled modules would not call the hooks of those inside them.
    with torch.compiler.set_stance("force_eager"):
        for batch in batches:
            if (found := _forward(model, batch, device)) is not None:
                return found
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"gradient of {name}"
    return "a place not found again: it came and went with the dropout of that step"


def _forward(model: nn.Module, batch: Batch, device: torch.device) -> str | None:
    """Where the forward pass is not finite, or None; then the gradients are added to the parameters'."""
    outputs: list[str] = []
    hooks = [module.register_forward_hook(_recorder(name, outputs)) for name, module in model.named_modules() if name]
    try:
        output = model(batch.input_ids.to(device), targets=batch.targets.to(device))
    finally:
        for hook in hooks:
            hook.remove()
    if outputs:
        return outputs[0]
    if not output.loss.isfinite():
        return "the head"
    if not output.objective.isfinite():
        return "the losses of the routers"
    output.objective.backward()
    return None


def _recorder(name: str, outputs: list[str]) -> Any:
    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        if not all(tensor.isfinite().all() for tensor in tensors if isinstance(tensor, Tensor)):
            outputs.append(f"output of {name}")

    return record
