"""Arms of a comparison → better, worse or no evidence, with what the verdict rests on.

    from gnn_moe.studies.verdicts import Arm, compare, in_words
    gnn = Arm(name="gnn", seeds=(1, 2, 3), losses=(4.51, 4.49, 4.52))
    hgnn = Arm(name="hgnn", seeds=(1, 2, 3), losses=(4.48, 4.47, 4.49))
    (found,) = compare(gnn, [hgnn], configurations_tried=2, generator=np.random.default_rng(0))
    print(in_words(found))

A lower loss is better, and a difference is an arm's loss minus the baseline's. Losses are in nats a token, or any one
unit, which the results carry.

How intervals and Holm go together, for k arms against one baseline. Each arm has a paired t p value; Holm over all k
(an arm without one counts as p = 1) decides: better or worse where the adjusted p is below 0.05, on the side of the
mean. So the chance that any arm equal to the baseline is called better or worse is at most 5 %, however the arms hang
together through the baseline; that the side is right as well is proven for independent arms (Shaffer, "Control of
directional errors with stagewise multiple test procedures", 1980). Three intervals say how large a difference is:

- `interval`, 95 % for this arm alone;
- `decision_interval`, at the level at which Holm tested the arm: it excludes zero exactly where the verdict is better
  or worse, so it is the one to show beside the verdict. The verdicts hold jointly; these sizes need not, since Holm
  spends the same 5 % again after each rejection;
- `joint_interval`, at 1 − 0.05 / k (Bonferroni): all k hold together with 95 %, and it may hold zero where Holm, the
  stronger, has decided.

With one arm the three are the same. Holm knows nothing of settings that were tried and left: `configurations_tried`
stands in every sentence for that reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gnn_moe.checks import is_number
from gnn_moe.errors import BadInput
from gnn_moe.studies.statistics import (
    LEVEL,
    POWER,
    Bootstrap,
    Interval,
    SignFlips,
    bca_bootstrap,
    holm,
    mean_and_spread,
    minimum_detectable_difference,
    paired_differences,
    sign_flip_test,
    t_interval,
    t_p_value,
)

Verdict = Literal["better", "worse", "no evidence"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """The losses of one arm of a comparison.

    Raises:
        BadInput: no name, unequal lengths, a seed that is no whole number or stands twice, or a loss that is not
            finite.
    """

    name: str
    seeds: tuple[int, ...]
    """One of each completed run; a failed run is left out here and counted elsewhere."""
    losses: tuple[float, ...]
    """Of the same order."""

    def __post_init__(self) -> None:
        if not self.name:
            raise BadInput("an arm has an empty name: give it one")
        if len(self.seeds) != len(self.losses):
            raise BadInput(f"arm {self.name!r}: {len(self.seeds)} seeds and {len(self.losses)} losses must be as many")
        for position, (seed, loss) in enumerate(zip(self.seeds, self.losses, strict=True)):
            if type(seed) is not int:
                raise BadInput(f"arm {self.name!r}: seed {seed!r} must be a whole number")
            if seed in self.seeds[:position]:
                raise BadInput(f"arm {self.name!r}: seed {seed} stands twice; keep one run of it")
            if not is_number(loss):
                raise BadInput(f"arm {self.name!r}, seed {seed}: loss {loss} must be finite; leave a failed run out")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Differences of two arms by seed; only seeds that both have."""

    seeds: tuple[int, ...]
    """Ascending."""
    differences: tuple[float, ...]
    """Arm minus baseline."""
    only_in_arm: tuple[int, ...]
    """Seeds dropped, ascending."""
    only_in_baseline: tuple[int, ...]
    """Seeds dropped, ascending."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One arm against the baseline; under two pairs everything that needs a spread is None."""

    arm: str
    baseline: str
    verdict: Verdict
    """Of the arm; lower loss is better."""
    pairs: Pairs
    mean_difference: float | None
    """None without a pair."""
    spread: float | None
    """Standard deviation of the differences."""
    interval: Interval | None
    """Paired t, 95 %, of this arm alone; of zero width where all differences are equal."""
    decision_interval: Interval | None
    """Paired t at Holm's level, which goes with the verdict; None where all differences are equal."""
    joint_interval: Interval | None
    """Paired t at Bonferroni's level, for all arms at once; None where all differences are equal."""
    p_value: float | None
    """Paired t, two-sided; where all differences are equal t is undefined and this is the sign flips' p value."""
    holm_p_value: float | None
    """`p_value` adjusted for all arms; the verdict is better or worse where it is below 0.05."""
    sign_flips: SignFlips | None
    bootstrap: Bootstrap
    minimum_detectable_difference: float | None
    """At 80 % power, at the level of `joint_interval`; None where all differences are equal."""
    arms_compared: int
    """k of Holm: the arms beside the baseline, also those without an interval."""
    configurations_tried: int
    """Settings that were run on the way to this comparison, the arms and the baseline among them."""


