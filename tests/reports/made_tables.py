"""Tables of one swept field with known answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gnn_moe.reports.swept import Entry, Swept


def one_seed(losses: Mapping[Any, float | None], minutes: Sequence[float | None] = (), **others: object) -> Swept:
    """A loss a value, of one seed; None stands for a failed run."""
    times = [*minutes, *[None] * (len(losses) - len(minutes))]
    entries = tuple(
        Entry(
            value=value,
            losses={} if loss is None else {1: loss},
            minutes=time,
            missing="failed, out_of_memory: 3 GiB more" if loss is None else "",
        )
        for (value, loss), time in zip(losses.items(), times, strict=True)
    )
    return Swept(field="num_experts", entries=entries, **others)  # type: ignore[arg-type]


def seeds(
    means: Mapping[Any, float],
    minutes: Sequence[float] = (),
    *,
    seeds: int = 6,
    noise: float = 0.002,
    flops: Sequence[float] = (),
    draw: int = 1,
) -> Swept:
    """Several seeds a value: their own shift of 0.05, shared by all values, and noise of a run.

    Draw 0 is one of the few in which two equal values are told apart.
    """
    generator = np.random.default_rng(draw)
    shifts = 0.05 * generator.normal(size=seeds)
    entries = tuple(
        Entry(
            value=value,
            losses={seed: float(mean + shift + noise * generator.normal()) for seed, shift in enumerate(shifts, 1)},
            minutes=minutes[place] if minutes else None,
            flops=flops[place] if flops else None,
        )
        for place, (value, mean) in enumerate(means.items())
    )
    return Swept(field="num_experts", entries=entries)
