"""`python -m benchmarks plan`: what `gnn-moe inspect --calibrate` foretells of a run, and what the run then takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WITHIN = 0.15
"""Target: how far a prediction may be off."""
MOST_WAITING = 0.02
"""Target: less than this share of training is spent waiting for batches."""
_DATA = "--epochs 1 --num_train_samples 3000 --num_eval_samples 300 --seed 1"
_SHARED = f"--max_batches_per_epoch 60 --eval_every 30 {_DATA}"
PLANS: Mapping[str, str] = {
    name: f"{flags} {_SHARED}"
    for name, flags in {
        "wide-hgnn": "--coupler_type HGNN --num_experts 2 --embed_dim 512 --num_layers 4 --gnn_layers 3 "
        "--batch_size 16",
        "split-experts": "--num_experts 16 --embed_dim 192 --num_layers 3 --micro_batch_size 8",
        "float32": "--num_experts 3 --embed_dim 192 --num_layers 4 --precision fp32",
        "packed-long": "--coupler_type HGNN --static_hyperedge_strategy all_triplets --num_experts 5 --embed_dim 128 "
        "--num_layers 3 --data_format packed --max_seq_length 512 --batch_size 8",
        "checkpointed": "--coupler_type attention --num_experts 6 --embed_dim 160 --num_layers 5 --tokenizer bpe:2000 "
        "--batch_size 64 --activation_checkpointing",
        "seed-config1": "--num_experts 2 --embed_dim 384 --num_layers 6 --gnn_layers 3",
    }.items()
} | {
    "longer": "--coupler_type HGNN --num_experts 4 --embed_dim 96 --num_layers 2 --batch_size 8 "
    f"--max_batches_per_epoch 375 --eval_every 75 {_DATA}"
}
"""Runs that have little in common, as flags of `gnn-moe train`. Only seed-config1 had no part in a constant of plans:
idle shares and the steps of a calibration were chosen on others."""


@dataclass(frozen=True, kw_only=True)
class PlanResult:
    """One run, foretold and measured."""

    flags: str
    predicted_bytes: int
    peak_bytes: int
    memory: float
    """Predicted over measured."""
    memory_met: bool
    predicted_minutes: float
    minutes: float
    """Of training and evaluation."""
    time: float
    """Predicted over measured."""
    time_met: bool
    waiting_share: float
    """Of the seconds of training, those spent waiting for batches."""
    waiting_met: bool


def hold_to_plan(flags: str, *, device: str) -> PlanResult:
    """Foretells a run from a calibration, then runs it.

    Args:
        flags: of `gnn-moe train`.
        device: of both.

    Raises:
        subprocess.CalledProcessError: one of the two failed.
    """
    words = [*flags.split(), "--device", device]
    foretold = json.loads(_gnn_moe(["inspect", *words, "--calibrate", "--json"]))
    with tempfile.TemporaryDirectory() as folder:
        _gnn_moe(["train", *words, "--output_dir", folder, "--run_name", "run", "--quiet"])
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text(encoding="utf-8"))
    predicted = foretold["train_minutes"] + foretold["eval_minutes"]
    minutes = summary["train_minutes"] + summary["eval_minutes"]
    memory = foretold["peak_memory_bytes"] / summary["peak_memory_bytes"]
    return PlanResult(
        flags=flags,
        predicted_bytes=foretold["peak_memory_bytes"],
        peak_bytes=summary["peak_memory_bytes"],
        memory=memory,
        memory_met=abs(memory - 1) <= WITHIN,
        predicted_minutes=predicted,
        minutes=minutes,
        time=predicted / minutes,
        time_met=abs(predicted / minutes - 1) <= WITHIN,
        waiting_share=summary["waiting_share"],
        waiting_met=summary["waiting_share"] < MOST_WAITING,
    )


def _gnn_moe(words: Sequence[str]) -> str:
    return subprocess.run([sys.executable, "-m", "gnn_moe", *words], capture_output=True, text=True, check=True).stdout
