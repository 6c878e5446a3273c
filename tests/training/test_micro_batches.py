"""Micro-batches that fit the memory: chosen before the run, kept on resume, halved where memory runs out after all."""

from __future__ import annotations

import itertools
import math
import resource
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import Tensor

from gnn_moe import runs
from gnn_moe.cli import main
from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.model.memory import largest_micro_batch, peak_memory, workload_of
from gnn_moe.run_summary import explain
from gnn_moe.training import generators, loop
from gnn_moe.training.loader import LoadedBatch
from gnn_moe.training.loop import Trainer
from tests.small_runs import Accident, Commands, Setting, curve, interrupted, killed, read_json, read_rows, write_corpus

MODEL = ModelConfig(embed_dim=384, num_layers=4, num_experts=16)
WIDE = {
    "embed_dim": 64,
    "max_seq_length": 32,
    "num_layers": 2,
    "batch_size": 256,
    "epochs": 1,
    "max_batches_per_epoch": 2,
}


def peak(rows: int, training: TrainingConfig) -> int:
    return peak_memory(MODEL, workload_of(MODEL, training, rows=rows, precision="bf16", device_type="cpu")).total


def chosen(room: int, training: TrainingConfig) -> int:
    return largest_micro_batch(MODEL, training, precision="bf16", device_type="cpu", room_bytes=room)


def test_takes_the_fewest_equal_pieces_that_fit() -> None:
    training = TrainingConfig(batch_size=50)
    sizes = [50, 25, 17, 13, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    for size in sizes:
        assert chosen(peak(size, training), training) == size
    for size, smaller in itertools.pairwise(sizes):
        assert chosen(peak(size, training) - 1, training) == smaller
    assert chosen(0, training) == 1
    assert chosen(2**50, TrainingConfig(batch_size=1)) == 1


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 100])
def test_no_fewer_pieces_would_fit(batch: int) -> None:
    """Among all sizes, not only those that share the batch out evenly."""
    training = TrainingConfig(batch_size=batch)
    peaks = [peak(rows, training) for rows in range(1, batch + 1)]
    # The whole batch is apart: it accumulates no gradients.
    assert peaks[:-1] == sorted(peaks[:-1])
    for room in {*peaks, *(bytes_ - 1 for bytes_ in peaks), 2**50}:
        rows = chosen(room, training)
        most = max((size for size, bytes_ in enumerate(peaks, 1) if bytes_ <= room), default=1)
        assert rows == math.ceil(batch / math.ceil(batch / most))


def test_a_whole_batch_that_takes_less_than_its_half_is_taken() -> None:
    """One batch of two samples accumulates nothing; two of one sample do."""
    training = TrainingConfig(batch_size=2)
    assert peak(2, training) < peak(1, training)
    assert chosen(peak(2, training), training) == 2


def test_checkpointed_layers_leave_room_for_more_rows() -> None:
    plain, checkpointed = (TrainingConfig(batch_size=64, activation_checkpointing=on) for on in (False, True))
    room = peak(16, plain)
    assert chosen(room, checkpointed) > chosen(room, plain)


def test_the_number_chosen_is_written_and_kept_on_resume(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "room_bytes", lambda device: 0)
    assert main(setting.flags("it", epochs=1)) == 0
    assert "8 samples, 1 at once, in fp32" in capsys.readouterr().out
    stored = read_json(setting.runs / "it" / "config.json")["training"]
    assert (stored["batch_size"], stored["micro_batch_size"]) == (8, 1)
    monkeypatch.setattr(runs, "room_bytes", lambda device: 2**50)
    for words in ([], ["--micro_batch_size", "auto"], ["--micro_batch_size", "1"]):
        assert main(setting.resume("it", *words)) == 0
    assert main(setting.resume("it", "--micro_batch_size", "4")) == 2
    assert "--micro_batch_size was 1 and is 4" in capsys.readouterr().err


def test_where_not_even_one_sample_fits_it_is_said(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runs, "room_bytes", lambda device: 2**20)
    assert main(setting.flags("it", epochs=1, max_batches_per_epoch=1)) == 0
    said = capsys.readouterr().err
    assert "are expected with one sample at once, 0.0 GiB are there" in said
    assert "--activation_checkpointing" in said
    monkeypatch.setattr(runs, "room_bytes", lambda device: 2**40)
    assert main(setting.flags("other", epochs=1, max_batches_per_epoch=1)) == 0
    assert capsys.readouterr().err == ""


