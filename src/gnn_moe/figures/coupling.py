"""What a run recorded of its couplers, or of its routers, over the steps of its evaluations.

Letters: S recorded steps, E experts, M hyperedges, G coupler layers, K connections (hyperedges, or ordered pairs of
experts). The record is `coupling.npz`: `steps` (S,); for HGNN `incidence` (E, M) and `layer_{l}/hyperedge_weights`
(S, M); for GNN `layer_{l}/adjacency` (S, G, E, E), σ(Λ) with a zero diagonal; for sinkhorn `layer_{l}/mixing`
(S, G, E, E), S; for top_k `layer_{l}/expert_load` (S, E), the experts' shares of the tokens. Couplers without weights
have `steps` only.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gnn_moe.errors import BadInput
from gnn_moe.figures.style import Floats, Integers

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class HypergraphLayer:
    """The hyperedge weights of one layer of experts."""

    layer: int
    weight_SM: Floats
    incidence_EM: Floats
    """1 where an expert belongs to a hyperedge."""

    @property
    def labels(self) -> tuple[str, ...]:
        """(M,) each hyperedge as its experts: `{0,1}`."""
        return tuple("{" + ",".join(map(str, np.flatnonzero(column))) + "}" for column in self.incidence_EM.T)

    @property
    def shared_weight_EE(self) -> Floats:
        """Σ_m H_im H_jm w_m of the last step (E, E): the weight of all hyperedges that two experts share.

        The diagonal is NaN, and so is a pair that shares no hyperedge; a non-finite weight makes its pairs NaN too.
        """
        shared_EE = self.incidence_EM @ self.incidence_EM.T > 0
        weight_M = self.weight_SM[-1]
        broken_EE = self.incidence_EM @ (self.incidence_EM * ~np.isfinite(weight_M)).T > 0
        total_EE = (self.incidence_EM * np.where(np.isfinite(weight_M), weight_M, 0)) @ self.incidence_EM.T
        hidden_EE = ~shared_EE | broken_EE | np.eye(len(shared_EE), dtype=bool)
        return np.where(hidden_EE, np.nan, total_EE)


@dataclass(frozen=True, kw_only=True)
class MatrixKind:
    """What E×E matrices of the record are."""

    title: str
    has_self: bool
    """Whether an expert also receives from itself, so that the diagonal says something."""


MATRIX_KINDS: Mapping[str, MatrixKind] = {
    "adjacency": MatrixKind(title="Adjacency σ(Λ)", has_self=False),
    "mixing": MatrixKind(title="Mix S", has_self=True),
}
"""By their name in the record."""


@dataclass(frozen=True, kw_only=True)
class AdjacencyLayer:
    """The adjacencies, or the mixes, of one layer of experts; row i of each receives from column j."""

    layer: int
    adjacency_SGEE: Floats
    kind: MatrixKind = MATRIX_KINDS["adjacency"]

    @property
    def shown_EE(self) -> NDArray[np.bool_]:
        """True where an entry says something."""
        self_EE = np.eye(self.adjacency_SGEE.shape[-1], dtype=bool)
        return ~self_EE | self.kind.has_self


@dataclass(frozen=True, kw_only=True)
class LoadLayer:
    """The experts' shares of the tokens in one layer; those of a step sum to 1."""

    layer: int
    load_SE: Floats


@dataclass(frozen=True, kw_only=True)
class Trace:
    """K connections of one coupler (or coupler layer) over the recorded steps."""

    title: str
    value_SK: Floats
    labels: tuple[str, ...]
    """(K,) `{0,1}` for a hyperedge, `1→0` for what expert 0 receives from expert 1, `1` for what expert 1 gets."""


@dataclass(frozen=True, kw_only=True)
class CouplingData:
    """The couplers, or the routers, of one run; all tuples but one are empty, or all."""

    step_S: Integers
    hypergraphs: tuple[HypergraphLayer, ...] = ()
    adjacencies: tuple[AdjacencyLayer, ...] = ()
    loads: tuple[LoadLayer, ...] = ()

    @property
    def traces(self) -> tuple[Trace, ...]:
        """One trace a coupler (HGNN), a coupler layer (GNN, sinkhorn) or a router (top_k), in order.

        None where there is no step or connection.
        """
        if len(self.step_S) == 0:
            return ()
        traces = [
            Trace(title=f"Layer {graph.layer}", value_SK=graph.weight_SM, labels=graph.labels)
            for graph in self.hypergraphs
        ]
        for graph in self.adjacencies:
            traces += _adjacency_traces(graph)
        for router in self.loads:
            labels = tuple(map(str, range(router.load_SE.shape[1])))
            traces.append(Trace(title=f"Layer {router.layer}", value_SK=router.load_SE, labels=labels))
        return tuple(trace for trace in traces if trace.labels)


