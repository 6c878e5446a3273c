"""The main tables of whole reports, cell by cell: a right number in the wrong cell is wrong.

Reckoned from the run folders by NumPy and SciPy, as in `reckoned.py`: of made runs, and of the kept reports' own runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gnn_moe.model.size import model_size
from gnn_moe.run_folder import RunFolder
from tests.reports import golden
from tests.reports.reckoned import Floats, Record
from tests.reports.test_report import linked, rows

RESULTS = golden.ROOT / "results" / "wikitext2"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def signed(value: float, decimals: int = 4) -> str:
    text = f"{value:+.{decimals}f}"
    return (text[1:] if float(text) == 0 else text).replace("-", "−")


def interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def scientific(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPTS)}"


def plain(cell: str) -> str:
    """Without its link and its emphasis."""
    text = cell.strip("*")
    return text[1:].split("](", maxsplit=1)[0] if text.startswith("[") else text


def losses(records: Sequence[Record]) -> Floats:
    return np.array([record.loss for record in records])


def numbers(records: Sequence[Record], name: str) -> Floats:
    return np.array([record.summary[name] for record in records])


def flops(records: Sequence[Record]) -> float:
    size = model_size(records[0].config.model)
    return float(size.training_flops_per_token * numbers(records, "tokens").mean())


def made(name: str, runs: Path) -> dict[str, list[Record]]:
    """The completed runs of a golden report, by the label of their point and by seed."""
    found: dict[str, list[Record]] = {}
    for folder in sorted(runs.iterdir()):
        record = Record(folder)
        model = record.config.model
        label = f"num_experts {model.num_experts}" if name == "sweep" else f"coupler_type {model.coupler_type}"
        if record.summary["status"] == "completed":
            found.setdefault(label, []).append(record)
    for records in found.values():
        records.sort(key=lambda record: record.config.training.seed)
    return found


def folders(records: Sequence[Record]) -> list[Path]:
    return [record.folder.resolve() for record in records]


def unescaped(cell: str) -> str:
    return cell.replace("%3Cb%3E", "<b>")


@pytest.mark.parametrize("name", golden.REPORTS)
def test_the_front_has_the_numbers_of_each_point_in_its_own_row(name: str, tmp_path: Path) -> None:
    text, report = golden.report(name, tmp_path), tmp_path / "report"
    points = made(name, tmp_path / "runs")
    costs = {
        label: {
            "minutes": float(np.median([record.minutes for record in records])),
            "flops": flops(records),
            "parameters": float(model_size(records[0].config.model).total_parameters),
        }
        for label, records in points.items()
    }
    found = {row["point"]: row for row in rows(text, "Points on a Pareto front")}
    for label, records in points.items():
        beaten = {
            kind: any(
                costs[other][kind] <= costs[label][kind] and losses(points[other]).mean() < losses(records).mean()
                for other in points
            )
            for kind in costs[label]
        }
        if all(beaten.values()):
            assert label not in found
            continue
        row = found.pop(label)
        assert row["on the front of"] == ", ".join(kind for kind, is_beaten in beaten.items() if not is_beaten)
        assert row["loss"] == f"{losses(records).mean():.4f}"
        assert row["95 % interval"] == "{:.4f} to {:.4f}".format(*interval(losses(records)))
        assert row["minutes"] == f"{costs[label]['minutes']:.1f}"
        assert row["training FLOPs"] == scientific(costs[label]["flops"])
        assert row["parameters"] == f"{costs[label]['parameters']:,.0f}"
        assert linked(unescaped(row["seeds"]), report) == folders(records)
    assert found == {}


@pytest.mark.parametrize("name", golden.REPORTS)
def test_curves_and_gaps_stand_in_the_row_of_their_point(name: str, tmp_path: Path) -> None:
    text, report = golden.report(name, tmp_path), tmp_path / "report"
    points = made(name, tmp_path / "runs")
    alike = name == "sweep"
    title = (
        "Generalisation: training and evaluation measured alike"
        if alike
        else "Training and evaluation, not measured alike"
    )
    gaps = {row["point"]: row for row in rows(text, title)}
    curves = {row["point"]: row for row in rows(text, "Stable loss reduction")}
    assert set(gaps) == set(curves) == set(points)
    for label, records in points.items():
        evaluations = [[row for row in record.rows if row["kind"] == "eval"] for record in records]
        by_epoch = {
            epoch: np.mean([[row["loss"] for row in some if row["epoch"] == epoch][-1] for some in evaluations])
            for epoch in sorted({row["epoch"] for row in evaluations[0]})
        }
        means = list(by_epoch.values())
        row = curves[label]
        assert (row["epochs"], row["falls"]) == (str(len(means)), str(int((np.diff(means) < 0).sum())))
        assert (row["first epoch"], row["last epoch"]) == (f"{means[0]:.4f}", f"{means[-1]:.4f}")
        assert linked(unescaped(row["seeds"]), report) == folders(records)
        if alike:
            trained, evaluated = (numbers(records, f"final_{kind}_loss") for kind in ("train", "eval"))
        else:
            trained = np.array([[row for row in each.rows if row["kind"] == "train"][-1]["loss"] for each in records])
            evaluated = np.array([some[-1]["loss"] for some in evaluations])
        row = gaps[label]
        assert row["training loss"] == f"{trained.mean():.4f}"
        assert row["last evaluation loss"] == f"{evaluated.mean():.4f}"
        assert row["gap" if alike else "difference"] == signed((evaluated - trained).mean())
        low, high = interval(evaluated - trained)
        if np.ptp(evaluated - trained) > 1e-9:
            assert row["95 % interval"] == f"{signed(low)} to {signed(high)}"
        else:
            assert row["95 % interval"] == "none: the seeds do not differ"


def test_movement_stands_in_its_own_cells(tmp_path: Path) -> None:
    text = golden.report("arms", tmp_path)
    records = made("arms", tmp_path / "runs")["coupler_type HGNN"]
    weights = np.array([np.load(record.folder / "coupling.npz")["layer_0/hyperedge_weights"] for record in records])
    moved = weights[:, -1] - weights[:, 0]
    (row,) = rows(text, "Movement and agreement: coupler_type HGNN")
    low, high = interval(moved.mean(axis=1))
    means, spreads = moved.mean(axis=0), moved.std(axis=0, ddof=1)
    assert row["graph"] == "Layer 0"
    assert row["change in common"] == signed(moved.mean(), 5)
    assert row["95 % interval"] == f"{signed(low, 5)} to {signed(high, 5)}"
    assert row["movement over spread"] == f"{np.sqrt((means**2).mean() / (spreads**2).mean()):.2f}"
    assert row["by chance"] == f"{1 / np.sqrt(len(records)):.2f}"
    assert row["agreement"] == "1.00"
    p_values = sorted(stats.ttest_1samp(moved, 0).pvalue)
    holm = np.maximum.accumulate([p * (len(p_values) - place) for place, p in enumerate(p_values)])
    assert row["connections shown to have moved"] == f"{(holm < 0.05).sum()} of {len(p_values)}"


def kept(study: str) -> tuple[str, Path]:
    """A kept report, and its folder."""
    folder = golden.ROOT / "docs" / "reports" / study
    return (folder / "report.md").read_text(encoding="utf-8"), folder


def arms_of_the_study() -> dict[str, list[Record]]:
    study = RESULTS / "study-comparison"
    found: dict[str, list[Record]] = {}
    for trial in json.loads((study / "study.json").read_text(encoding="utf-8"))["trials"]:
        found.setdefault(trial["arm"], []).append(Record(study / Path(trial["run_dir"]).name))
    return found


def test_the_kept_comparison_has_the_numbers_of_each_arm_in_its_own_row() -> None:
    text, folder = kept("study-comparison")
    found = {row["arm"]: row for row in rows(text, "Arms")}
    arms = arms_of_the_study()
    assert set(found) == set(arms)
    for arm, records in arms.items():
        row = found[arm]
        assert linked(row["seeds"], folder) == folders(records)
        assert row["loss"] == f"{losses(records).mean():.4f}"
        assert row["95 % interval"] == "{:.4f} to {:.4f}".format(*interval(losses(records)))
        assert row["parameters"] == f"{model_size(records[0].config.model).total_parameters:,}"
        assert row["steps"] == f"{numbers(records, 'steps').mean():.0f}"
        assert row["training FLOPs"] == scientific(flops(records))
        assert row["minutes"] == f"{np.median([record.minutes for record in records]):.1f}"


def test_the_kept_comparison_has_the_differences_of_its_pairs() -> None:
    """Of losses, to the first and to the control, and of what models lose without their coupling: at Holm's levels."""
    text, _ = kept("study-comparison")
    arms = arms_of_the_study()
    first, *others = arms
    further = {arm: losses(arms[arm]) - losses(arms[first]) for arm in others}
    found = list(rows(text, "Which has the lower loss? (nats a token)"))
    assert [(row["arm"], row["against"]) for row in found] == [(arm, first) for arm in others]
    check_pairs({row["arm"]: row for row in found}, further)
    controlled = {"hgnn_optimized_comparison": losses(arms["hgnn_optimized_comparison"]) - losses(arms["mean"])}
    found = list(rows(text, "Which has a lower loss than experts that exchange nothing? (nats a token)"))
    assert [(row["arm"], row["against"]) for row in found] == [(arm, "mean") for arm in controlled]
    check_pairs({row["arm"]: row for row in found}, controlled, beside=further)
    lost = {
        arm: np.array([ablation(each) for each in records])
        for arm, records in arms.items()
        if records[0].config.model.coupler_type != "mean"
    }
    found = list(rows(text, "What does a trained model lose with its coupler taken out? (nats a token)"))
    assert [row["arm"] for row in found] == [f"{arm} with its coupler taken out" for arm in lost]
    check_pairs({row["against"]: row for row in found}, lost)
    for row in rows(text, "What trained models lose by an ablation"):
        losses_of = np.array([answer(each)["reported_loss"] for each in arms[row["point"]]])
        assert row["loss"] == f"{losses_of.mean():.4f}"
        assert row["ablated"] == f"{(losses_of + lost[row['point']]).mean():.4f}"
        assert row["difference"] == signed(lost[row["point"]].mean())


