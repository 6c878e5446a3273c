"""The command line: `python -m benchmarks SUBCOMMAND FLAGS`.

Flags are made by tyro from the dataclasses of `benchmarks.arguments`. No torch is imported at the top: every child
reads this file before its environment is set.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks.arguments import (
    OWN,
    Batch,
    CaseArguments,
    Common,
    CouplerArguments,
    LoaderArguments,
    LossArguments,
    PlanArguments,
    ProfileArguments,
    ScalingArguments,
    StepArguments,
    refuse_unread,
)
from benchmarks.cases import CASES, GPU_CASES, LISTS, Case, ContestantName, compiled, on_device
from gnn_moe.config import COUPLED, ModelConfig, OutputConfig, RunConfig, TrainingConfig
from gnn_moe.errors import BadInput, GnnMoeError, unknown_name

GPU = "gpu"
Entries = Iterator[tuple[str, Any]]
"""A case's name and its result, as they come."""


def _training(batch: Batch, device: str) -> TrainingConfig:
    return TrainingConfig(device=device, **dataclasses.asdict(batch))


def _sized(model: ModelConfig, vocab_size: int) -> ModelConfig:
    if model.architecture != COUPLED:
        raise BadInput(f"--architecture {model.architecture} has no textbook version and no limit here: leave it out")
    return dataclasses.replace(model, vocab_size=vocab_size)


def _step(arguments: StepArguments) -> Entries:
    from benchmarks.step import run_case

    for case in _cases(arguments):
        _say(f"step {case.name}")
        common = arguments.common
        result = run_case(
            on_device(case, common.device), rounds=common.rounds, warmup=common.warmup, parts=arguments.parts
        )
        yield case.name, result


def _cases(arguments: CaseArguments) -> list[Case]:
    if arguments.case == OWN:
        return [_own_case(arguments)]
    groups = {"all": CASES, GPU: GPU_CASES}
    named = {**CASES, **GPU_CASES}
    if arguments.case not in (*groups, *named):
        raise unknown_name("--case", arguments.case, [*groups, OWN, *named])
    cases = list(groups[arguments.case].values()) if arguments.case in groups else [named[arguments.case]]
    if arguments.common.device == "auto" and cases[0].name in GPU_CASES:
        _want_gpu(arguments.case)
    return [compiled(case) for case in cases] if arguments.batch.compile else cases


def _want_gpu(case: str) -> None:
    from gnn_moe.training.device import resolve_device

    if resolve_device("auto").type == "cpu":
        raise BadInput(
            f"--case {case} has a GPU's sizes and targets and there is none: --device cpu takes it all the same"
        )


def _own_case(arguments: CaseArguments) -> Case:
    if arguments.name in {**CASES, **GPU_CASES}:
        raise BadInput(f"--name {arguments.name} is a case of the target table: give another name")
    if (opponent := arguments.rival) in LISTS and not arguments.model.coupler.uses_hypergraph:
        raise BadInput(
            f"--opponent {opponent} builds hypergraphs and --coupler_type {arguments.model.coupler_type} has "
            "none: use --coupler_type HGNN or --opponent textbook"
        )
    model, training = _sized(arguments.model, arguments.vocab_size), _training(arguments.batch, "auto")
    return Case(name=arguments.name, model=model, training=training, opponent=opponent)


def _profile(arguments: ProfileArguments) -> Entries:
    from benchmarks.profiling import profile_case

    for case in _cases(arguments):
        _say(f"profile {case.name}")
        common = arguments.common
        yield case.name, profile_case(on_device(case, common.device), rounds=common.rounds, warmup=common.warmup)


def _coupler(arguments: CouplerArguments) -> Entries:
    from benchmarks.coupling import SIZES, coupling_alone, sizes_of
    from benchmarks.hyperedges import many_hyperedges

    common, device = arguments.common, arguments.common.device
    turns = {"rounds": common.rounds, "warmup": common.warmup}
    own = (_sized(arguments.model, arguments.vocab_size), _training(arguments.batch, device))
    sizes = {name: sizes_of(name) for name in SIZES} | {OWN: own}
    wanted = list(SIZES) if arguments.case == "all" else [arguments.case]
    for name in wanted:
        if name in sizes:
            _say(f"coupling of {name}")
            model, training = sizes[name]
            training = dataclasses.replace(training, device=device)
            yield name, coupling_alone(name, model, training, **turns)
    for name, model, training in _many(arguments):
        _say(name)
        yield name, many_hyperedges(name, model, training, processes=arguments.processes, **turns)


def _many(arguments: CouplerArguments) -> list[tuple[str, ModelConfig, TrainingConfig]]:
    device = arguments.common.device
    if arguments.case == OWN:
        model = dataclasses.replace(_sized(arguments.model, arguments.vocab_size), coupler_type="HGNN")
        return [(f"{OWN} {model.static_hyperedge_strategy}", model, _training(arguments.batch, device))]
    if arguments.case not in ("all", "hyperedges"):
        return []
    training = TrainingConfig(batch_size=arguments.hyperedges_batch_size, device=device)
    return [
        (
            f"{experts} experts {strategy}",
            ModelConfig(
                coupler_type="HGNN",
                static_hyperedge_strategy=strategy,
                num_experts=experts,
                vocab_size=arguments.vocab_size,
                embed_dim=arguments.hyperedges_width,
                num_layers=arguments.hyperedges_layers,
            ),
            training,
        )
        for experts, strategy in ((64, "all_pairs"), (32, "all_triplets"))
    ]


