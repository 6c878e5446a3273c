"""As much for every arm as for the first: of steps, tokens, training FLOPs or minutes.

An arm's budget becomes a number of steps before it starts, so that its learning rate falls along the whole of its
schedule. A step's work is 1, its samples, the FLOPs of its samples, or the minutes that a short calibration on this
machine foretold; the minutes that the runs then took stand beside their losses.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from gnn_moe.config import DataConfig, RunConfig
from gnn_moe.data.corpus import Corpus, load_corpus
from gnn_moe.errors import BadInput, GnnMoeError, RunFailed
from gnn_moe.model.size import model_size
from gnn_moe.plans import calibrate, circumstances_of
from gnn_moe.studies.arguments import Budget
from gnn_moe.studies.comparison import Comparison
from gnn_moe.studies.space import with_values


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a cell runs where its budget asks for nothing else."""

    config: RunConfig
    """With the vocabulary of its tokenizer."""
    samples: int
    """Of training."""

    @property
    def steps(self) -> int:
        return self.config.training.count_steps(self.samples)

    @property
    def rows(self) -> float:
        """Of a batch, on average: the last one of an epoch is short."""
        return self.samples / math.ceil(self.samples / self.config.training.batch_size)


def configs_of(baseline: RunConfig, comparison: Comparison) -> dict[str, RunConfig]:
    """The config of every cell whose settings go together, by label."""
    found = {}
    for label, changes in comparison.changes().items():
        try:
            found[label] = with_values(baseline, changes)
        except BadInput:  # a failed trial of class bad_config, in its turn
            continue
    return found


def plans_of(configs: Mapping[str, RunConfig]) -> dict[str, Plan]:
    """The plan of every cell that can run, by label.

    Cells may differ in how many samples they train on, and those that are gone across in their text.
    """
    corpora: dict[tuple[DataConfig, int], Corpus] = {}
    found = {}
    for label, config in configs.items():
        text = config.data, config.model.max_seq_length
        try:
            if text not in corpora:
                corpora[text] = load_corpus(
                    config.data, max_seq_length=config.model.max_seq_length, cache_dir=config.output.cache_dir
                )
            model = dataclasses.replace(config.model, vocab_size=corpora[text].vocab_size)
            model_size(model)  # a control that cannot be matched has none
        except BadInput:  # a failed trial of class bad_config, in its turn
            continue
        plan = Plan(config=dataclasses.replace(config, model=model), samples=len(corpora[text].split("train")))
        found[label] = plan
    return found


def steps_within(
    comparison: Comparison, plans: Mapping[str, Plan], *, minutes_a_step: Mapping[str, float]
) -> dict[str, int]:
    """The steps of the cells that need other ones than their settings give, by label.

    Args:
        comparison: with its budget.
        plans: as `plans_of` gives them.
        minutes_a_step: of every cell; used for the budget of minutes only.
    """

    def work(label: str) -> float:
        return _work_of_a_step(comparison.budget, plans[label], minutes_a_step.get(label, 0.0))

    found: dict[str, int] = {}
    firsts = {cell.value: cell.label for cell in comparison.cells() if cell.arm == comparison.first}
    for cell in comparison.cells():
        first = firsts[cell.value]
        if first not in plans or cell.label not in plans:
            continue
        wanted = max(1, round(plans[first].steps * work(first) / work(cell.label)))
        if wanted != plans[cell.label].steps:
            found[cell.label] = wanted
    return found


def _work_of_a_step(budget: Budget, plan: Plan, minutes: float) -> float:
    match budget:
        case "steps":
            return 1.0
        case "tokens":
            return plan.rows
        case "flops":
            return plan.rows * model_size(plan.config.model).training_flops_per_token
        case "minutes":
            return minutes


def time_steps(configs: Mapping[str, RunConfig]) -> dict[str, float]:
    """Minutes of a training step of each config on this machine, from some of its own steps.

    Raises:
        RunFailed: the data cannot be used, or the steps of one failed.
    """
    found = {}
    for label, config in configs.items():
        try:
            timed = calibrate(config)
        except GnnMoeError as error:
            raise RunFailed(f"--budget minutes: the steps of {label} could not be timed: {error}") from error
        found[label] = timed.train_minutes / timed.steps
    return found


def common_micro_batch(configs: Mapping[str, RunConfig], *, at_once: int) -> int:
    """The largest micro-batch with which every config fits into its share of the memory that there is.

    It is asked in a process of its own, which takes what it knows of the device with it when it ends.

    Args:
        configs: with `--micro_batch_size auto`, and the vocabulary of their tokenizers.
        at_once: trials that share the memory.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return min(apart.submit(_fitting, tuple(configs.values()), at_once).result())


def _fitting(configs: tuple[RunConfig, ...], at_once: int) -> list[int]:
    from gnn_moe.model.halves import threads_to_expect
    from gnn_moe.model.memory import largest_micro_batch
    from gnn_moe.training.device import accelerator_for
    from gnn_moe.training.memory_limits import room_bytes

    # One run at a time has the threads that this process has.
    threads = threads_to_expect(at_once) if at_once > 1 else None
    found = []
    for config in configs:
        corpus = load_corpus(config.data, max_seq_length=config.model.max_seq_length, cache_dir=config.output.cache_dir)
        with accelerator_for(config.training.device, config.training.precision) as accelerator:
            found.append(
                largest_micro_batch(
                    config.model,
                    config.training,
                    room_bytes=room_bytes(accelerator.device) // at_once,
                    **circumstances_of(config, corpus, accelerator, threads=threads),
                )
            )
    return found
