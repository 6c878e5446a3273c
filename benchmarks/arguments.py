"""The flags of `python -m benchmarks`, and which of them a choice of case leaves unread. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.cases import ContestantName
from gnn_moe.checks import check_size
from gnn_moe.config import DataConfig, ModelConfig
from gnn_moe.errors import BadInput

OWN = "own"
Unread = tuple[frozenset[str], str]
"""Flags that would be ignored, without dashes, and what is said of them: why and the way out."""
READ_ALL: Unread = (frozenset(), "")
ROUNDS = frozenset(("rounds", "warmup"))
HYPEREDGE_FLAGS = frozenset(("hyperedges_width", "hyperedges_layers", "hyperedges_batch_size"))


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every subcommand takes."""

    rounds: int = 9
    """Steps of each contestant that count."""
    warmup: int = 2
    """Steps of each contestant before those."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:1."""
    json: bool = False
    """Print the figures as one JSON object instead of tables."""
    output: str | None = None
    """JSON file to update, with its Markdown page beside it (default: benchmarks/results/DEVICE.json)."""
    allow_dirty: bool = False
    """Write into benchmarks/results/ though files differ from the commit; the figures are marked."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.warmup < 0:
            raise BadInput(
                f"--rounds {self.rounds} --warmup {self.warmup}: at least one round, and no negative warm-up"
            )
        if self.output is not None and not self.output.endswith(".json"):
            raise BadInput(f"--output {self.output!r} must end in .json: the Markdown page goes beside it")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The step of an own case."""

    batch_size: int = 32
    """Rows a step."""
    micro_batch_size: int | Literal["auto"] = "auto"
    """Rows that ours computes at once; auto: the whole batch."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of ours; the textbook computes in float32."""
    compile: bool = False
    """Compile ours with torch.compile."""


@dataclass(frozen=True, kw_only=True)
class CaseArguments:
    """Steps of named cases, or of one that the flags say."""

    case: str = "all"
    """all (the target table), gpu (that of a GPU), a case of either, or own (what the model flags say)."""
    name: str = OWN
    """What an own case is called in the record."""
    vocab_size: int = 50257
    """Tokens in the vocabulary of an own case."""
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: Batch = field(default_factory=Batch)
    common: Common = field(default_factory=Common)

    def unread(self) -> Unread:
        """A named case has its own sizes; it can be compiled."""
        if self.case == OWN:
            return READ_ALL
        flags = flags_of(ModelConfig) | flags_of(Batch) | {"name", "opponent"}
        return flags - {"compile"}, f"not read with --case {self.case}: leave it out, or use --case {OWN}"

    @property
    def rival(self) -> ContestantName | None:
        """Whom an own case is held against."""
        return None


@dataclass(frozen=True, kw_only=True)
class StepArguments(CaseArguments):
    """A training step of ours against the textbook's and against the machine's limit."""

    opponent: Literal["textbook", "textbook_list", "textbook_unbound", "none"] = "textbook"
    """Of an own case; textbook_list and textbook_unbound build one graph object a token (HGNN)."""
    parts: bool = True
    """Measure the parts too."""

    @property
    def rival(self) -> ContestantName | None:
        return None if self.opponent == "none" else self.opponent


@dataclass(frozen=True, kw_only=True)
class ProfileArguments(CaseArguments):
    """What takes the time of our step: products, masks, copies and so on, on a processor."""

    common: Common = field(default_factory=lambda: Common(rounds=3, device="cpu"))

    def __post_init__(self) -> None:
        if self.common.device != "cpu":
            raise BadInput(
                f"--device {self.common.device}: the clock of a profile is the processor's, and a GPU computes while "
                "that goes on: use --device cpu"
            )


