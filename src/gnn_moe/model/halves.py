"""Which micro-batches a CPU computes in two halves side by side.

Two threads that share each operation wait for each other after each. Two that have half of the rows each, and of the
threads, wait once a step. `training/side_by_side.py` does it; the rule stands here, since the memory that a run takes
depends on it too, which is foretold without torch.
"""

from __future__ import annotations

import os

import psutil

from gnn_moe.config import COUPLED, TOP_K, ModelConfig, TrainingConfig
from gnn_moe.model.size import model_size

HALVES = 2
LEAST_NUMBERS = 2**20
"""Of all experts' results in one layer. With half as many halves gain next to nothing, with few they lose: Python runs
in one thread at a time, and is then most of a step (docs/performance.md)."""
_NUMBERS_OF_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def computed_in_halves(
    model: ModelConfig, training: TrainingConfig, *, rows: int, positions: int, device_type: str, threads: int
) -> bool:
    """Whether a micro-batch of `rows` rows of `positions` positions is computed so.

    Not where the loss is more than a sum over rows (routers balance the load of what is computed at once), where layers
    are computed again (each from the state of the one generator of dropout), and where shapes are compiled.

    Args:
        model: its sizes.
        training: how it is trained.
        rows: B.
        positions: T.
        device_type: cpu or cuda.
        threads: those that this process computes with.
    """
    shared = device_type == "cpu" and threads >= HALVES and threads % HALVES == 0 and rows >= HALVES
    separable = model.architecture != TOP_K and not training.activation_checkpointing and not training.compile
    return shared and separable and rows * positions * _results(model) >= LEAST_NUMBERS


def threads_to_expect(at_once: int = 1) -> int:
    """Threads that torch most likely computes with, without torch: one a core, or fewer as the environment says.

    Where that says nothing, `at_once` runs of a study share the cores.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processors = min(processors, psutil.cpu_count(logical=False) or processors)
    given = (os.environ.get(name, "").split(",")[0].strip().lstrip("+") for name in _NUMBERS_OF_THREADS)
    asked = [int(number) for number in given if number.isdecimal() and int(number) > 0]
    return min(processors, *asked) if asked else max(1, processors // at_once)


def _results(model: ModelConfig) -> int:
    """Numbers of all experts' results for one token."""
    return model_size(model).width * (model.num_experts if model.architecture == COUPLED else 1)
