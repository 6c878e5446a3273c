"""Groups of made-up runs, as `read_sources` gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnn_moe.config import ModelConfig, RunConfig
from gnn_moe.reports.comparable import protocol_of
from gnn_moe.reports.points import Group, Point, Run, loss_name_of
from gnn_moe.studies.space import Value, values_of, with_values

BASELINE = RunConfig(model=ModelConfig(num_experts=4, embed_dim=16, num_heads=2, num_layers=2, gnn_layers=1))


def run(changes: Mapping[str, Value], seed: int, loss: float | None, folder: Path | None = None, **others: Any) -> Run:
    """A completed run; others are fields of `Run`, and `values` goes over the record's."""
    config = with_values(BASELINE, {**changes, "seed": seed})
    experts = config.model.num_experts
    values = {
        "best_eval_loss": loss,
        "reported_loss": loss,
        "bits_per_byte": 1.5,
        "train_minutes": 1.0 * experts,
        "tokens": 1000,
        "tokens_per_second": 4000.0 / experts,
        "peak_memory_bytes": 2**30,
        "total_parameters": 1_000_000 * experts,
        "training_flops_per_token": 6_000_000 * experts,
    }
    made = Run(
        name=f"{dict(changes)},seed={seed}",
        study="made",
        arm=None,
        seed=seed,
        settings=values_of(config),
        config=config,
        state="completed",
        error_class=None,
        error_message=None,
        values=values | others.pop("values", {}),
        folder=folder,
    )
    return dataclasses.replace(made, **others)


def group(fields: Sequence[str], points: Sequence[Sequence[Run]]) -> Group:
    """A group of points, each of some runs."""
    return Group(
        protocol=protocol_of(values_of(BASELINE)),
        points=tuple(
            Point(
                settings={name: runs[0].settings[name] for name in fields},
                arm=runs[0].arm,
                runs=tuple(runs),
                loss_name=loss_name_of(run for runs in points for run in runs),
            )
            for runs in points
        ),
        fields=tuple(fields),
        baseline=values_of(BASELINE),
        studies=(),
    )