@dataclass(frozen=True, kw_only=True)
class CouplerArguments:
    """What coupling costs over `mean`, and that it does not grow with the hyperedges."""

    case: Literal["all", "config1", "eight-experts", "hyperedges", "own"] = "all"
    """Which sizes; own takes the model flags and measures both."""
    hyperedges_width: int = 128
    """D of the cases with thousands of hyperedges."""
    hyperedges_layers: int = 2
    """Layers of those cases."""
    hyperedges_batch_size: int = 8
    """Rows of those cases."""
    processes: int = 9
    """Fresh processes of each whose peak memory is read, with many hyperedges and with one."""
    vocab_size: int = 50257
    """Tokens in the vocabulary, of own cases and of those with thousands of hyperedges."""
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: Batch = field(default_factory=Batch)
    common: Common = field(default_factory=lambda: Common(rounds=25))

    def __post_init__(self) -> None:
        for name in sorted(HYPEREDGE_FLAGS | {"processes"}):
            check_size(self, name)

    def unread(self) -> Unread:
        """Own sizes, those of a case, or those of the cases with thousands of hyperedges."""
        if self.case == OWN:
            return HYPEREDGE_FLAGS, f"not read with --case {OWN}: leave it out, or use --case hyperedges"
        flags = flags_of(ModelConfig) | flags_of(Batch)
        only_many = HYPEREDGE_FLAGS | {"processes"}
        flags = flags - {"vocab_size"} if self.case in ("all", "hyperedges") else flags | only_many
        return flags, f"not read with --case {self.case}: leave it out, or use --case {OWN}"


def _small_model() -> ModelConfig:
    return ModelConfig(num_experts=4, embed_dim=256, num_layers=2)


@dataclass(frozen=True, kw_only=True)
class ScalingArguments:
    """Time and memory of a step against experts, hyperedges, width, layers, positions and batch."""

    axis: str = "all"
    """all, experts, all_pairs, all_triplets, width, layers, positions or batch."""
    largest: int | None = None
    """Leave out values above this (default: none)."""
    textbook: bool = False
    """Measure the textbook too."""
    vocab_size: int = 1000
    """Tokens in the vocabulary: few, so that the head does not hide what grows."""
    model: ModelConfig = field(default_factory=_small_model)
    batch: Batch = field(default_factory=lambda: Batch(batch_size=8))
    common: Common = field(default_factory=lambda: Common(rounds=5))

    def __post_init__(self) -> None:
        if self.largest is not None:
            check_size(self, "largest")

    def unread(self) -> Unread:
        return READ_ALL


@dataclass(frozen=True, kw_only=True)
class LossArguments:
    """Head and loss alone: ours, plain and torch's own fused form."""

    tokens: int = 4096
    """Tokens of a batch."""
    embed_dim: int = 384
    """Width."""
    vocab_size: int = 50257
    """Tokens in the vocabulary."""
    common: Common = field(default_factory=Common)

    def __post_init__(self) -> None:
        for name in ("tokens", "embed_dim", "vocab_size"):
            check_size(self, name)

    def unread(self) -> Unread:
        return READ_ALL


@dataclass(frozen=True, kw_only=True)
class LoaderArguments:
    """Batches a second, the share of padding, and how soon a run takes its first step."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    batch: Batch = field(default_factory=Batch)
    common: Common = field(default_factory=Common)

    def unread(self) -> Unread:
        """It makes one epoch in each order and starts twice."""
        return ROUNDS, "not read by loader: leave it out"


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """What `inspect --calibrate` foretells of runs, against what they then take."""

    case: str = "all"
    """all, or one of wide-hgnn, split-experts, float32, packed-long, checkpointed, seed-config1, longer."""
    common: Common = field(default_factory=Common)

    def unread(self) -> Unread:
        """It calibrates and trains once."""
        return ROUNDS, "not read by plan: leave it out"


def flags_of(fields: type[Any]) -> frozenset[str]:
    """The flags that a dataclass makes."""
    return frozenset(entry.name for entry in dataclasses.fields(fields))


def refuse_unread(words: Sequence[str], unread: frozenset[str], why: str) -> None:
    """Refuses a flag that would be ignored.

    Raises:
        BadInput: one of `unread` is among the words of the command line.
    """
    for word in words:
        flag = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and {flag, flag.removeprefix("no_")} & unread:
            raise BadInput(f"--{flag} is {why}")
