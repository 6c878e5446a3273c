"""What the terminal shows while a run goes: a live bar above a line an evaluation, or plain lines."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_COLUMNS = "{:>8} {:>6} {:>11} {:>10} {:>10} {:>11} {:>9} {:>9}"
_HEADER = _COLUMNS.format(
    "step", "epoch", "train loss", "eval loss", "perplexity", "bits a byte", "tokens/s", "minutes"
)
_SECONDS_BETWEEN_LINES = 30.0


class PlainReporter:
    """One line an evaluation and one every half minute: for logs, pipes and `--quiet`."""

    def __init__(self, total_steps: int, first_step: int) -> None:
        self.total_steps = total_steps
        self.first_step = first_step
        self._started = self._shown = time.monotonic()
        self._header_due = True

    def line(self, text: str) -> None:
        """Shows one line."""
        print(text, flush=True)

    def training(self, row: dict[str, Any]) -> None:
        """Shows a training row of metrics.jsonl."""
        now = time.monotonic()
        if now - self._shown < _SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        done = row["step"] - self.first_step
        left = (now - self._started) / done * (self.total_steps - row["step"])
        self.line(
            f"step {row['step']}/{self.total_steps}  loss {row['loss']:.4f}  lr {row['learning_rate']:.2e}  "
            f"{row['tokens_per_second']:,.0f} tokens/s  {left / 60:.1f} min left"
        )

    def evaluation(self, row: dict[str, Any], train_loss: float | None) -> None:
        """Shows an evaluation row of metrics.jsonl beside the training loss since the last one."""
        if self._header_due:
            self.line(_HEADER)
            self._header_due = False
        self.line(
            _COLUMNS.format(
                f"{row['step']}/{self.total_steps}",
                row["epoch"],
                "-" if train_loss is None else f"{train_loss:.4f}",
                f"{row['loss']:.4f}",
                "-" if row["perplexity"] is None else f"{row['perplexity']:.2f}",
                f"{row['bits_per_byte']:.4f}",
                f"{row['tokens_per_second']:,.0f}",
                f"{row['minutes']:.1f}",
            )
        )

    def evaluating(self, done: int, batches: int) -> None:
        """Shows how far an evaluation is."""

    def close(self) -> None:
        """Ends the display."""


class LiveReporter(PlainReporter):
    """A bar with loss, learning rate, tokens/s and time left; evaluation lines scroll above it."""

    def __init__(self, total_steps: int, first_step: int, console: Console) -> None:
        super().__init__(total_steps, first_step)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task("training", total=total_steps, completed=first_step, numbers="")
        self._progress.start()

    def line(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False)

    def training(self, row: dict[str, Any]) -> None:
        numbers = f"loss {row['loss']:.4f}  lr {row['learning_rate']:.1e}  {row['tokens_per_second']:,.0f} tokens/s"
        self._progress.update(self._task, completed=row["step"], numbers=numbers, description="training")

    def evaluating(self, done: int, batches: int) -> None:
        self._progress.update(self._task, description=f"evaluating {done}/{batches}")

    def close(self) -> None:
        self._progress.stop()


def build_reporter(total_steps: int, first_step: int, *, quiet: bool) -> PlainReporter:
    """A live bar on a terminal, plain lines elsewhere and with `quiet`."""
    console = Console()
    if quiet or not console.is_terminal:
        return PlainReporter(total_steps, first_step)
    return LiveReporter(total_steps, first_step, console)
