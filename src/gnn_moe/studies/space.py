"""What a sweep varies: `--vary FIELD=VALUES`, read against the fields of the config and their types.

    num_experts=2,4,8,16          values, of the field's own type
    learning_rate=1e-5..1e-2:log  a range, drawn from on a log scale; for --design search

A field is one of `ModelConfig`, `DataConfig` or `TrainingConfig`, which share no names. Whether a value may stand
beside the others is asked later, point by point: here only words that no config could hold are refused.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnn_moe.config import ARCHITECTURES, DataConfig, ModelConfig, RunConfig, TrainingConfig
from gnn_moe.coupler_types import coupler_type_names, hgnn_conv_type_names
from gnn_moe.errors import BadInput, unknown_name
from gnn_moe.hyperedges import STRATEGIES

Value = int | float | str | bool | None

GROUPS: Mapping[str, type[Any]] = {"model": ModelConfig, "data": DataConfig, "training": TrainingConfig}
"""The parts of a `RunConfig` that make it what it is; the fourth, `output`, changes no number."""

_NOT_VARIED = {
    "seed": "give --seeds 1,2,3, which runs every point with each",
    "vocab_size": "it follows from --tokenizer",
    "hyperedges": "give --hyperedges FILE for the whole sweep, or a sweep a file",
}
_LOG = ":log"


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of a field, in the order given."""

    field: str
    values: tuple[Value, ...]

    def __str__(self) -> str:
        return f"{self.field}={','.join(map(str, self.values))}"


@dataclass(frozen=True, kw_only=True)
class Range:
    """All numbers of a field between two, both included."""

    field: str
    low: float
    high: float
    log: bool
    whole: bool
    """Whether the field holds whole numbers."""

    def __str__(self) -> str:
        return f"{self.field}={self.low}..{self.high}{_LOG if self.log else ''}"

    def holds(self, value: Value) -> bool:
        """Whether a number is in the range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


Variation = Values | Range


def parse_variations(texts: Iterable[str]) -> tuple[Variation, ...]:
    """The variations of all `--vary` of a command, in order.

    Raises:
        BadInput: as `parse_variation`, or a field is named twice.
    """
    found: dict[str, Variation] = {}
    for text in texts:
        variation = parse_variation(text)
        if variation.field in found:
            raise BadInput(f"--vary {text}: {variation.field} is varied twice; give all its values in one --vary")
        found[variation.field] = variation
    return tuple(found.values())


def parse_variation(text: str, flag: str = "--vary") -> Variation:
    """One `FIELD=VALUES`; errors name the flag that it was given with.

    Raises:
        BadInput: the field or a value is unknown, a value stands twice, or the range is empty or reversed.
    """
    name, equals, rest = text.partition("=")
    if not equals or not rest:
        raise BadInput(f"{flag} {text!r} has no values: give FIELD=VALUE,VALUE or FIELD=LOW..HIGH")
    if name in _NOT_VARIED:
        raise BadInput(f"{flag} {name} cannot be varied: {_NOT_VARIED[name]}")
    if name not in fields():
        raise unknown_name(flag, name, [known for known in fields() if known not in _NOT_VARIED])
    if ".." in rest and (types_of(name) & {int, float}):
        return _range(flag, name, rest)
    values = tuple(_value(flag, name, word) for word in rest.split(","))
    for value in values:
        if values.count(value) > 1:
            raise BadInput(f"{flag} {text}: {value} stands twice; give each value once")
    return Values(field=name, values=values)


@functools.cache
def fields() -> Mapping[str, Any]:
    """Every field of the three groups, with its type."""
    hints: dict[str, Any] = {}
    for group in GROUPS.values():
        of_group = typing.get_type_hints(group)
        hints |= {field.name: of_group[field.name] for field in dataclasses.fields(group)}
    return hints


def types_of(field: str) -> set[Any]:
    """The classes that a field's type is made of; a Literal's words count as str."""
    hint = fields()[field]
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    return {str if typing.get_origin(part) is typing.Literal else part for part in parts}


def words_of(field: str) -> Sequence[str] | None:
    """The closed list of words that a field may hold, or None where its texts are free or it holds none."""
    named: dict[str, Sequence[str]] = {
        "architecture": ARCHITECTURES,
        "coupler_type": coupler_type_names(),
        "static_hyperedge_strategy": tuple(STRATEGIES),
        "hgnn_conv_type": hgnn_conv_type_names(),
    }
    if field in named:
        return named[field]
    hint = fields()[field]
    parts = typing.get_args(hint) if _is_union(hint) else (hint,)
    literals = [part for part in parts if typing.get_origin(part) is typing.Literal]
    return [word for part in literals for word in typing.get_args(part)] or None


def values_of(config: RunConfig) -> dict[str, Any]:
    """Every field of the three groups of a config with its value."""
    return {
        field.name: getattr(getattr(config, group), field.name)
        for group, group_class in GROUPS.items()
        for field in dataclasses.fields(group_class)
    }


def with_values(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The config with some of its fields replaced.

    Raises:
        BadInput: the fields do not go together.
    """
    groups = {}
    for group, group_class in GROUPS.items():
        names = {field.name for field in dataclasses.fields(group_class)} & set(values)
        groups[group] = dataclasses.replace(getattr(config, group), **{name: values[name] for name in names})
    return dataclasses.replace(config, **groups)


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


