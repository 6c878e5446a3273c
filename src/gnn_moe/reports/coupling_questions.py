"""What trained couplings were asked: what is lost without them, and how alike their experts are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnn_moe.checks import is_number
from gnn_moe.config import COUPLED
from gnn_moe.errors import BadInput
from gnn_moe.model.ablations import COUPLER, SHUFFLE_GRAPH, UNIFORM_WEIGHTS
from gnn_moe.model.folders import SELECTED
from gnn_moe.reports import numbers
from gnn_moe.reports.document import Block, Cell, Code, Column, Paragraph, Section, Table
from gnn_moe.reports.marks import command_path, evaluations_of, number_cell, seed_links
from gnn_moe.reports.points import Group, Point, Run
from gnn_moe.studies.ablations import LOSSES, read_ablations
from gnn_moe.studies.statistics import MeanEstimate, mean_estimate, paired_differences

MEASURES_FILE = "coupling_measures.json"
"""What `gnn-moe evaluate RUN --coupling --json` printed, kept in the run folder."""
ABLATE, MEASURE = "--ablate coupler", "--coupling --json > {}"
"""What asks the selected checkpoint, whose loss is reported."""
_CKA = {"expert_cka": "of results", "added_cka": "of what each added", "coupled_cka": "after coupling"}
_ABLATION_COLUMNS = (
    Column(title="point", numeric=False),
    Column(title="ablation", numeric=False),
    Column(title="loss", explains="of the trained model as it is, nats a token, mean over seeds"),
    Column(title="ablated", explains="of the same model ablated, nats a token, mean over seeds"),
    Column(
        title="difference",
        explains="ablated minus as it is, paired by seed: positive where the model loses by the ablation",
    ),
    Column(title="95 % interval", numeric=False, explains="paired t interval over seeds, of this line alone"),
    Column(title="in words", numeric=False),
    Column(title="seeds", numeric=False),
)


_TAKEN = {
    COUPLER: "its coupler",
    SHUFFLE_GRAPH: "where its learned strengths lie",
    UNIFORM_WEIGHTS: "how its learned strengths differ",
}
"""By ablation: what a model that loses by it relies on."""
_WITHOUT_COUPLER = (
    "The ablation coupler takes the coupler's own maps too, not the exchange alone, from a model that was trained with "
    "them: only a control that was trained without exchange (--coupler_type mean) says whether exchange helps."
)


def ablation_section(group: Group) -> Section:
    """What models lose by an ablation, or how to ask."""
    rows, notes = [], []
    ablations: set[str] = set()
    for point in group.points:
        asked: dict[str, list[tuple[Run, float, float]]] = {}
        for run in _with_folders(point):
            try:
                answers = read_ablations(run.folder) if run.folder else {}
            except BadInput as error:
                notes.append(f"{run.name}: {error}")
                continue
            for ablation, values in answers.items():
                intact, ablated = (values[name] for name in LOSSES)
                if intact is None or ablated is None:
                    notes.append(f"{run.name}: {ablation} has no finite loss; left out")
                else:
                    asked.setdefault(ablation, []).append((run, float(intact), float(ablated)))
        rows += [_ablation_row(point, ablation, found) for ablation, found in asked.items()]
        ablations |= asked.keys()
    blocks: list[Block] = [Paragraph(note, "note") for note in notes]
    if rows:
        notes_below = ["Verdicts that hold jointly over all arms stand where the arms are compared."]
        if COUPLER in ablations:
            notes_below.append(_WITHOUT_COUPLER)
        caption = "What trained models lose by an ablation"
        blocks.append(Table(caption=caption, columns=_ABLATION_COLUMNS, rows=tuple(rows), notes=tuple(notes_below)))
    else:
        blocks += _to_ask(group, "No run was asked what it loses without its coupling.", ABLATE)
    return Section(title="Ablations", anchor="coupling-ablations", blocks=tuple(blocks))


def _with_folders(point: Point) -> list[Run]:
    """The runs that count whose folder is here."""
    return [run for run in point.counted if run.folder is not None]


def _ablation_row(point: Point, ablation: str, found: Sequence[tuple[Run, float, float]]) -> tuple[Cell, ...]:
    runs = [run for run, _, _ in found]
    lost = mean_estimate(paired_differences([ablated for *_, ablated in found], [intact for _, intact, _ in found]))
    interval = (lost.reason or "") if lost.interval is None else numbers.interval_of_difference(lost.interval)
    return (
        Cell(point.label, point.label),
        Cell(ablation, ablation),
        number_cell(sum(intact for _, intact, _ in found) / len(found), numbers.loss, runs),
        number_cell(sum(ablated for _, _, ablated in found) / len(found), numbers.loss, runs),
        number_cell(lost.mean, numbers.difference, runs),
        Cell(interval),
        Cell(_lost_in_words(ablation, lost)),
        Cell(seed_links(runs), len(runs)),
    )


def _lost_in_words(ablation: str, lost: MeanEstimate) -> str:
    if lost.interval is None:
        return "cannot be told"
    if not lost.interval.has_width:
        return "cannot be told: the seeds do not differ"
    taken = _TAKEN[ablation]
    if not lost.interval.excludes_zero:
        return f"no evidence that {taken} matters"
    return f"the trained model {'relies on' if lost.mean > 0 else 'is better without'} {taken}"


def _to_ask(group: Group, text: str, flags: str) -> list[Block]:
    """A command a run that kept its checkpoint; `flags` may name the file of its answer."""
    coupled = [run for point in group.points for run in _with_folders(point) if run.settings["architecture"] == COUPLED]
    if not coupled:
        return [Paragraph("No model with couplers has its run folder here, so none can be asked.", "note")]
    commands, gone = evaluations_of(coupled, SELECTED, lambda path: flags.format(command_path(path / MEASURES_FILE)))
    said = " ".join(each for each in (text, gone, "To ask:" if commands else "") if each)
    return [Paragraph(said, "note"), *([Code(commands)] if commands else [])]


def similarity_section(group: Group) -> Section:
    """How alike the experts are, where that was measured and kept, or how to measure it."""
    rows, notes = [], []
    for point in group.points:
        by_layer: dict[int, list[tuple[Run, Mapping[str, Any], float]]] = {}
        for run in _with_folders(point):
            assert run.folder is not None
            try:
                found = read_measures(run.folder)
            except BadInput as error:
                notes.append(f"{run.name}: {error}")
                continue
            for layer in found["layers"] if found else ():
                by_layer.setdefault(layer["layer"], []).append((run, layer, found["chance_cka"] if found else 0.0))
        rows += [_similarity_row(point, layer, found) for layer, found in sorted(by_layer.items())]
    blocks: list[Block] = [Paragraph(note, "note") for note in notes]
    if rows:
        columns = (
            Column(title="point", numeric=False),
            Column(title="layer"),
            *(
                Column(title=f"CKA {words}", explains="linear CKA, mean over pairs and seeds")
                for words in _CKA.values()
            ),
            Column(title="by chance", explains="about what unrelated results would have at so few tokens"),
            Column(title="seeds", numeric=False),
        )
        blocks.append(Table(caption="Similarity of experts", columns=columns, rows=tuple(rows)))
    else:
        blocks += _to_ask(group, "No similarity of experts (CKA) is recorded.", MEASURE)
    return Section(title="Similarity of experts", anchor="coupling-similarity", blocks=tuple(blocks))


def read_measures(folder: Path) -> Mapping[str, Any] | None:
    """The kept measures of a run: `layers` and `chance_cka`; None where there are none.

    Raises:
        BadInput: the file is damaged.
    """
    path = folder / MEASURES_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    layers = found.get("layers") if isinstance(found, dict) else None
    whole = isinstance(layers, list) and all(
        isinstance(layer, dict)
        and isinstance(layer.get("layer"), int)
        and all(name in layer and (layer[name] is None or is_number(layer[name])) for name in _CKA)
        for layer in layers
    )
    if not whole or not isinstance(found, dict) or not is_number(found.get("chance_cka")):
        raise BadInput(f"{path}: is damaged; write it again with gnn-moe evaluate --coupling --json")
    return found


def _similarity_row(
    point: Point, layer: int, found: Sequence[tuple[Run, Mapping[str, Any], float]]
) -> tuple[Cell, ...]:
    runs = [run for run, _, _ in found]

    def mean(name: str) -> float | None:
        values = [float(each[name]) for _, each, _ in found if each[name] is not None]
        return sum(values) / len(values) if values else None

    return (
        Cell(point.label, point.label),
        number_cell(layer, numbers.whole),
        *(number_cell(mean(name), numbers.similarity, runs) for name in _CKA),
        number_cell(max(chance for _, _, chance in found), numbers.similarity, runs),
        Cell(seed_links(runs), len(runs)),
    )
