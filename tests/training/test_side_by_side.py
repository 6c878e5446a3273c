"""Micro-batches in two halves side by side: the same gradients, the same bits each time, half of the threads each."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from gnn_moe.cli import main
from gnn_moe.config import DENSE, TOP_K, ModelConfig, RunConfig, TrainingConfig
from gnn_moe.data.batches import IGNORED, Batch
from gnn_moe.model.dropout import draw_seed, seeds_from
from gnn_moe.model.halves import computed_in_halves, threads_to_expect
from gnn_moe.model.language_model import LanguageModel, build_model
from gnn_moe.model.memory import Circumstances, PeakMemory, peak_memory, workload_of
from gnn_moe.plans import plan_memory
from gnn_moe.reports.memory import planned_bytes
from gnn_moe.training import side_by_side as side_by_side_module
from gnn_moe.training.device import accelerator_for, place
from gnn_moe.training.side_by_side import SideBySide, halves
from tests.small_runs import ROOT, Accident, Commands, Setting, curve, killed, read_rows

TINY: dict[str, Any] = {
    "vocab_size": 29,
    "embed_dim": 16,
    "num_heads": 2,
    "num_layers": 2,
    "gnn_layers": 1,
    "max_seq_length": 8,
}
LARGE: dict[str, Any] = {"embed_dim": 256, "num_heads": 2, "num_layers": 1, "num_experts": 8, "max_seq_length": 32}
CIRCUMSTANCES: dict[str, Any] = {"rows": 16, "positions": 32, "device_type": "cpu", "threads": 2}
"""As many numbers as are worth two threads."""


def batch_of(rows: int, seed: int = 0) -> Batch:
    """Rows of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT, targets_BT = (torch.randint(TINY["vocab_size"], (rows, 8), generator=generator) for _ in range(2))
    for row in range(rows):
        targets_BT[row, 8 - row % 5 :] = IGNORED
    return Batch(input_ids=ids_BT, targets=targets_BT, predicted_tokens=int((targets_BT != IGNORED).sum()))


