"""A mean in units of its spread, with what a handful of seeds tell of it.

from gnn_moe.studies.effect_size import effect_size_interval
effect_size_interval(0.23, 0.0158, 5)      # of |mean| / spread = 14.6: Interval(low=5.02, high=24.3, level=0.95)
"""

from __future__ import annotations

import math

from scipy import integrate, optimize, special

from gnn_moe.errors import BadInput
from gnn_moe.studies.statistics import LEVEL, Interval

_FAR = 12.0
"""Standard deviations beyond which a normal variable is not looked for: 1 in 10³²."""


def effect_size_interval(mean: float, spread: float, values: int, *, level: float = LEVEL) -> Interval | None:
    """Interval of |μ| / σ, from the mean and spread of n normal values.

    √n · mean / spread follows the noncentral t distribution of n − 1 degrees of freedom with noncentrality √n · μ / σ.
    The ends are the noncentralities at which what was seen, or more (low), or less (high), has the chance (1 − level) /
    2. Both the mean and the spread are taken for estimates: five seeds know a spread to a factor of 0.6 to 2.9. The
    sign is then left out: an interval that holds 0 begins there, as it does exactly where the t interval of the mean
    holds 0. Sources: Steiger and Fouladi, "Noncentrality interval estimation and the evaluation of statistical models",
    1997; Cumming and Finch, "A primer on the understanding, use, and calculation of confidence intervals that are
    based on central and noncentral distributions", 2001.

    Args:
        mean: of the values.
        spread: their standard deviation (n − 1).
        values: n.
        level: of the interval; that of the signed ratio is exact, that without the sign covers as often or more.

    Returns:
        None for a spread of 0, which says nothing about the next seed.

    Raises:
        BadInput: fewer than two values, a mean or spread that is not finite, a negative spread, or a level outside
            (0, 1).
    """
    if type(values) is not int or values < 2:
        raise BadInput(f"values {values!r} must be a whole number from 2: run more seeds")
    if not math.isfinite(mean):
        raise BadInput(f"mean {mean!r} must be a finite number")
    if not math.isfinite(spread) or spread < 0:
        raise BadInput(f"spread {spread!r} must be 0 or a positive number")
    if not 0 < level < 1:
        raise BadInput(f"level {level!r} must be between 0 and 1, both left out")
    if spread == 0:
        return None
    root, freedom, tail = math.sqrt(values), values - 1, (1 - level) / 2
    seen = root * abs(mean) / spread
    low, high = (_noncentrality(seen, freedom, chance) / root for chance in (tail, 1 - tail))
    return Interval(low=max(low, 0.0), high=max(high, -low), level=level)


def _noncentrality(seen: float, freedom: int, chance: float) -> float:
    """At which a noncentral t variable is above `seen`, from 0 up, with a chance."""

    def missing(noncentrality: float) -> float:
        return _chance_above(seen, freedom, noncentrality) - chance

    away = 1.0
    while missing(-away) > 0:
        away *= 2
    low, away = -away, seen + 1.0
    while missing(away) < 0:
        away *= 2
    return float(optimize.brentq(missing, low, away, xtol=1e-10, rtol=1e-12))


def _chance_above(seen: float, freedom: int, noncentrality: float) -> float:
    """P(T > t) of T = (Z + λ) / √(V / ν): over z of Z, V must be below ν ((z + λ) / t)².

    `scipy.stats.nct` has the same, and no value (NaN) where t and λ are in the hundreds of thousands.
    """
    if seen == 0:
        return float(special.ndtr(noncentrality))

    def density(z: float) -> float:
        below = special.chdtr(freedom, freedom * ((z + noncentrality) / seen) ** 2)
        return float(below) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    start = max(-noncentrality, -_FAR)
    if start >= _FAR:
        return 0.0
    # The bend at 0 keeps the mass in sight where the range begins far from it.
    bends = [0.0] if start < 0 else None
    return float(integrate.quad(density, start, _FAR, points=bends, limit=200, epsabs=1e-12, epsrel=1e-10)[0])
