"""The first page: what was found in five lines, the best configuration, and what is not known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gnn_moe.reports import numbers
from gnn_moe.reports.arms import evidence_of, kind_of, shortest_claims
from gnn_moe.reports.document import Block, Bullets, Code, Paragraph, Section
from gnn_moe.reports.recommendations import Recommendation, train_command
from gnn_moe.reports.sources import Group

_LINES = 5
_CONTROLS = {
    "mean": "experts that exchange nothing (--coupler_type mean)",
    "dense": "a dense model of equal size (--architecture dense)",
    "top_k": "a sparse mixture of equal FLOPs (--architecture top_k)",
}


def overview_section(group: Group, recommended: Sequence[Recommendation], insights: Sequence[str]) -> Section:
    """In one minute.

    Args:
        group: its runs.
        recommended: the configurations, best first.
        insights: sentences about the swept parameters, the most telling first.
    """
    findings = list(_findings(group, insights))[:_LINES]
    blocks: list[Block] = [
        Bullets(tuple(findings)) if findings else Paragraph("These runs vary nothing, so there is nothing to find.")
    ]
    if recommended:
        first = recommended[0]
        blocks.append(Paragraph(f"The configuration with the lowest loss: {first.point.label}, {first.why}."))
        config = next((run.config for run in first.point.completed if run.config is not None), None)
        if config is not None and config.model.hyperedges is None:
            blocks.append(Code(train_command(config)))
    unknown = tuple(_unknown(group))
    if unknown:
        blocks += [Paragraph("What is not known:"), Bullets(unknown)]
    return Section(title="In one minute", anchor="in-one-minute", blocks=tuple(blocks))


def _findings(group: Group, insights: Sequence[str]) -> Iterator[str]:
    yield from (_sentence(claim) for claim in list(shortest_claims(group))[:2])
    yield from insights
    for study in group.studies:
        found = evidence_of(study)
        for question in found["questions"][1:] if found else ():
            yield from map(_sentence, question["sentences"])


def _sentence(text: str) -> str:
    """A verdict without what it rests on besides its interval and its seeds, which the section of arms has."""
    claim, *support = text.split("; ")
    seeds = [part for part in support if "in common" in part][:1]
    return "; ".join((claim, *seeds)) + "."


def _unknown(group: Group) -> Iterator[str]:
    single = [point for point in group.points if len(point.by_seed(group.loss_name)) == 1]
    if single:
        yield (
            f"Whether differences are more than chance: {len(single)} of {len(group.points)} configurations have one "
            "seed, which gives no interval."
        )
    ended = [run for run in group.runs if run.is_completed]
    if group.protocol.text is None and len(ended) > 1:
        yield f"Whether all {len(ended)} completed runs evaluated one text: none recorded the fingerprint of its text."
    missing = [run for run in group.runs if run.state not in ("completed", "failed")]
    if missing:
        yield f"What {len(missing)} of {len(group.runs)} runs give: they have not ended."
    failed = [run for run in group.runs if run.state == "failed"]
    if failed:
        classes = ", ".join(sorted({str(run.error_class) for run in failed}))
        count = numbers.counted(len(failed), "failed run")
        yield f"What {count} would have given ({classes}); the tables have their reasons."
    unasked = [run for run in group.runs if run.is_completed and run.causal is None]
    if unasked:
        count = numbers.counted(len(unasked), "checkpoint")
        yield f"Whether {count} can see the future: made by a version that did not ask."
    if absent := [said for kind, said in _CONTROLS.items() if kind not in {kind_of(point) for point in group.points}]:
        yield f"Whether coupling is what helps: no run here is of {', of '.join(absent)}."
