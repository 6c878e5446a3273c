"""What is kept of a trial that has ended: in the study's storage, in study.json and in its tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gnn_moe.checks import is_number
from gnn_moe.errors import BadInput
from gnn_moe.run_folder import RunFolder
from gnn_moe.studies.failures import Failure
from gnn_moe.training.record import read_metrics

COMPLETED, FAILED, RUNNING, WAITING = "completed", "failed", "running", "waiting"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a trial ended, and its numbers as far as it got; losses in nats a predicted token."""

    state: Literal["completed", "failed"]
    pruned: bool = False
    """Stopped early for its losses; completed all the same."""
    error_class: str | None = None
    error_message: str | None = None
    best_eval_loss: float | None = None
    final_eval_loss: float | None = None
    final_train_loss: float | None = None
    perplexity: float | None = None
    """exp(best_eval_loss)."""
    bits_per_byte: float | None = None
    steps: int | None = None
    total_steps: int | None = None
    tokens: int | None = None
    """Predicted in training."""
    total_parameters: int | None = None
    train_minutes: float | None = None
    eval_minutes: float | None = None
    tokens_per_second: float | None = None
    peak_memory_bytes: int | None = None
    micro_batch_size: int | None = None
    """Samples computed at once, as chosen."""
    dataset: str | None = None
    causal: bool | None = None
    """Whether the best checkpoint sees no later token and no other row; None where that was not asked."""
    largest_leak: float | None = None
    selected_step: int | None = None
    """The evaluation with the least loss on the half of the text that may choose."""
    reported_loss: float | None = None
    """The loss of that evaluation on the other half: what comparisons use."""
    training_flops_per_token: int | None = None

    @property
    def minutes(self) -> float | None:
        """Of training and evaluation."""
        if self.train_minutes is None or self.eval_minutes is None:
            return None
        return self.train_minutes + self.eval_minutes


_FROM_SUMMARY = (
    "best_eval_loss",
    "final_eval_loss",
    "final_train_loss",
    "perplexity",
    "bits_per_byte",
    "steps",
    "total_steps",
    "tokens",
    "total_parameters",
    "train_minutes",
    "eval_minutes",
    "tokens_per_second",
    "peak_memory_bytes",
    "dataset",
    "causal",
    "largest_leak",
    "training_flops_per_token",
)


def completed_before(folder: RunFolder) -> Outcome | None:
    """The outcome of a run that is completed already, or None.

    Raises:
        BadInput: its files are damaged.
    """
    summary = folder.read_summary()
    if summary is None or summary.get("status") != COMPLETED:
        return None
    return outcome_of(folder, None)


def outcome_of(folder: RunFolder, failure: Failure | None, *, pruned: bool = False) -> Outcome:
    """The outcome of a trial from its run folder; what a failed one left out or damaged is None.

    A run that ended well and whose model sees the future has failed: its numbers must not be taken for a result.

    Raises:
        BadInput: the run was completed and its files are damaged.
    """
    try:
        numbers = numbers_of(folder)
    except BadInput:
        if failure is None:
            raise
        numbers = {}
    if failure is None and numbers["causal"] is False:
        failure = Failure(error_class="leaking", message=_leak(numbers["largest_leak"]))
    if failure is None:
        return Outcome(state="completed", pruned=pruned, **numbers)
    return Outcome(state="failed", error_class=failure.error_class, error_message=failure.message, **numbers)


def outcome_from_dict(values: Mapping[str, Any]) -> Outcome:
    """The inverse of `dataclasses.asdict`; fields that a later version added are left out."""
    known = {field.name for field in dataclasses.fields(Outcome)}
    return Outcome(**{name: value for name, value in values.items() if name in known})


def micro_batch_of(folder: RunFolder) -> int | None:
    """Samples that a run computed at once when it last said so, or None where it never began.

    Raises:
        BadInput: its config is damaged.
    """
    if not folder.is_begun():
        return None
    return folder.read_config().training.rows_at_once


def numbers_of(folder: RunFolder) -> dict[str, Any]:
    """The fields of an `Outcome` that a run folder holds, None where it does not.

    Raises:
        BadInput: its files are damaged.
    """
    summary = folder.read_summary() or {}
    numbers: dict[str, Any] = {name: summary.get(name) for name in _FROM_SUMMARY}
    selected = dict.fromkeys(("selected_step", "reported_loss")) | selected_evaluation(folder)
    return numbers | {"micro_batch_size": micro_batch_of(folder)} | selected


def selected_evaluation(folder: RunFolder) -> dict[str, Any]:
    """The evaluation that the one half of the text chooses, and its loss on the other; {} without evaluations.

    Raises:
        BadInput: the metrics are damaged.
    """
    rows = read_metrics(folder.metrics) if folder.metrics.exists() else []
    evaluations = [row for row in rows if row.get("kind") == "eval" and is_number(row.get("selection_loss"))]
    if not evaluations:
        return {}
    chosen = min(evaluations, key=lambda row: float(row["selection_loss"]))
    return {"selected_step": chosen.get("step"), "reported_loss": chosen.get("reported_loss")}


def _leak(size: float) -> str:
    return (
        f"the best checkpoint sees the future: changing later tokens and other rows moved a state by {size:.2g} of the "
        "largest; its losses are worth nothing"
    )
