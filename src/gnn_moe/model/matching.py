"""The sizes at which a control has as many parameters, or FLOPs, as the model that it is compared with.

Everything here takes the count as a function of the sizes, increasing in each, and finds whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

WITHIN = 0.01
"""How far the count may be off, over the target."""
_STEPS = (8, 4, 2, 1)
"""Sizes are multiples of the first of these that comes near enough: of 8 wherever a model is not tiny, as the matrix
units of processors like it."""
_LEAST_FFN, _USUAL_FFN, _MOST_FFN = 3, 4, 5
"""FFN widths over model widths: of a dense model at least, in the experts, at most."""


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """The sizes of a transformer block."""

    width: int
    heads: int
    feed_forward_width: int


def match_block(count: Callable[[int, int], int], target: int, head_width: float) -> BlockShape | None:
    """The block for which count(width, feed_forward_width) comes within 1 % of the target; None where none does.

    For each width near the one that an FFN of 4 widths would need, the FFN takes up what is left. Of these blocks it is
    the one with the most usual proportions: an FFN of 4 widths and heads that are `head_width` wide.
    """
    for step in _STEPS:
        usual = nearest(lambda width: count(width, _USUAL_FFN * width), target, step)
        near = range(-(-3 * usual // (4 * step)) * step, 5 * usual // 4 + 1, step)
        blocks = [_block(partial(count, width), target, step, width, head_width) for width in near]
        fitting = [block for block in blocks if is_near(count(block.width, block.feed_forward_width), target)]
        if fitting:
            return min(fitting, key=lambda block: _strangeness(block, head_width))
    return None


def _block(count: Callable[[int], int], target: int, step: int, width: int, head_width: float) -> BlockShape:
    """The block of a width, its FFN of 3 to 5 widths the nearest to the target."""
    inner = min(max(nearest(count, target, step), _LEAST_FFN * width), _MOST_FFN * width)
    divisors = [heads for heads in range(1, math.ceil(2 * width / head_width) + 1) if width % heads == 0]
    heads = min(divisors, key=lambda heads: abs(math.log(width / heads / head_width)))
    return BlockShape(width=width, heads=heads, feed_forward_width=inner)


def _strangeness(block: BlockShape, head_width: float) -> float:
    """How many-fold the proportions differ from the usual ones, as squared logarithms."""
    inner, heads = block.feed_forward_width / (_USUAL_FFN * block.width), block.width / block.heads / head_width
    return math.log(inner) ** 2 + math.log(heads) ** 2


def nearest(count: Callable[[int], int], target: int, step: int) -> int:
    """The positive multiple of `step` at which an increasing count comes nearest to the target."""
    above = 1
    while count(above * step) < target:
        above *= 2
    below = above // 2
    while above - below > 1:
        middle = (above + below) // 2
        below, above = (middle, above) if count(middle * step) < target else (below, middle)
    return min((multiple * step for multiple in (above, below) if multiple), key=lambda n: abs(count(n) - target))


def is_near(count: int, target: int) -> bool:
    """Whether a count is within 1 % of a target."""
    return abs(count - target) <= WITHIN * target
