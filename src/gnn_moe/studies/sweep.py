"""What a sweep is, resolved: its baseline, its points, and where its record goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnn_moe.config import OutputConfig, RunConfig, changed_fields, run_config_from_dict, to_dict
from gnn_moe.errors import BadInput
from gnn_moe.studies.comparison import Comparison
from gnn_moe.studies.design import (
    Design,
    Point,
    check_points,
    config_of,
    grid,
    named_points,
    one_at_a_time,
    starting_points,
)
from gnn_moe.studies.space import GROUPS, Value, Variation


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A study, as its command asks for it."""

    study: str
    """Its name."""
    baseline: RunConfig
    """What every point changes; of its output only the folders and `save_every` count."""
    design: Design = "one_at_a_time"
    variations: tuple[Variation, ...] = ()
    arms: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    """Named points instead of variations: what each changes."""
    seeds: tuple[int, ...]
    objectives: tuple[str, ...] = ("loss",)
    """Of a search."""
    trials: int = 20
    """Of a search."""
    preset: str | None = None
    scale: float | None = None
    """By which the preset's epochs, samples and widths were multiplied."""
    comparison: Comparison | None = None
    """Whose cells are the arms."""
    minutes_a_step: Mapping[str, float] = field(default_factory=dict)
    """Of the cells of a comparison with a budget of minutes, by `Comparison.words`, as calibrated when it was begun."""

    @property
    def folder(self) -> Path:
        """Of the study: its record, and the run folders of its trials."""
        return Path(self.baseline.output.output_dir) / self.study

    @property
    def is_search(self) -> bool:
        return self.design == "search"

    def points(self) -> list[Point]:
        """What is known to run; a search adds its own.

        Raises:
            BadInput: the design cannot run the variations, or no point is valid.
        """
        if self.arms:
            points = named_points(self.baseline, self.arms, self.seeds)
        elif self.design == "search":
            points = starting_points(self.baseline, self.variations, self.seeds[0])
        else:
            make = grid if self.design == "grid" else one_at_a_time
            points = make(self.baseline, self.variations, self.seeds)
        check_points(self.baseline, points)
        return points

    def facts(self) -> dict[str, Any]:
        """What may not change while a study goes on."""
        facts: dict[str, Any] = {"baseline": settings_of(self.baseline), "design": self.design}
        if self.is_search:
            facts |= {"objectives": list(self.objectives), "vary": [str(each) for each in self.variations]}
        if self.comparison is not None:
            facts |= {"budget": self.comparison.budget}
        return facts

    def check_unchanged(self, facts: Mapping[str, Any]) -> None:
        """Checks that the study was begun with the same baseline and design.

        Args:
            facts: as `facts` gave them then; empty for a new study, and some where its worker was killed just then.

        Raises:
            BadInput: lists what differs.
        """
        if not facts:
            return
        changes = list(self._changes(facts))
        if changes:
            raise BadInput(
                f"--study {self.study}: {', '.join(changes)}; leave it as it was, or give the changed sweep another "
                "--study"
            )

    def _changes(self, facts: Mapping[str, Any]) -> Iterator[str]:
        stored = run_config_from_dict(facts["baseline"])
        for group in GROUPS:
            for name, before, after in changed_fields(getattr(stored, group), getattr(self.baseline, group)):
                # The seeds are the sweep's, and the vocabulary follows from the tokenizer.
                if name not in ("seed", "vocab_size") or (name == "seed" and self.is_search):
                    yield f"--{name} was {before} and is {after}"
        for name, after in self.facts().items():
            if name != "baseline" and name in facts and facts[name] != after:
                yield f"--{name} was {facts[name]} and is {after}"

    def run_config(self, point: Point, micro_batch_size: int | None = None) -> RunConfig:
        """The config of a point's run, with its place in the study's folder.

        Args:
            point: the point.
            micro_batch_size: instead of the baseline's; such a run has a folder of its own.

        Raises:
            BadInput: the point's values do not go together.
        """
        config = config_of(self.baseline, point)
        if micro_batch_size is not None:
            training = dataclasses.replace(config.training, micro_batch_size=micro_batch_size)
            config = dataclasses.replace(config, training=training)
        output = OutputConfig(
            run_name=self.run_folder(point, micro_batch_size).name,
            output_dir=str(self.folder),
            resume=True,
            save_every=self.baseline.output.save_every,
            cache_dir=self.baseline.output.cache_dir,
        )
        return dataclasses.replace(config, output=output)

    def run_folder(self, point: Point, micro_batch_size: int | None = None) -> Path:
        """Where the record of a point's run is."""
        smaller = "" if micro_batch_size is None else f",micro_batch_size={micro_batch_size}"
        return self.folder / f"{point.name}{smaller}"

    def local_folder(self, trial: Mapping[str, Any]) -> Path:
        """Where the record of a trial's row is here, whatever another machine calls the study's folder."""
        return self.folder / Path(str(trial["run_dir"])).name


def settings_of(config: RunConfig) -> dict[str, Any]:
    """The parts of a config that make a run what it is, as plain values."""
    return {group: to_dict(getattr(config, group)) for group in GROUPS}
