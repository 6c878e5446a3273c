"""The command line: `gnn-moe VERB FLAGS`.

Flags are made by tyro from the frozen dataclasses that the program runs on. What a verb needs is imported when it
runs, so `--help` loads no torch.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from gnn_moe import __version__
from gnn_moe.config import (
    DataConfig,
    ModelConfig,
    OutputConfig,
    RunConfig,
    Sampling,
    TrainingConfig,
    to_dict,
)
from gnn_moe.errors import BadInput, GnnMoeError
from gnn_moe.parsing import parse_flags


@dataclass(frozen=True, kw_only=True)
class InspectArguments:
    """What a run will take, before it runs: parameters, FLOPs and memory from its settings alone."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    vocab_size: int | None = None
    """Tokens in the vocabulary (default: the tokenizer's)."""
    calibrate: bool = False
    """Run a dozen or more of its steps, and reckon from them the minutes of the whole run."""
    cache_dir: str | None = None
    """Folder for encoded data (default: gnn_moe in the user's cache folder)."""
    json: bool = False
    """Print one flat JSON object instead of a table."""


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """The loss of a trained model on a split of a dataset: by default, what its run calls best_eval_loss."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_CHECKPOINT")]
    """Folder of a run, a checkpoint or an imported model."""
    split: Literal["train", "valid", "test"] = "valid"
    """Which part of the data."""
    checkpoint: Literal["best", "selected", "last"] = "best"
    """Which checkpoint of a run."""
    ablate: Literal["coupler", "shuffle_graph", "uniform_weights"] | None = None
    """Also evaluate it without its coupler, with the strengths of its graph shuffled, or each at their mean."""
    ablate_seed: int = 0
    """Of the order of --ablate shuffle_graph."""
    coupling: bool = False
    """Measure the coupling instead: how alike the experts are, what the gates choose, how much is mixed."""
    json: bool = False
    """Print one JSON object instead of lines; flat, but for --coupling."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:1."""
    precision: Literal["run", "auto", "bf16", "fp32"] = "run"
    """run: what the model was trained in."""
    cache_dir: str | None = None
    """Folder for encoded data (default: gnn_moe in the user's cache folder)."""
    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True, kw_only=True)
class GenerateArguments:
    """Continue a prompt, printing as it goes."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_CHECKPOINT")]
    """Folder of a run, a checkpoint or an imported model."""
    prompt: str
    """The text to continue."""
    max_new_tokens: int = 100
    """Tokens to add."""
    checkpoint: Literal["best", "selected", "last"] = "best"
    """Which checkpoint of a run."""
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, kw_only=True)
class ImportArguments:
    """Turn a checkpoint of the original implementation into a folder that evaluate, generate and load_model read."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    """The file (.pth.tar)."""
    output: str
    """The folder to write; it must not exist."""


def _train(arguments: Sequence[str], program: str) -> int:
    config = parse_flags(RunConfig, arguments, program)
    if config.output.resume and config.output.run_name is not None:
        from pathlib import Path

        from gnn_moe.run_folder import RunFolder

        folder = RunFolder(Path(config.output.output_dir) / config.output.run_name)
        if folder.is_begun():
            # What the command does not say is as it was; what it says is compared later.
            stored = dataclasses.replace(folder.read_config(), output=OutputConfig())
            config = parse_flags(RunConfig, arguments, program, default=stored)
    if config.output.dry_run:
        _print_plan(config)
        return 0
    from gnn_moe.runs import run_training
    from gnn_moe.training.device import keep_freed_memory

    keep_freed_memory()
    run_training(config, [program, *arguments])
    return 0


def _print_plan(config: RunConfig) -> None:
    config = _with_vocabulary(config, None)
    model = dataclasses.replace(config.model, num_heads=config.model.heads)
    print(json.dumps(to_dict(dataclasses.replace(config, model=model)), indent=2))
    _print_table(config.model, _foresee(config, calibrated=False))


def _inspect(arguments: Sequence[str], program: str) -> int:
    parsed = parse_flags(InspectArguments, arguments, program)
    output = OutputConfig(cache_dir=parsed.cache_dir)
    config = RunConfig(model=parsed.model, training=parsed.training, data=parsed.data, output=output)
    config = _with_vocabulary(config, parsed.vocab_size)
    values = _foresee(config, calibrated=parsed.calibrate)
    if parsed.json:
        print(json.dumps(values, indent=2))
    else:
        _print_table(config.model, values)
    return 0


def _with_vocabulary(config: RunConfig, vocab_size: int | None) -> RunConfig:
    from gnn_moe.data.tokenization import nominal_vocab_size

    vocabulary = nominal_vocab_size(config.data.tokenizer) if vocab_size is None else vocab_size
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=vocabulary))


def _foresee(config: RunConfig, *, calibrated: bool) -> dict[str, Any]:
    """One flat object: the model's size, the peak of its training, and with a calibration its minutes."""
    from gnn_moe.model.size import model_size
    from gnn_moe.plans import calibrate, plan_memory

    found = calibrate(config) if calibrated else None
    plan = plan_memory(config, found)
    values = to_dict(model_size(config.model)) | {
        "device_type": plan.device_type,
        "precision": plan.precision,
        "threads": plan.threads,
        "micro_batch_size": plan.micro_batch_size,
        "peak_memory_bytes": plan.peak.total,
    }
    return values if found is None else values | to_dict(found)


