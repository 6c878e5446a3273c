"""What a coupler layer did with the experts' results of some tokens, in numbers that compare across couplers.

Letters: E experts, N tokens, R receivers, K that each of them chooses among.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One coupler layer at work on N tokens."""

    mixing_NEE: Tensor
    """Row i holds how much expert i takes from each expert; (1, E, E) where it is the same for all tokens."""
    gate_NRK: Tensor | None = None
    """Weights of 0 or more that follow a token's content, among K for each of R receivers; None where none do."""
    static_RK: Tensor | None = None
    """The same of what is learned and does not follow the content."""


def off_diagonal(matrix_EE: Tensor) -> Tensor:
    """A matrix without its diagonal, row by row: (..., E, E) → (..., E, E − 1)."""
    experts = matrix_EE.shape[-1]
    other_EE = ~torch.eye(experts, dtype=torch.bool, device=matrix_EE.device)
    return matrix_EE[..., other_EE].view(*matrix_EE.shape[:-1], experts - 1)


def with_own(gate_NEE: Tensor) -> Tensor:
    """D⁻¹ (I + Γ), D the sums of rows: what an expert keeps beside what it receives, (..., E, E), rows sum to 1.

    The form of the hypergraph's P = D_v⁻¹ (I + H W D_e⁻¹ Hᵀ), for gates Γ with a zero diagonal.
    """
    total_NEE = gate_NEE + torch.eye(gate_NEE.shape[-1], dtype=gate_NEE.dtype, device=gate_NEE.device)
    return total_NEE / total_NEE.sum(dim=-1, keepdim=True)
