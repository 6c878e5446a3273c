"""What couplers learned, as numbers: the records of a point's seeds, and whether their patterns agree.

Letters: n seeds, K connections (hyperedges, ordered pairs of experts, or experts of a router).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gnn_moe.config import COUPLED
from gnn_moe.errors import BadInput
from gnn_moe.figures.coupling import CouplingData, coupling_data
from gnn_moe.reports import numbers
from gnn_moe.reports.points import Group, Point, Run
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.drift import Drift, read_drift
from gnn_moe.studies.statistics import LEVEL, Floats, holm

DRAWS = 4999
"""Of random orders of the connections, for the null of an agreement."""
_DRAWN_AT_ONCE = 1_000_000
_SEED = 20240301
"""Of those draws: the same records give the same report."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Whether the changes of one graph's connections have one pattern in all seeds.

    The measure is the mean over pairs of seeds of Spearman's rank correlation over connections, of the change from the
    first recorded step to the last. The null shuffles the connections of each seed: 0 is expected.
    """

    title: str
    """Of the graph: `Layer 0`, or `Layer 0, coupler layer 1`."""
    correlation: float | None
    p_value: float | None
    """Share of the null at or above the correlation, the data counted in."""
    smallest_p: float | None
    """Which so few seeds and connections allow: 1 / K!^(n − 1), or that of the draws."""
    reason: str | None
    """Why there is no correlation."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """An agreement with its verdict among all graphs of its point."""

    agreement: Agreement
    holm_p_value: float | None
    """Adjusted for all graphs that have one."""
    verdict: str


@dataclass(frozen=True, kw_only=True)
class PointCoupling:
    """The records of one point's completed runs, one a seed, and what they say together."""

    point: Point
    runs: tuple[Run, ...]
    records: tuple[CouplingData, ...]
    """Of the runs; all have the same graphs."""
    drift: Drift | None
    """None where it cannot be measured."""
    repeats: tuple[Repeat, ...]
    """A graph each."""


def read_couplings(group: Group) -> tuple[list[PointCoupling], list[str]]:
    """What is recorded of each point with strengths or loads, and a line for each run or point without."""
    found, notes = [], _without_record(group)
    for point in group.points:
        runs: dict[int, Run] = {}
        records: dict[int, CouplingData] = {}
        for run in point.counted:
            if not _has_record(run):
                continue
            assert run.folder is not None
            try:
                record = coupling_data(RunFolder(run.folder).coupling)
            except BadInput as error:
                notes.append(f"{run.name}: {error}")
                continue
            if records and not _same_graphs(record, next(iter(records.values()))):
                notes.append(f"{run.name}: its graphs are not those of the other seeds of {point.label}; left out")
                continue
            runs[run.seed], records[run.seed] = run, record
        if not runs:
            continue
        if not next(iter(records.values())).traces:
            notes.append(f"{point.label}: {_kind(next(iter(runs.values())))} has no learned strengths to look at")
            continue
        drift, said = _drift(tuple(runs.values()))
        notes += [f"{point.label}: no drift: {line}" for line in said]
        agreements = agreements_of(tuple(records.values()))
        found.append(
            PointCoupling(
                point=point,
                runs=tuple(runs.values()),
                records=tuple(records.values()),
                drift=drift,
                repeats=with_verdicts(agreements),
            )
        )
    return found, notes


def _has_record(run: Run) -> bool:
    return run.folder is not None and RunFolder(run.folder).coupling.exists()


def _without_record(group: Group) -> list[str]:
    """A line for all runs that count without a record of strengths, and one for those that do not count."""
    missing = [run.name for point in group.points for run in point.counted if not _has_record(run)]
    others = [f"{run.name} ({point.why_not(run)})" for point in group.points for run in point.uncounted]
    return [
        f"{numbers.counted(len(names), one, several)} here: {', '.join(names)}."
        for names, one, several in (
            (missing, "completed run has no coupling.npz", "completed runs have no coupling.npz"),
            (others, "run that does not count is left out", "runs that do not count are left out"),
        )
        if names
    ]


def _same_graphs(one: CouplingData, other: CouplingData) -> bool:
    return [(t.title, t.labels) for t in one.traces] == [(t.title, t.labels) for t in other.traces]


