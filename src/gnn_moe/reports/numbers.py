"""Numbers as a report writes them: one place, so that a quantity looks alike in every section.

What is unknown (None, or not finite) becomes `UNKNOWN`, never `nan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gnn_moe.checks import is_number
from gnn_moe.studies.space import Value
from gnn_moe.studies.statistics import Interval

UNKNOWN = "–"
"""What stands for a number that is not known."""

_SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_TOO_LARGE = 1e6
"""For decimals: the loss of a run that diverged is told in powers of ten."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def loss(value: float | None) -> str:
    """Nats a token, to four decimals: `4.5267`; of a run that diverged in powers of ten."""
    return _fixed(value, 4)


def difference(value: float | None, decimals: int = 4) -> str:
    """A difference of losses with its sign: `+0.0069`, `−0.0348`; `0.0000` has none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    text = _fixed(abs(value), decimals)
    return text if round(abs(value), decimals) == 0 else f"{'+' if value > 0 else '−'}{text}"


def interval(found: Interval | None) -> str:
    """`4.5012 to 4.5522`; negative ends with a minus sign."""
    return UNKNOWN if found is None else f"{loss(found.low)} to {loss(found.high)}"


def interval_of_difference(found: Interval | None, decimals: int = 4) -> str:
    """`−0.0198 to +0.0073`."""
    return UNKNOWN if found is None else f"{difference(found.low, decimals)} to {difference(found.high, decimals)}"


def level(found: Interval) -> str:
    """The level of an interval in percent: `95 %`, `98.3 %`."""
    return f"{100 * found.level:.3g} %"


def perplexity(of_loss: float | None) -> str:
    """e to a loss, to two decimals; where that is too large to read, in powers of ten."""
    if of_loss is None or not math.isfinite(of_loss) or of_loss > 700:
        return UNKNOWN if of_loss is None or not math.isfinite(of_loss) else "too large"
    value = math.exp(of_loss)
    return f"{value:,.2f}" if value < _TOO_LARGE else scientific(value)


def bits(value: float | None) -> str:
    """Bits a byte, to four decimals."""
    return _fixed(value, 4)


def minutes(value: float | None) -> str:
    """To one decimal; under a minute to two, so that a short run does not read as none."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= _TOO_LARGE:
        return scientific(value)
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.2f}"


def count(value: float | None) -> str:
    """A count in three digits and a suffix: `55.9M`, `1.46B`, `812`."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    rounded = float(f"{value:.3g}")  # first: 999,999 is a million to three digits, not a thousand thousands
    if abs(rounded) >= 1000 * _SUFFIXES[0][0]:
        return scientific(value)
    for size, suffix in _SUFFIXES:
        if abs(rounded) >= size:
            return f"{_three_digits(rounded / size)}{suffix}"
    return f"{rounded:.0f}"


def whole(value: float | None) -> str:
    """A whole number in full: `12,492,856`."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:,.0f}".replace("-", "−")


def ratio(value: float | None) -> str:
    """To two decimals: `0.45`, `−0.20`."""
    return _fixed(value, 2)


def similarity(value: float | None) -> str:
    """To three decimals, as CKA is written: `0.973`."""
    return _fixed(value, 3)


def short(value: float | None, digits: int = 4) -> str:
    """In so many significant digits, of a quantity without a form of its own: `0.03675`, `−0.006255`, `1e−05`."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.{digits}g}".replace("-", "−")


def probability(value: float | None) -> str:
    """A p value in three digits: `0.268`."""
    return short(value, 3)


def scientific(value: float | None) -> str:
    """In powers of ten: `5.74 × 10¹³`, as FLOPs are written."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.replace('-', '−')} × 10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def rate(value: float | None) -> str:
    """Tokens a second, without decimals and with commas; below 10 with one decimal."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= 1e9:
        return scientific(value)
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.1f}"


def gibibytes(value: float | None) -> str:
    """Bytes in GiB, to two decimals."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return scientific(value / 2**30) if abs(value / 2**30) >= _TOO_LARGE else f"{value / 2**30:,.2f}"


def setting(value: Value) -> str:
    """The value of a field in full: `0.0005`, `1e-05`, `true`, `all_pairs`; `none` where it has none."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return brief if float(brief := f"{value:g}") == value else repr(value)
    return str(value)


def numeric(value: Value) -> float | None:
    """The number that a value is; None for a text, a truth value, None and what is not finite."""
    return float(value) if isinstance(value, int | float) and is_number(value) else None


def listed(words: Sequence[str]) -> str:
    """`2`, `2 and 4`, `2, 4 and 8`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def counted(number: int, one: str, several: str | None = None) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def _fixed(value: float | None, decimals: int) -> str:
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return scientific(value) if abs(value) >= _TOO_LARGE else f"{value:.{decimals}f}".replace("-", "−")


def _three_digits(value: float) -> str:
    """Without an exponent: 1.46, 55.9, 812."""
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}"
