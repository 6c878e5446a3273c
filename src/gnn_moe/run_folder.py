"""The folder of one run: its files, who may write to it, and what resuming it allows.

<output_dir>/<run_name>/  config.json  environment.json  metrics.jsonl  coupling.npz  summary.json
                          figures/  checkpoints/last  checkpoints/best  checkpoints/selected
"""

from __future__ import annotations

import dataclasses
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnn_moe.config import RunConfig, changed_fields, run_config_from_dict, to_dict
from gnn_moe.errors import BadInput
from gnn_moe.model.folders import CHECKPOINTS, LAST, read_json
from gnn_moe.training.record import COUPLING_FILE, METRICS_FILE, SUMMARY_FILE, write_json

LOCK_FILE = ".lock"
_WAY_OUT = "train the run again with --overwrite"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run's files, and the few questions that its files answer."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / METRICS_FILE

    @property
    def coupling(self) -> Path:
        return self.path / COUPLING_FILE

    @property
    def summary(self) -> Path:
        return self.path / SUMMARY_FILE

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    def last_checkpoint(self) -> Path | None:
        """The folder of the last checkpoint, or None before the first.

        Raises:
            BadInput: it was deleted.
        """
        link = self.checkpoints / LAST
        if link.is_symlink() and not link.exists():
            raise BadInput(f"{link}: leads to a checkpoint that is gone; replace the run with --overwrite")
        return link.resolve() if link.exists() else None

    def is_begun(self) -> bool:
        """Whether a run has written here."""
        return self.config.exists()

    def read_summary(self) -> dict[str, Any] | None:
        """summary.json, or None where the run has not ended."""
        return read_json(self.summary, way_out=_WAY_OUT) if self.summary.exists() else None

    def read_config(self) -> RunConfig:
        """The config that the run was started with.

        Raises:
            BadInput: config.json is damaged.
        """
        return run_config_from_dict(read_json(self.config, way_out=_WAY_OUT))

    def read_environment(self) -> dict[str, Any]:
        """environment.json.

        Raises:
            BadInput: it is damaged.
        """
        environment = read_json(self.environment, way_out=_WAY_OUT)
        if not {"precision", "data"} <= set(environment):
            raise BadInput(f"{self.environment}: is damaged (it has no precision and data); {_WAY_OUT}")
        return environment

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the folder if needed and keeps other processes from writing to it.

        Raises:
            BadInput: another process is writing to it, or it cannot be made.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.path / LOCK_FILE).open("w"))
            except OSError as error:
                raise BadInput(f"--output_dir: {self.path} cannot be written ({error.strerror})") from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput(f"{self.path}: another process is training this run; wait for it to end") from None
            yield

    def is_locked(self) -> bool:
        """Whether another process is writing to it."""
        try:
            file = (self.path / LOCK_FILE).open("r+")
        except OSError:  # no run was begun here
            return False
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def discard(self) -> None:
        """Deletes the folder: at once out of the way under another name, then file by file.

        A kill leaves either the old run whole or none.

        Raises:
            BadInput: another process is writing to it.
        """
        aside = self.path.with_name(f".{self.path.name}.discarded")
        shutil.rmtree(aside, ignore_errors=True)
        with self.locked():
            self.path.rename(aside)
        shutil.rmtree(aside)


def check_free(folder: RunFolder, config: RunConfig) -> None:
    """Checks that a run may begin, or go on, in a folder.

    Raises:
        BadInput: there is something in it and neither `resume` nor `overwrite` was asked for, or `overwrite` would
            delete what is no run.
    """
    try:
        exists = folder.path.exists()
    except OSError as error:
        raise BadInput(f"--run_name: {folder.path} cannot be used ({error.strerror}); use another name") from None
    if not exists:
        return
    if not folder.path.is_dir():
        raise BadInput(f"--run_name: {folder.path} is a file; use another name")
    others = [path for path in folder.path.iterdir() if path.name != LOCK_FILE and path.suffix != ".writing"]
    if others and not folder.is_begun() and (config.output.overwrite or config.output.resume):
        raise BadInput(f"--run_name: {folder.path} holds files but no run; use another name")
    if others and not (config.output.resume or config.output.overwrite):
        raise BadInput(f"--run_name: {folder.path} exists; say --resume to go on with it or --overwrite to replace it")


def check_unchanged(stored: RunConfig, wanted: RunConfig) -> None:
    """Checks that a resumed run computes what it was started to compute; `output` may change.

    Raises:
        BadInput: names every setting that differs.
    """
    # The vocabulary follows from data and tokenizer, which are compared themselves.
    model = dataclasses.replace(wanted.model, vocab_size=stored.model.vocab_size)
    groups = ((stored.model, model), (stored.data, wanted.data), (stored.training, wanted.training))
    changes = [change for old, new in groups for change in changed_fields(old, new)]
    if changes:
        listed = ", ".join(f"--{name} was {before} and is {after}" for name, before, after in changes)
        raise BadInput(f"--resume: {listed}; leave it as it was, or give the changed run another --run_name")


def write_config(folder: RunFolder, config: RunConfig) -> None:
    """Writes config.json."""
    write_json(folder.config, to_dict(config))