def _kind(run: Run) -> str:
    architecture = run.settings["architecture"]
    return f"the coupler {run.settings['coupler_type']}" if architecture == COUPLED else f"a {architecture} model"


def _drift(runs: Sequence[Run]) -> tuple[Drift | None, list[str]]:
    try:
        return read_drift([run.folder for run in runs if run.folder is not None]), []
    except BadInput as error:
        return None, [str(error)]


def agreements_of(records: Sequence[CouplingData]) -> tuple[Agreement, ...]:
    """The agreement of each graph that the records share."""
    generator = np.random.default_rng(_SEED)
    return tuple(
        agreement(
            traces[0].title,
            np.stack([trace.value_SK[-1] - trace.value_SK[0] for trace in traces]),
            generator=generator,
        )
        for traces in zip(*(record.traces for record in records), strict=True)
    )


def agreement(title: str, change_nK: Floats, *, generator: np.random.Generator) -> Agreement:
    """Whether the seeds' changes rank the connections alike. Example: [[1, 2, 3], [4, 5, 6]] correlate by 1.

    Args:
        title: of the graph.
        change_nK: last minus first strength.
        generator: draws the null.
    """
    seeds, connections = change_nK.shape
    reason = None
    if seeds < 2:
        reason = "one seed"
    elif connections < 2:
        reason = "one connection has no pattern"
    elif not np.isfinite(change_nK).all():
        reason = "a strength is not finite"
    elif (np.ptp(change_nK, axis=1) == 0).any():
        reason = "in one seed all connections moved alike, or not at all"
    if reason is not None:
        return Agreement(title=title, correlation=None, p_value=None, smallest_p=None, reason=reason)
    rank_nK = stats.rankdata(change_nK, axis=1)
    rank_nK = rank_nK - rank_nK.mean(axis=1, keepdims=True)
    unit_nK = rank_nK / np.linalg.norm(rank_nK, axis=1, keepdims=True)
    correlation = float(_mean_correlation(unit_nK[None])[0])
    hits, left = 0, DRAWS
    while left:
        count = min(left, max(1, _DRAWN_AT_ONCE // unit_nK.size))
        shuffled = generator.permuted(np.broadcast_to(unit_nK, (count, *unit_nK.shape)), axis=2)
        hits += int((_mean_correlation(shuffled) >= correlation - 1e-9).sum())
        left -= count
    least = math.exp(max(-(seeds - 1) * math.lgamma(connections + 1), -math.log(DRAWS + 1)))
    return Agreement(
        title=title,
        correlation=correlation,
        p_value=(1 + hits) / (1 + DRAWS),
        smallest_p=least,
        reason=None,
    )


def _mean_correlation(unit_BnK: Floats) -> Floats:
    """Mean over pairs of seeds of the products of unit vectors, (B,)."""
    seeds = unit_BnK.shape[1]
    total_B = (unit_BnK.sum(axis=1) ** 2).sum(axis=1)
    return np.asarray((total_B - seeds) / (seeds * (seeds - 1)))


def with_verdicts(agreements: Sequence[Agreement]) -> tuple[Repeat, ...]:
    """Each with its p value adjusted by Holm for all, and a verdict: repeats, noise, or cannot be told."""
    p_values = [each.p_value for each in agreements if each.p_value is not None]
    adjusted = iter(holm(p_values).adjusted)
    found = []
    for each in agreements:
        if each.p_value is None or each.smallest_p is None:
            found.append(Repeat(agreement=each, holm_p_value=None, verdict=f"cannot be told: {each.reason}"))
            continue
        p_value = next(adjusted)
        if p_value < 1 - LEVEL:
            verdict = "repeats between seeds"
        elif (least := each.smallest_p * len(p_values)) >= 1 - LEVEL:
            after = f", {min(1.0, least):.3g} after Holm over {len(p_values)} graphs" if len(p_values) > 1 else ""
            verdict = f"cannot be told: so few connections and seeds give p {each.smallest_p:.3g} at best{after}"
        else:
            verdict = "noise: the pattern does not repeat between seeds"
        found.append(Repeat(agreement=each, holm_p_value=p_value, verdict=verdict))
    return tuple(found)