def _adjacency_traces(graph: AdjacencyLayer) -> list[Trace]:
    layers = graph.adjacency_SGEE.shape[1]
    receiver_K, sender_K = np.nonzero(graph.shown_EE)
    labels = tuple(f"{sender}→{receiver}" for receiver, sender in zip(receiver_K, sender_K, strict=True))
    return [
        Trace(
            title=f"Layer {graph.layer}, coupler layer {layer}",
            value_SK=graph.adjacency_SGEE[:, layer, receiver_K, sender_K],
            labels=labels,
        )
        for layer in range(layers)
    ]


def coupling_data(path: Path) -> CouplingData:
    """Reads a `coupling.npz`.

    Raises:
        BadInput: the file cannot be read, is no such record, or its shapes do not fit each other.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as record:
            arrays = {name: record[name] for name in record.files}
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):  # whose words are NumPy's
        raise BadInput(f"{path}: not a record of couplers (no archive of arrays, or a damaged one)") from None
    try:
        return _from_arrays(arrays)
    except (KeyError, ValueError) as error:
        raise BadInput(f"{path}: not a record of couplers ({error})") from None


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> CouplingData:
    step_S = np.asarray(arrays["steps"], dtype=np.int64)
    hypergraphs: list[HypergraphLayer] = []
    adjacencies: list[AdjacencyLayer] = []
    loads: list[LoadLayer] = []
    for layer, kind, array in _layers(arrays):
        value = np.asarray(array, dtype=np.float64)
        if len(value) != len(step_S):
            raise ValueError(f"layer {layer} has {len(value)} steps instead of {len(step_S)}")
        if kind in MATRIX_KINDS:
            if value.ndim != 4 or value.shape[2] != value.shape[3]:
                raise ValueError(f"layer {layer} has {kind} of shape {value.shape}")
            adjacencies.append(AdjacencyLayer(layer=layer, adjacency_SGEE=value, kind=MATRIX_KINDS[kind]))
        elif kind == "expert_load":
            if value.ndim != 2:
                raise ValueError(f"layer {layer} has loads of shape {value.shape}")
            loads.append(LoadLayer(layer=layer, load_SE=value))
        else:
            incidence_EM = np.asarray(arrays["incidence"], dtype=np.float64)
            if value.shape[1:] != incidence_EM.shape[1:]:
                raise ValueError(f"layer {layer} has weights {value.shape} for an incidence of {incidence_EM.shape}")
            hypergraphs.append(HypergraphLayer(layer=layer, weight_SM=value, incidence_EM=incidence_EM))
    return CouplingData(
        step_S=step_S, hypergraphs=tuple(hypergraphs), adjacencies=tuple(adjacencies), loads=tuple(loads)
    )


def _layers(arrays: Mapping[str, np.ndarray]) -> list[tuple[int, str, np.ndarray]]:
    found = [
        (int(match[1]), match[2], array)
        for name, array in arrays.items()
        if (match := re.fullmatch(rf"layer_(\d+)/(hyperedge_weights|expert_load|{'|'.join(MATRIX_KINDS)})", name))
    ]
    return sorted(found, key=lambda entry: entry[:2])


def quantile_bands(value_SK: Floats) -> Floats:
    """The `QUANTILES` over the connections at each step: (S, K) → (5, S). Non-finite values do not count."""
    bands = np.full((len(QUANTILES), len(value_SK)), np.nan)
    for step, value_K in enumerate(value_SK):
        finite = value_K[np.isfinite(value_K)]
        if len(finite):
            bands[:, step] = np.quantile(finite, QUANTILES)
    return bands


def most_moved(value_SK: Floats, count: int) -> list[int]:
    """The `count` connections that moved furthest from their first finite value to their last, furthest first.

    Those that did not move, or have no finite value, are not among them.
    """
    finite_SK = np.isfinite(value_SK)
    connection_K = np.arange(value_SK.shape[1])
    first_K = value_SK[finite_SK.argmax(axis=0), connection_K]
    last_K = value_SK[len(value_SK) - 1 - finite_SK[::-1].argmax(axis=0), connection_K]
    known_K = finite_SK.any(axis=0)
    moved_K = np.zeros(len(connection_K))
    moved_K[known_K] = np.abs(last_K[known_K] - first_K[known_K])
    order = np.argsort(-moved_K, kind="stable")
    return [int(connection) for connection in order[:count] if moved_K[connection] > 0]
