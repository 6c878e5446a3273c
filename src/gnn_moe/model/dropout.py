"""Dropout that is fast on a CPU.

torch draws a CPU dropout mask one Bernoulli number at a time, which costs more than the feed-forward product that it
follows. Here a mask takes only as many random bits a number as the number is wide, from NumPy's SFC64 generator, and
is built by two integer passes in place. Each mask is a function of one seed drawn from torch's generator, so saving
torch's generator saves the dropout of a run, and a mask can be made again instead of being kept. Other devices use
torch's own kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# For each floating type: the integer type of equal width, and the bit pattern of 1.0 in it.
_LANES = {
    torch.bfloat16: (torch.int16, np.int16, 0x3F80),
    torch.float16: (torch.int16, np.int16, 0x3C00),
    torch.float32: (torch.int32, np.int32, 0x3F800000),
    torch.float64: (torch.int64, np.int64, 0x3FF0000000000000),
}


def draw_seed() -> Tensor:
    """A seed for one mask, () int64 on the CPU, from torch's default generator; the numbers after it are seeds too."""
    return torch.randint(0, 2**62, (), dtype=torch.int64)


@torch.library.custom_op("gnn_moe::keep_mask", mutates_args=())
def keep_mask(seed: Tensor, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
    """A CPU tensor of 1 (kept) and 0 (dropped), each dropped with probability `rate`, rounded to the type's bits.

    Args:
        seed: () int64; the same seed gives the same mask.
        shape: of the mask.
        rate: in [0, 1).
        dtype: bfloat16, float16, float32 or float64.
    """
    integer, lane, one = _LANES[dtype]
    bits = torch.iinfo(integer).bits
    count = math.prod(shape)
    words = np.random.SFC64(int(seed)).random_raw(-(-count * bits // 64))
    lanes = torch.from_numpy(words.view(lane)[:count])
    # A lane is uniform over [-2^(bits-1), 2^(bits-1)): below the threshold with probability 1 - rate.
    threshold = min(round((1 - rate) * 2**bits) - 2 ** (bits - 1), 2 ** (bits - 1) - 1)
    return lanes.lt_(threshold).mul_(one).view(dtype).view(list(shape))


@keep_mask.register_fake
def _(seed: Tensor, shape: Sequence[int], rate: float, dtype: torch.dtype) -> Tensor:
    return torch.empty(list(shape), dtype=dtype)


def mask_in_place(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """x on the CPU with the mask of a seed multiplied in; not yet divided by 1 - rate."""
    return x.mul_(keep_mask(seed, x.shape, rate, x.dtype)) if rate else x


def dropout(x: Tensor, rate: float, *, training: bool) -> Tensor:
    """Zeroes each number with probability `rate` and divides the rest by 1 - rate; x itself outside training."""
    if not training or rate == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, rate)
    mask: Tensor = keep_mask(draw_seed(), x.shape, rate, x.dtype)
    return x * mask * (1 / (1 - rate))
