"""What a backward pass written by hand says to whoever wants to differentiate it again.

torch itself is not enough of a guard: it refuses to go back through the operator of a gradient, but where the gradient
that comes in is a constant and what was kept is no input, it takes the result for a constant too, and the second
derivative is wrong without a word.
"""

from __future__ import annotations

import torch


def refuse_second_derivative(what: str) -> None:
    """Called in a backward pass, where gradients are on only if it is to be differentiated in turn.

    Args:
        what: is differentiated, in the plural.

    Raises:
        RuntimeError: `create_graph=True` was asked for.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"{what} are not twice differentiable: their gradient is written by hand; leave out create_graph=True"
        )
