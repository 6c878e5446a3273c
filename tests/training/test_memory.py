"""The memory of real runs: layers computed again keep less, freed memory stays, the peak is near what was foretold."""

from __future__ import annotations

import ctypes
import platform
import resource
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gnn_moe.cli import main
from gnn_moe.plans import plan_memory
from gnn_moe.run_folder import RunFolder
from tests.small_runs import Accident, Commands, Setting, read_json, read_rows

LARGE, MORE, TIMES = 40 * 2**20, 2**16, 5
"""Bytes of a block and by how many it grows: glibc of itself hands back all blocks of more than 32 MiB."""


def kept_bytes(words: list[str]) -> int:
    """Bytes that autograd is given to keep in a whole run, parameters left out."""
    kept = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes * (not isinstance(tensor, nn.Parameter))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        assert main(words) == 0
    return kept


def test_a_run_with_checkpointed_layers_keeps_little_and_computes_the_same(setting: Setting) -> None:
    flags: dict[str, Any] = {"epochs": 1, "max_batches_per_epoch": 2, "num_layers": 4, "dropout_rate": 0.1}
    plain = kept_bytes(setting.flags("plain", **flags))
    checkpointed = kept_bytes(setting.flags("checkpointed", "--activation_checkpointing", **flags))
    assert 0 < checkpointed < plain / 4
    losses = [[row["loss"] for row in read_rows(setting.runs / name)] for name in ("plain", "checkpointed")]
    assert losses[0] == losses[1]


def count_faults() -> None:
    """Prints how many pages this thread usually gets from the kernel as it takes, fills and frees a large block."""
    glibc, counts = ctypes.CDLL("libc.so.6"), []
    glibc.malloc.restype, glibc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    for number in range(TIMES):
        # Larger than the one before, so that no hole holds it: it stands at the end of the heap, which may be cut off.
        size = LARGE + number * MORE
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        block = glibc.malloc(size)
        ctypes.memset(block, 1, size)
        glibc.free(block)
        counts.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    sys.stdout.write(f"faults {statistics.median(counts)}\n")


def faults_counted_now_and_in_the_second_step() -> None:
    count_faults()
    Accident("gnn_moe.training.loop:Trainer._step", 2, lambda *arguments: count_faults()).prepare()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory in other ways")
def test_train_keeps_freed_memory(setting: Setting, commands: Commands) -> None:
    accident = Accident("gnn_moe.training.device:keep_freed_memory", 1, faults_counted_now_and_in_the_second_step)
    done = commands.run(setting.flags("it"), accident)
    assert done.status == 0, done.output
    handed_back, kept = (float(line.split()[1]) for line in done.printed.splitlines() if line.startswith("faults "))
    assert handed_back >= LARGE / 2**21  # of pages of 2 MiB, the largest
    assert kept < handed_back / 10


WIDE = {"num_experts": 4, "embed_dim": 384, "num_layers": 3, "max_seq_length": 64, "data_format": "packed"}
RUNS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "whole": {**WIDE, "batch_size": 8},
    "accumulated": {**WIDE, "batch_size": 16, "micro_batch_size": 8},
}
"""One has next to no tensors: what it takes are interpreter and libraries. Two compute the same rows at once."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep memory in other ways")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_the_peak_of_a_process_is_near_what_was_foretold(
    threads: str, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of processes as users start them; with two threads micro-batches are computed in halves."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)

    def peaks(name: str) -> dict[str, int]:
        changes = {"coupler_type": "GNN", "epochs": 1, "max_batches_per_epoch": 2, "num_eval_samples": 4, **RUNS[name]}
        words = [sys.executable, "-m", "gnn_moe", *setting.flags(name, **changes)]
        subprocess.run(words, capture_output=True, check=True)
        run = RunFolder(setting.runs / name)
        found = {
            "foretold": plan_memory(run.read_config()).peak.total,
            "measured": read_json(run.summary)["peak_memory_bytes"],
        }
        shutil.rmtree(run.path)
        return found

    with ThreadPoolExecutor(2) as pool:
        tiny, whole, accumulated = pool.map(peaks, RUNS)
    step = {kind: whole[kind] - tiny[kind] for kind in tiny}
    gradients = {kind: accumulated[kind] - whole[kind] for kind in tiny}
    assert step["measured"] > 400 * 2**20
    # A quarter of it is what the forward pass keeps, half parameters and moments.
    assert 0.88 < step["foretold"] / step["measured"] < 1.35
    assert 0.5 < gradients["foretold"] / gradients["measured"] < 1.5