LARGEST: Mapping[type[int] | type[float], float] = {int: 2**53, float: 1e30}
"""Of a value, so that every storage and table can hold it."""


def _value(flag: str, field: str, word: str) -> Value:
    """The value that a word stands for: of the narrowest type of the field that takes it."""
    accepted = types_of(field)
    if not word:
        raise BadInput(f"{flag} {field} has an empty value: put one between every two commas")
    if types.NoneType in accepted and word == "None":
        return None
    if bool in accepted and word.lower() in ("true", "false"):
        return word.lower() == "true"
    for number in (int, float):
        if number in accepted and (found := _number(word, number)) is not None:
            if not abs(found) <= LARGEST[number]:  # nor if it is no number
                raise BadInput(f"{flag} {field}={word}: must be a finite number of at most {LARGEST[number]:g}")
            return found
    words = words_of(field)
    if str in accepted and (words is None or word in words):
        return word
    if words is not None and str in accepted:
        raise unknown_name(f"{flag} {field}", word, words)
    kinds = {int: "a whole number", float: "a number", bool: "true or false"}
    raise BadInput(f"{flag} {field}={word}: {word!r} is not {' or '.join(kinds[k] for k in kinds if k in accepted)}")


def _number(word: str, kind: type[int] | type[float]) -> int | float | None:
    try:
        return kind(word)
    except ValueError:
        return None


def _range(flag: str, field: str, text: str) -> Range:
    where, log = f"{flag} {field}={text}", text.endswith(_LOG)
    kind = float if float in types_of(field) else int
    ends = [_number(word, kind) for word in text.removesuffix(_LOG).split("..")]
    if len(ends) != 2 or any(end is None or not math.isfinite(end) for end in ends):
        example = "1e-5..1e-2:log" if kind is float else "2..16"
        raise BadInput(f"{where}: a range is LOW..HIGH, two {'' if kind is float else 'whole '}numbers: say {example}")
    low, high = typing.cast(tuple[float, float], tuple(ends))
    if low >= high:
        what = "is empty" if low == high else "is reversed"
        raise BadInput(f"{where}: the range {what}; give the lower end first, as in {high}..{low + (low == high)}")
    if log and low <= 0:
        raise BadInput(f"{where}: a log scale has no {low}; begin above 0 or leave out {_LOG}")
    return Range(field=field, low=low, high=high, log=log, whole=kind is int)
