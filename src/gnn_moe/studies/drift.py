"""Did learned strengths move in training, beyond what seeds differ by?

    from gnn_moe.studies.drift import read_drift
    found = read_drift(["runs/hgnn-1", "runs/hgnn-2", "runs/hgnn-3"])
    found.layers[0].common                       # MeanEstimate: the change that all connections share, with interval

Letters: n seeds, S recorded steps, K connections (hyperedges, or ordered pairs of experts) of one graph.

The change of a strength is its last recorded value minus its first, of the same run: paired by run, so that what seeds
start from cancels. Three questions, each with its own numbers:

- did a graph as a whole go up or down: `LayerDrift.common`, the mean over its connections, one value a seed, with
  Holm's p value over all graphs;
- did this connection move, the same way in every seed: `ConnectionDrift`, with Holm's p value over all of them;
- did the connections of one run move apart: `LayerDrift.apart`.

Experts of two seeds share no more than a number: what expert 0 becomes in one, expert 1 may become in another. A graph
that each seed shapes in its own way has a mean drift of nothing and a large spread, and `apart` alone shows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnn_moe.config import RunConfig, changed_fields
from gnn_moe.errors import BadInput
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.statistics import Floats, MeanEstimate, holm, mean_estimate, t_p_value

ROUNDING = 8 * float(np.finfo(np.float32).eps)
"""Part of the greatest strength below which a change is none: records are float32."""


@dataclass(frozen=True, kw_only=True)
class ConnectionDrift:
    """The change of one strength, over seeds."""

    label: str
    """`{0,1}` for a hyperedge, `1→0` for what expert 0 receives from expert 1."""
    change: MeanEstimate
    """Mean over seeds, spread, and the t interval of this connection alone."""
    p_value: float | None
    """Paired t, two-sided; None for one seed, or where all seeds changed alike."""
    holm_p_value: float | None
    """`p_value` adjusted for all connections of all layers that have one."""


@dataclass(frozen=True, kw_only=True)
class LayerDrift:
    """The change of one graph, over seeds."""

    title: str
    """`Layer 0`, or `Layer 0, coupler layer 1`."""
    connections: tuple[ConnectionDrift, ...]
    common: MeanEstimate
    """Of the mean change of its connections, one value a seed, with the paired t interval."""
    common_p_value: float | None
    """Of `common`: paired t, two-sided; None for one seed, or where all seeds changed alike."""
    common_holm_p_value: float | None
    """`common_p_value` adjusted for all graphs that have one."""
    common_ratio: float | None
    """|mean| / spread of `common`; None without a spread. The interval excludes zero from t / √n up: 1.24 for 5 seeds,
    2.48 for 3."""
    ratio: float | None
    """√(Σ_k mean_k² / Σ_k spread_k²) over connections, where opposite changes do not cancel; None without a spread."""
    ratio_by_chance: float | None
    """1 / √n: about what `ratio` would be if no connection moved the same way in the seeds; None for one seed."""
    apart: MeanEstimate
    """Of the standard deviation of the changes of one run's connections, one value a seed; 0 where all changed alike.
    Never negative, so its interval tells a size and proves nothing."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """The change of all graphs of one arm."""

    seeds: tuple[int, ...]
    """Ascending."""
    first_step: int
    last_step: int
    layers: tuple[LayerDrift, ...]
    """() where nothing is learned."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a graph started and ended with in n runs."""

    title: str
    labels: tuple[str, ...]
    """(K,)."""
    first_nK: Floats
    last_nK: Floats


def layer_drift(change: Change) -> LayerDrift:
    """The drift of one graph; its p values are not yet adjusted for others.

    Example: changes [[0.2, 0.0], [0.4, 0.0]] of two seeds have `common` 0.1 and 0.2, and `apart` 0.1 and 0.2 too.

    Raises:
        BadInput: no seed, or a value that is not finite.
    """
    change_nK = _changes(change)
    n = len(change_nK)
    estimates = [mean_estimate(change_n) for change_n in change_nK.T]
    common_n = change_nK.mean(axis=1)
    common = mean_estimate(common_n)
    return LayerDrift(
        title=change.title,
        connections=tuple(
            ConnectionDrift(
                label=label, change=estimate, p_value=t_p_value(change_n) if n > 1 else None, holm_p_value=None
            )
            for label, estimate, change_n in zip(change.labels, estimates, change_nK.T, strict=True)
        ),
        common=common,
        common_p_value=t_p_value(common_n) if n > 1 else None,
        common_holm_p_value=None,
        common_ratio=_ratio([common]),
        ratio=_ratio(estimates),
        ratio_by_chance=1 / math.sqrt(n) if n > 1 else None,
        apart=mean_estimate(change_nK.std(axis=1)),
    )


