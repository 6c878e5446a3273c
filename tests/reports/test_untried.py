"""The table of untried values, each cell reckoned again by NumPy and SciPy from what the runs were written with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import stats

from gnn_moe.cli import main
from gnn_moe.config import RunConfig
from gnn_moe.model.size import model_size
from gnn_moe.plans import plan_memory
from gnn_moe.run_folder import RunFolder
from tests.reports.made_runs import write_run
from tests.reports.test_report import rows

Floats = npt.NDArray[np.float64]
SEEDS = (1, 2, 3)
EXPERTS = {2: [5.30, 5.32, 5.27], 4: [5.10, 5.11, 5.08], 8: [4.92, 4.94, 4.91]}
"""Losses by seed: falling to the edge, the steps nearly even."""
RATES = {1e-4: [5.01, 5.02, 4.99], 3e-4: EXPERTS[8], 9e-4: [4.95, 4.99, 4.93]}
"""Lowest inside."""
MINUTES = {2: 1.5, 4: 3.0, 8: 6.0}


def write_runs(folder: Path) -> None:
    for experts, losses in EXPERTS.items():
        for seed, loss in zip(SEEDS, losses, strict=True):
            name = f"experts-{experts}-{seed}"
            write_run(
                folder / name, num_experts=experts, learning_rate=3e-4, seed=seed, loss=loss, minutes=MINUTES[experts]
            )
    for rate, losses in RATES.items():
        for seed, loss in zip(SEEDS, losses, strict=True):
            if rate != 3e-4:
                name = f"rate-{rate}-{seed}"
                write_run(folder / name, num_experts=8, learning_rate=rate, seed=seed, loss=loss, minutes=MINUTES[8])


def with_experts(config: RunConfig, num_experts: int) -> RunConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_experts=num_experts))


def signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")


def interval(differences: Floats) -> str:
    """At 95 % for two fields together."""
    low, high = stats.t.interval(0.975, len(differences) - 1, differences.mean(), stats.sem(differences))
    return f"{signed(low)} to {signed(high)}"


def test_every_cell_is_reckoned_again(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs")
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    found = {row["field"]: row for row in rows(text, "Untried values and what to expect")}
    experts, learning_rate = "[num_experts](#swept-num-experts)", "[learning_rate](#swept-learning-rate)"
    assert set(found) == {experts, learning_rate}

    four, eight = np.array(EXPERTS[4]), np.array(EXPERTS[8])
    tried = RunFolder(tmp_path / "runs" / "experts-8-1").read_config()
    next_ = with_experts(tried, 16)
    flops = [model_size(each.model).training_flops_per_token for each in (tried, next_)]
    error = abs(np.mean(EXPERTS[4]) + (np.mean(EXPERTS[4]) - np.mean(EXPERTS[2])) - np.mean(EXPERTS[8]))
    assert found[experts] == {
        "field": experts,
        "try": "16",
        "lowest so far": "8",
        "expected loss": f"{(eight + (eight - four)).mean():.4f}",
        "change": signed((eight - four).mean()),
        "interval": interval(eight - four),
        "seeds": "3",
        "error": f"{error:.4f}",
        "gain": "**expected**",
        "minutes": f"{MINUTES[8] * flops[1] / flops[0]:.1f}",
        "memory (GiB)": f"{plan_memory(next_, threads=1).peak.total / 2**30:.2f}",
        "if": "the step from 4 to 8 repeats itself",
    }

    places = np.log2(list(RATES))
    bend, slope, _ = np.polyfit(places, [np.mean(losses) for losses in RATES.values()], 2)
    rate = float(f"{2 ** (-slope / (2 * bend)):.2g}")
    expected = np.array(
        [
            np.polyval(np.polyfit(places, [losses[seed] for losses in RATES.values()], 2), np.log2(rate))
            for seed in range(len(SEEDS))
        ]
    )
    assert found[learning_rate] == {
        "field": learning_rate,
        "try": f"{rate:g}",
        "lowest so far": "0.0003",
        "expected loss": f"{expected.mean():.4f}",
        "change": signed((expected - eight).mean()),
        "interval": interval(expected - eight),
        "seeds": "3",
        "error": "",
        "gain": "cannot be told: the interval holds 0",
        "minutes": f"{MINUTES[8]:.1f}",
        "memory (GiB)": f"{plan_memory(tried, threads=1).peak.total / 2**30:.2f}",
        "if": "a parabola through 0.0001, 0.0003 and 0.0009",
    }
