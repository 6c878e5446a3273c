"""What a point is: a coupler or an architecture, which controls there are, and what tells points apart besides."""

from __future__ import annotations

from dataclasses import dataclass

from gnn_moe.config import COUPLED
from gnn_moe.reports.points import Point

KINDS = ("architecture", "coupler_type")
"""Fields whose values are arms where nothing else differs."""
FOLLOWS = (
    "static_hyperedge_strategy",
    "hgnn_learnable_edge_weights",
    "hgnn_conv_type",
    "hgnn_content_gates",
    "hyperedges",
    "match",
    "router_top_k",
    "load_balancing_weight",
    "router_z_weight",
)
"""Fields that go with a coupler or an architecture: others have no use for them."""
_BUDGETED = "max_steps"
"""The field that the budget of a comparison gives each arm; elsewhere it is a setting like others."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """What a sceptic holds a graph of experts against."""

    key: str
    """Its `kind_of`, with what is held equal where it can be one of two things."""
    what: str
    flags: str

    @property
    def with_flags(self) -> str:
        return f"{self.what} ({self.flags})"


NOTHING_EXCHANGED = Control(key="mean", what="experts that exchange nothing", flags="--coupler_type mean")
CONTROLS = (
    NOTHING_EXCHANGED,
    Control(key="attention", what="softmax attention among experts", flags="--coupler_type attention"),
    Control(key="sinkhorn", what="a doubly stochastic mix of experts", flags="--coupler_type sinkhorn"),
    Control(key="dense, parameters", what="a dense model of equal size", flags="--architecture dense"),
    Control(key="dense, flops", what="a dense model of equal FLOPs", flags="--architecture dense --match flops"),
    Control(key="top_k", what="a sparse mixture of equal FLOPs", flags="--architecture top_k"),
)


def kind_of(point: Point) -> str:
    """Its coupler, or the architecture of a control that has none."""
    settings = point.runs[0].settings
    return str(settings["coupler_type"] if is_coupled(point) else settings["architecture"])


def is_coupled(point: Point) -> bool:
    """Whether its experts all run and may exchange what they found."""
    return point.runs[0].settings["architecture"] == COUPLED


def control_of(point: Point) -> str:
    """Its `Control.key`, if it is one."""
    kind = kind_of(point)
    return f"{kind}, {point.runs[0].settings['match']}" if kind == "dense" else kind


def besides_coupler(point: Point) -> list[tuple[str, object]]:
    """The settings of a point that its coupler does not explain, nor the budget of its comparison."""
    explained = (*KINDS, *FOLLOWS, *((_BUDGETED,) if point.arm is not None else ()))
    return sorted((name, value) for name, value in point.settings.items() if name not in explained)
