"""Which points a sweep runs: each field by itself around the baseline, or all combinations.

A point is what it changes of the baseline, and a seed. Its key is a digest of the whole config that it asks for, so
the same point of a sweep begun again, or of a larger sweep around the same baseline, is known to be the same; its name
says what it changes, and is the name of its run folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gnn_moe.config import RunConfig
from gnn_moe.errors import BadInput
from gnn_moe.studies.space import Range, Value, Values, Variation, values_of, with_values

Design = Literal["one_at_a_time", "grid", "search", "comparison"]

BASELINE = "baseline"
_LONGEST_NAME = 120
"""Characters of a point's name before its digest."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one trial runs."""

    name: str
    """What it changes, readable and fit for a folder; the arm's name where it has one."""
    params: Mapping[str, Value]
    """The value of every field that the sweep varies."""
    seed: int
    key: str
    """Digest of the whole config that it asks for, valid or not, and of the arm."""
    arm: str | None = None
    """The name of the arm of a comparison, or of the configuration, that it belongs to."""


def make_point(baseline: RunConfig, params: Mapping[str, Value], seed: int, arm: str | None = None) -> Point:
    """The point that gives the baseline's fields these values; `arm` names it where the values are not its name."""
    before = values_of(baseline)
    changes = {name: value for name, value in params.items() if value != before[name]}
    wanted = {**before, **changes, "seed": seed}
    # Fields at their defaults are left out: a field that a later version adds does not make old points new ones.
    defaults = values_of(RunConfig())
    asked = {name: value for name, value in sorted(wanted.items()) if value != defaults[name]}
    key = hashlib.sha256(json.dumps([arm, asked, seed]).encode()).hexdigest()[:12]
    label = arm or ",".join(f"{name}={value}" for name, value in changes.items()) or BASELINE
    readable = re.sub(r"[^\w.,=+-]", "_", label)[:_LONGEST_NAME]
    return Point(name=f"{readable},seed={seed}-{key[:6]}", params=dict(params), seed=seed, key=key, arm=arm)


def config_of(baseline: RunConfig, point: Point) -> RunConfig:
    """The config of a point, without its place on disk.

    Raises:
        BadInput: its values do not go together.
    """
    return with_values(baseline, {**point.params, "seed": point.seed})


def one_at_a_time(baseline: RunConfig, variations: Sequence[Variation], seeds: Iterable[int]) -> list[Point]:
    """The baseline once, then each value of each field with all else as in the baseline."""
    at_rest = _at_rest(baseline, variations)
    changed = [{**at_rest, each.field: value} for each in _lists(variations) for value in each.values]
    return _points(baseline, [at_rest, *changed], seeds)


def grid(baseline: RunConfig, variations: Sequence[Variation], seeds: Iterable[int]) -> list[Point]:
    """Every combination of the values."""
    lists = _lists(variations)
    names = [each.field for each in lists]
    combined = itertools.product(*(each.values for each in lists))
    return _points(baseline, [dict(zip(names, values, strict=True)) for values in combined], seeds)


def named_points(baseline: RunConfig, arms: Mapping[str, Mapping[str, Value]], seeds: Iterable[int]) -> list[Point]:
    """A point an arm and seed: an arm is what it changes of the baseline, under its own name."""
    fields = {name for changes in arms.values() for name in changes}
    at_rest = {name: value for name, value in values_of(baseline).items() if name in fields}
    seeds = tuple(seeds)
    return [
        make_point(baseline, {**at_rest, **changes}, seed, arm=arm) for arm, changes in arms.items() for seed in seeds
    ]


def starting_points(baseline: RunConfig, variations: Sequence[Variation], seed: int) -> list[Point]:
    """What a search tries first: the baseline, where it is in the space that is searched."""
    at_rest = _at_rest(baseline, variations)
    inside = all(
        each.holds(at_rest[each.field]) if isinstance(each, Range) else at_rest[each.field] in each.values
        for each in variations
    )
    return _points(baseline, [at_rest] if inside else [], [seed])


def check_points(baseline: RunConfig, points: Sequence[Point]) -> None:
    """Checks that a sweep has something to run.

    Raises:
        BadInput: no point has values that go together; the message is the first one's.
    """
    reasons = [problem_of(baseline, point) for point in points]
    if points and None not in reasons:
        raise BadInput(f"every point is invalid; {points[0].name}: {reasons[0]}")


def problem_of(baseline: RunConfig, point: Point) -> str | None:
    """What is wrong with the config of a point, or None."""
    try:
        config_of(baseline, point)
    except BadInput as error:
        return str(error)
    return None


def _at_rest(baseline: RunConfig, variations: Sequence[Variation]) -> dict[str, Any]:
    values = values_of(baseline)
    return {each.field: values[each.field] for each in variations}


def _lists(variations: Sequence[Variation]) -> list[Values]:
    for each in variations:
        if isinstance(each, Range):
            raise BadInput(f"--vary {each}: a range is for --design search; list values here, as in {each.field}=...")
    return [each for each in variations if isinstance(each, Values)]


def _points(baseline: RunConfig, params: Sequence[Mapping[str, Value]], seeds: Iterable[int]) -> list[Point]:
    """The points in order, each once; all seeds of a point before the next."""
    seeds = tuple(seeds)
    made = (make_point(baseline, values, seed) for values in params for seed in seeds)
    return list({point.key: point for point in made}.values())


def parse_seeds(text: str) -> tuple[int, ...]:
    """`1,2,3` as numbers.

    Raises:
        BadInput: one is no seed or stands twice.
    """
    try:
        seeds = tuple(int(word) for word in text.split(","))
        for seed in seeds:
            dataclasses.replace(RunConfig().training, seed=seed)
    except (ValueError, BadInput):
        raise BadInput(f"--seeds {text!r} must be whole numbers from 0 on: say 1,2,3") from None
    if len(set(seeds)) < len(seeds):
        raise BadInput(f"--seeds {text}: a seed stands twice; give each once")
    return seeds
