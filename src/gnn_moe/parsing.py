"""Words of a command line → a frozen dataclass, by tyro."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

A = TypeVar("A")


def parse_flags(arguments_class: type[A], words: Sequence[str], program: str, default: A | None = None) -> A:
    """The dataclass that the words ask for; help, and a box for what does not parse, are printed: SystemExit 0 or 2.

    Args:
        arguments_class: of the flags; groups of them are fields that are dataclasses themselves.
        words: of the command, without its name.
        program: its name, for help and errors.
        default: what the words do not say.
    """
    extra: dict[str, Any] = {} if default is None else {"default": default}
    parsed: A = tyro.cli(
        arguments_class,
        prog=program,
        args=list(words),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        use_underscores=True,
        **extra,
    )
    return parsed
