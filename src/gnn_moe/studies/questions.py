"""The seed's questions as comparisons: its arms, what they are compared across, and how long they run.

Baseline and sizes are those of its tables; its one comparison of configurations is here too, so that it can be asked
with seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gnn_moe.errors import unknown_name
from gnn_moe.studies.arguments import Ablation, Budget
from gnn_moe.studies.presets import SEED_SWEEPS, Preset, find_preset, seed_baseline
from gnn_moe.studies.space import Value, Values

_FIVE_SEEDS = "1,2,3,4,5"
_GNN: Mapping[str, Value] = {"coupler_type": "GNN"}
_HGNN: Mapping[str, Value] = {"coupler_type": "HGNN", "static_hyperedge_strategy": "all_pairs"}


@dataclass(frozen=True, kw_only=True)
class Question:
    """A comparison, but for where it runs."""

    asks: str
    preset: Preset
    """Baseline and arms."""
    across: Values | None = None
    budget: Budget = "steps"
    seeds: str = _FIVE_SEEDS
    ablate: tuple[Ablation, ...] = ()


QUESTIONS: Mapping[str, Question] = {
    "question-strategy": Question(
        asks="all_pairs or all_triplets, as experts grow in number?",
        preset=Preset(
            baseline=seed_baseline(),
            arms={"pairs": _HGNN, "triplets": {**_HGNN, "static_hyperedge_strategy": "all_triplets"}},
        ),
        across=Values(field="num_experts", values=(3, 4, 8, 16)),
    ),
    "question-experts": Question(
        asks="Does HGNN hold up better than GNN as experts grow in number?",
        preset=Preset(baseline=seed_baseline(), arms={"gnn": _GNN, "hgnn": _HGNN}),
        across=SEED_SWEEPS["seed-experts"],
    ),
    "question-weights": Question(
        asks="Do learned hyperedge weights matter?",
        preset=Preset(
            baseline=seed_baseline(),
            arms={"learnable": _HGNN, "fixed": {**_HGNN, "hgnn_learnable_edge_weights": False}},
        ),
        # Shuffled is no arm of its own: the learned weights of the same model, dealt anew.
        ablate=("shuffle_graph",),
    ),
    "question-efficiency": Question(
        asks="Which is the better use of the same minutes?",
        preset=Preset(baseline=seed_baseline(), arms={"gnn": _GNN, "hgnn": _HGNN}),
        budget="minutes",
    ),
    "seed-comparison": Question(
        asks="GNN or HGNN, in the configurations that the seed compares?", preset=find_preset("seed-comparison")
    ),
}


def find_question(name: str) -> Question:
    """The question of a name.

    Raises:
        BadInput: there is none; the nearest is named.
    """
    if name not in QUESTIONS:
        raise unknown_name("--preset", name, QUESTIONS)
    return QUESTIONS[name]