def _scaling(arguments: ScalingArguments) -> Entries:
    from benchmarks.scaling import AXES, scale

    if arguments.axis != "all" and arguments.axis not in AXES:
        raise unknown_name("--axis", arguments.axis, ["all", *AXES])
    common = arguments.common
    kinds: list[ContestantName] = ["ours", "textbook"] if arguments.textbook else ["ours"]
    axes = list(AXES.values()) if arguments.axis == "all" else [AXES[arguments.axis]]
    least = min(min(axis.values) for axis in axes)
    if arguments.largest is not None and arguments.largest < least:
        raise BadInput(f"--largest {arguments.largest} leaves nothing of --axis {arguments.axis}: use at least {least}")
    for axis in axes:
        if arguments.largest is not None and arguments.largest < min(axis.values):
            _say(f"nothing of {axis.label} is as small as --largest {arguments.largest}")
            continue
        _say(f"scaling with {axis.label}")
        result = scale(
            axis,
            _sized(arguments.model, arguments.vocab_size),
            _training(arguments.batch, common.device),
            kinds=kinds,
            rounds=common.rounds,
            warmup=common.warmup,
            largest=arguments.largest,
        )
        yield axis.name, result


def _loss(arguments: LossArguments) -> Entries:
    from benchmarks.loss import LossSizes, compare_losses

    common = arguments.common
    sizes = LossSizes(
        tokens=arguments.tokens, width=arguments.embed_dim, vocabulary=arguments.vocab_size, device=common.device
    )
    _say("head and loss")
    name = f"N{sizes.tokens}-D{sizes.width}-V{sizes.vocabulary}"
    yield name, compare_losses(sizes, rounds=common.rounds, warmup=common.warmup)


def _loader(arguments: LoaderArguments) -> Entries:
    from benchmarks.loader import measure_loader

    config = RunConfig(
        model=arguments.model,
        data=arguments.data,
        training=_training(arguments.batch, arguments.common.device),
        output=OutputConfig(),
    )
    _say(f"loading {config.data.dataset_name}")
    name = Path(config.data.dataset_name).name or config.data.dataset_name
    yield f"{name} {config.data.data_format}", measure_loader(config)


def _plan(arguments: PlanArguments) -> Entries:
    from benchmarks.plan import PLANS, hold_to_plan

    if arguments.case not in ("all", *PLANS):
        raise unknown_name("--case", arguments.case, ["all", *PLANS])
    for name in PLANS if arguments.case == "all" else [arguments.case]:
        _say(f"plan of {name}")
        yield name, hold_to_plan(PLANS[name], device=arguments.common.device)


@dataclass(frozen=True)
class _Subcommand:
    arguments: type[Any]
    run: Callable[[Any], Entries]


SUBCOMMANDS: Mapping[str, _Subcommand] = {
    "step": _Subcommand(StepArguments, _step),
    "profile": _Subcommand(ProfileArguments, _profile),
    "coupler": _Subcommand(CouplerArguments, _coupler),
    "scaling": _Subcommand(ScalingArguments, _scaling),
    "loss": _Subcommand(LossArguments, _loss),
    "loader": _Subcommand(LoaderArguments, _loader),
    "plan": _Subcommand(PlanArguments, _plan),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand: 0 measured (targets met or not), 1 failed, 2 bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    try:
        if words[0] not in SUBCOMMANDS:
            raise unknown_name("subcommand", words[0], SUBCOMMANDS)
        _measure(words)
    except GnnMoeError as error:
        print(f"python -m benchmarks {words[0]}: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def _measure(words: Sequence[str]) -> None:
    name = words[0]
    subcommand = SUBCOMMANDS[name]
    parsed = tyro.cli(
        subcommand.arguments,
        prog=f"python -m benchmarks {name}",
        args=list(words[1:]),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        use_underscores=True,
    )
    refuse_unread(words[1:], *parsed.unread())
    from benchmarks import checkout, report

    common: Common = parsed.common
    values = report.circumstances(words, common.device)
    path = Path(common.output) if common.output else checkout.RESULTS / f"{report.device_slug(values)}.json"
    if not common.allow_dirty:
        checkout.refuse_uncommitted(path, values["uncommitted_changes"])
    entries: dict[str, dict[str, Any]] = {}
    report.read(path)  # a damaged record is refused before hours are spent
    load = report.load_average()
    for case, result in subcommand.run(parsed):
        # After each case: a long run that is stopped keeps what it has measured.
        seen = {**values, "load_average": load}
        entries[case] = {**report.plain(result), "circumstances": seen}
        report.update(path, name, {case: entries[case]}, seen)
        load = report.load_average()
    if common.json:
        print(json.dumps({name: entries}, indent=1))
        return
    _show(name, entries)
    _say(f"written: {path} and {path.with_suffix('.md')}")


def _show(section: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console

    from benchmarks.sections import SECTIONS
    from benchmarks.tables import to_rich

    console = Console()
    for values in SECTIONS[section].tables(entries):
        console.print(to_rich(values))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _usage() -> str:
    lines = "\n".join(
        f"  {name:<10} {str(subcommand.arguments.__doc__).splitlines()[0]}" for name, subcommand in SUBCOMMANDS.items()
    )
    return (
        "usage: python -m benchmarks SUBCOMMAND [FLAGS]\n\n"
        "Measure ours against a textbook version and against the hardware's limit.\n\n"
        f"{lines}\n\npython -m benchmarks SUBCOMMAND --help lists its flags. The results go to benchmarks/results/."
    )