def pair_by_seed(baseline: Arm, arm: Arm) -> Pairs:
    """Differences arm − baseline of the seeds that both have.

    What rounding alone tells apart is equal: see `paired_differences`.
    """
    of_arm, of_baseline = (dict(zip(one.seeds, one.losses, strict=True)) for one in (arm, baseline))
    seeds = tuple(sorted(of_arm.keys() & of_baseline.keys()))
    differences = paired_differences([of_arm[seed] for seed in seeds], [of_baseline[seed] for seed in seeds])
    return Pairs(
        seeds=seeds,
        differences=tuple(map(float, differences)),
        only_in_arm=tuple(sorted(of_arm.keys() - of_baseline.keys())),
        only_in_baseline=tuple(sorted(of_baseline.keys() - of_arm.keys())),
    )


def compare(
    baseline: Arm, arms: Sequence[Arm], *, configurations_tried: int, generator: np.random.Generator
) -> tuple[Comparison, ...]:
    """Compares every arm with the baseline; the verdicts hold jointly.

    Where all differences of an arm are equal, t is undefined; the exact sign-flip p value then stands in for it, so
    that two seeds which agree by chance are no evidence. Equal differences need six seeds for a verdict, more beside
    other arms, and those of zero never get one.

    Args:
        baseline: what the others are compared with.
        arms: all that were planned, also those with too few seeds left; one comparison each, in this order.
        configurations_tried: settings that were run on the way, those compared here among them.
        generator: for the bootstrap (from 20 pairs) and the sign flips (beyond 20).

    Raises:
        BadInput: no arm, a name that stands twice, or fewer configurations tried than are compared.
    """
    if not arms:
        raise BadInput(f"nothing to compare with {baseline.name!r}: name one more arm")
    return compare_pairs(
        [(baseline, arm) for arm in arms], configurations_tried=configurations_tried, generator=generator
    )


def compare_pairs(
    pairs: Sequence[tuple[Arm, Arm]],
    *,
    configurations_tried: int,
    generator: np.random.Generator,
    beside: Sequence[float | None] = (),
) -> tuple[Comparison, ...]:
    """The same for arms with baselines of their own, as where both are compared at several sizes: (baseline, arm).

    Args:
        pairs: each with names of its own.
        configurations_tried: as of `compare`.
        generator: as of `compare`.
        beside: p values of other pairs that Holm takes together with these, None for a pair that has none.

    Raises:
        BadInput: two arms of one name, or fewer configurations tried than are compared.
    """
    arms, baselines = [arm.name for _, arm in pairs], {baseline.name for baseline, _ in pairs}
    if len(set(arms)) < len(arms) or baselines & set(arms):
        raise BadInput(f"arms {', '.join([*sorted(baselines), *arms])}: each needs a name of its own")
    if type(configurations_tried) is not int or configurations_tried < len(baselines) + len(arms):
        least = f"a whole number from {len(baselines) + len(arms)}, the arms compared"
        raise BadInput(f"configurations_tried {configurations_tried!r} must be {least}")
    alone = [_alone(baseline, arm, generator) for baseline, arm in pairs]
    p_values = [*(one.p_value for one in alone), *beside]
    decisions = holm([1.0 if each is None else each for each in p_values])
    own = slice(len(alone))
    return tuple(
        _decided(one, adjusted, rejected, level, arms_compared=len(p_values), configurations_tried=configurations_tried)
        for one, adjusted, rejected, level in zip(
            alone, decisions.adjusted[own], decisions.rejected[own], decisions.levels[own], strict=True
        )
    )