def gradients(
    model: LanguageModel, pieces: list[Batch], accumulate: Callable[..., list[Tensor]]
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients and the loss of a step that `accumulate` makes of micro-batches."""
    denominator = torch.tensor(float(sum(piece.predicted_tokens for piece in pieces)))

    def backward(piece: Batch) -> Tensor:
        loss: Tensor = model(piece.input_ids, targets=piece.targets, loss_denominator=denominator).loss
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    model.zero_grad()
    losses = accumulate(pieces, backward)
    found = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return found, torch.stack(losses).sum()


def one_by_one(pieces: list[Batch], backward: Callable[[Batch], Tensor]) -> list[Tensor]:
    return [backward(piece) for piece in pieces]


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"coupler_type": "GNN"},
        {"coupler_type": "HGNN"},
        {"coupler_type": "attention"},
        {"coupler_type": "GNN", "architecture": "dense"},
    ],
    ids=str,
)
def test_makes_the_gradients_of_the_whole(changes: dict[str, Any], pieces: int, in_halves: None) -> None:
    model = build_model(ModelConfig(**TINY, **changes, dropout_rate=0)).double()
    batches = [batch_of(5, seed) for seed in range(pieces)]
    side_by_side = SideBySide(model, TrainingConfig(batch_size=5 * pieces))
    wanted, wanted_loss = gradients(model, batches, one_by_one)
    found, loss = gradients(model, batches, side_by_side.accumulate)
    side_by_side.close()
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_computes_the_same_bits_whichever_half_is_first(in_halves: None) -> None:
    """With dropout and several micro-batches; the halves are held up in turn."""
    model = build_model(ModelConfig(**TINY, dropout_rate=0.3))
    batches, side_by_side = [batch_of(6, seed) for seed in range(3)], SideBySide(model, TrainingConfig(batch_size=18))
    found = []
    for held_up in (0, 1, 0, 1):
        torch.manual_seed(3)

        def accumulate(
            pieces: list[Batch], backward: Callable[[Batch], Tensor], held_up: int = held_up
        ) -> list[Tensor]:
            starts = [halves(piece)[held_up].input_ids for piece in pieces]

            def slowly(piece: Batch) -> Tensor:
                if any(torch.equal(piece.input_ids, start) for start in starts):
                    threading.Event().wait(0.05)
                return backward(piece)

            return side_by_side.accumulate(pieces, slowly)

        found.append(gradients(model, batches, accumulate))
    side_by_side.close()
    for again, loss in found[1:]:
        assert torch.equal(loss, found[0][1])
        assert all(torch.equal(again[name], values) for name, values in found[0][0].items())
    torch.manual_seed(4)
    other, _ = gradients(model, batches, side_by_side.accumulate)
    side_by_side.close()
    assert any(not torch.equal(other[name], values) for name, values in found[0][0].items())


def test_each_half_has_half_of_the_threads_and_no_thread_stays(in_halves: None) -> None:
    model = build_model(ModelConfig(**TINY))
    side_by_side, seen = SideBySide(model, TrainingConfig(batch_size=5)), []

    both = threading.Barrier(2)

    def backward(piece: Batch) -> int:
        both.wait()
        seen.append((threading.current_thread().name, torch.get_num_threads(), len(piece.input_ids)))
        return piece.predicted_tokens

    torch.set_num_threads(4)
    batch = batch_of(5)
    assert sum(side_by_side.accumulate([batch], backward)) == batch.predicted_tokens
    assert sorted(rows for _, _, rows in seen) == [2, 3]
    assert {threads for _, threads, _ in seen} == {2}
    assert len({name for name, _, _ in seen}) == 2
    assert torch.get_num_threads() == 4
    side_by_side.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("half")]
    # Who goes on begins anew.
    torch.set_num_threads(2)
    seen.clear()
    side_by_side.accumulate([batch], backward)
    assert {threads for _, threads, _ in seen} == {1}
    side_by_side.close()


def test_an_error_in_one_half_is_raised_when_the_other_is_through(in_halves: None) -> None:
    model = build_model(ModelConfig(**TINY))
    side_by_side, ended = SideBySide(model, TrainingConfig(batch_size=4)), []

    def backward(piece: Batch) -> None:
        if len(piece.input_ids) == 2:
            raise MemoryError("no room")
        threading.Event().wait(0.2)
        ended.append(piece)

    with pytest.raises(MemoryError, match="no room"):
        side_by_side.accumulate([batch_of(5)], backward)
    assert len(ended) == 1
    side_by_side.close()


def test_a_thread_that_cannot_start_ends_the_step(in_halves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class One(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **named: Any) -> Any:
            if self._threads:
                raise RuntimeError("can't start new thread")
            return super().submit(*arguments, **named)

    monkeypatch.setattr(side_by_side_module, "ThreadPoolExecutor", One)
    side_by_side = SideBySide(build_model(ModelConfig(**TINY)), TrainingConfig(batch_size=4))
    with pytest.raises(RuntimeError, match="can't start new thread"):
        side_by_side.accumulate([batch_of(4)], lambda piece: piece.predicted_tokens)
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("half")]


def test_bf16_through_accelerate_is_near_float32(in_halves: None) -> None:
    """With the head by columns, as `place` puts it; each time the same bits, and no autocast left on."""
    model = build_model(ModelConfig(**TINY, dropout_rate=0))
    batches, side_by_side = [batch_of(6, seed) for seed in range(2)], SideBySide(model, TrainingConfig(batch_size=12))
    wanted, _ = gradients(model, batches, one_by_one)
    wanted = {name: values.clone() for name, values in wanted.items()}
    with accelerator_for("cpu", "bf16") as accelerator:
        place(model, accelerator)
        prepared = accelerator.prepare(model)
        found, _ = gradients(prepared, batches, side_by_side.accumulate)
        found = {name.removeprefix("module."): values.clone() for name, values in found.items()}
        again, _ = gradients(prepared, batches, side_by_side.accumulate)
    autocast = side_by_side.together([lambda: torch.is_autocast_enabled("cpu")] * 2)
    side_by_side.close()
    assert autocast == [False, False]
    for name, values in wanted.items():
        assert torch.equal(found[name], again[name])
        assert (found[name] - values).norm() <= 0.02 * values.norm() + 1e-4, name


def test_memory_that_runs_out_in_one_half_repeats_the_step(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, in_halves: None
) -> None:
    """In the last half of the second micro-batch, when the first has left its gradients."""
    assert main(setting.flags("small", epochs=1, micro_batch_size=2, dropout_rate=0.2)) == 0
    backward, calls, turn = Accelerator.backward, itertools.count(1), threading.Lock()

    def full_once(accelerator: Accelerator, loss: Tensor) -> None:
        with turn:
            call = next(calls)
        if call == 4:
            raise MemoryError
        backward(accelerator, loss)

    monkeypatch.setattr(Accelerator, "backward", full_once)
    assert main(setting.flags("halved", epochs=1, micro_batch_size=4, dropout_rate=0.2)) == 0
    assert [row["micro_batch_size"] for row in read_rows(setting.runs / "halved", "memory")] == [2]
    small, halved = (read_rows(setting.runs / name, "train") for name in ("small", "halved"))
    assert [row["loss"] for row in halved] == [row["loss"] for row in small]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("half")]


def test_the_plan_counts_both_sums_of_gradients() -> None:
    """Of small micro-batches of a large model, the end of a backward pass is the fullest moment."""
    model = ModelConfig(**{**LARGE, "embed_dim": 1024, "num_layers": 8})

    def peak(threads: int) -> PeakMemory:
        circumstances: Circumstances = {"precision": "fp32", "device_type": "cpu", "threads": threads}
        return peak_memory(model, workload_of(model, TrainingConfig(batch_size=64), rows=4, **circumstances))

    one, two = peak(1), peak(2)
    assert two.gradients == 2 * one.gradients == 2 * two.parameters


def test_no_half_outlives_a_step_that_could_not_start_both(in_halves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    side_by_side, ended = SideBySide(build_model(ModelConfig(**TINY)), TrainingConfig(batch_size=4)), []

    def backward(piece: Batch) -> None:
        threading.Event().wait(0.2)
        ended.append(piece)

    side_by_side.accumulate([batch_of(4)], lambda piece: None)
    submit, calls = ThreadPoolExecutor.submit, itertools.count(1)

    def full(executor: ThreadPoolExecutor, *arguments: Any) -> Any:
        if next(calls) == 2:
            raise MemoryError
        return submit(executor, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", full)
    with pytest.raises(MemoryError):
        side_by_side.accumulate([batch_of(4)], backward)
    assert len(ended) == 1
    side_by_side.close()


def test_halves_draw_from_generators_of_their_own(in_halves: None) -> None:
    side_by_side = SideBySide(build_model(ModelConfig(**TINY)), TrainingConfig(batch_size=4))

    def draw(piece: Batch) -> list[int]:
        return [int(draw_seed()) for _ in range(50)]

    def drawn() -> tuple[list[list[int]], int]:
        torch.manual_seed(7)
        return side_by_side.accumulate([batch_of(4), batch_of(4)], draw), int(draw_seed())

    (found, after), again = drawn(), drawn()
    side_by_side.close()
    assert (found, after) == again
    assert len({seed for half in found for seed in half}) == 200
    torch.manual_seed(7)
    for _ in found:
        draw_seed()
    assert int(draw_seed()) == after


def test_the_generator_is_put_back_after_an_error() -> None:
    torch.manual_seed(1)
    first = int(draw_seed())

    def fail() -> None:
        with seeds_from(torch.Generator().manual_seed(2)):
            assert int(draw_seed()) != first
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    torch.manual_seed(1)
    assert int(draw_seed()) == first


MODEL, TRAINING = ModelConfig(**LARGE), TrainingConfig()


def asked(model: ModelConfig = MODEL, training: TrainingConfig = TRAINING, **changes: Any) -> bool:
    """Of a micro-batch that is halved, with changes."""
    return computed_in_halves(model, training, **{**CIRCUMSTANCES, **changes})


def test_the_rule() -> None:
    assert asked()
    assert asked(threads=16)
    dense, top_k = (dataclasses.replace(MODEL, architecture=name) for name in (DENSE, TOP_K))
    assert asked(dense, rows=128)
    assert not asked(dense)
    assert not asked(top_k, rows=128)
    assert not asked(threads=1)
    assert not asked(threads=3)
    assert not asked(rows=1, positions=2**10)
    assert not asked(rows=15)
    assert not asked(device_type="cuda")
    assert not asked(training=TrainingConfig(compile=True))
    assert not asked(training=TrainingConfig(activation_checkpointing=True))


@pytest.mark.parametrize("asked_for", [None, "1", "3", "2,1", " +1 ", "0", "many"])
def test_expects_the_threads_that_torch_takes(asked_for: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked_for is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked_for)
    words = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    torch_takes = subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ).stdout
    assert threads_to_expect() == int(torch_takes)


def test_runs_of_a_study_share_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    processors = threads_to_expect()
    assert threads_to_expect(at_once=2) == max(1, processors // 2)
    assert threads_to_expect(at_once=1000) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", str(processors))
    assert threads_to_expect(at_once=2) == processors


def test_a_report_plans_alike_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = RunConfig(model=ModelConfig(**LARGE), training=TrainingConfig(micro_batch_size=64, batch_size=64))
    found = {}
    for threads in (1, 2):
        monkeypatch.setattr("gnn_moe.plans.threads_to_expect", lambda at_once, threads=threads: threads)
        found[threads] = plan_memory(config).peak.total, planned_bytes(config)
    assert found[2][0] > found[1][0] == found[1][1] == found[2][1]


@pytest.mark.parametrize(("threads", "said"), [(2, 1), (1, 0)])
def test_a_run_that_goes_on_with_another_number_of_threads_says_so(
    threads: int, said: int, setting: Setting, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = Accident("gnn_moe.training.loop:Trainer._step", 6, killed)
    assert commands.run(setting.flags("it"), stopped).status == -signal.SIGKILL
    torch.set_num_threads(threads)
    assert main(setting.resume("it")) == 0
    assert capsys.readouterr().err.count(f"threads   {threads}, where the run had 1") == said


@pytest.mark.slow
def test_a_run_that_goes_on_repeats_one_that_was_not_stopped(setting: Setting) -> None:
    """As users start them, with two threads: in two micro-batches, each in two halves."""
    changes = {**LARGE, "batch_size": 32, "micro_batch_size": 16, "epochs": 1, "eval_every": 2, "dropout_rate": 0.2}
    changes |= {"max_batches_per_epoch": 4, "save_every": 1}
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    code = "from tests.small_runs import Accident, killed, no_figures; from gnn_moe.cli import main; no_figures(); "

    def run(words: list[str], accident: str = "") -> int:
        command = [sys.executable, "-c", f"{code}{accident}import sys; sys.exit(main(sys.argv[1:]))", *words]
        return subprocess.run(command, check=False, env=environment, capture_output=True, cwd=ROOT).returncode

    assert run(setting.flags("straight", **changes)) == 0
    assert (setting.runs / "straight/environment.json").read_text().find('"threads": 2') > 0
    stopped = "Accident('gnn_moe.training.loop:Trainer._step', 4, killed).prepare(); "
    assert run(setting.flags("stopped", **changes), stopped) == -signal.SIGKILL
    assert run(setting.resume("stopped")) == 0
    assert curve(setting.runs / "stopped") == curve(setting.runs / "straight")
