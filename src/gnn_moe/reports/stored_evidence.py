"""The evidence that a comparison brings along in its study.json: read, and held against what it is made from.

What is shown is what was weighed then. Where that does not follow from its own differences, or these are not the losses
beside it, or the runs have other losses now, a line says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gnn_moe.errors import BadInput
from gnn_moe.reports import numbers
from gnn_moe.reports.points import Point
from gnn_moe.studies.results import STUDY_FILE, StudyResults
from gnn_moe.studies.verdicts import Arm, Comparison, comparison_from, weighed_anew

_AGAIN = "run the comparison again"


@dataclass(frozen=True, kw_only=True)
class StoredArm:
    """An arm as it was weighed."""

    arm: Arm
    left_out: int
    """Seeds without a number."""


@dataclass(frozen=True, kw_only=True)
class StoredQuestion:
    """A question with its verdicts, which hold jointly."""

    asks: str
    unit: str
    verdicts: tuple[Comparison, ...]


@dataclass(frozen=True, kw_only=True)
class StoredEvidence:
    """What a comparison found."""

    first: str
    budget: str
    arms: tuple[StoredArm, ...]
    questions: tuple[StoredQuestion, ...]
    """Of losses first."""
    notes: tuple[str, ...]


def is_comparison(study: StudyResults) -> bool:
    """Whether a study has arms."""
    return bool(study.values.get("comparison"))


def stored_evidence(study: StudyResults) -> StoredEvidence | None:
    """Of a comparison, or None for another study, or before every point has an outcome.

    Raises:
        BadInput: it is damaged.
    """
    if not is_comparison(study):
        return None
    comparison = study.values["comparison"]
    try:
        return None if comparison["evidence"] is None else _read(comparison)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, BadInput) as error:
        file = study.path / STUDY_FILE
        raise BadInput(f"{file}: comparison is damaged ({type(error).__name__}: {error}); {_AGAIN}") from None


def _read(comparison: Mapping[str, Any]) -> StoredEvidence:
    evidence = comparison["evidence"]
    found = StoredEvidence(
        first=str(comparison["first"]),
        budget=str(comparison["budget"]),
        arms=tuple(
            StoredArm(
                arm=Arm(name=cell["label"], seeds=tuple(cell["seeds"]), losses=tuple(cell["losses"])),
                left_out=len(cell["left_out"]),
            )
            for cell in evidence["cells"]
        ),
        questions=tuple(
            StoredQuestion(
                asks=str(each["asks"]),
                unit=str(each["unit"]),
                verdicts=tuple(map(comparison_from, each["verdicts"])),
            )
            for each in evidence["questions"]
        ),
        notes=tuple(map(str, evidence["notes"])),
    )
    if not found.questions or not found.questions[0].verdicts:
        raise ValueError("it asks nothing")
    return found


def doubts(found: StoredEvidence, points: Mapping[str, Point]) -> Iterator[str]:
    """A line for whatever its verdicts do not follow from.

    Args:
        found: the evidence.
        points: its arms by name, which compare by the loss that it was weighed by.
    """
    stored = {each.arm.name: dict(zip(each.arm.seeds, each.arm.losses, strict=True)) for each in found.arms}
    for name, losses in stored.items():
        now = points[name].by_seed(points[name].loss_name) if name in points else {}
        if changed := [str(seed) for seed, loss in losses.items() if now.get(seed) != loss]:
            yield (
                f"{name}: its verdicts rest on other losses than its runs have now, of seed {numbers.listed(changed)}; "
                f"{_AGAIN}"
            )
    for place, question in enumerate(found.questions):
        for verdict, anew in zip(question.verdicts, weighed_anew(question.verdicts), strict=True):
            if not _is_same(verdict, anew) or (place == 0 and not _are_of(verdict, stored)):
                yield (
                    f"{question.asks} What study.json says of {verdict.arm} and {verdict.baseline} does not follow "
                    f"from its own numbers; {_AGAIN}"
                )


def _are_of(found: Comparison, stored: Mapping[str, Mapping[int, float]]) -> bool:
    """Whether differences are those of the losses of both arms."""
    ours, theirs = (stored.get(name, {}) for name in (found.arm, found.baseline))
    return all(
        seed in ours and seed in theirs and math.isclose(difference, ours[seed] - theirs[seed], abs_tol=1e-9)
        for seed, difference in zip(found.pairs.seeds, found.pairs.differences, strict=True)
    )


def _is_same(stored: Comparison, anew: Comparison) -> bool:
    """Whether two weighings of the same differences agree, in all that a report shows."""
    return stored.verdict == anew.verdict and all(map(_is_close, _shown(stored), _shown(anew)))


def _shown(found: Comparison) -> tuple[float | None, ...]:
    interval = found.decision_interval
    ends = (None, None) if interval is None else (interval.low, interval.high)
    return found.mean_difference, found.p_value, found.holm_p_value, *ends


def _is_close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
