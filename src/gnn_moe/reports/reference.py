"""The seed's own five tables in a report: as published, under their protocol, never mixed into ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gnn_moe.reports import numbers
from gnn_moe.reports.claims import Judgement, judge, judge_sum
from gnn_moe.reports.document import Block, Bullets, Cell, Column, Paragraph, Section, Span, Table
from gnn_moe.reports.insights import insights_of
from gnn_moe.reports.points import Group
from gnn_moe.reports.swept import Entry, Swept
from gnn_moe.studies.presets import seed_baseline
from gnn_moe.studies.reference import seed_tables
from gnn_moe.studies.space import values_of

PROTOCOL_FIELDS = (
    "architecture",
    "coupler_type",
    "num_experts",
    "embed_dim",
    "num_layers",
    "gnn_layers",
    "dropout_rate",
    "dataset_name",
    "dataset_config_name",
    "tokenizer",
    "data_format",
    "max_seq_length",
    "num_train_samples",
    "num_eval_samples",
    "learning_rate",
    "weight_decay",
    "batch_size",
    "epochs",
    "max_batches_per_epoch",
    "max_steps",
    "warmup_steps",
    "gradient_clip",
)
"""In which a baseline may differ from the seed's so that losses do not compare."""
_COLUMNS = (
    Column(title="Eval loss", explains="nats a predicted token at the best evaluation, of one seed"),
    Column(title="Perplexity", explains="as published"),
    Column(title="Training time (min)", explains="as published; whether evaluation is in it is not said"),
    Column(title="Total params", explains="as published"),
)


def reference_sections() -> tuple[Section, ...]:
    """The seed's five tables, what the rules say of each, and what becomes of its claims."""
    stored = seed_tables()
    protocol = Bullets(tuple(f"{name}: {text}" for name, text in stored["protocol"].items()))
    sections = tuple(_section(name, values, stored["claims"][name]) for name, values in stored["tables"].items())
    note = Paragraph(
        "These numbers are as published, of another implementation and machine. They have one seed a value, so no "
        "difference among them has an interval.",
        kind="note",
    )
    tables = [reference_swept(values) for values in stored["tables"].values()]
    baseline = values_of(seed_baseline())
    sums = _judged(
        "What the seed drew from several of its tables at once",
        [judge_sum(claim, tables, baseline) for claim in stored["claims_of_sums"]],
    )
    title = "The seed's own tables"
    return (Section(title=title, anchor="seed-tables", blocks=(note, protocol, sums), sections=sections),)


def reference_blocks(field: str, group: Group) -> tuple[Block, ...]:
    """The seed's table of a field, to stand beside that of a group; () where it has none.

    Args:
        field: that was swept.
        group: whose protocol is held against the seed's.
    """
    found = next((values for values in seed_tables()["tables"].values() if values["field"] == field), None)
    if found is None:
        return ()
    return (Paragraph(_comparability(field, group), kind="note"), reference_table(found))


def reference_swept(values: dict[str, Any]) -> Swept:
    """One of the seed's tables, as rules read it; its one seed has no number, and 0 stands for it."""
    entries = tuple(
        Entry(
            value=row["value"],
            losses={} if row["eval_loss"] is None else {0: row["eval_loss"]},
            minutes=row["minutes"],
            missing="failed, with no reason given" if row["failed"] else "",
        )
        for row in values["rows"]
    )
    return Swept(field=values["field"], entries=entries)


def reference_table(values: dict[str, Any]) -> Table:
    """One of the seed's tables as published; what it does not have is a dash."""
    return Table(
        caption=f"The seed's own numbers for {values['field']}, as published: one seed, under its own protocol",
        columns=(Column(title=values["field"], explains="the value of this field"), *_COLUMNS),
        rows=tuple(_row(row) for row in values["rows"]),
    )


def differences_from_seed(group: Group, *, apart_from: str) -> tuple[str, ...]:
    """Where the baseline of a group is not that of the seed's tables: `FIELD OURS instead of ITS`."""
    theirs = values_of(seed_baseline())
    return tuple(
        f"{name} {numbers.setting(group.baseline[name])} instead of {numbers.setting(theirs[name])}"
        for name in PROTOCOL_FIELDS
        if name != apart_from and group.baseline[name] != theirs[name]
    )


def _section(name: str, values: dict[str, Any], claims: list[dict[str, Any]]) -> Section:
    swept = reference_swept(values)
    field = values["field"]
    bullets = Bullets(tuple(insight.sentence for insight in insights_of(swept)))
    table = _judged(
        f"What the seed said of {field}, held against its own numbers", [judge(claim, swept) for claim in claims]
    )
    anchor = f"{name.replace('_', '-')}-table"
    return Section(title=field, anchor=anchor, blocks=(reference_table(values), bullets, table))


def _judged(caption: str, judged: Sequence[Judgement]) -> Table:
    return Table(
        caption=caption,
        columns=(
            Column(title="Claim", numeric=False, explains="in the seed's words"),
            Column(title="Standing", numeric=False, explains="whether it follows from the numbers"),
            Column(title="Why", numeric=False, explains="with the figures"),
        ),
        rows=tuple(
            (Cell(one.claim, sort=one.claim), Cell(Span(one.standing, strong=True), sort=one.standing), Cell(one.why))
            for one in judged
        ),
    )


def _row(row: dict[str, Any]) -> tuple[Cell, ...]:
    millions = row["millions_of_parameters"]
    perplexity = row["perplexity"]
    return (
        Cell(numbers.setting(row["value"]), sort=row["value"]),
        Cell("FAILED" if row["failed"] else numbers.loss(row["eval_loss"]), sort=row["eval_loss"]),
        Cell(numbers.UNKNOWN if perplexity is None else f"{perplexity:.2f}", sort=perplexity),
        Cell(numbers.minutes(row["minutes"]), sort=row["minutes"]),
        Cell(numbers.UNKNOWN if millions is None else f"{millions}M", sort=millions),
    )


def _comparability(field: str, group: Group) -> str:
    stored = seed_tables()["protocol"]
    theirs = f"The seed's own table below was made by another implementation, of {stored['data']}; seeds: "
    theirs += f"{stored['seeds']}; loss: {stored['loss']}. Its losses compare with ours only under one protocol"
    differences = list(differences_from_seed(group, apart_from=field))
    if group.loss_name != "best_eval_loss":
        differences.append("our loss is of one half of the evaluation text, which the other half chose")
    if not differences:
        return f"{theirs}; our baseline has the same settings, on another implementation and machine."
    return f"{theirs}, and ours differs: {'; '.join(differences)}. Only the order of values may be set side by side."
