"""Targets, measured: met, not met, or cannot be told.

A target is met where the whole interval of what was measured lies on its good side, not met where it lies on the other,
and cannot be told in between, or where there is no interval or one without width: of seeds that do not differ. The
seed's targets are in seed_targets.toml; `--targets` takes a file of the same form.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from gnn_moe.checks import is_number
from gnn_moe.config import RunConfig
from gnn_moe.errors import BadInput, unknown_name
from gnn_moe.reports import numbers
from gnn_moe.reports.comparable import Protocol
from gnn_moe.reports.document import Block, Bullets, Cell, Column, Paragraph, Section, Span, Table, Text
from gnn_moe.reports.marks import seed_links
from gnn_moe.reports.measures import MEASURES, Measured, candidates, measure_number
from gnn_moe.reports.points import Group
from gnn_moe.studies.space import Value, values_of

Side = Literal["at_most", "at_least", "below", "above"]
_SIGNS: Mapping[Side, str] = {"at_most": "≤", "at_least": "≥", "below": "<", "above": ">"}
_FILE = "seed_targets.toml"
Outcome = Literal["met", "not met", "cannot be told"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is wanted of a number."""

    name: str
    measure: str
    side: Side
    value: float
    arm: str | None = None
    against: str | None = None
    tokenizer: str | None = None
    num_eval_samples: int | None = None
    """With `tokenizer`, of the text that it is a target for; None for any."""
    settings: Mapping[str, Value] = field(default_factory=dict)
    """What runs must have been run with."""

    def mismatch(self, protocol: Protocol) -> str | None:
        """What keeps losses of a protocol from telling, or None."""
        for name in ("tokenizer", "num_eval_samples"):
            wanted, found = getattr(self, name), getattr(protocol, name)
            if wanted is not None and wanted != found:
                return f"another protocol: {name} {found}, and the target is for {wanted}"
        return None

    def among(self, group: Group) -> Group:
        """A group with those of its points alone that have the target's settings."""
        points = tuple(
            point
            for point in group.points
            if all(point.runs[0].settings[name] == value for name, value in self.settings.items())
        )
        return dataclasses.replace(group, points=points)

    def in_words(self) -> str:
        return f"{_SIGNS[self.side]} {self.value:g}"

    def holds(self, measured: float) -> bool:
        return {
            "at_most": measured <= self.value,
            "at_least": measured >= self.value,
            "below": measured < self.value,
            "above": measured > self.value,
        }[self.side]


def seed_targets() -> tuple[Target, ...]:
    """The seed's own."""
    text = resources.files("gnn_moe.reports").joinpath(_FILE).read_text(encoding="utf-8")
    return parse_targets(text, _FILE)


def stable_loss_reduction() -> Target:
    """The seed's target of convergence: the one definition of a loss that falls steadily."""
    return next(target for target in seed_targets() if target.measure == "epochs_falling")


