"""`gnn-moe compare`: arms trained seed by seed, then weighed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gnn_moe.errors import BadInput
from gnn_moe.studies.ablations import ablate_runs
from gnn_moe.studies.arguments import CompareArguments
from gnn_moe.studies.budgets import common_micro_batch, configs_of, plans_of, steps_within, time_steps
from gnn_moe.studies.command import MINUTES_A_STEP, run_study
from gnn_moe.studies.comparison import Comparison, parse_across, parse_arms, with_steps
from gnn_moe.studies.evidence import reason_left_out
from gnn_moe.studies.presets import scaled
from gnn_moe.studies.questions import Question, find_question
from gnn_moe.studies.record import comparison_record
from gnn_moe.studies.resolve import baseline_of, check_numbers, check_scale, checked_name, seeds_of
from gnn_moe.studies.results import StudyResults, load, write_study
from gnn_moe.studies.sweep import Sweep

_WIDTH_OF_A_FILE = 120


def with_question(arguments: CompareArguments) -> CompareArguments:
    """The flags' defaults that `--preset` and `--scale` ask for.

    Raises:
        BadInput: there is no such preset, or the scale cannot be had.
    """
    check_scale(arguments)
    question = _question(arguments)
    if question is None:
        return CompareArguments()
    baseline = question.preset.baseline
    return CompareArguments(
        study=arguments.preset,
        seeds=question.seeds,
        budget=question.budget,
        ablate=question.ablate,
        model=baseline.model,
        data=baseline.data,
        training=baseline.training,
    )


def run_comparison(arguments: CompareArguments, command: Sequence[str], say: Callable[[str], None]) -> None:
    """Runs a comparison until every point has an outcome, and says what it found.

    Args:
        arguments: the flags, with a preset's values where the command gave none.
        command: its words, for the record and to go on.
        say: prints a line.

    Raises:
        BadInput: the comparison cannot be run; nothing was begun.
        Interrupted: a signal asked for it; the same command goes on.
    """
    sweep = run_study(arguments, resolve_comparison(arguments), command, say, settle=settled)
    if arguments.dry_run:
        return
    if arguments.ablate:
        _ablate(arguments, sweep, say)
    show_evidence(load(sweep.folder), say)


def resolve_comparison(arguments: CompareArguments) -> Sweep:
    """The study that the flags ask for.

    Raises:
        BadInput: a flag is missing, unknown, or does not go with another.
    """
    check_numbers(arguments)
    tried = arguments.configurations_tried
    if tried is not None and tried <= 0:
        raise BadInput(f"--configurations_tried {tried} must be a positive whole number")
    study = checked_name(arguments.study)
    baseline = baseline_of(arguments)
    question = _question(arguments)
    given = question.preset.arms if question else {}
    arms = parse_arms(arguments.arm, baseline, given)
    if not arms:
        raise BadInput('--arm is missing: name two or more, as in --arm gnn:"--coupler_type GNN"')
    across = parse_across(arguments.across, arms, question.across if question else None)
    comparison = Comparison(
        arms=arms,
        across=across,
        budget=arguments.budget or "steps",
        configurations_tried=arguments.configurations_tried,
    )
    return Sweep(
        study=study,
        baseline=baseline,
        design="comparison",
        arms=comparison.changes(),
        seeds=seeds_of(arguments),
        preset=arguments.preset,
        scale=arguments.scale,
        comparison=comparison,
    )


def settled(sweep: Sweep, known: Mapping[str, Any], workers: int) -> Sweep:
    """The study with the one micro-batch and the steps that its arms are to have.

    Args:
        sweep: as the flags ask for it.
        known: what it was begun with; {} for a new one. What was decided then stays.
        workers: trials at once.
    """
    assert sweep.comparison is not None
    comparison = sweep.comparison
    plans = plans_of(configs_of(sweep.baseline, comparison))
    baseline = sweep.baseline
    if baseline.training.micro_batch_size == "auto" and plans:
        stored = known.get("baseline", {}).get("training", {}).get("micro_batch_size")
        size = stored or common_micro_batch({label: plan.config for label, plan in plans.items()}, at_once=workers)
        baseline = dataclasses.replace(baseline, training=dataclasses.replace(baseline.training, micro_batch_size=size))
        plans = plans_of(configs_of(baseline, comparison))
    words = comparison.words()
    minutes = dict(known.get(MINUTES_A_STEP, {}))
    if comparison.budget == "minutes":
        untimed = {label: plan.config for label, plan in plans.items() if words[label] not in minutes}
        minutes |= {words[label]: found for label, found in time_steps(untimed).items()}
    steps = steps_within(
        comparison, plans, minutes_a_step={label: minutes[word] for label, word in words.items() if word in minutes}
    )
    return dataclasses.replace(sweep, baseline=baseline, arms=with_steps(comparison, steps), minutes_a_step=minutes)


def _ablate(arguments: CompareArguments, sweep: Sweep, say: Callable[[str], None]) -> None:
    """Asks the trained models that count, and writes the evidence with what they answered."""
    study = load(sweep.folder)
    good = [study.run_folder(trial) for trial in study.trials if reason_left_out(trial) is None]
    say(f"asking {len(good)} trained models again: {', '.join(arguments.ablate)}")
    ablate_runs(good, arguments.ablate, cache_dir=arguments.cache_dir, on_notice=say)

    def record() -> dict[str, Any]:
        now = load(sweep.folder)  # with what other workers wrote meanwhile
        weighed = now.values["comparison"]["weighed"]
        return {**now.values, "comparison": comparison_record(sweep, now.trials, weighed)}

    write_study(sweep.folder, record)


def show_evidence(study: StudyResults, say: Callable[[str], None]) -> None:
    """Prints what study.json says of the comparison."""
    found = study.values["comparison"]["evidence"]
    if found is None:
        return
    table = Table(title="losses are means over seeds, with 95 % t intervals, in nats a token", title_justify="left")
    for name in ("arm", "seeds", "loss", "interval", "parameters", "steps", "training FLOPs", "minutes"):
        is_arm = name == "arm"
        table.add_column(name, justify="left" if is_arm else "right", overflow="fold", no_wrap=not is_arm)
    for cell in found["cells"]:
        table.add_row(*map(escape, _cells(cell)))
    console = Console()
    # A pipe has no width of its own; numbers that are cut say less than lines that are long.
    console = console if console.is_terminal else Console(width=max(console.width, _WIDTH_OF_A_FILE))
    console.print(table)
    for question in found["questions"]:
        say(f"{question['asks']} ({question['unit']})")
        for sentence in question["sentences"]:
            say(f"  {sentence}")
    for note in found["notes"]:
        say(f"note: {note}")


def _cells(cell: Mapping[str, Any]) -> list[str]:
    estimate = cell["estimate"]
    interval = estimate and estimate["interval"]
    return [
        cell["label"],
        f"{len(cell['seeds'])}" + (f" of {len(cell['seeds']) + len(cell['left_out'])}" if cell["left_out"] else ""),
        f"{estimate['mean']:.4f}" if estimate else "",
        f"{interval['low']:.4f} to {interval['high']:.4f}" if interval else "",
        f"{cell['parameters']:,}" if cell["parameters"] else "",
        f"{cell['steps']:.0f}" if cell["steps"] else "",
        f"{cell['training_flops']:.3g}" if cell["training_flops"] else "",
        f"{cell['minutes']:.1f}" if cell["minutes"] is not None else "",
    ]


def _question(arguments: CompareArguments) -> Question | None:
    if arguments.preset is None:
        return None
    question = find_question(arguments.preset)
    if arguments.scale is None:
        return question
    return dataclasses.replace(question, preset=scaled(question.preset, arguments.scale))