def answer(record: Record) -> dict[str, float]:
    found: dict[str, float] = json.loads((record.folder / "ablations.json").read_text(encoding="utf-8"))["coupler"]
    return found


def ablation(record: Record) -> float:
    found = answer(record)
    return found["ablated_reported_loss"] - found["reported_loss"]


def check_pairs(
    found: Mapping[str, dict[str, str]], differences: Mapping[str, Floats], beside: Mapping[str, Floats] | None = None
) -> None:
    """A row an arm, tested by Holm: the k-th smallest p of n at 0.05 / (n - k), until one is too large for its level,
    which is then that of the rest; n are these pairs, and those beside them that have rows elsewhere.
    """
    every = {("here", arm): some for arm, some in differences.items()}
    every |= {("beside", arm): some for arm, some in (beside or {}).items()}
    p_values = {name: float(stats.ttest_1samp(some, 0).pvalue) for name, some in every.items()}
    least, level = 0.0, 0.05 / len(p_values)
    for place, (where, arm) in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        left = len(p_values) - place
        level = 0.05 / left if least <= 0.05 else level
        least = min(1.0, max(least, p_values[where, arm] * left))
        if where == "beside":
            continue
        row = found[arm]
        low, high = interval(differences[arm], 1 - level)
        assert row["difference"] == signed(differences[arm].mean())
        assert row["interval"] == f"{signed(low)} to {signed(high)} ({100 * (1 - level):.3g} %)"
        assert float(row["p after Holm"]) == pytest.approx(least, rel=0.005)