def layer_drifts(changes: Iterable[Change]) -> tuple[LayerDrift, ...]:
    """The drift of every graph of one arm: p values hold for all graphs together, and for all connections together."""
    layers = [layer_drift(change) for change in changes]
    of_graphs = _adjusted(layer.common_p_value for layer in layers)
    of_connections = _adjusted(one.p_value for layer in layers for one in layer.connections)
    return tuple(
        dataclasses.replace(
            layer,
            common_holm_p_value=next(of_graphs),
            connections=tuple(dataclasses.replace(one, holm_p_value=next(of_connections)) for one in layer.connections),
        )
        for layer in layers
    )


def _adjusted(p_values: Iterable[float | None]) -> Iterator[float | None]:
    """Each after Holm over those that are numbers, in their order."""
    listed = list(p_values)
    adjusted = iter(holm([p_value for p_value in listed if p_value is not None]).adjusted)
    return iter([None if p_value is None else next(adjusted) for p_value in listed])


def read_drift(folders: Sequence[str | Path]) -> Drift:
    """The drift of one arm, from the run folders of its seeds.

    Raises:
        BadInput: no run, a run that cannot be read or recorded one step only, a seed that stands twice, or runs that
            differ in more than their seed.
    """
    from gnn_moe.figures.coupling import coupling_data  # its package draws; nothing here does

    if not folders:
        raise BadInput("drift: no run; name the runs of one arm, one a seed")
    runs = sorted((RunFolder(Path(folder)) for folder in folders), key=lambda run: run.read_config().training.seed)
    configs = [run.read_config() for run in runs]
    for run, config, before in zip(runs[1:], configs[1:], configs[:-1], strict=True):
        _check_one_arm(run, config, before)
    records = [coupling_data(run.coupling) for run in runs]
    steps = records[0].step_S
    for run, record in zip(runs, records, strict=True):
        if len(record.step_S) < 2:
            raise BadInput(f"{run.coupling}: {len(record.step_S)} recorded step, and a change needs two; train on")
        if record.step_S[0] != steps[0] or record.step_S[-1] != steps[-1]:
            raise BadInput(
                f"{run.coupling}: recorded steps {record.step_S[0]} to {record.step_S[-1]}, where {runs[0].path} has "
                f"{steps[0]} to {steps[-1]}; leave out a run that did not end"
            )
    changes = [
        Change(
            title=traces[0].title,
            labels=traces[0].labels,
            first_nK=np.stack([trace.value_SK[0] for trace in traces]),
            last_nK=np.stack([trace.value_SK[-1] for trace in traces]),
        )
        for traces in zip(*(record.traces for record in records), strict=True)
    ]
    seeds = tuple(config.training.seed for config in configs)
    return Drift(seeds=seeds, first_step=int(steps[0]), last_step=int(steps[-1]), layers=layer_drifts(changes))


def _check_one_arm(run: RunFolder, config: RunConfig, before: RunConfig) -> None:
    if config.training.seed == before.training.seed:
        raise BadInput(f"{run.path}: seed {config.training.seed} stands twice; keep one run of it")
    # How many rows were computed at once changes no number but by rounding.
    rows, seed = before.training.micro_batch_size, before.training.seed
    training = dataclasses.replace(config.training, seed=seed, micro_batch_size=rows)
    groups = ((before.model, config.model), (before.data, config.data), (before.training, training))
    for name, value, other in (change for old, new in groups for change in changed_fields(old, new)):
        raise BadInput(f"{run.path}: --{name} is {other}, where another run has {value}; name runs of one arm")


def _changes(change: Change) -> Floats:
    """(n, K), with rounding taken for 0."""
    first_nK, last_nK = np.asarray(change.first_nK, np.float64), np.asarray(change.last_nK, np.float64)
    if len(bad := np.argwhere(~(np.isfinite(first_nK) & np.isfinite(last_nK)))):
        label = change.labels[bad[0][1]]
        raise BadInput(f"{change.title}: the strength {label} of run {bad[0][0]} is not finite; leave that run out")
    change_nK = last_nK - first_nK
    largest = max(np.abs(first_nK).max(initial=0.0), np.abs(last_nK).max(initial=0.0))
    change_nK[np.abs(change_nK) <= ROUNDING * largest] = 0
    return change_nK


def _ratio(estimates: Sequence[MeanEstimate]) -> float | None:
    """Root of the sum of squared means over that of squared spreads."""
    spread = math.sqrt(sum((one.spread or 0.0) ** 2 for one in estimates))
    return math.sqrt(sum(one.mean**2 for one in estimates)) / spread if spread else None
