"""Studies with known contents whose run folders are on another machine: study.json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gnn_moe.config import RunConfig, to_dict


def write_study(folder: Path, trials: list[dict[str, Any]]) -> Path:
    """study.json alone, as where the run folders are on another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    config = to_dict(RunConfig())
    baseline = {group: config[group] for group in ("model", "data", "training")}
    whole = [
        {
            "arm": None,
            "error_class": None,
            "error_message": None,
            "run_dir": None,
            **trial,
        }
        for trial in trials
    ]
    values = {
        "format": "gnn_moe.study",
        "version": 1,
        "study": folder.name,
        "comparison": None,
        "command": ["gnn-moe", "sweep"],
        "baseline": baseline,
        "trials": whole,
    }
    (folder / "study.json").write_text(json.dumps(values))
    return folder


def trial(experts: int, seed: int, **more: Any) -> dict[str, Any]:
    name = f"num_experts={experts},seed={seed}"
    row = {"name": name, "params": {"num_experts": experts}, "seed": seed, "state": "completed"}
    return {**row, "best_eval_loss": 5.0 + 0.01 * seed, "reported_loss": 5.1, **more}
