"""What races, in the child: a model, its batch and its optimiser, a step at a time.

`Ours` computes what `gnn-moe train` computes in a step, with the memory settings of its process; `Textbook` is a plain
float32 loop. Both have the same weights and the same fixed random rows of full length.

Letters: B rows, T positions.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import process_memory
from benchmarks.cases import Contestant
from benchmarks.parts import COUPLER, EXPERTS, HEAD, OPTIMISER, Forwards, part_memory, saved_bytes, time_parts
from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.data.batches import Batch
from gnn_moe.model.halves import HALVES
from gnn_moe.model.head import lay_out_by_columns
from gnn_moe.model.language_model import CoupledLayer, build_model
from gnn_moe.model.loss import head_loss
from gnn_moe.training.device import keep_freed_memory, resolve_device, resolve_precision
from gnn_moe.training.optimiser import build_optimiser
from gnn_moe.training.side_by_side import SideBySide

DATA_SEED = 20240229


def random_rows(config: ModelConfig, rows: int) -> tuple[Tensor, Tensor]:
    """Inputs and next-token targets (B, T) of random rows of full length."""
    generator = np.random.default_rng(DATA_SEED)
    tokens = torch.from_numpy(generator.integers(config.vocab_size, size=(rows, config.max_seq_length + 1)))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class Racer(ABC):
    """What both contestants share: rounds of steps, the clock and the memory."""

    model: nn.Module
    optimiser: torch.optim.Optimizer

    def __init__(self, setup: Contestant, device: torch.device) -> None:
        self.config, self.training, self.device = setup.model, setup.training, device
        torch.optim.AdamW([torch.zeros(1, requires_grad=True)])  # the first optimiser imports torch's compiler
        self.base_bytes = process_memory.used_bytes(device)
        torch.manual_seed(setup.training.seed)
        ids_BT, targets_BT = random_rows(setup.model, setup.training.batch_size)
        self.ids_BT, self.targets_BT = ids_BT.to(device), targets_BT.to(device)

    def run(self, steps: int) -> list[float]:
        """Seconds of each step."""
        return [self._timed(self.step) for _ in range(steps)]

    def memory(self) -> dict[str, int]:
        """`peak_bytes` of the process (or device), and of it `step_bytes`: without what the imports take."""
        peak = process_memory.peak_bytes(self.device)
        return {"peak_bytes": peak, "step_bytes": peak - self.base_bytes}

    def parts(self, repetitions: int) -> dict[str, Any]:
        """Seconds and bytes of each part, computed alone on the shapes of the step; call it last."""
        rows = self._micro_rows()
        seconds = self._time_parts(rows, repetitions)
        scale = self.training.batch_size / rows
        optimiser = []
        for _ in range(repetitions):
            self._backward()
            optimiser.append(self._timed(self._update))
        times = {name: value * scale for name, value in seconds.items()} | {OPTIMISER: float(np.median(optimiser))}
        return {"seconds": times, "bytes": part_memory(self.model, self.optimiser, partial(self.forwards, rows))}

    def step(self) -> None:
        """One whole step, from a batch to moved weights."""
        self._backward()
        self._update()

    @abstractmethod
    def forwards(self, rows: int) -> Forwards:
        """Each part's forward passes, layer by layer, on so many rows of its own that want a gradient."""

    @abstractmethod
    def _backward(self) -> None:
        """Forms the gradients of one batch."""

    def _time_parts(self, rows: int, repetitions: int) -> dict[str, float]:
        return time_parts(partial(self.forwards, rows), self._timed, self.model, repetitions)

    def _update(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
        self.optimiser.step()
        self.optimiser.zero_grad()

    def _micro_rows(self) -> int:
        return self.training.batch_size

    def _timed(self, run: Callable[[], object]) -> float:
        self._synchronise()
        start = time.perf_counter()
        run()
        self._synchronise()
        return time.perf_counter() - start

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _input(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, device=self.device).to(dtype).requires_grad_()


class Ours(Racer):
    """The step of `gnn-moe train`."""

    def __init__(self, setup: Contestant) -> None:
        device = resolve_device(setup.training.device)
        if device.type == "cpu":
            keep_freed_memory()
        super().__init__(setup, device)
        bf16 = resolve_precision(setup.training.precision, device) == "bf16"
        self.compute_dtype = torch.bfloat16 if bf16 else torch.float32
        model = build_model(setup.model, seed=setup.training.seed).to(device)
        if device.type == "cpu" and bf16:
            lay_out_by_columns(model.head_weight)
        self.model = self.ours = model
        self.optimiser = build_optimiser(model, setup.training)
        self.side_by_side = SideBySide(model, setup.training)
        if setup.training.compile:
            from gnn_moe.training.compiling import any_shape, compile_layers

            compile_layers(model)
            self.shapes = ExitStack()  # open as long as this process lives, as it is while `gnn-moe train` trains
            self.shapes.enter_context(any_shape())
        process_memory.reset_peak(device)

    def forwards(self, rows: int) -> Forwards:
        positions, width = self.config.max_seq_length, self.config.embed_dim
        layers = [layer for layer in self.ours.layers if isinstance(layer, CoupledLayer)]
        dtype = self.compute_dtype

        def experts(layer: CoupledLayer) -> list[Tensor]:
            return [layer.experts(self._input(rows, positions, width, dtype=torch.float32), dtype)]

        def coupling(layer: CoupledLayer) -> list[Tensor]:
            shape = (self.config.num_experts, rows * positions, width)
            return [layer.readout(layer.coupler(self._input(*shape, dtype=dtype)))]

        def head() -> list[Tensor]:
            hidden_ND = self._input(rows * positions, width, dtype=dtype)
            targets_N = self.targets_BT[:rows].flatten()
            predicted = torch.tensor(float(len(targets_N)), device=self.device)
            weight, bias = self.ours.head_weight, self.ours.head_bias
            return [head_loss(hidden_ND, weight, bias, targets_N, predicted, self.ours.workspace)]

        return {
            EXPERTS: [partial(experts, layer) for layer in layers],
            COUPLER: [partial(coupling, layer) for layer in layers],
            HEAD: [head],
        }

    def kept_bytes(self) -> int:
        """Bytes that the forward pass of a micro-batch keeps for its backward pass, weights left out."""
        return saved_bytes(lambda: [self._loss(next(self._pieces()))], self.model)

    def _time_parts(self, rows: int, repetitions: int) -> dict[str, float]:
        if not self.side_by_side.halved(next(self._pieces())):
            return super()._time_parts(rows, repetitions)

        def together(passes: Callable[[], object]) -> None:
            self.side_by_side.together([passes] * HALVES)

        half = partial(self.forwards, -(-rows // HALVES))
        return time_parts(half, self._timed, self.model, repetitions, together)

    def _backward(self) -> None:
        def backward(piece: Batch) -> None:
            self._loss(piece).backward()  # type: ignore[no-untyped-call]

        self.side_by_side.accumulate(self._pieces(), backward)

    def _pieces(self) -> Iterator[Batch]:
        both = (torch.split(of_all, self._micro_rows()) for of_all in (self.ids_BT, self.targets_BT))
        for ids_BT, targets_BT in zip(*both, strict=True):
            yield Batch(input_ids=ids_BT, targets=targets_BT, predicted_tokens=targets_BT.numel())

    def _loss(self, piece: Batch) -> Tensor:
        predicted = torch.tensor(float(self.targets_BT.numel()), device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.compute_dtype == torch.bfloat16):
            output = self.ours(piece.input_ids, targets=piece.targets, loss_denominator=predicted)
        loss: Tensor = output.loss
        return loss

    def _micro_rows(self) -> int:
        return self.training.rows_at_once


class Textbook(Racer):
    """The step of a first version: whole batch, float32, torch's default AdamW."""

    def __init__(self, setup: Contestant) -> None:
        from benchmarks.textbook import TextbookModel

        if setup.model.coupler.uses_hypergraph:
            import benchmarks.textbook_hypergraph  # noqa: F401 - before memory is read: an import is no part of a step

        super().__init__(setup, resolve_device(setup.training.device))
        self.textbook = TextbookModel(setup.model, setup.kind)
        self.textbook.load_from(build_model(setup.model, seed=setup.training.seed))
        self.model = self.textbook.to(self.device)
        self.optimiser = plain_optimiser(self.model, setup.training)
        gc.collect()
        process_memory.reset_peak(self.device)

    def forwards(self, rows: int) -> Forwards:
        from benchmarks.textbook import TextbookLayer, causal_mask

        shape = (rows, self.config.max_seq_length, self.config.embed_dim)
        layers = [layer for layer in self.textbook.layers if isinstance(layer, TextbookLayer)]
        future_TT = causal_mask(self.config.max_seq_length, self.device)

        def experts(layer: TextbookLayer) -> list[Tensor]:
            x_BTD = self._input(*shape, dtype=torch.float32)
            return [expert(x_BTD, future_TT) for expert in layer.experts]

        def coupling(layer: TextbookLayer) -> list[Tensor]:
            results = [self._input(*shape, dtype=torch.float32) for _ in layer.experts]
            return [layer.readout(layer.coupler(results))]

        def head() -> list[Tensor]:
            logits_BTV = self.textbook.head(self._input(*shape, dtype=torch.float32))
            return [nn.functional.cross_entropy(logits_BTV.flatten(0, 1), self.targets_BT[:rows].flatten())]

        return {
            EXPERTS: [partial(experts, layer) for layer in layers],
            COUPLER: [partial(coupling, layer) for layer in layers],
            HEAD: [head],
        }

    def _backward(self) -> None:
        self.textbook.loss(self.ids_BT, self.targets_BT).backward()  # type: ignore[no-untyped-call]


def plain_optimiser(model: nn.Module, training: TrainingConfig) -> torch.optim.AdamW:
    """torch's AdamW as it comes."""
    return torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)


def build(setup: Contestant) -> Racer:
    """The contestant that a setup describes, for a child."""
    return Ours(setup) if setup.kind == "ours" else Textbook(setup)