def _alone(baseline: Arm, arm: Arm, generator: np.random.Generator) -> Comparison:
    """What holds for one arm by itself, before Holm."""
    pairs = pair_by_seed(baseline, arm)
    differences, n = np.array(pairs.differences), len(pairs.seeds)
    mean, spread = mean_and_spread(differences) if n > 1 else (pairs.differences[0] if n else None, None)
    flips = sign_flip_test(differences, generator=generator) if n > 1 else None
    p_value = t_p_value(differences) if n > 1 else None
    return Comparison(
        arm=arm.name,
        baseline=baseline.name,
        verdict="no evidence",
        pairs=pairs,
        mean_difference=mean,
        spread=spread,
        interval=t_interval(differences) if n > 1 else None,
        decision_interval=None,
        joint_interval=None,
        p_value=flips.p_value if flips and p_value is None else p_value,
        holm_p_value=None,
        sign_flips=flips,
        bootstrap=bca_bootstrap(differences, generator=generator),
        minimum_detectable_difference=None,
        arms_compared=1,
        configurations_tried=1,
    )


def _decided(
    alone: Comparison,
    adjusted: float,
    rejected: bool,
    level: float,
    *,
    arms_compared: int,
    configurations_tried: int,
) -> Comparison:
    """The same with what Holm over all arms says of it."""
    verdict: Verdict = "no evidence"
    if rejected and alone.mean_difference:
        verdict = "better" if alone.mean_difference < 0 else "worse"
    differences = alone.pairs.differences
    joint_level = 1 - (1 - LEVEL) / arms_compared
    return dataclasses.replace(
        alone,
        verdict=verdict,
        decision_interval=t_interval(differences, level=level) if alone.spread else None,
        joint_interval=t_interval(differences, level=joint_level) if alone.spread else None,
        # Of a test among all arms: by itself an arm would be promised more power than it has.
        minimum_detectable_difference=(
            minimum_detectable_difference(alone.spread, len(differences), level=joint_level) if alone.spread else None
        ),
        holm_p_value=None if alone.p_value is None else adjusted,
        arms_compared=arms_compared,
        configurations_tried=configurations_tried,
    )