def test_the_kept_sweep_has_the_numbers_of_each_value_in_its_own_row() -> None:
    text, folder = kept("study-experts")
    found = list(rows(text, "Losses and costs of each value of num_experts, all else as in the baseline"))
    study = RESULTS / "study-experts"
    records = {
        record.config.model.num_experts: record
        for record in map(Record, sorted(path.parent for path in study.glob("*/summary.json")))
    }
    assert [row["num_experts"] for row in found] == [str(value) for value in sorted(records)]
    for place, row in enumerate(found):
        record = records[int(row["num_experts"])]
        size = model_size(RunFolder(record.folder).read_config().model)
        assert linked(row["Seeds"], folder) == folders([record])
        assert plain(row["Eval loss"]) == f"{record.loss:.4f}"
        assert row["95 % interval"] == "one seed"
        assert plain(row["Perplexity"]) == f"{np.exp(record.loss):.2f}"
        assert plain(row["Bits a byte"]) == f"{record.summary['bits_per_byte']:.4f}"
        assert plain(row["Training time (min)"]) == f"{record.summary['train_minutes']:.1f}"
        assert plain(row["Total params"]) == millions(size.total_parameters)
        assert plain(row["Non-embedding params"]) == millions(size.non_embedding_parameters)
        assert plain(row["Training FLOPs"]) == scientific(flops([record]))
        assert plain(row["Tokens/s"]) == f"{record.summary['tokens_per_second']:,.0f}"
        assert plain(row["Peak memory (GiB)"]) == f"{record.summary['peak_memory_bytes'] / 2**30:.2f}"
        if place:
            before = records[int(found[place - 1]["num_experts"])]
            said, unit = row["For its cost"].split(" a doubling of ")
            cost = [each.summary["train_minutes"] if unit == "minutes" else flops([each]) for each in (before, record)]
            assert said == signed((record.loss - before.loss) / np.log2(cost[1] / cost[0]))


def millions(value: float) -> str:
    """Of three digits."""
    return f"{value / 1e6:.{2 if value < 1e7 else 1}f}M"
