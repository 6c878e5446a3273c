"""Batches on the device, made ahead of the steps that take them.

    with closing(load_ahead(samples, rows, positions=128, device=device)) as batches:
        for batch in batches:
            ...

One thread collates while the model computes. `torch.utils.data.DataLoader` without workers makes a batch only when it
is asked for, and its workers are processes: seconds of start-up and a copy of the interpreter each, to make in a
millisecond what a step takes long to compute. An executor of one thread keeps the order, hands errors over with their
traceback and ends with the loop over the batches.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from gnn_moe.data.batches import Batch, RowNumbers, collate
from gnn_moe.data.samples import Samples

STEPS_AHEAD = 2
"""Steps whose batches are made before they are asked for."""


@dataclass(frozen=True, kw_only=True)
class LoadedBatch:
    """The batch of one step, cut into micro-batches."""

    pieces: list[Batch]
    """The micro-batches."""
    denominator: Tensor
    """() float32: the predicted tokens, by which the summed loss of every piece is divided."""
    predicted_tokens: int
    """Of all pieces."""
    positions: int
    """Positions of all pieces, the padded ones included."""
    waited_seconds: float = 0.0
    """How long the step waited for it."""

    @property
    def padding_share(self) -> float:
        """Padded positions over all positions."""
        return 1 - self.predicted_tokens / self.positions


def collate_pieces(
    samples: Samples, rows: RowNumbers, *, size: int | None, positions: int, least_rows: int = 1
) -> list[Batch]:
    """The tensors of a batch's rows, in pieces of at most `size` rows; None is all of them at once."""
    step = size or len(rows)
    pieces = (rows[start : start + step] for start in range(0, len(rows), step))
    return [collate(samples, piece, positions=positions, least_rows=least_rows) for piece in pieces]


def load_ahead(
    samples: Samples,
    batches: Iterable[RowNumbers],
    *,
    micro_batch_size: int | None = None,
    positions: int,
    least_rows: int = 1,
    device: torch.device,
) -> Generator[LoadedBatch, None, None]:
    """The batches, on the device, in their order. Closing the generator ends its thread.

    Args:
        samples: the rows.
        batches: the row numbers of each; iterated in the thread.
        micro_batch_size: rows of a piece; None is the whole batch.
        positions: the model's `max_seq_length`.
        least_rows: of a piece; see `collate`.
        device: where the model is.
    """
    rows_of_batches = iter(batches)

    def load() -> LoadedBatch | None:
        rows = next(rows_of_batches, None)
        if rows is None:
            return None
        pieces = collate_pieces(samples, rows, size=micro_batch_size, positions=positions, least_rows=least_rows)
        loaded = _join(pieces)
        return _pinned(loaded, device) if device.type == "cuda" else loaded

    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
    try:
        coming = deque(executor.submit(load) for _ in range(STEPS_AHEAD))
        while True:
            began = time.perf_counter()
            loaded = coming.popleft().result()
            waited = time.perf_counter() - began
            if loaded is None:
                return
            coming.append(executor.submit(load))
            yield _on_device(dataclasses.replace(loaded, waited_seconds=waited), device)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _join(pieces: list[Batch]) -> LoadedBatch:
    predicted = sum(piece.predicted_tokens for piece in pieces)
    return LoadedBatch(
        pieces=pieces,
        denominator=torch.tensor(float(predicted)),
        predicted_tokens=predicted,
        positions=sum(piece.targets.numel() for piece in pieces),
    )


def _pinned(loaded: LoadedBatch, device: torch.device) -> LoadedBatch:
    """In page-locked memory, from which a GPU copies while the host goes on."""
    # A thread starts with the first GPU as its current one, whose memory it would otherwise touch.
    with torch.cuda.device(device):
        return _map(loaded, Tensor.pin_memory)


def _on_device(loaded: LoadedBatch, device: torch.device) -> LoadedBatch:
    # On the stream of the step: the copies come before what reads them, and nobody waits.
    return _map(loaded, lambda values: values.to(device, non_blocking=True))


def _map(loaded: LoadedBatch, change: Callable[[Tensor], Tensor]) -> LoadedBatch:
    pieces = [
        dataclasses.replace(piece, input_ids=change(piece.input_ids), targets=change(piece.targets))
        for piece in loaded.pieces
    ]
    return dataclasses.replace(loaded, pieces=pieces, denominator=change(loaded.denominator))
