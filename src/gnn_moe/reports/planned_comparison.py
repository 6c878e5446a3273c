"""The comparison to run next: the best configuration with GNN, with HGNN and with experts that exchange nothing.

How many seeds it asks for follows from what is known. Where GNN and HGNN were run in this configuration and not told
apart, as many as find the difference that was seen; else as many as find a difference of `CLOSE`. What it takes follows
from the median minutes of each arm that was run, in proportion to FLOPs, and of the best point for the others.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping

import numpy as np

from gnn_moe.config import OutputConfig, RunConfig
from gnn_moe.model.size import model_size
from gnn_moe.reports import numbers
from gnn_moe.reports.commands import command
from gnn_moe.reports.costs import config_of, flops_of_run, known_config_of, minutes_of_point, unsteady
from gnn_moe.reports.document import Block, Code, Paragraph
from gnn_moe.reports.kinds import besides_coupler, kind_of
from gnn_moe.reports.memory import Experience, planned_bytes, planned_in_words
from gnn_moe.reports.points import Group, Point
from gnn_moe.reports.power import paired_spread, seeds_needed
from gnn_moe.reports.swept import CLOSE, SAME_COST
from gnn_moe.studies.flags import train_words
from gnn_moe.studies.statistics import LEVEL, minimum_detectable_difference
from gnn_moe.studies.verdicts import Arm, Comparison, compare

LEAST_SEEDS, MOST_SEEDS = 5, 20
"""Of each arm, where no difference was seen yet."""
MOST_FOR_A_DIFFERENCE = 50
"""Of each arm, for a difference that was seen."""
_CONTROL = "mean"


def comparison_blocks(point: Point, group: Group, known: Experience) -> list[Block]:
    """The comparison as a command, with why and what it takes; nothing for a point without a coupler.

    Args:
        point: the best one.
        group: its points.
        known: what runs took beside their plans.
    """
    config = config_of(point)
    if config is None or config.model.hyperedges is not None or config.model.architecture != "coupled":
        return []
    seen = _seen(group, point, config)
    arms = _arms(group, point, config)
    if seen is not None and seen.verdict != "no evidence" and _CONTROL not in arms:
        told = f"{seen.arm} is {seen.verdict} than {seen.baseline} in this configuration, and {_CONTROL} was run too"
        return [Paragraph(f"Comparison: {told}, so none is recommended.")]
    seeds, why = _seeds(group, seen, tested=len(arms) - 1)
    named = numbers.listed(list(arms))
    if seen is not None and not _was_at_equal_flops(group, point, config):
        why = f"{why} Those runs had not equal FLOPs, and at equal FLOPs the difference may be another."
    said = f"Comparison: the performance configuration with {named}, equal FLOPs, {seeds} seeds each. {why}"
    words = [word for name in arms for word in ("--arm", f"{name.lower()}:--coupler_type {name}")]
    asked = ["--budget", "flops", "--seeds", ",".join(map(str, range(1, seeds + 1)))]
    common = train_words(dataclasses.replace(arms["GNN"], output=OutputConfig()))
    return [
        Paragraph(f"{said} {_takes(group, point, arms, seeds, known)}".rstrip()),
        Code(command(["gnn-moe", "compare", "--study", "gnn-or-hgnn", *words, *asked, *common])),
    ]


def _arms(group: Group, point: Point, config: RunConfig) -> Mapping[str, RunConfig]:
    """Configs by coupler: GNN and HGNN, and the control where it was not run with as many FLOPs as this one."""
    names = ["GNN", "HGNN"]
    if not any(_is_like(each, point, _CONTROL) and _is_as_long(each, point) for each in group.points):
        names.append(_CONTROL)
    return {name: _with_coupler(config, name) for name in names}


def _with_coupler(config: RunConfig, coupler: str) -> RunConfig:
    model = dataclasses.replace(
        config.model, coupler_type=coupler, static_hyperedge_strategy="all_pairs", hgnn_content_gates=False
    )
    return dataclasses.replace(config, model=model)


def _is_like(each: Point, point: Point, coupler: str) -> bool:
    """Whether a point has a loss, this coupler, and else the settings of another."""
    return bool(each.completed) and kind_of(each) == coupler and besides_coupler(each) == besides_coupler(point)


def _was_at_equal_flops(group: Group, point: Point, config: RunConfig) -> bool:
    """Whether GNN and HGNN took as many training FLOPs in this configuration."""
    gnn, hgnn = (_run_of(group, point, _with_coupler(config, name)) for name in ("GNN", "HGNN"))
    return gnn is None or hgnn is None or _is_as_long(gnn, hgnn)


def _is_as_long(each: Point, point: Point) -> bool:
    """Whether two points took as many training FLOPs; what is not known is taken to."""
    costs = [[flops for run in one.counted if (flops := flops_of_run(run)) is not None] for one in (each, point)]
    if not all(costs):
        return True
    ours, theirs = map(statistics.fmean, costs)
    return max(ours, theirs) <= SAME_COST * min(ours, theirs)


def _run_of(group: Group, point: Point, arm: RunConfig) -> Point | None:
    """The point that is an arm, whatever its vocabulary."""
    for each in group.points:
        config = config_of(each)
        if config is None or not _is_like(each, point, arm.model.coupler_type):
            continue
        if dataclasses.replace(config.model, vocab_size=arm.model.vocab_size) == arm.model:
            return each
    return None


def _seen(group: Group, point: Point, config: RunConfig) -> Comparison | None:
    """HGNN against GNN in this configuration, where both were run."""
    found = []
    for name in ("GNN", "HGNN"):
        run = _run_of(group, point, _with_coupler(config, name))
        by_seed = {} if run is None else run.by_seed(group.loss_name)
        if not by_seed:
            return None
        found.append(Arm(name=name, seeds=tuple(by_seed), losses=tuple(by_seed.values())))
    tried = max(2, len(group.points))
    return compare(found[0], found[1:], configurations_tried=tried, generator=np.random.default_rng(0))[0]


def _seeds(group: Group, seen: Comparison | None, *, tested: int) -> tuple[int, str]:
    """How many seeds, and why, in whole sentences."""
    among = f", tested as one of {tested} arms" if tested > 1 else ""
    if seen is None or not seen.mean_difference or not seen.spread:
        return _seeds_for_close(group, tested, among)
    size = abs(seen.mean_difference)
    if seen.verdict != "no evidence":
        seeds, why = _seeds_for_close(group, tested, among)
        return seeds, f"{seen.arm} is {seen.verdict} than {seen.baseline} already, by {numbers.loss(size)}. {why}"
    needed = seeds_needed(seen.spread, size, tested)
    after = f"{seen.arm} and {seen.baseline} lie {numbers.loss(size)} apart after {len(seen.pairs.seeds)} seeds"
    if needed is not None and needed <= MOST_FOR_A_DIFFERENCE:
        return max(needed, LEAST_SEEDS), (
            f"{after}: if that is the true difference, {needed} seeds find it 80 times in 100{among}."
        )
    seeds, why = _seeds_for_close(group, tested, among)
    return seeds, f"{after}: to find that, if it is true, takes more than {MOST_FOR_A_DIFFERENCE} seeds. {why}"


def _seeds_for_close(group: Group, tested: int, among: str) -> tuple[int, str]:
    """As many as find a difference of `CLOSE`, within bounds."""
    spread = paired_spread(group)
    if spread is None:
        return LEAST_SEEDS, "No two points here have two seeds in common, so how many are needed is not known."
    needed = seeds_needed(spread, CLOSE, tested)
    seeds = min(MOST_SEEDS, max(LEAST_SEEDS, needed if needed is not None else MOST_SEEDS))
    found = minimum_detectable_difference(spread, seeds, level=1 - (1 - LEVEL) / tested)
    more = "" if needed is not None and needed <= seeds else f", more than {CLOSE} nats"
    return seeds, (
        f"If pairs spread as here ({numbers.loss(spread)}, median of all pairs), a true difference of "
        f"{numbers.loss(found)}{more} is found 80 times in 100{among}."
    )


def _takes(group: Group, point: Point, arms: Mapping[str, RunConfig], seeds: int, known: Experience) -> str:
    """What all runs of the comparison take: each has as many training FLOPs as the GNN's."""
    config = known_config_of(point)
    if config is None:
        return ""
    vocabulary = config.model.vocab_size
    sized = {
        name: dataclasses.replace(arm, model=dataclasses.replace(arm.model, vocab_size=vocabulary))
        for name, arm in arms.items()
    }
    memory = planned_in_words(max(sized.values(), key=planned_bytes), known)
    budget = model_size(sized["GNN"].model).training_flops_per_token * (point.mean("tokens") or 1)
    minutes, busy = [], []
    for arm in arms.values():
        timed = _run_of(group, point, arm) or point
        if (found := _minutes_with(group, timed, budget)) is None:
            timed = point
            found = _minutes_with(group, point, budget)
        if found is None:
            return memory
        minutes.append(found)
        if timed is not point and (said := unsteady(group, timed)) is not None:
            busy.append(f" {said}.")
    whole = numbers.minutes(seeds * sum(minutes))
    told = f"Its {len(arms) * seeds} runs take about {whole} minutes one after the other, by the median minutes here"
    return f"{told}, in proportion to FLOPs.{''.join(busy)} {memory}"


def _minutes_with(group: Group, timed: Point, flops: float) -> float | None:
    """A point's median minutes, for so many training FLOPs; None where its own FLOPs or minutes are not known."""
    minutes, config = minutes_of_point(timed), known_config_of(timed)
    if minutes is None or config is None:
        return None
    return minutes * flops / (model_size(config.model).training_flops_per_token * (timed.mean("tokens") or 1))
