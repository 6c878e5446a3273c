"""What a comparison is: arms that differ only in what is named, perhaps at several values of one more field.

`--arm hgnn:"--coupler_type HGNN"` is a name and flags of `gnn-moe train`, read against the common flags. The first arm
is what the others are held against. What decides which text is evaluated, and how long an arm runs, no arm may change:
losses of other texts do not compare, and the budget gives every arm as much as the first.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gnn_moe.config import DataConfig, ModelConfig, RunConfig, TrainingConfig, changed_fields
from gnn_moe.errors import BadInput
from gnn_moe.parsing import parse_flags
from gnn_moe.studies.arguments import Budget
from gnn_moe.studies.space import GROUPS, Value, Values, parse_variation

_TEXT = "is for all arms: losses of other texts do not compare"
_BUDGET = "is decided by --budget: give it for all arms"
OF_THE_TEXT = (
    "dataset_name",
    "dataset_config_name",
    "text_column",
    "data_format",
    "tokenizer",
    "num_eval_samples",
    "max_seq_length",
)
"""Fields that decide which text is evaluated, and in which tokens."""
_NOT_OF_AN_ARM: Mapping[str, str] = {
    **dict.fromkeys(OF_THE_TEXT, _TEXT),
    "epochs": _BUDGET,
    "max_batches_per_epoch": _BUDGET,
    "max_steps": _BUDGET,
    "seed": "is for all arms: give --seeds",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An arm at one value of the field that is gone across; the trials of a cell differ in their seeds."""

    arm: str
    value: Value
    """None where nothing is gone across."""
    label: str
    """Of its points."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What is compared."""

    arms: Mapping[str, Mapping[str, Value]]
    """What each changes of the baseline, in the order given; the first is what the others are held against."""
    across: Values | None = None
    """A field and its values, at each of which all arms run."""
    budget: Budget = "steps"
    """What every arm has as much of as the first, at the same value."""
    configurations_tried: int | None = None
    """In other studies too; None for those of this one."""

    @property
    def first(self) -> str:
        """The arm that the others are held against."""
        return next(iter(self.arms))

    def cells(self) -> Iterator[Cell]:
        """All arms at the first value, then at the next."""
        for value in self.across.values if self.across else (None,):
            for arm in self.arms:
                label = arm if self.across is None else f"{arm},{self.across.field}={value}"
                yield Cell(arm=arm, value=value, label=label)

    def changes(self) -> dict[str, dict[str, Value]]:
        """Label of each cell → what it changes of the baseline."""
        return {
            cell.label: {**self.arms[cell.arm], **({} if self.across is None else {self.across.field: cell.value})}
            for cell in self.cells()
        }

    def words(self) -> dict[str, str]:
        """Label of each cell → the same with what it changes: an arm of this name may once have had other flags."""
        return {label: f"{label} {json.dumps(changes, sort_keys=True)}" for label, changes in self.changes().items()}


@dataclass(frozen=True, kw_only=True)
class _ArmFlags:
    """The flags of an arm: those of train that make a model and its fit what they are."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


def parse_arms(
    texts: Iterable[str], baseline: RunConfig, given: Mapping[str, Mapping[str, Value]] | None = None
) -> dict[str, dict[str, Value]]:
    """What each `NAME:FLAGS` changes of the baseline, by name and in order, after the arms that a preset gives.

    Raises:
        BadInput: an arm has no name, one that stands twice, flags that do not go together, or flags that no arm may
            have.
        SystemExit: a flag does not parse; it is said on standard error.
    """
    arms = {name: dict(changes) for name, changes in (given or {}).items()}
    for text in texts:
        name, colon, flags = text.partition(":")
        if not colon or not name.isprintable() or not name.strip() or name.startswith("-"):
            raise BadInput(f'--arm {text!r} has no name: give NAME:"FLAGS", as in hgnn:"--coupler_type HGNN"')
        if given and name in given:
            raise BadInput(f"--arm {name}: the preset has an arm of this name; give this one another")
        if name in arms:
            raise BadInput(f"--arm {name} stands twice: give each arm a name of its own")
        arms[name] = _changes(name, flags, baseline)
    if len(arms) == 1:
        raise BadInput(f"--arm {next(iter(arms))} stands alone: name one more to compare it with")
    return arms


def _changes(name: str, flags: str, baseline: RunConfig) -> dict[str, Value]:
    common = _ArmFlags(model=baseline.model, data=baseline.data, training=baseline.training)
    try:
        words = shlex.split(flags)
        parsed = parse_flags(_ArmFlags, words, f"gnn-moe compare --arm {name}", default=common)
    except (BadInput, ValueError) as error:
        raise BadInput(f"--arm {name}: {error}") from None
    changes: dict[str, Any] = {
        name: after
        for group in GROUPS
        for name, _, after in changed_fields(getattr(common, group), getattr(parsed, group))
    }
    for refused, value in changes.items():
        if refused in _NOT_OF_AN_ARM:
            raise BadInput(f"--arm {name}: --{refused} {value} {_NOT_OF_AN_ARM[refused]}")
    return changes


def parse_across(
    text: str | None, arms: Mapping[str, Mapping[str, Value]], given: Values | None = None
) -> Values | None:
    """The field that is gone across: that of the text, else that of a preset, or None.

    Raises:
        BadInput: it is a range, or an arm changes it too.
    """
    across = given if text is None else parse_variation(text, "--across")
    if across is None:
        return None
    if not isinstance(across, Values):
        raise BadInput(f"--across {text}: list the values, as in {across.field}=2,4,8")
    for arm, changes in arms.items():
        if across.field in changes:
            raise BadInput(f"--across {across}: --arm {arm} has a --{across.field} of its own; drop one of them")
    return across


def with_steps(comparison: Comparison, steps: Mapping[str, int]) -> dict[str, dict[str, Value]]:
    """`changes`, with the steps of the cells whose budget asks for other ones than their settings: label → steps."""
    return {
        label: {**changes, **({"max_steps": steps[label]} if label in steps else {})}
        for label, changes in comparison.changes().items()
    }


def as_record(comparison: Comparison) -> dict[str, Any]:
    """For study.json."""
    across = comparison.across
    return {
        "first": comparison.first,
        "arms": {name: dict(changes) for name, changes in comparison.arms.items()},
        "across": None if across is None else dataclasses.asdict(across),
        "budget": comparison.budget,
    }
