"""A loss or gradient that is not finite stops the run before the optimiser moves, and says where it came from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from gnn_moe import load_model
from gnn_moe.cli import main
from gnn_moe.config import DataConfig, ModelConfig, RunConfig, TrainingConfig
from gnn_moe.data.corpus import load_corpus
from gnn_moe.errors import NonFiniteError, RunFailed
from gnn_moe.model.language_model import build_model
from gnn_moe.model.storage import write_checksums
from gnn_moe.training.device import accelerator_for
from gnn_moe.training.loader import LoadedBatch
from gnn_moe.training.loop import Trainer
from gnn_moe.training.progress import PlainReporter
from gnn_moe.training.record import CouplingHistory, Metrics
from gnn_moe.training.state import Progress
from gnn_moe.training.stopping import StopRequest
from tests.small_runs import Accident, Commands, Setting, interrupted, read_json, read_rows

STEP = "gnn_moe.training.loop:Trainer._step"


def poison(run: Path, parameter: str, value: float) -> None:
    """Puts a value into the last checkpoint, whose checksums stay right."""
    folder = (run / "checkpoints" / "last").resolve()
    tensors = load_file(folder / "model.safetensors")
    tensors[parameter].flatten()[0] = value
    save_file(tensors, folder / "model.safetensors")
    (folder / "checksums.json").unlink()
    write_checksums(folder)


@pytest.mark.parametrize(
    ("parameter", "value", "place"),
    [
        ("layers.1.experts.up_weight", math.nan, "parameter layers.1.experts.up_weight"),
        ("layers.0.coupler.layers.0.theta_weight", math.inf, "parameter layers.0.coupler.layers.0"),
        ("layers.1.readout.combine_weight", 3e38, "output of layers.1.readout"),
        ("head_weight", 3e38, "the head"),
    ],
)
def test_a_bad_number_in_a_layer_is_named(
    parameter: str, value: float, place: str, setting: Setting, commands: Commands
) -> None:
    assert commands.run(setting.flags("it"), Accident(STEP, 6, interrupted)).status == 130
    run = setting.runs / "it"
    poison(run, parameter, value)
    before = {link: (run / "checkpoints" / link / "model.safetensors").read_bytes() for link in ("last", "best")}
    done = commands.run(setting.resume("it"))
    assert done.status == 1, done.output
    assert "Traceback" not in done.output
    message = done.output.splitlines()[-1]
    assert message.startswith("gnn-moe train: step 7: the ")
    assert place in message
    assert "optimiser has not moved" in message
    assert "--learning_rate" in message
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["error_class"]) == ("failed", "non_finite")
    assert place in summary["error_message"]
    assert [row["step"] for row in read_rows(run, "train")] == [1, 2, 3, 4, 5, 6]
    for link, content in before.items():
        assert (run / "checkpoints" / link / "model.safetensors").read_bytes() == content
        load_model(run, checkpoint=link)


def assert_stopped_with_a_good_checkpoint(run: Path) -> None:
    summary = read_json(run / "summary.json")
    assert (summary["status"], summary["error_class"]) == ("failed", "non_finite")
    assert "step " in summary["error_message"]
    for row in read_rows(run):
        assert math.isfinite(row["loss"]), row
    if summary["best_eval_loss"] is not None:
        assert math.isfinite(summary["best_eval_loss"])
    for link in ("last", "best"):
        if (run / "checkpoints" / link).exists():
            for name, values in load_model(run, checkpoint=link).state_dict().items():
                assert values.isfinite().all(), name


@pytest.mark.parametrize("eval_every", [100, 2, 1])
def test_a_learning_rate_that_explodes(eval_every: int, setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    """The optimiser's own step leaves finite weights whose loss is not; however often that is looked at, it stops."""
    flags = setting.flags("it", learning_rate=1e30, gradient_clip=1e30, eval_every=eval_every)
    assert main(flags) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert_stopped_with_a_good_checkpoint(setting.runs / "it")


def test_weights_that_explode_in_the_last_step(setting: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    """No step follows that would notice, only the evaluation."""
    flags = setting.flags("it", learning_rate=1e30, gradient_clip=1e30, epochs=1, max_batches_per_epoch=1)
    assert main(flags) == 1
    assert "step 1" in capsys.readouterr().err
    assert_stopped_with_a_good_checkpoint(setting.runs / "it")


@pytest.fixture
def make_trainer(setting: Setting, tmp_path: Path) -> Any:
    data = DataConfig(dataset_name=str(setting.corpus), tokenizer="bpe:300")
    corpus = load_corpus(data, max_seq_length=16, cache_dir=setting.cache)

    def make(accelerator: Accelerator) -> Trainer:
        model = ModelConfig(vocab_size=300, embed_dim=16, num_heads=2, num_layers=1, num_experts=2, max_seq_length=16)
        config = RunConfig(model=model, data=data, training=TrainingConfig(batch_size=8, epochs=1))
        return Trainer(
            config=config,
            corpus=corpus,
            model=build_model(model),
            accelerator=accelerator,
            run_folder=tmp_path,
            metrics=Metrics(tmp_path / "metrics.jsonl"),
            coupling=CouplingHistory(tmp_path / "coupling.npz", None),
            stop=StopRequest(),
            progress=Progress(),
            plan_bytes=lambda _: 2**40,
            on_new_config=lambda config: None,
        )

    return make


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_the_optimiser_stands_still_from_the_first_bad_step_on(
    what: str, make_trainer: Callable[[Accelerator], Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU reads its losses every 10 steps: the steps in between must not move what the first one spared."""
    with accelerator_for("cpu", "fp32") as accelerator:
        trainer = make_trainer(accelerator)
        trainer.reporter, trainer.clock = PlainReporter(20, 0), 0.0
        monkeypatch.setattr(trainer, "_read_losses", lambda: None)
        batches = trainer._load()
        trainer._step(next(batches))
        good = {name: values.clone() for name, values in trainer.model.state_dict().items()}
        moments = {p: dict(state) for p, state in trainer.optimiser.state.items()}
        moments = {p: {k: v.clone() for k, v in state.items()} for p, state in moments.items()}
        backward = trainer._backward

        def bad(batch: LoadedBatch) -> dict[str, torch.Tensor]:
            losses = backward(batch)
            if what == "loss":
                return {"loss": losses["loss"] * math.inf}
            next(trainer.model.parameters()).grad.flatten()[0] = math.nan  # type: ignore[union-attr]
            return losses

        monkeypatch.setattr(trainer, "_backward", bad)
        trainer._step(next(batches))
        monkeypatch.setattr(trainer, "_backward", backward)
        for _ in range(3):
            trainer._step(next(batches))
        batches.close()
        for name, values in trainer.model.state_dict().items():
            assert torch.equal(values, good[name]), name
        for parameter, state in trainer.optimiser.state.items():
            for kind, values in state.items():
                assert torch.equal(values, moments[parameter][kind]), kind
        monkeypatch.undo()
        with pytest.raises(NonFiniteError, match=r"^step 2: the (loss|gradient norm) is (inf|nan)"):
            trainer._read_losses()


def test_a_non_finite_error_is_a_failed_run() -> None:
    assert issubclass(NonFiniteError, RunFailed)
    assert RunFailed.exit_status == 1
