"""How alike experts are, how much a mix mixes and how spread a choice is: measures of trained couplings.

Letters: E experts, N tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear_cka(results_END: Tensor) -> Tensor:
    """Linear centred kernel alignment of every two experts' results over tokens: (E, N, D) → (E, E) in float64.

        CKA(i, j) = ‖X_iᵀ X_j‖²_F / (‖X_iᵀ X_i‖_F ‖X_jᵀ X_j‖_F),   columns centred

    1 on the diagonal; blind to rotation and scale of an expert's results (Kornblith et al., "Similarity of neural
    network representations revisited", 2019). With few tokens beside the width it is biased towards 1: give several
    times D tokens. An expert whose results do not vary has NaN.
    """
    centred_END = results_END.double() - results_END.double().mean(dim=1, keepdim=True)
    experts = len(centred_END)
    alignment_EE = centred_END.new_empty(experts, experts)
    for i in range(experts):
        for j in range(i, experts):
            # D×D, not N×N: the two give the same norm.
            alignment_EE[i, j] = alignment_EE[j, i] = (centred_END[i].T @ centred_END[j]).square().sum()
    norm_E = alignment_EE.diagonal().sqrt()
    return alignment_EE / (norm_E[:, None] * norm_E)


def effective_rank(mixing_EE: Tensor) -> float:
    """exp of the entropy of the singular values as shares of their sum, 1 to E, of a mixing matrix (E, E).

    E for the identity (every expert keeps its own), 1 where all rows are alike (all experts get one mean). Roy and
    Vetterli, "The effective rank", 2007. NaN for a matrix of zeros.
    """
    singular_E = torch.linalg.svdvals(mixing_EE.double())
    share_E = singular_E / singular_E.sum()
    # Rounding alone may take the sum past its bounds.
    return float(torch.special.entr(share_E).sum().exp().clamp(1, len(singular_E)))


def relative_entropy_of_choice(weights: Tensor) -> Tensor:
    """Entropy of non-negative weights as shares along the last axis, over its largest value: (..., K) → (...), 0 to 1.

    1 where all K are equal, 0 where one takes all; NaN for K = 1 and where all are 0: nothing is chosen there.
    """
    share = weights.double() / weights.double().sum(dim=-1, keepdim=True)
    most = math.log(weights.shape[-1]) if weights.shape[-1] > 1 else math.nan
    entropy: Tensor = torch.special.entr(share).sum(dim=-1)
    return entropy / most
