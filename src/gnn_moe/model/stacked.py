"""Maps of all experts at once over stacked (E, …) weights.

Letters: E experts, N tokens, D width, O outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

LAYER_NORM_EPSILON = 1e-5
"""Of every LayerNorm in the model."""


def fold_norm(weight_EOD: Tensor, bias_EO: Tensor, gain_ED: Tensor, shift_ED: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and biases (E, O, D), (E, O) that do to a plainly normalised x what W (g·x + s) + b would do."""
    return weight_EOD * gain_ED[:, None], torch.baddbmm(bias_EO[..., None], weight_EOD, shift_ED[..., None])[..., 0]


def stacked_linear(x_END: Tensor, weight_EOD: Tensor, bias_EO: Tensor) -> Tensor:
    """E linear maps at once, (E, N, D) → (E, N, O), computed in the type of x."""
    return torch.baddbmm(bias_EO[:, None].to(x_END.dtype), x_END, weight_EOD.transpose(1, 2).to(x_END.dtype))
