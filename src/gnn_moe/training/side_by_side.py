"""Gradients of micro-batches, on a CPU in two halves side by side (`model/halves.py` says which).

Each half has a thread of its own and half of this process's threads, and adds its gradients to the parameters' as they
come. The sum of two numbers does not depend on their order, so a step computes the same bits whichever half is first;
what earlier micro-batches have left waits beside, and is added when both are through.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from gnn_moe.config import TrainingConfig
from gnn_moe.data.batches import IGNORED, Batch
from gnn_moe.model.dropout import draw_seed, seeds_from
from gnn_moe.model.halves import HALVES, computed_in_halves
from gnn_moe.model.language_model import LanguageModel

T = TypeVar("T")


class SideBySide:
    """Computes the micro-batches of one training; `close` ends its threads, and who goes on starts new ones."""

    def __init__(self, model: LanguageModel, training: TrainingConfig) -> None:
        self.model, self.training = model, training
        self._executor: ThreadPoolExecutor | None = None

    def accumulate(self, pieces: Iterable[Batch], backward: Callable[[Batch], T]) -> list[T]:
        """What `backward` returns for each piece, or for each half of it; its gradients are added to `.grad`.

        Args:
            pieces: the micro-batches.
            backward: adds the gradient of the rows that it is given to the parameters', whatever thread it is in.
        """
        results: list[T] = []
        for piece in pieces:
            if not self.halved(piece):
                results.append(backward(piece))
                continue
            earlier = self._take_gradients()
            results += self.together([partial(backward, half) for half in halves(piece)])
            self._add_gradients(earlier)
        return results

    def close(self) -> None:
        """Ends the threads."""
        if self._executor is not None:
            self._executor.shutdown(wait=True)
            self._executor = None

    def halved(self, piece: Batch) -> bool:
        """Whether `accumulate` would compute it in halves."""
        rows, positions = piece.input_ids.shape
        return computed_in_halves(
            self.model.config,
            self.training,
            rows=rows,
            positions=positions,
            device_type=piece.input_ids.device.type,
            threads=torch.get_num_threads(),
        )

    def together(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """What two calls return that are made in two threads, each with dropout's masks from a generator of its own.

        When this returns or raises what one has raised, both are through.
        """
        if self._executor is None:
            self._executor = _threads()

        def compute(call: Callable[[], T], seed: Tensor) -> T:
            with seeds_from(torch.Generator().manual_seed(int(seed))):
                return call()

        # Accelerate enters one `torch.autocast` for both: its state is each thread's own, and alike in both.
        seeds = [draw_seed() for _ in calls]
        running: list[Future[T]] = []
        try:
            for call, seed in zip(calls, seeds, strict=True):
                running.append(self._executor.submit(compute, call, seed))
        finally:
            wait(running)
        return [each.result() for each in running]

    def _take_gradients(self) -> list[tuple[torch.nn.Parameter, Tensor]]:
        taken = []
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                taken.append((parameter, parameter.grad))
                parameter.grad = None
        return taken

    def _add_gradients(self, earlier: list[tuple[torch.nn.Parameter, Tensor]]) -> None:
        for parameter, gradient in earlier:
            parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)


def halves(piece: Batch) -> list[Batch]:
    """A micro-batch cut in two, the first with the odd row."""
    rows = -(-len(piece.input_ids) // HALVES)
    return [
        dataclasses.replace(
            piece, input_ids=ids_BT, targets=targets_BT, predicted_tokens=int((targets_BT != IGNORED).sum())
        )
        for ids_BT, targets_BT in zip(torch.split(piece.input_ids, rows), torch.split(piece.targets, rows), strict=True)
    ]


def _threads() -> ThreadPoolExecutor:
    """Two threads, each of which computes with half of the threads that this one computes with."""
    mine = torch.get_num_threads()
    both = threading.Barrier(HALVES)

    def take_a_share() -> None:
        torch.get_num_threads()  # a thread's first question sets its number anew
        torch.set_num_threads(mine // HALVES)
        both.wait()  # or one thread would take both shares

    executor = ThreadPoolExecutor(HALVES, thread_name_prefix="half")
    try:
        for started in [executor.submit(take_a_share) for _ in range(HALVES)]:
            started.result()
    except BaseException:  # a thread that cannot start; the other waits for it
        both.abort()
        executor.shutdown(wait=True)
        raise
    finally:
        # The number is each thread's own, but the last one set is what a thread that has not asked yet begins with.
        torch.set_num_threads(mine)
    return executor
