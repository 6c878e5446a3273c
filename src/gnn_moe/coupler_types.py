"""The couplers in one table: what each is called, which class computes it, what it weighs, costs and keeps.

Adding a coupler is one class in `gnn_moe.model` and one line here; the command line, `inspect` and the
shared contract tests pick it up. The formulas stand here, not in the class, so that parameters and FLOPs are known
from the config alone, without importing torch; the tests hold them to the built module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CouplerShape:
    """The sizes on which a coupler's weight and cost depend."""

    experts: int
    """E, experts in a layer."""
    width: int
    """D, `embed_dim`."""
    layers: int
    """G, `gnn_layers`."""
    hyperedges: int
    """M, hyperedges of the coupler (0 where it has no hypergraph)."""
    learnable_hyperedge_weights: bool
    """Whether the M hyperedge weights are parameters."""
    heads: int
    """A, attention heads of an expert."""


def _nothing(s: CouplerShape) -> int:
    return 0


@dataclass(frozen=True, kw_only=True)
class CouplerType:
    """One row of the table."""

    coupler_type: str
    """The name that the flag `--coupler_type` takes."""
    implementation: str
    """`module:Class` of the `torch.nn.Module` that computes it."""
    parameters: Callable[[CouplerShape], int]
    """Parameters of one coupler, without the readout."""
    forward_flops: Callable[[CouplerShape], int]
    """Matrix-product FLOPs of one coupler for one token (2 a multiply-add), without the readout."""
    kept_numbers: Callable[[CouplerShape], int]
    """Numbers that one coupler keeps of one token for the backward pass, in the type that it computes in."""
    kept_wide_numbers: Callable[[CouplerShape], int] = _nothing
    """Those of one token that it keeps in float32, whatever it computes in."""
    kept_once: Callable[[CouplerShape], int] = _nothing
    """Those that it keeps besides in float32, however many tokens there are, where they may be many."""
    uses_hypergraph: bool = False
    """Whether it couples along the hyperedges of `--static_hyperedge_strategy`."""
    hgnn_conv_type: str | None = None
    """The value of `--hgnn_conv_type` that selects this row; None where that flag does not matter."""
    hgnn_content_gates: bool = False
    """Whether `--hgnn_content_gates` selects this row."""


def _gnn_parameters(s: CouplerShape) -> int:
    adjacency, gate, transforms = s.experts**2, 2 * s.width + 1, 2 * (s.width**2 + s.width)
    return s.layers * (adjacency + gate + transforms)


def _gnn_flops(s: CouplerShape) -> int:
    gates, messages, transforms = 4 * s.width, 2 * s.experts * s.width, 4 * s.width**2
    return s.layers * s.experts * (gates + messages + transforms)


def _gnn_kept(s: CouplerShape) -> int:
    results, gates = 3 * s.experts * s.width, 2 * s.experts**2
    return s.layers * (results + gates)


def _hypergraph_parameters(s: CouplerShape) -> int:
    return s.layers * (s.width**2 + s.width) + s.hyperedges * s.learnable_hyperedge_weights


def _hypergraph_flops(s: CouplerShape) -> int:
    return s.layers * s.experts * (2 * s.experts * s.width + 2 * s.width**2)


def _hgnn_kept(s: CouplerShape) -> int:
    return s.layers * (2 + s.learnable_hyperedge_weights) * s.experts * s.width


def _content_gated_parameters(s: CouplerShape) -> int:
    return _hypergraph_parameters(s) + s.layers * (s.width + 1)


def _content_gated_flops(s: CouplerShape) -> int:
    gates = 2 * s.experts * s.width + 2 * s.experts * s.hyperedges
    propagation = 2 * s.hyperedges * s.experts**2
    return _hypergraph_flops(s) + s.layers * (gates + propagation)


def _content_gated_kept(s: CouplerShape) -> int:
    results, propagation = 3 * s.experts * s.width, s.experts**2
    return s.layers * (results + propagation)


def _content_gated_kept_wide(s: CouplerShape) -> int:
    gates, propagation = s.hyperedges, s.experts**2 + s.experts
    return s.layers * (gates + propagation)


def _content_gated_kept_once(s: CouplerShape) -> int:
    return s.hyperedges * (s.experts**2 + s.experts)


