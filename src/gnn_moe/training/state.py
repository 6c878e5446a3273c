"""How far a run is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gnn_moe.training.evaluation import Evaluation


@dataclass(kw_only=True)
class Progress:
    """How far a run is: all that a checkpoint must know besides tensors."""

    step: int = 0
    """Steps done."""
    tokens: int = 0
    """Tokens predicted in training."""
    positions: int = 0
    """Positions computed in training: predicted tokens and padding."""
    evaluated_step: int = 0
    """The step of the last finished evaluation; 0 before the first."""
    best_step: int | None = None
    best_evaluation: Evaluation | None = None
    selected_step: int | None = None
    """Of the evaluation with the least `selection_loss`; None also in checkpoints of older versions."""
    selected_evaluation: Evaluation | None = None
    last_evaluation: Evaluation | None = None
    train_seconds: float = 0.0
    waiting_seconds: float = 0.0
    """Of the seconds of training, those in which a step waited for its batch."""
    eval_seconds: float = 0.0
    save_seconds: float = 0.0
    peak_memory_bytes: int = 0

    def restore(self, values: dict[str, Any]) -> None:
        """Takes over what `dataclasses.asdict` gave of another."""
        for name, value in values.items():
            evaluation = name.endswith("_evaluation") and value is not None
            setattr(self, name, Evaluation(**value) if evaluation else value)

    @property
    def tokens_per_second(self) -> float:
        """Predicted training tokens a second of training."""
        return self.tokens / self.train_seconds if self.train_seconds else 0.0

    @property
    def waiting_share(self) -> float:
        """Seconds of training that were spent waiting for batches, over all."""
        return self.waiting_seconds / self.train_seconds if self.train_seconds else 0.0

    @property
    def padding_share(self) -> float:
        """Padded positions over all positions computed in training."""
        return 1 - self.tokens / self.positions if self.positions else 0.0
