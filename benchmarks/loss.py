"""`python -m benchmarks loss`: head and loss alone, in several forms, each in a process of its own.

Letters: N tokens, D width, V vocabulary.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import process_memory
from benchmarks.children import Failure, Subject, contest
from benchmarks.measure import PASSIVE, Timing, timing

if TYPE_CHECKING:
    from torch import Tensor

FORMS = (
    "ours bf16",
    "ours float32",
    "cross_entropy float32",
    "cross_entropy bf16",
    "linear_cross_entropy float32",
    "linear_cross_entropy bf16",
)
"""The last two are torch's own form that makes its logits a chunk at a time (from 2.13)."""


@dataclass(frozen=True, kw_only=True)
class LossSizes:
    """What is computed."""

    tokens: int
    width: int
    vocabulary: int
    device: str


@dataclass(frozen=True, kw_only=True)
class LossFigures:
    """One form."""

    timing: Timing
    step_bytes: int
    """Peak memory beyond weights and imports: logits, gradients and what else there is."""


@dataclass(frozen=True, kw_only=True)
class LossResult:
    """All forms at one size."""

    sizes: LossSizes
    figures: dict[str, LossFigures]
    failures: dict[str, Failure]


class HeadLoss:
    """The child: forward and backward pass of one form, with weights in float32 as a model has them."""

    def __init__(self, form: str, sizes: LossSizes) -> None:
        import torch

        from gnn_moe.model.head import lay_out_by_columns
        from gnn_moe.model.workspace import Workspace
        from gnn_moe.training.device import keep_freed_memory, resolve_device

        self.device = resolve_device(sizes.device)
        if form.startswith("ours") and self.device.type == "cpu":
            keep_freed_memory()
        function, precision = form.split()
        self.form = function
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int, scale: float) -> Tensor:
            return torch.randn(*shape, generator=generator).mul_(scale).to(self.device)

        self.hidden_ND = random(sizes.tokens, sizes.width, scale=1.0).to(self.dtype).requires_grad_()
        self.weight_VD = random(sizes.vocabulary, sizes.width, scale=0.02).requires_grad_()
        self.bias_V = random(sizes.vocabulary, scale=0.02).requires_grad_()
        if self.form == "ours" and self.dtype == torch.bfloat16 and self.device.type == "cpu":
            lay_out_by_columns(self.weight_VD)
        self.target_N = torch.randint(sizes.vocabulary, (sizes.tokens,), generator=generator).to(self.device)
        self.workspace = Workspace()  # a model has one
        self.base_bytes = process_memory.used_bytes(self.device)
        process_memory.reset_peak(self.device)

    def run(self, steps: int) -> list[float]:
        """Seconds of each forward and backward pass."""
        return [self._step() for _ in range(steps)]

    def memory(self) -> int:
        """Bytes at the peak beyond what there was before the first step."""
        return process_memory.peak_bytes(self.device) - self.base_bytes

    def loss(self) -> Tensor:
        """The mean cross-entropy, ()."""
        import torch
        from torch import nn
        from torch.nn import functional

        from gnn_moe.model.loss import head_loss

        if self.form == "ours":
            tokens = torch.tensor(float(len(self.target_N)), device=self.device)
            return head_loss(self.hidden_ND, self.weight_VD, self.bias_V, self.target_N, tokens, self.workspace)
        weight, bias = self.weight_VD.to(self.dtype), self.bias_V.to(self.dtype)
        if self.form == "cross_entropy":
            return functional.cross_entropy(functional.linear(self.hidden_ND, weight, bias), self.target_N)
        fused: Any = getattr(functional, "linear_cross_entropy", None)
        options: Any = getattr(nn, "LinearCrossEntropyOptions", None)
        if fused is None or options is None:
            raise NotImplementedError(f"torch {torch.__version__} has no chunked linear_cross_entropy")
        # Without options it is linear followed by cross_entropy.
        value: Tensor = fused(self.hidden_ND, weight, self.target_N, linear_bias=bias, options=options())
        return value

    def _step(self) -> float:
        for tensor in (self.hidden_ND, self.weight_VD, self.bias_V):
            tensor.grad = None
        self._synchronise()
        start = time.perf_counter()
        self.loss().backward()  # type: ignore[no-untyped-call]
        self._synchronise()
        return time.perf_counter() - start

    def _synchronise(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def compare_losses(sizes: LossSizes, *, rounds: int, warmup: int) -> LossResult:
    """Races all forms."""
    subjects = {
        form: Subject(target="benchmarks.loss:HeadLoss", arguments=(form, sizes), environment=PASSIVE) for form in FORMS
    }
    with contest(subjects) as running:
        for _ in range(warmup):
            running.ask("run", 1)
        seconds: dict[str, list[float]] = {}
        for _ in range(rounds):
            for form, answer in running.ask("run", 1).items():
                seconds.setdefault(form, []).extend(answer)
        memory = running.ask("memory")
        figures = {form: LossFigures(timing=timing(seconds[form]), step_bytes=memory[form]) for form in memory}
        return LossResult(sizes=sizes, figures=figures, failures=running.failures)
