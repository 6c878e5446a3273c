"""The whole report: the sections of each group of runs, in the order in which they are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from gnn_moe.reports.arms import alike_but_for_coupler, arms_section
from gnn_moe.reports.convergence import convergence_section
from gnn_moe.reports.cost import cost_section
from gnn_moe.reports.coupling import coupling_section
from gnn_moe.reports.document import Document, Figure, Paragraph, Section, Text
from gnn_moe.reports.insights import FIRST_RULES, FURTHER_RULES, Rule
from gnn_moe.reports.kinds import KINDS
from gnn_moe.reports.next_steps import next_section
from gnn_moe.reports.overview import overview_section, with_table
from gnn_moe.reports.points import Group
from gnn_moe.reports.protocol import protocol_section
from gnn_moe.reports.recommendations import recommend, recommendations_section
from gnn_moe.reports.reference import reference_sections
from gnn_moe.reports.swept import Swept
from gnn_moe.reports.tables import anchor_of, sweep_sections, swept_tables
from gnn_moe.reports.targets import Target, targets_section


def build_report(
    groups: Sequence[Group],
    *,
    title: str | None,
    targets: tuple[Target, ...],
    with_reference: bool,
    notes: Sequence[str] = (),
) -> Document:
    """The document of some groups of runs.

    Args:
        groups: each of one protocol; several stand apart, since their losses do not compare.
        title: of the document; None for one made of the studies' names.
        targets: that the last table but one holds the runs against.
        with_reference: set the seed's tables beside ours.
        notes: of records that could not be read.
    """
    if len(groups) == 1:
        sections = _sections(groups[0], targets, len(groups), with_reference=with_reference, notes=notes)
    else:
        sections = tuple(
            _apart(
                Section(
                    title=group.protocol.in_words(),
                    anchor="group",
                    blocks=(Paragraph("Losses of this part compare with each other only.", "note"),),
                    sections=_sections(
                        group,
                        targets,
                        len(groups),
                        with_reference=False,
                        notes=notes if number == 1 else (),
                        prefix=f"part-{number}-",
                    ),
                ),
                f"part-{number}-",
            )
            for number, group in enumerate(groups, 1)
        )
    if with_reference:
        sections = (*sections, *reference_sections())
    runs = [run for group in groups for run in group.runs]
    ended = sum(run.is_completed for run in runs)
    return Document(title=title or _title(groups), subtitle=f"{ended} of {len(runs)} runs completed", sections=sections)


def _sections(
    group: Group,
    targets: tuple[Target, ...],
    groups: int,
    *,
    with_reference: bool,
    notes: Sequence[str],
    prefix: str = "",
) -> tuple[Section, ...]:
    swept = swept_tables(group)
    recommended = recommend(group)
    # Of couplers the comparison of arms says it already.
    told = [table for table in swept if table.field not in KINDS or not alike_but_for_coupler(group)]
    return (
        overview_section(
            group, recommended, _said(told, FIRST_RULES, prefix), _said(told, FURTHER_RULES, prefix), prefix=prefix
        ),
        Section(
            title="Swept parameters",
            anchor="swept",
            blocks=() if swept else (Paragraph("Nothing was swept here but arms, which are compared below.", "note"),),
            sections=sweep_sections(group, with_reference=with_reference),
        ),
        cost_section(group),
        arms_section(group),
        convergence_section(group),
        coupling_section(group, groups=groups),
        recommendations_section(group, next_section(group, swept, prefix=prefix)),
        targets_section(group, targets),
        protocol_section(group, notes),
    )


def _said(tables: Sequence[Swept], rules: Sequence[Rule], prefix: str) -> list[Text]:
    """What rules say of tables, rule by rule, each with a link to its table."""
    return [
        with_table(found.sentence, f"{prefix}{anchor_of(table.field)}")
        for rule in rules
        for table in tables
        if (found := rule(table)) is not None
    ]


def _title(groups: Sequence[Group]) -> str:
    names = dict.fromkeys(run.study or run.name for group in groups for run in group.runs)
    shown = list(names)[:3]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"What {', '.join(shown)}{more} found"


def _apart(section: Section, prefix: str) -> Section:
    """A section whose anchors and figures have names of their own."""
    return dataclasses.replace(
        section,
        anchor=f"{prefix}{section.anchor}",
        blocks=tuple(
            dataclasses.replace(block, name=f"{prefix}{block.name}") if isinstance(block, Figure) else block
            for block in section.blocks
        ),
        sections=tuple(_apart(each, prefix) for each in section.sections),
    )
