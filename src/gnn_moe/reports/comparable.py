"""What losses must share to compare: the text, how it is cut into tokens, and how many samples of it are evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gnn_moe.studies.space import Value

_NAMED = 3
"""Runs of a protocol that are named before the rest are counted."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What losses must share to compare."""

    dataset: str
    tokenizer: str
    data_format: str
    max_seq_length: int
    num_eval_samples: int
    text: str | None = None
    """Fingerprint of the evaluated text; None where it is not recorded."""

    def in_words(self) -> str:
        rows = "all" if self.num_eval_samples < 0 else f"{self.num_eval_samples}"
        unknown, text = ("", f" of text {self.text[:12]}") if self.text else (" (which text is not recorded)", "")
        return (
            f"{self.dataset}{unknown}, {self.tokenizer} tokens, {self.data_format} of at most "
            f"{self.max_seq_length} tokens, {rows} evaluation samples{text}"
        )


def protocol_of(settings: Mapping[str, Value]) -> Protocol:
    """What the losses of a run with these settings are of."""
    of_data = settings["dataset_name"], settings["dataset_config_name"]
    return Protocol(
        dataset=" ".join(str(name) for name in of_data if name is not None),
        **{field: settings[field] for field in ("tokenizer", "data_format", "max_seq_length", "num_eval_samples")},  # type: ignore[arg-type]
    )


def protocols_of(
    settings: Sequence[Mapping[str, Value]], texts: Sequence[object], have_losses: Sequence[bool]
) -> list[Protocol]:
    """The protocol of each run.

    A loss on a text that is not recorded is set beside no loss on one that is: the folder of a name can change. Runs
    without losses, which waited or failed before they recorded their text, stand with the first that has the rest. One
    text under several names, as of a folder by two paths, has the first.

    Args:
        settings: of each run.
        texts: the fingerprint that each recorded of its evaluated text; anything else where it did not.
        have_losses: whether each has completed, so that its losses are compared.
    """
    without = [protocol_of(each) for each in settings]
    known: dict[Protocol, str] = {}
    for protocol, text in zip(without, texts, strict=True):
        if isinstance(text, str):
            known.setdefault(protocol, text)
    found = [
        dataclasses.replace(protocol, text=text)
        if isinstance(text, str)
        else dataclasses.replace(protocol, text=None if has_losses else known.get(protocol))
        for protocol, text, has_losses in zip(without, texts, have_losses, strict=True)
    ]
    names: dict[Protocol, str] = {}
    return [
        protocol
        if protocol.text is None
        else dataclasses.replace(
            protocol, dataset=names.setdefault(dataclasses.replace(protocol, dataset=""), protocol.dataset)
        )
        for protocol in found
    ]


def several_in_words(names: Sequence[str], by_run: Sequence[Protocol]) -> str:
    """Which runs are of which protocol: one damaged record may be all that makes it another.

    Args:
        names: of the runs.
        by_run: the protocol of each.
    """
    parts = []
    for protocol in dict.fromkeys(by_run):
        mine = [name for name, its in zip(names, by_run, strict=True) if its == protocol]
        more = f" and {len(mine) - _NAMED} more" if len(mine) > _NAMED else ""
        parts.append(f"{', '.join(mine[:_NAMED])}{more}: {protocol.in_words()}")
    return f"runs of {len(parts)} protocols, whose losses do not compare ({'; '.join(parts)}): give --group"