def weighed_anew(found: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """Comparisons that were weighed jointly, made again from nothing but their differences; names are left out.

    Beyond 20 seeds p values of sign flips are of other draws.
    """
    pairs = [
        (
            Arm(name=f"baseline {place}", seeds=each.pairs.seeds, losses=(0.0,) * len(each.pairs.seeds)),
            Arm(name=f"arm {place}", seeds=each.pairs.seeds, losses=each.pairs.differences),
        )
        for place, each in enumerate(found)
    ]
    return compare_pairs(pairs, configurations_tried=2 * len(pairs), generator=np.random.default_rng(0))


def comparison_from(record: Mapping[str, Any]) -> Comparison:
    """A comparison as study.json has it (`dataclasses.asdict`), back as it was; its words are then made anew."""
    parts: dict[str, Any] = {
        name: None if record[name] is None else Interval(**record[name])
        for name in ("interval", "decision_interval", "joint_interval")
    }
    inside = record["bootstrap"]["interval"]
    return Comparison(
        **{
            **record,
            **parts,
            "pairs": Pairs(**{name: tuple(values) for name, values in record["pairs"].items()}),
            "sign_flips": None if record["sign_flips"] is None else SignFlips(**record["sign_flips"]),
            "bootstrap": Bootstrap(
                interval=None if inside is None else Interval(**inside), reason=record["bootstrap"]["reason"]
            ),
        }
    )


def in_words(found: Comparison, *, of_ratio: bool = False) -> str:
    """One sentence: the verdict, its size with the interval that decided, the seeds, the p values and what was tried.

    Losses are written without a unit; say it beside.

    Args:
        found: the verdict.
        of_ratio: whether its values are logarithms of minutes to a loss, so that a difference is a ratio.
    """
    if of_ratio and found.mean_difference is None:
        return _without_a_pair(found)
    return "; ".join((_claim(found, of_ratio=of_ratio), *support_in_words(found, of_ratio=of_ratio)))


def shortly(found: Comparison, *, of_ratio: bool = False) -> str:
    """The same without what it rests on besides its interval and its seeds."""
    if of_ratio and found.mean_difference is None:
        return _without_a_pair(found)
    return "; ".join((_claim(found, of_ratio=of_ratio), _seeds_in_words(found)))


def _without_a_pair(found: Comparison) -> str:
    return f"{found.arm} and {found.baseline} have no seed in common"


def _claim(found: Comparison, *, of_ratio: bool) -> str:
    arm, baseline, what = found.arm, found.baseline, " in the minutes to a loss" if of_ratio else ""
    claim = f"No evidence that {arm} and {baseline} differ{what}"
    if found.verdict != "no evidence":
        sooner = "sooner" if found.verdict == "better" else "later"
        claim = f"{arm} is {found.verdict} than {baseline}"
        claim = f"{arm} reaches a loss that both reach {sooner} than {baseline}" if of_ratio else claim
    if found.mean_difference is None:
        return claim
    mean = found.mean_difference
    size = f"{math.exp(mean):.3g} times its minutes" if of_ratio else f"loss {_signed(mean)}"
    if (interval := found.decision_interval) is None:
        return f"{claim}: {size}"
    low, high = interval.low, interval.high
    ends = f"{math.exp(low):.3g} to {math.exp(high):.3g}" if of_ratio else f"{_signed(low)} to {_signed(high)}"
    return f"{claim}: {size} ({100 * interval.level:.3g} % interval {ends})"


def _signed(difference: float) -> str:
    """`+0.0021`, `−0.0348`: four digits, with a true minus sign, as reports write it."""
    return f"{difference:+.4g}".replace("-", "−")


def support_in_words(found: Comparison, *, of_ratio: bool = False) -> Iterator[str]:
    """What a verdict rests on: seeds, p values, the difference that would be found, what was tried.

    Args:
        found: the verdict.
        of_ratio: whether its values are logarithms, so that a difference is a ratio.
    """
    yield _seeds_in_words(found)
    if dropped := found.pairs.only_in_arm + found.pairs.only_in_baseline:
        listed = ", ".join(map(str, sorted(dropped)))
        yield f"left out, since one arm lacks it: seed {listed}"
    if found.spread == 0:
        yield "every difference is the same, so t is undefined and the sign flips decide"
    if found.p_value is not None:
        name = "paired t p" if found.spread else "p"
        yield f"{name} {found.p_value:.3g}" + _holm_words(found)
    if flips := found.sign_flips:
        yield f"sign flips p {flips.p_value:.3g}, at best {flips.smallest_p:.3g} with so many seeds"
    if (least := found.minimum_detectable_difference) is not None:
        size = f"ratio of {math.exp(least):.3g}" if of_ratio else f"difference of {least:.3g}"
        yield f"a true {size} is found {100 * POWER:.0f} times in 100"
    yield _counted(found.configurations_tried, "configuration tried", "configurations tried")


def _seeds_in_words(found: Comparison) -> str:
    n = len(found.pairs.seeds)
    return _counted(n, "seed in common", "seeds in common") + ("" if n > 1 else ", and an interval needs two")


def _holm_words(found: Comparison) -> str:
    if found.arms_compared == 1:
        return ""
    return f", {found.holm_p_value:.3g} after Holm over {found.arms_compared} pairs"


def _counted(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"
