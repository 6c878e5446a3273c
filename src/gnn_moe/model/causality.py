"""Does a model see the future? The question is asked of trained models too: a leak makes a loss low and worthless.

Letters: B rows, T positions, D width.

The tokens of each row are replaced from some position on, and the states that the head reads must not have changed
before it. Every row is cut at a position of its own, so whatever another row or a later token gives away shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gnn_moe.config import TOP_K
from gnn_moe.data.samples import Samples
from gnn_moe.errors import BadInput
from gnn_moe.model.language_model import LanguageModel

ROUNDING = 1e-5
"""Change, relative to the largest state, that an inexact kernel may make: a leak that the loss can feel is larger."""
_ROWS, _ROUNDS = 8, 4
_SEED = 20240229
"""Of the cuts and of the tokens that are put in; no setting moves it."""


@dataclass(frozen=True, kw_only=True)
class CausalityCheck:
    """What came of changing the future."""

    causal: bool
    """Whether nothing before a change moved."""
    largest_change: float
    """Of a state before the change of its row, over the largest state; 0 where results are equal to the bit."""
    least_effect: float
    """The same of the states at the changes, the smallest of all rows: what a change moves that may be seen."""
    changes: int
    """How many changes of a row were tried."""


def rows_to_ask(samples: Samples, positions: int) -> Tensor:
    """The longest rows of a split, at most eight and `positions` tokens, cut to one length: (B, T) int64."""
    chosen = np.argsort(-samples.lengths, kind="stable")[:_ROWS]
    length = min(positions, int(samples.lengths[chosen].min()))
    return torch.from_numpy(np.stack([samples.row(row)[:length] for row in chosen]).astype(np.int64))


def check_causality(model: LanguageModel, ids_BT: Tensor, *, rounds: int = _ROUNDS) -> CausalityCheck:
    """Replaces the later tokens of every row, `rounds` times, and compares what the head would read.

    The model is asked in evaluation mode, in the type of its parameters, and left in the mode it was in. One that
    routes its tokens and seems to leak is asked again in float64: later tokens change how many rows an expert's product
    has, on a GPU so its last bits, and a token for which two experts are as likely then goes to the other.

    Args:
        model: on any device.
        ids_BT: (B, T) int64 on its device, at least two positions; text that it was made for, without padding.
        rounds: passes over the rows; positions 1 and T - 1 are among the first cuts.

    Raises:
        BadInput: rows are too short.
    """
    rows, positions = ids_BT.shape
    if rows < 1 or positions < 2:
        raise BadInput(f"causality: {rows} rows of {positions} tokens; at least one row of two tokens is needed")
    found = _check(model, ids_BT, rounds)
    if found.causal or model.config.architecture != TOP_K:
        return found
    exact = LanguageModel(model.config).to(ids_BT.device, torch.float64)
    exact.load_state_dict(model.state_dict())
    return _check(exact, ids_BT, rounds)


def _check(model: LanguageModel, ids_BT: Tensor, rounds: int) -> CausalityCheck:
    rows, positions = ids_BT.shape
    generator = torch.Generator().manual_seed(_SEED)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            before_BTD = _states(model, ids_BT)
            scale = before_BTD.abs().amax()
            found = [
                _change(model, ids_BT, before_BTD, _cuts(rows, positions, number == 0, generator), generator) / scale
                for number in range(rounds)
            ]
    finally:
        model.train(was_training)
    past, present = torch.stack(found).unbind(dim=-1)
    largest = float(past.amax())
    return CausalityCheck(
        causal=largest <= ROUNDING, largest_change=largest, least_effect=float(present.amin()), changes=rows * rounds
    )


def _states(model: LanguageModel, ids_BT: Tensor) -> Tensor:
    """(B, T, D): each logit is a function of the state of its own position."""
    return model.hidden_states(ids_BT, model.norm_gain.dtype)


def _cuts(rows: int, positions: int, with_ends: bool, generator: torch.Generator) -> Tensor:
    """(B,): the first position that changes, 1 to T - 1."""
    cut_B = torch.randint(1, positions, (rows,), generator=generator)
    if with_ends:
        cut_B[0] = positions - 1
        cut_B[-1] = 1
    return cut_B


def _change(
    model: LanguageModel, ids_BT: Tensor, before_BTD: Tensor, cut_B: Tensor, generator: torch.Generator
) -> Tensor:
    """(2,): the largest change of a state before its row's cut, and the least one at a cut."""
    vocabulary, (rows, positions) = model.config.vocab_size, ids_BT.shape
    # Added to the token modulo V, none of these leaves it as it was.
    shift_BT = torch.randint(1, max(2, vocabulary), (rows, positions), generator=generator).to(ids_BT.device)
    cut_B1 = cut_B.to(ids_BT.device)[:, None]
    later_BT = torch.arange(positions, device=ids_BT.device) >= cut_B1
    changed_BT = torch.where(later_BT, (ids_BT + shift_BT) % vocabulary, ids_BT)
    moved_BT = (_states(model, changed_BT) - before_BTD).abs().amax(dim=-1)
    return torch.stack([moved_BT.masked_fill(later_BT, 0).amax(), moved_BT.gather(1, cut_B1).amin()])
