"""The flags of `gnn-moe sweep`, `sweep status` and `compare`; nothing here loads more than the config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from gnn_moe.config import DataConfig, ModelConfig, TrainingConfig

Budget = Literal["steps", "tokens", "flops", "minutes"]
Ablation = Literal["coupler", "shuffle_graph", "uniform_weights"]


@dataclass(frozen=True, kw_only=True)
class StudyArguments:
    """What sweeps and comparisons have in common."""

    study: str | None = None
    """Name of the study and of its folder (default: the preset's name)."""
    preset: str | None = None
    """Flags under a name, such as seed-experts for a sweep or question-weights for a comparison; others override it."""
    scale: float | None = None
    """Multiplies a preset's epochs, samples and widths, for a smaller machine; above 0, at most 1."""
    seeds: str | None = None
    """Seeds that every point runs with, as in 1,2,3 (default: --seed)."""
    storage: str | None = None
    """Database URL, as postgresql+psycopg://USER@HOST/DATABASE for many machines (default: a file of the study)."""
    workers: int = 1
    """Trials at once on this machine."""
    timeout: float | None = None
    """Minutes that a trial may take; one that takes longer fails with class timeout."""
    retry: str | None = None
    """Run failed points again: failed, or a class; those of out_of_memory with half the micro-batch."""
    heartbeat: int = 15
    """Seconds between a worker's signs of life; one silent for four times as long is taken for dead."""
    dry_run: bool = False
    """Print the points with their predicted parameters, memory and minutes, and stop."""
    quiet: bool = False
    """Plain lines instead of a live table."""
    output_dir: str = "runs"
    """Folder that holds the study's folder."""
    save_every: int | None = None
    """Steps between checkpoints besides those at each evaluation (default: none)."""
    cache_dir: str | None = None
    """Folder for encoded data (default: gnn_moe in the user's cache folder)."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass(frozen=True, kw_only=True)
class SweepArguments(StudyArguments):
    """Train a model at many points around a baseline; the same command again goes on where it was stopped."""

    vary: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=VALUES")] = ()
    """A flag of train and its values, num_experts=2,4,8; in a search a range, learning_rate=1e-5..1e-2:log."""
    design: Literal["one_at_a_time", "grid", "search"] = "one_at_a_time"
    """Each flag by itself around the baseline, all combinations, or points drawn by TPE."""
    trials: int | None = None
    """Points of a search (default: 20)."""
    objectives: str = "loss"
    """What a search makes small: loss, minutes or loss,minutes; only with loss alone are trials pruned."""


@dataclass(frozen=True, kw_only=True)
class CompareArguments(StudyArguments):
    """Train arms that differ only in what is named, seed by seed, and say which is better, worse, or that nothing can
    be said; the same command again goes on where it was stopped.
    """

    arm: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar='NAME:"FLAGS"')] = ()
    """An arm and its flags of train, hgnn:"--coupler_type HGNN"; the first is what the others are held against. Beside
    --preset: one more than the preset's own."""
    across: Annotated[str | None, tyro.conf.arg(metavar="FIELD=VALUES")] = None
    """Compare the arms at each value of a flag, num_experts=2,4,8, and how their difference changes with it."""
    budget: Budget | None = None
    """What every arm has as much of as the first: steps (the default), tokens, flops of training, or minutes as a short
    calibration of each arm foretells them."""
    ablate: Annotated[tuple[Ablation, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="ABLATION")] = ()
    """Ask every trained model again without its coupler, with its graph shuffled, or with uniform weights."""
    configurations_tried: int | None = None
    """Settings that were tried on the way here, in other studies too (default: those of this study)."""


@dataclass(frozen=True, kw_only=True)
class StatusArguments:
    """How far a study is, from its folder; nothing is written."""

    study: str
    """Name of the study."""
    output_dir: str = "runs"
    """Folder that holds the study's folder."""
    json: bool = False
    """Print study.json with how far each running trial is."""
