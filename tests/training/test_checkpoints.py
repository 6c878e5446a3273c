"""Checkpoints: what is in one, what loads it, and every kind of damage told in one line."""

from __future__ import annotations

import copy
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gnn_moe import load_model
from gnn_moe.cli import main
from gnn_moe.config import ModelConfig, TrainingConfig
from gnn_moe.errors import BadInput
from gnn_moe.model.head import by_columns, lay_out_by_columns
from gnn_moe.model.language_model import build_model
from gnn_moe.training import checkpoints
from gnn_moe.training.optimiser import build_optimiser
from tests.small_runs import Accident, Commands, Setting, interrupted, read_json

FILES = (
    "checksums.json",
    "config.json",
    "model.safetensors",
    "state.json",
    "tokenizer.json",
    "training.safetensors",
)


@pytest.fixture(scope="module")
def stopped_run(
    commands: Commands, small_corpus: Path, small_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run of whose checkpoints `best` is of step 4 and `last` of step 6."""
    setting = Setting(small_corpus, small_cache, tmp_path_factory.mktemp("stopped"))
    accident = Accident("gnn_moe.training.loop:Trainer._step", 6, interrupted)
    assert commands.run(setting.flags("it"), accident).status == 130
    return setting.runs / "it"


@pytest.fixture
def run(stopped_run: Path, tmp_path: Path, one_thread: None) -> Path:
    return Path(shutil.copytree(stopped_run, tmp_path / "it", symlinks=True))


def test_what_a_checkpoint_holds(run: Path) -> None:
    for link, step in (("best", 4), ("last", 6)):
        folder = run / "checkpoints" / link
        assert folder.is_symlink()
        assert not folder.readlink().is_absolute()
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        assert read_json(folder / "state.json")["step"] == step
        assert sorted(read_json(folder / "checksums.json")) == sorted(set(FILES) - {"checksums.json"})
    # Moving the run's folder keeps the links whole.
    moved = run.rename(run.with_name("elsewhere"))
    load_model(moved)


def test_a_model_is_loaded_from_a_run_or_a_checkpoint_in_evaluation_mode(run: Path) -> None:
    ids = torch.arange(10)[None]
    best, last = load_model(run), load_model(str(run), checkpoint="last")
    assert not best.training
    assert not any(module.training for module in best.modules())
    assert {values.dtype for values in best.state_dict().values()} == {torch.float32}
    assert torch.equal(best(ids).logits, best(ids).logits)
    assert not torch.equal(best(ids).logits, last(ids).logits)
    assert torch.equal(load_model(run / "checkpoints" / "best")(ids).logits, best(ids).logits)
    assert torch.equal(load_model(run / "checkpoints" / "last")(ids).logits, last(ids).logits)
    assert best.config.vocab_size == 300
    assert best.config.static_hyperedge_strategy == "all_pairs"


def test_there_is_no_model(tmp_path: Path, run: Path) -> None:
    with pytest.raises(BadInput, match="there is no such run or checkpoint"):
        load_model(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no best checkpoint"):
        load_model(tmp_path / "empty")
    (run / "checkpoints" / "best").unlink()
    with pytest.raises(BadInput, match="holds no best checkpoint"):
        load_model(run)
    load_model(run, checkpoint="last")


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # In checksums.json: in the first hash, which is of config.json and read by every verb.
    content[25 if path.name == "checksums.json" else len(content) // 2] ^= 0x01
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def delete(path: Path) -> None:
    path.unlink()


TRAINING_ONLY = ("training.safetensors", "state.json")
COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "evaluate": lambda run: ["evaluate", str(run), "--json"],
    "generate": lambda run: ["generate", str(run), "--prompt", "abc", "--max_new_tokens", "2"],
    "resume": lambda run: ["train", "--run_name", run.name, "--output_dir", str(run.parent), "--resume"],
}


READ = [(verb, name) for verb in COMMANDS for name in FILES if verb == "resume" or name not in TRAINING_ONLY]


@pytest.mark.parametrize("damage", [flip_a_byte, cut, empty, delete], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize(("verb", "name"), READ)
def test_damage_is_told_in_one_line(
    verb: str, name: str, damage: object, run: Path, small_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(damage)
    link = "last" if verb == "resume" else "best"
    damage(run / "checkpoints" / link / name)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(COMMANDS[verb](run)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    # Without its model a checkpoint is none; a changed hash is seen at the file that it is of.
    assert name in error or (name, damage) in (("model.safetensors", delete), ("checksums.json", flip_a_byte))
    assert re.search("; (use|give|put) ", error)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_checkpoint_that_is_gone(verb: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The link is there and what it leads to is not: an error, never a new start over what is left."""
    for link in ("best", "last"):
        shutil.rmtree((run / "checkpoints" / link).resolve())
    metrics = (run / "metrics.jsonl").read_bytes()
    assert main(COMMANDS[verb](run)) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (run / "metrics.jsonl").read_bytes() == metrics


@pytest.mark.parametrize("name", ["config.json", "environment.json", "coupling.npz"])
@pytest.mark.parametrize("damage", [cut, empty, delete], ids=lambda damage: damage.__name__)
def test_a_damaged_record_is_told_too(name: str, damage: object, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(damage)
    damage(run / name)
    assert main(COMMANDS["resume"](run)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(run) in error


def test_a_damaged_row_is_told_too(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    (run / "metrics.jsonl").write_text("\n".join([lines[0][:20], *lines[1:], ""]), encoding="utf-8")
    assert main(COMMANDS["resume"](run)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "metrics.jsonl" in error


def test_parameters_of_another_model_do_not_fit(run: Path) -> None:
    from gnn_moe.model.storage import write_checksums

    folder = (run / "checkpoints" / "best").resolve()
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"num_layers": 2', '"num_layers": 3'), encoding="utf-8")
    (folder / "checksums.json").unlink()
    write_checksums(folder)
    with pytest.raises(BadInput, match="does not fit its config") as caught:
        load_model(run)
    assert "\n" not in str(caught.value)


def test_the_package_is_light_until_it_is_used() -> None:
    code = (
        "import sys, gnn_moe\n"
        "assert 'torch' not in sys.modules\n"
        "assert gnn_moe.ModelConfig(num_experts=2).num_experts == 2\n"
        "assert 'torch' not in sys.modules\n"
        "assert callable(gnn_moe.load_model) and 'torch' in sys.modules\n"
        "try:\n    gnn_moe.nothing\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no attribute 'nothing'" in done.stdout


def test_moments_come_back_lying_as_their_parameters_do(tmp_path: Path) -> None:
    """Of a head by columns, whatever the precision; a copy and a pickle of the model keep the layout too."""
    sizes = ModelConfig(vocab_size=40, embed_dim=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    models = [build_model(sizes, seed=seed) for seed in (1, 2)]
    for model in models:
        lay_out_by_columns(model.head_weight)
    optimisers = [build_optimiser(model, TrainingConfig()) for model in models]
    ids = torch.arange(24).view(2, 12)

    def step(number: int) -> None:
        models[number].zero_grad()
        models[number](ids, labels=ids).loss.backward()
        optimisers[number].step()

    step(0)
    checkpoints.write_training_state(tmp_path, models[0], optimisers[0], {})
    models[1].load_state_dict(models[0].state_dict())
    checkpoints.load_training_state(tmp_path, models[1], optimisers[1])
    for number in (0, 1):
        step(number)
    for (name, first), second in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(second, first, rtol=0, atol=0, msg=name)
    for model in (models[1], copy.deepcopy(models[1]), pickle.loads(pickle.dumps(models[1]))):
        assert by_columns(model.head_weight)
