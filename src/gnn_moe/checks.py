"""What the fields of a config may hold; every check raises `BadInput`, which names flag, value and way out."""

from __future__ import annotations

import math
import typing
from typing import Any

from gnn_moe.errors import BadInput, unknown_name

ALL = -1
"""The value of a count that stands for "all there are"."""


def check_words(config: Any) -> None:
    """Every field that holds a text, a truth value or one of a few words; numbers have checks of their own."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if typing.get_origin(hint) is typing.Literal:
            if value not in typing.get_args(hint):
                raise unknown_name(f"--{name}", str(value), typing.get_args(hint))
        elif hint is bool and not isinstance(value, bool):
            raise BadInput(f"--{name} {value!r} must be true or false")
        elif hint in (str, str | None) and not isinstance(value, str) and not (value is None and hint is not str):
            raise BadInput(f"--{name} {value!r} must be a text")


def check_size(config: Any, name: str) -> None:
    """A field that holds a positive whole number."""
    value = getattr(config, name)
    if type(value) is not int or value <= 0:
        raise BadInput(f"--{name} {value!r} must be a positive whole number")


def check_count(config: Any, name: str) -> None:
    """A field that holds a positive whole number, or -1."""
    value = getattr(config, name)
    if type(value) is not int or (value != ALL and value <= 0):
        raise BadInput(f"--{name} {value!r} must be a positive whole number, or -1 for all")


def check_seed(seed: int, name: str = "seed") -> None:
    """A seed: a whole number from 0 that fits 63 bits."""
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise BadInput(f"--{name} {seed!r} must be a whole number from 0 to 2^63 - 1")


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_rate(config: Any, name: str, *, zero: bool = False) -> None:
    """A field that holds a positive finite number, or 0 where `zero` allows it."""
    value = getattr(config, name)
    if not is_number(value) or value < 0 or (value == 0 and not zero):
        raise BadInput(f"--{name} {value!r} must be {'0 or ' if zero else ''}a positive number")
