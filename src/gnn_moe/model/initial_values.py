"""Every initial value of a model, in one place.

| tensor (last part of its name) | values |
|---|---|
| `*_gain` | 1 |
| `*_bias`, `content_gate_weight` (a of HGNN's gates) | 0 |
| `qkv_weight` | uniform within ±√(6/(D + 3D)), the fans of one expert's own D → 3D matrix |
| `convolution_weight` (HypergraphConv) | uniform within ±√(6/(D + D)) (Glorot) |
| `adjacency_logits` (Λ), `raw_hyperedge_weights` (HypergraphConv) | N(0, 1) |
| `hyperedge_logits` (θ) | softplus⁻¹(1), so that w = 1 |
| `mixing_logits` (Λ of sinkhorn) | log(E + 1) on the diagonal, else 0: S is then the P of all pairs with w = 1 |
| every other | N(0, 0.02²) |

Each tensor draws from a generator of its own, seeded by (seed, its name, expert), so models that share a tensor start
from the same values, whatever else they hold: expert 0 of two experts is expert 0 of eight.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

STANDARD_DEVIATION = 0.02


def set_initial_values(model: nn.Module, seed: int) -> None:
    """Fills every parameter of a model on the CPU, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            per_expert = parameter if ".experts." in name else parameter[None]
            for expert, values in enumerate(per_expert):
                _fill(values, name.rsplit(".", 1)[-1], _generator(seed, name, expert))


def _generator(seed: int, name: str, expert: int) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{name}/{expert}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _fill(values: Tensor, kind: str, generator: torch.Generator) -> None:
    if kind.endswith("_gain"):
        values.fill_(1.0)
    elif kind.endswith("_bias") or kind == "content_gate_weight":
        values.zero_()
    elif kind in ("qkv_weight", "convolution_weight"):
        bound = math.sqrt(6 / sum(values.shape))
        values.uniform_(-bound, bound, generator=generator)
    elif kind in ("adjacency_logits", "raw_hyperedge_weights"):
        values.normal_(generator=generator)
    elif kind == "mixing_logits":
        # Not 0, where S = 1/E: all experts then get one mixture, and the mean over them does not depend on Λ.
        values.copy_(math.log(values.shape[-1] + 1) * torch.eye(values.shape[-1]))
    elif kind == "hyperedge_logits":
        values.fill_(math.log(math.expm1(1.0)))
    else:
        values.normal_(std=STANDARD_DEVIATION, generator=generator)