def _hypergraph_conv_kept(s: CouplerShape) -> int:
    # Without learned weights nothing asks for the inputs of P.
    return s.layers * (1 + s.learnable_hyperedge_weights) * s.experts * s.width


def _sinkhorn_parameters(s: CouplerShape) -> int:
    return s.layers * (s.experts**2 + s.width**2 + s.width)


def _sinkhorn_kept(s: CouplerShape) -> int:
    return s.layers * 3 * s.experts * s.width


def _attention_parameters(s: CouplerShape) -> int:
    return s.layers * 4 * s.width**2


def _attention_flops(s: CouplerShape) -> int:
    return s.layers * s.experts * (8 * s.width**2 + 4 * s.experts * s.width)


def _attention_kept(s: CouplerShape) -> int:
    return s.layers * (5 * s.experts * s.width + s.heads * s.experts**2)


_MODULE = "gnn_moe.model.couplers"
# fmt: off
COUPLERS: tuple[CouplerType, ...] = (
    CouplerType(coupler_type="GNN", implementation=f"{_MODULE}:GNNCoupler", parameters=_gnn_parameters, forward_flops=_gnn_flops, kept_numbers=_gnn_kept),
    CouplerType(coupler_type="HGNN", uses_hypergraph=True, hgnn_conv_type="hgnn", implementation=f"{_MODULE}:HGNNCoupler", parameters=_hypergraph_parameters, forward_flops=_hypergraph_flops, kept_numbers=_hgnn_kept),
    CouplerType(coupler_type="HGNN", uses_hypergraph=True, hgnn_conv_type="hgnn", hgnn_content_gates=True, implementation="gnn_moe.model.content_gates:ContentGatedCoupler", parameters=_content_gated_parameters, forward_flops=_content_gated_flops, kept_numbers=_content_gated_kept, kept_wide_numbers=_content_gated_kept_wide, kept_once=_content_gated_kept_once),
    CouplerType(coupler_type="HGNN", uses_hypergraph=True, hgnn_conv_type="HypergraphConv", implementation=f"{_MODULE}:HypergraphConvCoupler", parameters=_hypergraph_parameters, forward_flops=_hypergraph_flops, kept_numbers=_hypergraph_conv_kept),
    CouplerType(coupler_type="sinkhorn", implementation="gnn_moe.model.sinkhorn:SinkhornCoupler", parameters=_sinkhorn_parameters, forward_flops=_hypergraph_flops, kept_numbers=_sinkhorn_kept),
    CouplerType(coupler_type="attention", implementation=f"{_MODULE}:AttentionCoupler", parameters=_attention_parameters, forward_flops=_attention_flops, kept_numbers=_attention_kept),
    CouplerType(coupler_type="mean", implementation=f"{_MODULE}:MeanCoupler", parameters=_nothing, forward_flops=_nothing, kept_numbers=_nothing),
)
# fmt: on


def coupler_type_names() -> list[str]:
    """The values of `--coupler_type`, in the table's order."""
    return list(dict.fromkeys(row.coupler_type for row in COUPLERS))


def hgnn_conv_type_names() -> list[str]:
    """The values of `--hgnn_conv_type`, in the table's order."""
    return list(dict.fromkeys(row.hgnn_conv_type for row in COUPLERS if row.hgnn_conv_type is not None))


def takes_content_gates(coupler_type: str, hgnn_conv_type: str) -> bool:
    """Whether there is a row for these two flags with `--hgnn_content_gates`."""
    return any(row.hgnn_content_gates for row in _rows(coupler_type, hgnn_conv_type))


def find_coupler(coupler_type: str, hgnn_conv_type: str, hgnn_content_gates: bool = False) -> CouplerType:
    """The row for these flags; the names are those that the table knows, gates only where they are taken."""
    rows = _rows(coupler_type, hgnn_conv_type)
    return next(row for row in rows if row.hgnn_content_gates == hgnn_content_gates)


def _rows(coupler_type: str, hgnn_conv_type: str) -> list[CouplerType]:
    return [
        row for row in COUPLERS if row.coupler_type == coupler_type and row.hgnn_conv_type in (None, hgnn_conv_type)
    ]