def read_targets(path: str | Path) -> tuple[Target, ...]:
    """Those of a file.

    Raises:
        BadInput: it cannot be read, is no TOML, or holds no targets of the form that seed_targets.toml has.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--targets {path}: cannot be read ({error})") from None
    return parse_targets(text, f"--targets {path}")


def parse_targets(text: str, source: str) -> tuple[Target, ...]:
    """The `[[target]]` tables of a TOML text; errors as `read_targets`, beginning with `source`."""
    try:
        tables = tomllib.loads(text).get("target")
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{source}: is no TOML ({error})") from None
    if not isinstance(tables, list) or not tables or not all(isinstance(each, dict) for each in tables):
        raise BadInput(f"{source}: has no targets; write each under [[target]] with name, measure and at_most")
    return tuple(_target(each, f"{source}, target {number}") for number, each in enumerate(tables, 1))


def _target(table: Mapping[str, Any], where: str) -> Target:
    sides = [side for side in _SIGNS if side in table]
    known = {"name", "measure", "arm", "against", "tokenizer", "num_eval_samples", "settings", *_SIGNS}
    if unknown := table.keys() - known:
        raise unknown_name(f"{where}:", min(unknown), sorted(known))
    if len(sides) != 1:
        raise BadInput(f"{where}: give one of {', '.join(_SIGNS)}, not {len(sides)}")
    texts = {name: table.get(name) for name in ("name", "measure", "arm", "against", "tokenizer")}
    for name, text in texts.items():
        if not isinstance(text, str) and (text is not None or name in ("name", "measure")):
            raise BadInput(f"{where}: {name} {text!r} must be a text")
    value = table[sides[0]]
    if not is_number(value):
        raise BadInput(f"{where}: {sides[0]} {value!r} must be a number")
    samples = table.get("num_eval_samples")
    if samples is not None and type(samples) is not int:
        raise BadInput(f"{where}: num_eval_samples {samples!r} must be a whole number, or -1 for all")
    settings = table.get("settings", {})
    if not isinstance(settings, dict):
        raise BadInput(f"{where}: settings {settings!r} must be a table, such as {{ num_experts = 2 }}")
    flags = values_of(RunConfig())
    for flag in settings.keys() - flags.keys():
        raise unknown_name(f"{where}: settings:", flag, sorted(flags))
    return Target(
        **texts,  # type: ignore[arg-type]
        num_eval_samples=samples,
        settings=settings,
        side=sides[0],
        value=float(value),
    )


def outcome_of(target: Target, found: Measured) -> Outcome:
    """Whether a target is met."""
    if found.interval is None or not (found.interval.has_width or found.is_bound):
        return "cannot be told"
    ends = [target.holds(end) for end in (found.interval.low, found.interval.high)]
    return "met" if all(ends) else "cannot be told" if any(ends) else "not met"


_COLUMNS = (
    Column(title="target", numeric=False),
    Column(title="outcome", numeric=False),
    Column(title="wanted"),
    Column(
        title="measured",
        explains="mean over seeds; of ratios of minutes the geometric mean; of movement over spread the two's ratio",
    ),
    Column(
        title="interval",
        explains="95 %, t over seeds, of a pick for all that it was picked among at once; of movement over spread by "
        "the noncentral t, which takes both for estimates, its upper end for all graphs at once; of patterns from those"
        " shown to repeat up to all, since what is not shown may be so; of epochs in which the loss fell the least and "
        "the greatest share of a seed, a fact of these runs",
    ),
    Column(title="seeds", explains="each a link to its run; of differences and ratios also those held against"),
    Column(title="of what", numeric=False),
)


_PICKED = (
    "the lowest of {tried} configurations, picked by the losses that it is judged by, which flatters its mean; "
    "an interval by t is for all of them at once"
)


def targets_section(group: Group, targets: tuple[Target, ...]) -> Section:
    """A row a target; those that ask for other runs than there are, together by what is missing.

    Raises:
        BadInput: a target is of something that no run has recorded.
    """
    rows, asked_of_others = [], dict[str, list[Target]]()
    recorded = sorted({name for run in group.runs for name in run.values if run.number(name) is not None})
    for target in targets:
        if target.measure not in (*MEASURES, *recorded):
            raise unknown_name(f"--targets: {target.name}: measure", target.measure, [*MEASURES, *recorded])
        measure: Callable[..., Measured] = MEASURES.get(target.measure, measure_number)
        mismatch = target.mismatch(group.protocol)
        among = target.among(group)
        if mismatch is None and target.settings and not among.points:
            mismatch = f"no run with {_in_words(target.settings)}"
        if mismatch is not None:
            asked_of_others.setdefault(mismatch, []).append(target)
            continue
        found = measure(among, target.measure, target.arm, target.against)
        tried = len(candidates(among, target.arm))
        if found.value is not None and tried > 1:
            found = dataclasses.replace(found, said=f"{found.said}; {_PICKED.format(tried=tried)}")
        rows.append(_row(target, found))
    rule = (
        "Met: the whole interval lies on the good side of the target; not met: it lies on the other side; cannot be "
        "told: it holds the target, or there is no interval, or the seeds do not differ, which gives it no width."
    )
    blocks: list[Block] = [Paragraph(rule)]
    if rows:
        blocks.append(Table(caption="Targets and success metrics", columns=_COLUMNS, rows=tuple(rows)))
    if asked_of_others:
        blocks += [
            Paragraph("Cannot be told, since they are asked of other runs than these:"),
            Bullets(tuple(_of_others(why, found) for why, found in asked_of_others.items())),
        ]
    return Section(title="Targets and success metrics", anchor="targets", blocks=tuple(blocks))


def _of_others(why: str, found: Sequence[Target]) -> str:
    """Targets that no run here can tell, with what is wanted, and why."""
    named = "; ".join(f"{target.name} ({target.in_words()})" for target in found)
    return f"{why[0].upper()}{why[1:]}: {named}."


def _in_words(settings: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} {numbers.setting(value)}" for name, value in settings.items())


def _seeds(found: Measured) -> Text:
    """Of each point, with links to the runs."""
    links = [seed_links(runs) for runs in found.runs]
    return [piece for one in links for piece in (" / ", *one)][1:] if links else str(found.seeds)


def _row(target: Target, found: Measured) -> tuple[Cell, ...]:
    outcome, interval = outcome_of(target, found), found.interval
    bounds = "" if interval is None else f"{numbers.short(interval.low)} to {numbers.short(interval.high)}"
    return (
        Cell(target.name, target.name),
        Cell(Span(outcome, strong=outcome != "cannot be told"), outcome),
        Cell(target.in_words(), target.value),
        Cell("" if found.value is None else numbers.short(found.value), found.value),
        Cell(bounds, None if interval is None else interval.low),
        Cell(_seeds(found), found.seeds),
        Cell(found.said, found.said),
    )
