"""Dropout that is fast on a CPU.

torch draws a CPU dropout mask one Bernoulli number at a time, which costs more than the feed-forward product that it
follows. Here a number takes one random byte from NumPy's SFC64 generator, held against a threshold of 16 bits (below).
Each mask is a function of one seed drawn from torch's generator, or from one that is seeded from it, so saving torch's
generator saves the dropout of a run, and a mask can be made again instead of being kept. Operators with a backward
pass of their own multiply it in as integers. Other devices use torch's own kernels.

A rate is seldom a multiple of 1/256. So the threshold of a byte is, by a second draw, one of the two whole numbers
around 256 · rate, as often as makes the rate right to 2⁻²⁴. Numbers that are 4,096 apart share that draw, no more than
which makes up for the rounding: their correlation is at most 2⁻¹⁸ / (rate (1 − rate)), 4e-5 at a rate of 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}
"""Of equal width: times 0 or 1, a number's bit pattern as one of these is that of 0 or its own."""

_THRESHOLDS = 4096
"""Of a mask: few enough to cost nothing beside its numbers."""


_GENERATOR: ContextVar[torch.Generator | None] = ContextVar("generator", default=None)


@contextmanager
def seeds_from(generator: torch.Generator) -> Iterator[None]:
    """Has seeds drawn from a generator on the CPU instead of torch's own, which all threads share."""
    token = _GENERATOR.set(generator)
    try:
        yield
    finally:
        _GENERATOR.reset(token)


def draw_seed() -> Tensor:
    """A seed for one mask, () int64 on the CPU; the numbers after it are seeds too.

    From torch's default generator, or from that of `seeds_from`, which does not reach into what is compiled.
    """
    generator = None if torch.compiler.is_compiling() else _GENERATOR.get()
    return torch.randint(0, 2**62, (), dtype=torch.int64, generator=generator)


@torch.library.custom_op("gnn_moe::keep_mask", mutates_args=())
def keep_mask(seed: Tensor, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
    """A CPU tensor of 1 (kept) and 0 (dropped), each dropped with probability `rate`, to 24 bits.

    Args:
        seed: () int64; the same seed gives the same mask, and a mask of fewer rows is the first of them.
        shape: of the mask.
        rate: in [0, 1).
        dtype: of the mask.
    """
    count = math.prod(shape)
    columns, rows = _THRESHOLDS, -(-count // _THRESHOLDS)
    drawn = torch.from_numpy(np.random.SFC64(int(seed)).random_raw((2 + rows) * columns // 8).view(np.uint8))
    byte_RC = drawn[2 * columns :].view(rows, columns)
    # Whichever is rarer, to drop or to keep, happens below the threshold, which is then at most 128: it fits a byte.
    threshold = 256 * min(rate, 1 - rate)
    below = int(threshold)
    carry_C = drawn[: 2 * columns].view(torch.int16).lt(int((threshold - below) * 2**16) - 2**15)
    threshold_C = carry_C.to(torch.uint8).add_(below)
    kept_RC = byte_RC.ge_(threshold_C) if rate <= 1 / 2 else byte_RC.lt_(threshold_C)
    return kept_RC.flatten()[:count].to(dtype).view(list(shape))


@keep_mask.register_fake
def _(seed: Tensor, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
    return torch.empty(list(shape), dtype=dtype)


def integer_mask(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """The mask of a seed for x on the CPU, in integers as wide as its numbers, for `keep_in_place`."""
    mask: Tensor = keep_mask(seed, x.shape, rate, _INTEGERS[x.dtype])
    return mask


def keep_in_place(x: Tensor, mask: Tensor) -> Tensor:
    """x with an integer mask multiplied in, in half of the time that it takes in bf16; what is dropped is 0.

    For operators with a backward pass of their own: autograd does not see it.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        raise RuntimeError("an integer mask has no gradient: use `dropout`")
    x.view(mask.dtype).mul_(mask)
    return x


def mask_in_place(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """x on the CPU with the mask of a seed multiplied in; not yet divided by 1 - rate."""
    return keep_in_place(x, integer_mask(x, seed, rate)) if rate else x


def dropout(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """Zeroes each number with probability `rate` and divides the rest by 1 - rate; x itself outside training."""
    if not training or rate == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, rate)
    mask: Tensor = keep_mask(draw_seed(), x.shape, rate, x.dtype)
    return x * mask * (1 / (1 - rate))