def _print_table(model: ModelConfig, values: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from gnn_moe.model.size import describe_model

    table = Table(title=describe_model(model))
    table.add_column("what")
    table.add_column("number", justify="right")
    for name, value in values.items():
        shown = value if isinstance(value, str) else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
        table.add_row(name.replace("_", " "), shown)
    Console().print(table)


def _evaluate(arguments: Sequence[str], program: str) -> int:
    parsed = parse_flags(EvaluateArguments, arguments, program)
    if parsed.ablate is not None and parsed.coupling:
        raise BadInput(f"--ablate {parsed.ablate} and --coupling are two questions: ask one at a time")
    from gnn_moe.evaluations import evaluate_ablated, evaluate_model, measure_model, stored_config

    parsed = parse_flags(EvaluateArguments, arguments, program, default=_with_data(parsed, stored_config))
    asked: dict[str, Any] = {
        name: getattr(parsed, name) for name in ("data", "checkpoint", "split", "device", "precision", "cache_dir")
    }
    asked["on_notice"] = lambda text: print(text, file=sys.stderr)
    if parsed.coupling:
        values = to_dict(measure_model(parsed.path, **asked))
    elif parsed.ablate is not None:
        values = to_dict(evaluate_ablated(parsed.path, parsed.ablate, ablate_seed=parsed.ablate_seed, **asked))
    else:
        values = to_dict(evaluate_model(parsed.path, **asked))
    if parsed.json:
        print(json.dumps(values, indent=2))
    elif parsed.coupling:
        _print_coupling(values)
    else:
        width = max(16, *map(len, values))
        for name, value in values.items():
            print(f"{name:<{width}} {value}")
    return 0


def _print_coupling(values: Mapping[str, Any]) -> None:
    """One row a coupler layer; matrices are for --json."""
    from rich.console import Console
    from rich.table import Table

    title = f"{values['tokens']:,} tokens of {values['samples']:,} samples; CKA by chance {values['chance_cka']:.3f}"
    of_layer = {"expert_cka": "CKA experts", "added_cka": "CKA added", "coupled_cka": "CKA coupled"}
    of_round = {"gate_entropy": "entropy gates", "static_entropy": "entropy static", "effective_rank": "rank of mix"}
    table = Table(title=title)
    for name in ("layer", "coupler layer", *of_layer.values(), *of_round.values()):
        table.add_column(name, justify="right")
    for layer in values["layers"]:
        for number, found in enumerate(layer["rounds"] or [dict.fromkeys(of_round)]):
            numbers = [*(layer[name] for name in of_layer), *(found[name] for name in of_round)]
            shown = ("-" if value is None else f"{value:.3f}" for value in numbers)
            table.add_row(str(layer["layer"]), str(number), *shown)
    Console().print(table)


def _with_data(parsed: EvaluateArguments, stored_config: Callable[[str, str], RunConfig]) -> EvaluateArguments:
    return EvaluateArguments(path=parsed.path, data=stored_config(parsed.path, parsed.checkpoint).data)


def _generate(arguments: Sequence[str], program: str) -> int:
    parsed = parse_flags(GenerateArguments, arguments, program)
    from gnn_moe.evaluations import continue_prompt

    continuation = continue_prompt(
        parsed.path, parsed.prompt, parsed.max_new_tokens, parsed.sampling, checkpoint=parsed.checkpoint
    )
    print(parsed.prompt, end="", flush=True)
    for text in continuation:
        print(text, end="", flush=True)
    print()
    return 0


def _import(arguments: Sequence[str], program: str) -> int:
    parsed = parse_flags(ImportArguments, arguments, program)
    from gnn_moe.interop.original import import_checkpoint

    for line in import_checkpoint(parsed.path, parsed.output):
        print(line)
    return 0


def _sweep(arguments: Sequence[str], program: str) -> int:
    from gnn_moe.studies.arguments import StatusArguments, SweepArguments

    if arguments and arguments[0] == "status":
        status = parse_flags(StatusArguments, arguments[1:], f"{program} status")
        from gnn_moe.studies.command import show_status

        show_status(status, print)
        return 0
    parsed = parse_flags(SweepArguments, arguments, program)
    from gnn_moe.studies.command import run_sweep
    from gnn_moe.studies.resolve import with_preset

    parsed = parse_flags(SweepArguments, arguments, program, default=with_preset(parsed))
    run_sweep(parsed, ["gnn-moe", "sweep", *arguments], print)
    return 0


def _compare(arguments: Sequence[str], program: str) -> int:
    from gnn_moe.studies.arguments import CompareArguments

    parsed = parse_flags(CompareArguments, arguments, program)
    from gnn_moe.studies.compare_command import run_comparison, with_question

    parsed = parse_flags(CompareArguments, arguments, program, default=with_question(parsed))
    run_comparison(parsed, ["gnn-moe", "compare", *arguments], print)
    return 0


def _report(arguments: Sequence[str], program: str) -> int:
    from gnn_moe.reports.arguments import ReportArguments

    parsed = parse_flags(ReportArguments, arguments, program)
    from gnn_moe.reports.command import run_report

    run_report(parsed, print)
    return 0


@dataclass(frozen=True)
class _Verb:
    run: Callable[[Sequence[str], str], int]
    help: str


VERBS: Mapping[str, _Verb] = {
    "train": _Verb(_train, "train a model and write its whole record"),
    "evaluate": _Verb(_evaluate, "the loss of a trained model on a split of a dataset"),
    "generate": _Verb(_generate, "continue a prompt with a trained model"),
    "inspect": _Verb(_inspect, "what a run will take: parameters, FLOPs, memory, minutes"),
    "import": _Verb(_import, "read a checkpoint of the original implementation"),
    "sweep": _Verb(_sweep, "train at many points around a baseline, and keep what became of each"),
    "compare": _Verb(_compare, "train arms seed by seed, and say which is better, worse, or that nothing can be said"),
    "report": _Verb(_report, "write what studies and runs found, as Markdown and as a page"),
}


def _usage() -> str:
    verbs = "\n".join(f"  {name:<10} {verb.help}" for name, verb in VERBS.items())
    return (
        "usage: gnn-moe VERB [FLAGS]\n\n"
        "Train and compare language models whose experts talk to each other.\n\n"
        f"{verbs}\n\ngnn-moe VERB --help lists the flags of a verb; gnn-moe --version prints the version."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0 completed, 1 a run that failed, 2 bad input, 130 / 143 stopped by SIGINT / SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"gnn-moe {__version__}")
        return 0
    # Read when torch starts its threads: without it, two runs that share processors spin against each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name, *rest = arguments
    program = f"gnn-moe {name}"
    try:
        if name not in VERBS:
            raise BadInput(f"{name!r} is no verb: use one of {', '.join(VERBS)}")
        status = VERBS[name].run(rest, program)
        sys.stdout.flush()
    except GnnMoeError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        return _closed_output()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"{program}: {error.filename!r} is too long for a file name; give a shorter one", file=sys.stderr)
        return BadInput.exit_status
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130
    return status


def _closed_output() -> int:
    """What a reader that left early (`| head`) gets: silence, and the status that a shell gives for SIGPIPE."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE
