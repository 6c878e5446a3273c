"""How a trained model couples on some text: how alike its experts are, what its gates choose, how much its mix mixes.

Letters: B rows, T positions, L layers, E experts, N tokens, D width, R receivers, K that each of them chooses among.

A layer at a time over all rows, so that only one layer's results are held at once. Padding and the last token of a row,
which predicts nothing, do not count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gnn_moe.config import COUPLED
from gnn_moe.data.batches import IGNORED, Batch, collate
from gnn_moe.data.samples import Samples
from gnn_moe.errors import BadInput
from gnn_moe.model.exchange import Exchange
from gnn_moe.model.language_model import CoupledLayer, LanguageModel
from gnn_moe.model.similarity import effective_rank, linear_cka, relative_entropy_of_choice

TOKENS_A_CHANNEL = 8
"""Tokens that are measured, over the width D."""

Matrix = tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class RoundCoupling:
    """One coupler layer; a measure that says nothing there is None."""

    gate_entropy: float | None
    """Relative entropy, 0 to 1, of the weights that follow the content, mean over receivers and tokens.

    GNN: a receiver's gates σ(Λ_ij) · σ(…) over the other experts. Gated hyperedges: the token's w over all hyperedges.
    attention: a receiver's shares over all experts, itself too, in each head. Others have none.
    """
    static_entropy: float | None
    """The same of what is learned and does not follow the content: σ(Λ), w of a hypergraph, a row of sinkhorn's S."""
    effective_rank: float | None
    """Of the mix, mean over tokens: 1 (all experts receive one and the same) to E (each keeps its own).

    HGNN: P. sinkhorn: S. GNN: D⁻¹ (I + gates), D the sums of rows, which is of the form of P. attention: the shares,
    mean over heads. mean: I. The transforms and the residual around the mix are not in it.
    """


@dataclass(frozen=True, kw_only=True)
class LayerCoupling:
    """One layer of experts; a measure that says nothing there is None."""

    layer: int
    """From 0."""
    expert_cka: float | None
    """Linear CKA of the experts' results y_e, mean over pairs: high as it stands, since each y_e holds the stream x."""
    added_cka: float | None
    """The same of y_e − x, what each expert added."""
    coupled_cka: float | None
    """The same of the coupled results, which the readout takes the mean of."""
    rounds: tuple[RoundCoupling, ...]
    """Of each coupler layer; () where the coupler is no matrix."""
    expert_cka_matrix: Matrix
    """(E, E)."""
    added_cka_matrix: Matrix
    """(E, E)."""
    coupled_cka_matrix: Matrix
    """(E, E)."""


@dataclass(frozen=True, kw_only=True)
class CouplingMeasures:
    """What `measure_coupling` found."""

    samples: int
    """The first of the split."""
    tokens: int
    """N, those of the samples that predict one."""
    chance_cka: float
    """D / (N + D): about what unrelated white results would have at so few tokens; 0 with ever more."""
    layers: tuple[LayerCoupling, ...]


def samples_to_measure(samples: Samples, width: int) -> int:
    """How many of the first samples hold `TOKENS_A_CHANNEL` · D predicted tokens; all where there are fewer."""
    enough_R = np.cumsum(samples.lengths - 1) >= TOKENS_A_CHANNEL * width
    return int(enough_R.argmax()) + 1 if enough_R.any() else len(samples)


def measure_coupling(
    model: LanguageModel, samples: Samples, *, rows_at_once: int, compute_dtype: torch.dtype
) -> CouplingMeasures:
    """Measures the couplers on the first samples, without dropout; leaves the model in the mode it was in.

    Args:
        model: coupled, on any device, with parameters in float32 or wider.
        samples: of these the first that `samples_to_measure` counts, whatever `rows_at_once`.
        rows_at_once: B.
        compute_dtype: what the experts and couplers compute in; the measures are of float32 or wider.

    Raises:
        BadInput: the model has no couplers.
    """
    layers = model.coupled_layers()
    if not layers:
        raise BadInput(
            f"--coupling: the model is of --architecture {model.config.architecture}, which has no couplers to "
            f"measure; use a run of --architecture {COUPLED}"
        )
    count = samples_to_measure(samples, model.config.embed_dim)
    chunks = [np.arange(start, min(start + rows_at_once, count)) for start in range(0, count, rows_at_once)]
    positions, device = model.config.max_seq_length, model.norm_gain.device
    batches = [collate(samples, rows, positions=positions) for rows in chunks]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            found = _measure_layers(model, layers, batches, compute_dtype, device)
    finally:
        model.train(was_training)
    tokens = sum(batch.predicted_tokens for batch in batches)
    width = model.config.embed_dim
    return CouplingMeasures(samples=count, tokens=tokens, chance_cka=width / (tokens + width), layers=tuple(found))


def _measure_layers(
    model: LanguageModel,
    layers: Sequence[CoupledLayer],
    batches: Sequence[Batch],
    compute_dtype: torch.dtype,
    device: torch.device,
) -> list[LayerCoupling]:
    streams_BTD = [model.embedded(batch.input_ids.to(device)) for batch in batches]
    counted_N = [batch.targets.to(device).flatten() != IGNORED for batch in batches]
    found = []
    for number, layer in enumerate(layers):
        reading = _Reading()
        for index, x_BTD in enumerate(streams_BTD):
            result_END = layer.experts(x_BTD, compute_dtype)
            coupled_END = layer.coupler(result_END)
            streams_BTD[index] = layer.after(x_BTD, coupled_END)
            kept_N = counted_N[index]
            result_END = result_END[:, kept_N]
            reading.add(x_BTD.flatten(0, 1)[kept_N], result_END, coupled_END[:, kept_N])
            reading.add_rounds(layer.coupler.exchange(result_END), int(kept_N.sum()))
        found.append(reading.summarise(number))
    return found


class _Reading:
    """What is gathered of one layer, batch by batch."""

    def __init__(self) -> None:
        self.stream_ND: list[Tensor] = []
        self.result_END: list[Tensor] = []
        self.coupled_END: list[Tensor] = []
        self.rounds: list[_RoundReading] = []

    def add(self, x_ND: Tensor, result_END: Tensor, coupled_END: Tensor) -> None:
        self.stream_ND.append(x_ND.to(result_END.dtype))
        self.result_END.append(result_END)
        self.coupled_END.append(coupled_END)

    def add_rounds(self, exchanges: Sequence[Exchange], tokens: int) -> None:
        self.rounds = self.rounds or [_RoundReading() for _ in exchanges]
        for reading, exchange in zip(self.rounds, exchanges, strict=True):
            reading.add(exchange, tokens)

    def summarise(self, layer: int) -> LayerCoupling:
        stream_ND, result_END = torch.cat(self.stream_ND), torch.cat(self.result_END, dim=1)
        expert_EE, added_EE = linear_cka(result_END), linear_cka(result_END.float() - stream_ND.float())
        coupled_EE = linear_cka(torch.cat(self.coupled_END, dim=1))
        return LayerCoupling(
            layer=layer,
            expert_cka=_mean_of_pairs(expert_EE),
            added_cka=_mean_of_pairs(added_EE),
            coupled_cka=_mean_of_pairs(coupled_EE),
            rounds=tuple(reading.summarise() for reading in self.rounds),
            expert_cka_matrix=_matrix(expert_EE),
            added_cka_matrix=_matrix(added_EE),
            coupled_cka_matrix=_matrix(coupled_EE),
        )


class _RoundReading:
    """Sums over the tokens of one coupler layer."""

    def __init__(self) -> None:
        self.tokens = 0
        self.mixing_EE: Tensor | float = 0.0
        self.entropies: list[Tensor] = []
        self.static_RK: Tensor | None = None

    def add(self, exchange: Exchange, tokens: int) -> None:
        self.tokens += tokens
        # A mix that is the same for all tokens is one row, which is its own mean.
        self.mixing_EE = self.mixing_EE + exchange.mixing_NEE.double().mean(dim=0) * tokens
        if exchange.gate_NRK is not None:
            self.entropies.append(relative_entropy_of_choice(exchange.gate_NRK).flatten())
        self.static_RK = exchange.static_RK

    def summarise(self) -> RoundCoupling:
        mixing_EE = torch.as_tensor(self.mixing_EE / self.tokens)
        static = None if self.static_RK is None else relative_entropy_of_choice(self.static_RK).flatten()
        return RoundCoupling(
            gate_entropy=_mean(torch.cat(self.entropies)) if self.entropies else None,
            static_entropy=None if static is None else _mean(static),
            effective_rank=_finite(effective_rank(mixing_EE)) if mixing_EE.isfinite().all() else None,
        )


def _mean(values: Tensor) -> float | None:
    """Without what is no number: a choice among one, or among weights of 0."""
    return _finite(float(values.nanmean()))


def _mean_of_pairs(matrix_EE: Tensor) -> float | None:
    experts = len(matrix_EE)
    pairs = matrix_EE[~torch.eye(experts, dtype=torch.bool, device=matrix_EE.device)]
    return _finite(float(pairs.mean())) if experts > 1 else None


def _matrix(matrix_EE: Tensor) -> Matrix:
    return tuple(tuple(_finite(value) for value in row) for row in matrix_EE.tolist())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
