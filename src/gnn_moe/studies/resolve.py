"""From the flags of `gnn-moe sweep` to a `Sweep`: presets, scale, design; what does not go together is refused."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext

from gnn_moe.config import LONGEST_RUN_NAME, OutputConfig, RunConfig
from gnn_moe.data.corpus import load_corpus
from gnn_moe.errors import BadInput, unknown_name
from gnn_moe.studies.arguments import StudyArguments, SweepArguments
from gnn_moe.studies.design import parse_seeds
from gnn_moe.studies.failures import ERROR_CLASSES
from gnn_moe.studies.presets import find_preset, scaled, with_scaled_samples
from gnn_moe.studies.search import parse_objectives
from gnn_moe.studies.space import Variation, parse_variations
from gnn_moe.studies.sweep import Sweep

_TRIALS = 20
_FAILED = "failed"


def with_preset(arguments: SweepArguments) -> SweepArguments:
    """The flags' defaults that `--preset` and `--scale` ask for.

    Raises:
        BadInput: there is no such preset, or the scale cannot be had.
    """
    check_scale(arguments)
    if arguments.preset is None:
        return SweepArguments()
    preset = find_preset(arguments.preset)
    if arguments.scale is not None:
        preset = scaled(preset, arguments.scale)
    baseline = preset.baseline
    return SweepArguments(study=arguments.preset, model=baseline.model, data=baseline.data, training=baseline.training)


def resolve(arguments: SweepArguments) -> Sweep:
    """The sweep that the flags ask for.

    Raises:
        BadInput: a flag is missing, unknown, or does not go with another.
    """
    check_numbers(arguments)
    if arguments.trials is not None and arguments.trials <= 0:
        raise BadInput(f"--trials {arguments.trials} must be a positive whole number")
    study = checked_name(arguments.study)
    preset = None if arguments.preset is None else find_preset(arguments.preset)
    variations: Sequence[Variation] = parse_variations(arguments.vary)
    if preset is not None and preset.arms and variations:
        raise BadInput(f"--vary: --preset {arguments.preset} has points of its own; give one of them")
    if preset is not None:
        of_preset = scaled(preset, arguments.scale).variations if arguments.scale else preset.variations
        given = {each.field for each in variations}
        variations = [*(each for each in of_preset if each.field not in given), *variations]
    _check_design(arguments, variations)
    baseline = baseline_of(arguments)
    return Sweep(
        study=study,
        baseline=baseline,
        design=arguments.design,
        variations=tuple(variations),
        arms={} if preset is None else preset.arms,
        seeds=seeds_of(arguments),
        objectives=parse_objectives(arguments.objectives),
        trials=arguments.trials or _TRIALS,
        preset=arguments.preset,
        scale=arguments.scale,
    )


def baseline_of(arguments: StudyArguments) -> RunConfig:
    """What every point of a study changes."""
    output = OutputConfig(
        output_dir=arguments.output_dir, save_every=arguments.save_every, cache_dir=arguments.cache_dir
    )
    baseline = RunConfig(model=arguments.model, data=arguments.data, training=arguments.training, output=output)
    if arguments.scale is None:
        return baseline
    # What only looks leaves nothing in the user's cache either.
    with tempfile.TemporaryDirectory() if arguments.dry_run else nullcontext(arguments.cache_dir) as cache:
        corpus = load_corpus(baseline.data, max_seq_length=baseline.model.max_seq_length, cache_dir=cache)
        train, valid = (corpus.split(name).available for name in ("train", "valid"))
    return with_scaled_samples(baseline, arguments.scale, train=train, valid=valid)


def _check_design(arguments: SweepArguments, variations: Sequence[Variation]) -> None:
    if arguments.design == "search":
        if not variations:
            raise BadInput("--design search has nothing to search: give --vary FIELD=LOW..HIGH")
        if arguments.seeds is not None and len(parse_seeds(arguments.seeds)) > 1:
            raise BadInput(
                f"--seeds {arguments.seeds}: a search runs with one seed; run its best points with more in a grid"
            )
    elif arguments.trials is not None:
        raise BadInput(f"--trials {arguments.trials} is for --design search; a {arguments.design} has its points")
    elif arguments.objectives != "loss":
        raise BadInput(f"--objectives {arguments.objectives} is for --design search; leave it out")


def check_scale(arguments: StudyArguments) -> None:
    """Checks that there is something to scale.

    Raises:
        BadInput: there is no preset.
    """
    if arguments.preset is None and arguments.scale is not None:
        raise BadInput(f"--scale {arguments.scale:g} is for a --preset: name one, or give smaller numbers")


def check_numbers(arguments: StudyArguments) -> None:
    """Checks the numbers that no config holds.

    Raises:
        BadInput: one is not positive.
    """
    for name in ("workers", "heartbeat"):
        value = getattr(arguments, name)
        if value <= 0:
            raise BadInput(f"--{name} {value} must be a positive whole number")
    if arguments.timeout is not None and not 0 < arguments.timeout < math.inf:
        raise BadInput(f"--timeout {arguments.timeout} must be a positive number of minutes")


def seeds_of(arguments: StudyArguments) -> tuple[int, ...]:
    """Those of `--seeds`, or the one of `--seed`."""
    return (arguments.training.seed,) if arguments.seeds is None else parse_seeds(arguments.seeds)


def checked_name(study: str | None) -> str:
    """The study's name.

    Raises:
        BadInput: there is none, or it is that of no folder of its own.
    """
    if study is None:
        raise BadInput("--study is missing: name the study, as in --study experts; --preset has names of its own")
    check_name(study)
    return study


def check_name(study: str) -> None:
    """Checks that a study's name is that of a folder of its own.

    Raises:
        BadInput: it is none, or too long for one.
    """
    if study in ("", ".", "..") or not study.isprintable() or {"/", "\\"} & set(study):
        raise BadInput(f"--study {study!r} leaves the output folder: use a plain name, without / or ..")
    if len(study.encode()) > LONGEST_RUN_NAME:
        raise BadInput(f"--study {study!r} is too long: use at most {LONGEST_RUN_NAME} bytes")


def parse_retry(text: str | None) -> tuple[str, ...]:
    """The classes of failure that are to run again.

    Raises:
        BadInput: one is unknown.
    """
    if text is None:
        return ()
    if text == _FAILED:
        return ERROR_CLASSES
    names = text.split(",")
    for name in names:
        if name not in ERROR_CLASSES:
            raise unknown_name("--retry", name, [_FAILED, *ERROR_CLASSES])
    return tuple(names)