def test_memory_that_ran_out_with_one_sample_at_once_asks_for_no_smaller_one() -> None:
    full = MemoryError()
    assert "use --activation_checkpointing or a smaller model" in str(explain(full, "", 1))
    assert "use a smaller one, which learns from the same batches, --activation" in str(explain(full, "", 2))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_the_error_of_a_gpu_halves_too(
    error: Exception, setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No GPU is needed to raise what one raises."""
    backward = Trainer._backward
    raised: list[Exception] = []

    def full_once(trainer: Trainer, batch: LoadedBatch) -> dict[str, Tensor]:
        if not raised:
            raised.append(error)
            raise error
        return backward(trainer, batch)

    monkeypatch.setattr(Trainer, "_backward", full_once)
    assert main(setting.flags("it", epochs=1)) == 0
    (row,) = read_rows(setting.runs / "it", "memory")
    assert (row["step"], row["micro_batch_size"]) == (1, 4)
    assert "step 1 ran out of memory with micro-batches of 8 samples" in capsys.readouterr().out


def test_with_room_the_whole_batch_is_one(setting: Setting) -> None:
    assert main(setting.flags("it", epochs=1, max_batches_per_epoch=1)) == 0
    assert read_json(setting.runs / "it" / "config.json")["training"]["micro_batch_size"] == 8


def memory_short_once(*arguments: Any) -> None:
    """The step that begins gets 50 MB; as it is given up, the rest of the machine makes room again."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (psutil.Process().memory_info().data + 50 * 2**20, before[1]))
    restore = generators.restore_generators

    def room_again(*arguments: Any) -> None:
        resource.setrlimit(resource.RLIMIT_DATA, before)
        setattr(loop, "restore_generators", restore)  # noqa: B010
        restore(*arguments)

    setattr(loop, "restore_generators", room_again)  # noqa: B010


def memory_short_once_and_interrupted(*arguments: Any) -> None:
    memory_short_once()
    interrupted()


def memory_full(*arguments: Any) -> None:
    raise MemoryError


def memory_full_and_killed_two_steps_later(*arguments: Any) -> None:
    Accident("gnn_moe.training.loop:Trainer._step", 2, killed).prepare()
    raise MemoryError


BACKWARD = "gnn_moe.training.loop:Trainer._backward"


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_micro_batch_and_repeats_the_step(
    setting: Setting, commands: Commands, tmp_path: Path
) -> None:
    flags = {**WIDE, "dataset_name": write_corpus(tmp_path / "many", train=1000), "dropout_rate": 0.0, "eval_every": 2}
    assert commands.run(setting.flags("whole", **flags)).status == 0
    done = commands.run(setting.flags("halved", **flags), Accident(BACKWARD, 1, memory_short_once))
    assert done.status == 0, done.output
    event = {"kind": "memory", "step": 1, "micro_batch_size": 128, "micro_batch_size_before": 256}
    assert read_rows(setting.runs / "halved", "memory") == [event]
    assert done.output.count("step 1 ran out of memory with micro-batches of 256 samples") == 1
    for folder in (setting.runs / "halved", setting.runs / "halved" / "checkpoints" / "last"):
        assert read_json(folder / "config.json")["training"]["micro_batch_size"] == 128
    whole = curve(setting.runs / "whole")
    halved = [row for row in curve(setting.runs / "halved") if row["kind"] != "memory"]
    for one, other in zip(whole, halved, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-5)


@pytest.mark.slow
def test_the_repeated_step_draws_the_dropout_of_a_first_try(
    setting: Setting, commands: Commands, tmp_path: Path
) -> None:
    flags = {**WIDE, "dataset_name": write_corpus(tmp_path / "many", train=1000)}
    assert commands.run(setting.flags("small", micro_batch_size=128, **flags)).status == 0
    assert commands.run(setting.flags("halved", **flags), Accident(BACKWARD, 1, memory_short_once)).status == 0
    small, halved = (read_rows(setting.runs / name, "train") for name in ("small", "halved"))
    assert [row["loss"] for row in small] == [row["loss"] for row in halved]


def test_a_run_killed_after_it_was_halved_is_resumed_as_the_same_run(setting: Setting, commands: Commands) -> None:
    """By its own command too, which asks for more rows at once than there was room for."""
    flags = {"micro_batch_size": 8, "eval_every": 4}
    whole = commands.run(setting.flags("whole", **flags), Accident(BACKWARD, 7, memory_full))
    assert whole.status == 0, whole.output
    assert [row["step"] for row in read_rows(setting.runs / "whole", "memory")] == [7]
    accident = Accident(BACKWARD, 7, memory_full_and_killed_two_steps_later)
    assert commands.run(setting.flags("killed", **flags), accident).status == -9
    resumed = commands.run(setting.flags("killed", "--resume", **flags))
    assert resumed.status == 0, resumed.output
    assert "from step 6" in resumed.output
    assert curve(setting.runs / "killed") == curve(setting.runs / "whole")
    assert commands.run(setting.resume("killed", "--micro_batch_size", "2")).status == 2


@pytest.mark.slow
def test_a_run_that_was_halved_resumes_with_the_smaller_micro_batch(
    setting: Setting, commands: Commands, tmp_path: Path
) -> None:
    flags = {**WIDE, "dataset_name": write_corpus(tmp_path / "many", train=1000)}
    stopped = commands.run(setting.flags("it", **flags), Accident(BACKWARD, 1, memory_short_once_and_interrupted))
    assert stopped.status == 130, stopped.output
    resumed = commands.run(setting.resume("it"))
    assert resumed.status == 0, resumed.output
    assert "256 samples, 128 at once, in fp32" in resumed.output
    assert [row["micro_batch_size"] for row in read_rows(setting.runs / "it", "memory")] == [128]
