"""What a handful of seeds can show: intervals, p values, and the smallest difference that would have been seen.

    from gnn_moe.studies.statistics import t_interval
    t_interval([-0.03, -0.01, -0.02, -0.02, -0.02])     # Interval(low=-0.0288, high=-0.0112, level=0.95)

Pure functions of numbers; what is random takes a NumPy generator. Results are in the unit of the input. Letters: n
values (one a seed), k arms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from gnn_moe.errors import BadInput

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Of an interval, unless another is asked for; tests are two-sided at 1 − LEVEL."""
POWER = 0.80
"""Chance of seeing the minimum detectable difference."""
EXACT_FLIPS_UP_TO = 20
"""Values up to which all 2^n sign flips are counted; beyond, `RANDOM_FLIPS` of them are drawn."""
RANDOM_FLIPS = 99_999
BOOTSTRAP_FROM = 20
"""Values from which the BCa bootstrap is given: at 5 it covers 83 % where it promises 95 %."""
BOOTSTRAP_RESAMPLES = 9_999
FIT_FROM = 3
"""Different sizes from which a line is fitted: any two lie on one."""
ROUNDING = 8 * float(np.finfo(np.float64).eps)
"""Part of the greatest operand below which a difference, or how far differences lie apart, is rounding alone."""
TIE = 1e-9
"""Two sums of flipped differences closer than this part of Σ|d| are equal; raises p, if anything."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    level: float
    """Share of repetitions in which such an interval holds the truth, such as 0.95."""

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def has_width(self) -> bool:
        """False for that of equal values, which no level describes: it tells nothing."""
        return self.low < self.high


@dataclass(frozen=True, kw_only=True)
class MeanEstimate:
    """The mean over seeds, with what it is worth."""

    mean: float
    spread: float | None
    """Standard deviation over seeds (n − 1 in the denominator); None for one seed."""
    interval: Interval | None
    """`t_interval`; None for one seed."""
    seeds: int
    reason: str | None
    """Why there is no interval."""


@dataclass(frozen=True, kw_only=True)
class SignFlips:
    """What `sign_flip_test` found."""

    p_value: float
    smallest_p: float
    """The smallest p value that so many seeds allow, whatever the data: 2 / 2^n if exact, else 1 / (flips + 1)."""
    flips: int
    """Counted (2^n) or drawn."""
    exact: bool


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """What `bca_bootstrap` found."""

    interval: Interval | None
    reason: str | None
    """Why there is none."""


@dataclass(frozen=True, kw_only=True)
class Holm:
    """What `holm` found, in the order of the p values."""

    adjusted: tuple[float, ...]
    rejected: tuple[bool, ...]
    levels: tuple[float, ...]
    """Of the interval that excludes the null value exactly where the hypothesis is rejected."""


@dataclass(frozen=True, kw_only=True)
class ScalingFit:
    """What `scaling_fit` found."""

    exponent: float | None
    """b of loss = a · size^b, the slope in log-log axes; negative where size helps."""
    interval: Interval | None
    """Of the exponent."""
    factor: float | None
    """a of loss = a · size^b, in the unit of the loss."""
    points: int
    reason: str | None
    """Why there is no fit."""
    factor_interval: Interval | None = None
    """Of the factor: of ln a, as powers of e; it and that of the exponent are not independent."""


def mean_and_spread(values: Sequence[float] | Floats) -> tuple[float, float]:
    """Mean and standard deviation (n − 1) of two or more values; equal values have exactly themselves and 0.

    Raises:
        BadInput: fewer than two values, or one that is not finite.
    """
    array = _finite(values)
    if len(array) < 2:
        raise BadInput(f"{len(array)} value: a spread needs two or more; run more seeds")
    if np.ptp(array) == 0:
        return float(array[0]), 0.0
    return float(array.mean()), float(array.std(ddof=1))


def paired_differences(ours: Sequence[float] | Floats, theirs: Sequence[float] | Floats) -> Floats:
    """Ours minus theirs, (n,), with what rounding alone tells apart taken for equal.

    Losses agree to 16 digits at best: a difference below 8 ε times the greatest loss is 0, and differences that lie no
    further apart than that are equal. Otherwise the noise of the last bit would pass for a spread.

    Example: [1.1, 4.3] and [1.0, 4.2] differ by 0.1 twice, though floating point has differences 4.5e-16 apart.

    Raises:
        BadInput: unequal lengths, or a value that is not finite.
    """
    if len(ours) != len(theirs):
        raise BadInput(f"{len(ours)} and {len(theirs)} values must be as many: pair them by seed")
    our_n, their_n = _finite(ours), _finite(theirs)
    found = our_n - their_n
    largest = max(np.abs(our_n).max(initial=0.0), np.abs(their_n).max(initial=0.0))
    found[np.abs(found) <= ROUNDING * largest] = 0
    if len(found) and np.ptp(found) <= ROUNDING * largest:
        found[:] = found.mean()
    return found


def t_interval(values: Sequence[float] | Floats, *, level: float = LEVEL) -> Interval:
    """The t interval of a mean: mean ± t(n − 1, (1 + level) / 2) · s / √n.

    For differences by seed this is the paired t interval; for normal values its level is exact from two up. Equal
    values have an interval of zero width, which no level describes: see `t_p_value`. Source: Student, "The probable
    error of a mean", Biometrika 1908.

    Raises:
        BadInput: fewer than two values, one that is not finite, or a level outside (0, 1).
    """
    _check_share("level", level)
    mean, spread = mean_and_spread(values)
    half = float(special.stdtrit(len(values) - 1, (1 + level) / 2)) * spread / math.sqrt(len(values))
    return Interval(low=mean - half, high=mean + half, level=level)


def t_p_value(values: Sequence[float] | Floats) -> float | None:
    """Two-sided p value of a mean of zero: t = mean / (s / √n), n − 1 degrees of freedom.

    Below 1 − level exactly where `t_interval` at that level excludes zero. None for equal values: t is then undefined,
    and what holds is `sign_flip_test`, which needs no spread.

    Raises:
        BadInput: fewer than two values, or one that is not finite.
    """
    mean, spread = mean_and_spread(values)
    if spread == 0:
        return None
    return float(2 * special.stdtr(len(values) - 1, -abs(mean) * math.sqrt(len(values)) / spread))


def mean_estimate(losses: Sequence[float] | Floats, *, level: float = LEVEL) -> MeanEstimate:
    """Mean of one arm over seeds with its t interval; one seed gives the mean alone, and the reason.

    Raises:
        BadInput: no loss, or one that is not finite.
    """
    array = _finite(losses)
    if len(array) == 0:
        raise BadInput("0 losses: a mean needs one or more; run a seed")
    if len(array) == 1:
        reason = "1 seed, and an interval needs two"
        return MeanEstimate(mean=float(array[0]), spread=None, interval=None, seeds=1, reason=reason)
    mean, spread = mean_and_spread(array)
    return MeanEstimate(
        mean=mean, spread=spread, interval=t_interval(array, level=level), seeds=len(array), reason=None
    )


def sign_flip_test(differences: Sequence[float] | Floats, *, generator: np.random.Generator) -> SignFlips:
    """p value of differences that are symmetric about zero under the null: each sign might as well be the other.

    p = share of sign flips ε with |Σ ε_i d_i| ≥ |Σ d_i|, over all 2^n up to n = 20; beyond, (1 + hits) / (1 + flips)
    over random ones, since the data are a flip too. Five seeds reach 2 / 32 = 0.0625 at best: no verdict at 5 % can
    rest on it there. Sources: Fisher, "The Design of Experiments", 1935, §21; the + 1: Phipson and Smyth,
    "Permutation p-values should never be zero", 2010.

    Args:
        differences: (n,).
        generator: drawn from only beyond n = 20.

    Raises:
        BadInput: no difference, or one that is not finite.
    """
    array = _finite(differences)
    n = len(array)
    if n == 0:
        raise BadInput("0 differences: sign flips need one or more; run seeds that both arms have")
    least = abs(array.sum()) - TIE * np.abs(array).sum()
    if n > EXACT_FLIPS_UP_TO:
        signs = 2 * generator.integers(0, 2, size=(RANDOM_FLIPS, n), dtype=np.int8) - 1
        hits = int((np.abs(signs @ array) >= least).sum())
        smallest = 1 / (RANDOM_FLIPS + 1)
        return SignFlips(p_value=(1 + hits) * smallest, smallest_p=smallest, flips=RANDOM_FLIPS, exact=False)
    # A flip and its opposite have sums of one size: the first sign stays.
    sums = array[:1]
    for difference in array[1:]:
        sums = np.concatenate([sums + difference, sums - difference])
    p_value = float((np.abs(sums) >= least).mean())
    return SignFlips(p_value=p_value, smallest_p=2.0 ** (1 - n), flips=2**n, exact=True)


def bca_bootstrap(
    differences: Sequence[float] | Floats, *, generator: np.random.Generator, level: float = LEVEL
) -> Bootstrap:
    """Bias-corrected and accelerated bootstrap interval of the mean, beside the t interval; none below 20 values.

    Source: Efron, "Better bootstrap confidence intervals", 1987, as in `scipy.stats.bootstrap`.

    Args:
        differences: (n,).
        generator: draws `BOOTSTRAP_RESAMPLES` resamples.
        level: of the interval.

    Raises:
        BadInput: a value that is not finite, or a level outside (0, 1).
    """
    _check_share("level", level)
    array = _finite(differences)
    n = len(array)
    if n < BOOTSTRAP_FROM:
        return Bootstrap(interval=None, reason=f"{n} seeds: BCa covers too little below {BOOTSTRAP_FROM}")
    if np.ptp(array) == 0:
        return Bootstrap(interval=None, reason="all differences are equal: every resample is the same")
    found = stats.bootstrap(
        (array,), np.mean, n_resamples=BOOTSTRAP_RESAMPLES, confidence_level=level, method="BCa", rng=generator
    ).confidence_interval
    return Bootstrap(interval=Interval(low=float(found.low), high=float(found.high), level=level), reason=None)


def minimum_detectable_difference(
    spread: float, pairs: int, *, power: float = POWER, level: float = LEVEL
) -> float | None:
    """The true difference that a two-sided paired t test at 1 − level finds with the given power.

    δ = λ · s / √n with λ the noncentrality at which P(|T(n − 1, λ)| > t(n − 1, (1 + level) / 2)) = power. It takes the
    observed spread for the true one, which five seeds know to a factor of 0.6 to 2.9, and one arm alone: Holm over
    several needs more. Source: Cohen, "Statistical Power Analysis for the Behavioral Sciences", 1988, ch. 2.

    Args:
        spread: s, the standard deviation of the differences.
        pairs: n.
        power: chance of seeing it.
        level: of the interval that decides.

    Returns:
        δ, in the unit of the spread; None for a spread of 0, which says nothing about the next seed.

    Raises:
        BadInput: fewer than two pairs, a spread that is negative or not finite, a level outside (0, 1), or a power
            outside (1 − level, 1).
    """
    _check_share("level", level)
    if type(pairs) is not int or pairs < 2:
        raise BadInput(f"pairs {pairs!r} must be a whole number from 2: run more seeds")
    if not math.isfinite(spread) or spread < 0:
        raise BadInput(f"spread {spread!r} must be 0 or a positive number")
    if not 1 - level < power < 1:
        raise BadInput(f"power {power!r} must be between {1 - level:.4g} and 1, both left out")
    return _noncentrality(pairs, power, level) * spread / math.sqrt(pairs) if spread else None


@functools.lru_cache
def _noncentrality(pairs: int, power: float, level: float) -> float:
    freedom = pairs - 1
    critical = float(special.stdtrit(freedom, (1 + level) / 2))

    def missing(noncentrality: float) -> float:
        both = (stats.nct.sf(critical, freedom, sign * noncentrality) for sign in (1, -1))
        return float(sum(both)) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high, xtol=1e-10))


def holm(p_values: Sequence[float], *, level: float = LEVEL) -> Holm:
    """Holm's step-down test of k hypotheses: at most 1 − level chance of any false rejection, however they depend.

    In ascending order, p̃_(j) = max over i ≤ j of min(1, (k − i + 1) · p_(i)); rejected where p̃ < α = 1 − level.
    A rejected hypothesis with j − 1 smaller p values was tested at α / (k − j + 1), those left over at α / (number left
    over); `levels` is one minus that, so the t interval at that level excludes zero exactly where Holm rejects.
    Example: p 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06; the first is rejected, at levels 0.9833, 0.975, 0.975.
    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    Raises:
        BadInput: a p value outside [0, 1], or a level outside (0, 1).
    """
    _check_share("level", level)
    p = _finite(p_values)
    if len(wrong := p[(p < 0) | (p > 1)]):
        raise BadInput(f"p value {wrong[0]} must be from 0 to 1")
    k = len(p)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(k)
    adjusted[order] = np.maximum.accumulate(np.minimum(1, (k - np.arange(k)) * p[order]))
    rejected = adjusted < 1 - level
    smaller = (p[:, None] > p[None, :]).sum(axis=1)
    tested_with = np.where(rejected, k - smaller, k - rejected.sum())
    return Holm(
        adjusted=tuple(map(float, adjusted)),
        rejected=tuple(map(bool, rejected)),
        levels=tuple(float(1 - (1 - level) / count) for count in tested_with),
    )


def scaling_fit(sizes: Sequence[float], losses: Sequence[float], *, level: float = LEVEL) -> ScalingFit:
    """Power law through points: ln loss = ln a + b · ln size, by least squares, with the t interval of b.

    The interval is b ± t(n − 2, (1 + level) / 2) · standard error; it takes the law for true and the errors of ln loss
    for independent, of one spread. There is no irreducible loss in it: where the curve flattens, b is that of the
    sizes at hand. Source: Kaplan et al., "Scaling laws for neural language models", arXiv 2001.08361;
    `scipy.stats.linregress`.

    Args:
        sizes: (n,) parameters, FLOPs or tokens; any unit, which a carries.
        losses: (n,).
        level: of the interval.

    Raises:
        BadInput: unequal lengths, a level outside (0, 1), or a size or loss that is not a positive finite number.
    """
    _check_share("level", level)
    if len(sizes) != len(losses):
        raise BadInput(f"{len(sizes)} sizes and {len(losses)} losses must be as many")
    for name, values in (("size", sizes), ("loss", losses)):
        for index, value in enumerate(values):
            if not (math.isfinite(value) and value > 0):
                raise BadInput(f"{name} {value!r} of point {index} must be a positive number; leave the point out")
    if (different := len(set(sizes))) < FIT_FROM:
        reason = f"{different} different sizes, and a fit needs {FIT_FROM}"
        return ScalingFit(exponent=None, interval=None, factor=None, points=len(sizes), reason=reason)
    line = stats.linregress(np.log(sizes), np.log(losses))
    errors = float(special.stdtrit(len(sizes) - 2, (1 + level) / 2))
    slope, half, half_of_factor = float(line.slope), errors * line.stderr, errors * line.intercept_stderr
    return ScalingFit(
        exponent=slope,
        interval=Interval(low=slope - half, high=slope + half, level=level),
        factor=math.exp(line.intercept),
        factor_interval=Interval(
            low=math.exp(line.intercept - half_of_factor), high=math.exp(line.intercept + half_of_factor), level=level
        ),
        points=len(sizes),
        reason=None,
    )


def _finite(values: Sequence[float] | Floats) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(array))):
        raise BadInput(f"value {array[bad[0]]} at position {bad[0]} must be a finite number; leave a failed run out")
    return array


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise BadInput(f"{name} {value!r} must be between 0 and 1, both left out")
