"""Which experts share a hyperedge: the strategies' names and limits, and the file of `custom` ones.

Only what a config needs to check itself; `gnn_moe.hypergraph` turns it into matrices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from gnn_moe.errors import BadInput

Hyperedges = tuple[tuple[int, ...], ...]

STRATEGIES: Mapping[str, int] = {"all_pairs": 2, "all_triplets": 3, "all": 1, "custom": 1}
"""Each strategy with the fewest experts for which it has a hyperedge."""


_WAY_OUT = "give a JSON file such as [[0, 1], [1, 2, 3]]"


def check_hyperedges(strategy: str, experts: int, custom: Hyperedges | None) -> None:
    """Checks that a known strategy has hyperedges over `experts` experts.

    Raises:
        BadInput: there is no hyperedge, or a custom one is empty, or names an unknown expert or one expert twice.
    """
    if experts < STRATEGIES[strategy]:
        instead = "all_pairs, or 3 experts and more" if experts == 2 else "--coupler_type mean, or more experts"
        raise BadInput(
            f"--static_hyperedge_strategy {strategy} has no hyperedge with --num_experts {experts}: use {instead}"
        )
    if strategy != "custom":
        if custom is not None:
            raise BadInput(f"--hyperedges is for --static_hyperedge_strategy custom, not {strategy}: drop one of them")
        return
    if not custom:
        raise BadInput("--static_hyperedge_strategy custom needs --hyperedges FILE with at least one hyperedge")
    for number, members in enumerate(custom):
        _check_custom(number, members, experts)


def _check_custom(number: int, members: tuple[int, ...], experts: int) -> None:
    if not members:
        raise BadInput(f"--hyperedges: hyperedge {number} is empty; name its experts, from 0 to {experts - 1}")
    for expert in members:
        if not 0 <= expert < experts:
            raise BadInput(
                f"--hyperedges: hyperedge {number} names expert {expert}; "
                f"--num_experts {experts} has experts 0 to {experts - 1}"
            )
    if len(set(members)) != len(members):
        raise BadInput(f"--hyperedges: hyperedge {number}, {list(members)}, repeats an expert; name each once")


def read_hyperedges(path: str) -> Hyperedges:
    """Reads a JSON list of lists of experts, counted from 0.

    Raises:
        BadInput: the file cannot be read or holds something else.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"--hyperedges {path}: cannot be read ({error.strerror}); {_WAY_OUT}") from None
    except ValueError as error:
        raise BadInput(f"--hyperedges {path}: not JSON ({error}); {_WAY_OUT}") from None
    return freeze_hyperedges(data, f"--hyperedges {path}")


def freeze_hyperedges(data: object, where: str) -> Hyperedges:
    """JSON's lists of lists of experts as tuples.

    Raises:
        BadInput: it is something else; the message begins with `where`.
    """
    if not isinstance(data, list | tuple) or not all(
        isinstance(members, list | tuple) and all(type(expert) is int for expert in members) for members in data
    ):
        raise BadInput(f"{where}: not a list of lists of whole numbers; {_WAY_OUT}")
    return tuple(tuple(members) for members in data)
