"""A search: points drawn by TPE from values and ranges, and early ends for those that fall behind.

Where the loss is the one objective, a trial is pruned whose best evaluation loss so far is worse than the median of
what earlier trials had at that step. With several objectives there is no order in which one trial is behind another, so
none is pruned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from gnn_moe.config import RunConfig
from gnn_moe.errors import BadInput, unknown_name
from gnn_moe.studies.design import Point, make_point
from gnn_moe.studies.outcomes import Outcome
from gnn_moe.studies.space import LARGEST, Range, Value, Values, Variation, types_of, words_of

OBJECTIVES = ("loss", "minutes")
_BEFORE_PRUNING = 4
"""Completed trials before the first is compared with them."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search does besides running points."""

    baseline: RunConfig
    objectives: tuple[str, ...]
    trials: int
    """Points in all."""

    @property
    def prunes(self) -> bool:
        """Whether trials are ended early for their losses."""
        return self.objectives == ("loss",)

    @property
    def pruner(self) -> optuna.pruners.BasePruner:
        return optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING)

    def sampler(self, trials_so_far: int) -> optuna.samplers.BaseSampler:
        """TPE, seeded by the baseline and by how far the search is: begun again it does not repeat itself."""
        (seed,) = np.random.SeedSequence([self.baseline.training.seed, trials_so_far]).generate_state(1)
        return optuna.samplers.TPESampler(seed=int(seed))

    def point(self, params: Mapping[str, Value]) -> Point:
        """The point of values that were drawn."""
        return make_point(self.baseline, params, self.baseline.training.seed)

    def values(self, outcome: Outcome) -> list[float]:
        """What the objectives make of a completed trial."""
        found = {"loss": outcome.best_eval_loss, "minutes": outcome.minutes}
        values = [found[name] for name in self.objectives]
        return [value for value in values if value is not None]


def parse_objectives(text: str) -> tuple[str, ...]:
    """`loss`, `minutes` or `loss,minutes`.

    Raises:
        BadInput: a name is unknown or stands twice.
    """
    names = tuple(text.split(","))
    for name in names:
        if name not in OBJECTIVES:
            raise unknown_name("--objectives", name, OBJECTIVES)
    if len(set(names)) < len(names):
        raise BadInput(f"--objectives {text}: a name stands twice; give each once")
    return names


def distributions_of(variations: Sequence[Variation], *, search: bool) -> dict[str, BaseDistribution]:
    """What Optuna is told of each field.

    A search draws from it. Elsewhere the points are given, and it only lets a dashboard draw them: a field of free
    texts or of mixed types has none there, since Optuna would hold a list of choices against a sweep that grows.
    """
    if search:
        return {each.field: _to_draw_from(each) for each in variations}
    found = {each.field: _to_show(each) for each in variations if isinstance(each, Values)}
    return {name: distribution for name, distribution in found.items() if distribution is not None}


def _to_draw_from(variation: Variation) -> BaseDistribution:
    if isinstance(variation, Values):
        return CategoricalDistribution(variation.values)
    if variation.whole:
        return IntDistribution(int(variation.low), int(variation.high), log=variation.log)
    return FloatDistribution(variation.low, variation.high, log=variation.log)


def _to_show(variation: Values) -> BaseDistribution | None:
    types = types_of(variation.field)
    if types == {bool}:
        return CategoricalDistribution((False, True))
    if types == {str} and (words := words_of(variation.field)) is not None:
        return CategoricalDistribution(tuple(words))
    if not types <= {int, float}:
        return None
    # The widest range: a study that grows keeps its distribution.
    return FloatDistribution(-LARGEST[float], LARGEST[float]) if float in types else IntDistribution(-(2**53), 2**53)


def space_of(variations: Sequence[Variation]) -> dict[str, str]:
    """The variations as texts, for the record."""
    return {each.field: str(each).partition("=")[2] for each in variations}


def ranges_in(variations: Sequence[Variation]) -> list[Range]:
    """Those that only a search can run."""
    return [each for each in variations if isinstance(each, Range)]
