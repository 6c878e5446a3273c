"""The memory that training takes, from the config alone, without torch.

Letters: B rows, T positions, N = B·T tokens, E experts, D width, V vocabulary, A heads.

A step is fullest when its forward pass ends: parameters, both moments of AdamW and all that the layers keep for their
backward pass are there, and the head forms its gradients; the layers' own gradients come as what was kept goes. What
is kept is counted tensor by tensor, and the tests hold the count to the built model. Only six numbers were
measured: what a process holds besides tensors, and how much of a CPU's heap lies idle between blocks, in either
precision, with rows of many lengths or one, and in bf16 with layers that are computed again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict, Unpack

from gnn_moe.config import COUPLED, DENSE, TOP_K, ModelConfig, TrainingConfig
from gnn_moe.model.halves import HALVES, computed_in_halves
from gnn_moe.model.size import coupler_shape, model_size

_PARAMETER_BYTES = 4
LOGITS_BYTES = {"cpu": 2**28, "cuda": 2**30}
"""Of the logits that one product of the head makes: fewer would add up the weight's gradient more often."""
HEAD_ROWS_MULTIPLE = 64
"""Rows of a product of the head are a multiple of this: a CPU keeps kernels for every shape that it has seen."""
HEAD_BIAS_ROWS = 32
"""What the head's weight gets for the bias where that is inside the products, 0 but for the first: as many numbers of
bf16 as a matrix unit takes at once."""
PIECE_ROWS, PIECE_ROWS_MULTIPLE = 512, 64
"""Rows that the FFN of a control computes at once on a CPU, and a multiple that the last ones are filled up to."""
_PROCESS_BYTES = 425 * 2**20
"""Of a CPU run before its model: interpreter, libraries, text."""
_IDLE_SHARE = {2: 0.85, 4: 0.45}
"""Of what a step makes and frees, by the bytes of a number: what lies idle between the blocks of glibc's heap at the
peak, and what the products of bf16 pack their operands into."""
_IDLE_SHARE_OF_ONE_LENGTH = {2: 0.3, 4: 0.2}
"""The same where all rows are of one length: each step fits the holes of the last."""
_IDLE_SHARE_CHECKPOINTED = {2: 1.1, 4: _IDLE_SHARE[4]}
"""The same where layers are computed again: a step makes and frees each of them twice. In float32, and of one length,
it was not measured."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is computed at once, and how."""

    rows: int
    """B of a micro-batch."""
    positions: int
    """T."""
    accumulates: bool
    """Whether a step has several micro-batches."""
    number_bytes: int
    """Of a number that experts and couplers compute with: 2 in bf16, 4 in float32."""
    dropout: bool
    """Whether there is any."""
    device_type: str
    """cpu or cuda."""
    checkpoint_layers: bool = False
    """Whether a layer keeps its input alone and is computed again in the backward pass."""
    in_halves: bool = False
    """Whether it is computed in two halves side by side."""
    one_length: bool = False
    """Whether all rows are of one length."""

    @property
    def tokens(self) -> int:
        """N."""
        return self.rows * self.positions

    @property
    def on_cpu(self) -> bool:
        """Whether the forms that save memory on a CPU are used."""
        return self.device_type == "cpu"


class Circumstances(TypedDict):
    """What the memory of a run depends on besides its model and training."""

    precision: str
    """`bf16` or `fp32`."""
    device_type: str
    """cpu or cuda."""
    positions: NotRequired[int]
    """Of the longest rows; else as many as the model has."""
    threads: NotRequired[int]
    """That a CPU computes with; else 1."""
    one_length: NotRequired[bool]
    """Whether all rows are of one length; else they are not."""


def workload_of(
    model: ModelConfig, training: TrainingConfig, *, rows: int, **circumstances: Unpack[Circumstances]
) -> Workload:
    """What a run computes at once with micro-batches of `rows` rows."""
    device_type, positions = circumstances["device_type"], circumstances.get("positions", model.max_seq_length)
    threads = circumstances.get("threads", 1)
    return Workload(
        rows=rows,
        positions=positions,
        accumulates=rows < training.batch_size,
        number_bytes=2 if circumstances["precision"] == "bf16" else _PARAMETER_BYTES,
        dropout=model.dropout_rate > 0,
        device_type=device_type,
        checkpoint_layers=training.activation_checkpointing,
        in_halves=computed_in_halves(
            model, training, rows=rows, positions=positions, device_type=device_type, threads=threads
        ),
        one_length=circumstances.get("one_length", False),
    )


def largest_micro_batch(
    model: ModelConfig, training: TrainingConfig, *, room_bytes: int, **circumstances: Unpack[Circumstances]
) -> int:
    """Rows of the largest micro-batch that fits: the batch in as few equal pieces as the predicted peak has room for.

    A size between two of these would need as many pieces as the smaller, the last one with fewer rows. 1 where not even
    one row fits.
    """

    def fits(rows: int) -> bool:
        return peak_memory(model, workload_of(model, training, rows=rows, **circumstances)).total <= room_bytes

    pieces = range(1, training.batch_size + 1)
    sizes = sorted({math.ceil(training.batch_size / number) for number in pieces}, reverse=True)
    # Each is asked: a whole batch accumulates no gradients, so it may take less memory than its half.
    return next((rows for rows in sizes if fits(rows)), 1)


def most_head_rows(tokens: int, vocabulary: int, number_bytes: int, device_type: str) -> int:
    """Rows of logits that are made at once at most, of so many tokens or fewer."""
    limit = LOGITS_BYTES.get(device_type, LOGITS_BYTES["cuda"])
    fitting = limit // (vocabulary * number_bytes) // HEAD_ROWS_MULTIPLE * HEAD_ROWS_MULTIPLE
    return min(tokens, max(HEAD_ROWS_MULTIPLE, fitting))


def head_rows_at_once(tokens: int, vocabulary: int, number_bytes: int, device_type: str) -> int:
    """Rows of a piece where all tokens go in as few pieces as may be, alike but for the last, of multiples of 64."""
    most = max(1, most_head_rows(tokens, vocabulary, number_bytes, device_type))
    pieces = max(1, math.ceil(tokens / most))
    return max(1, math.ceil(tokens / pieces / HEAD_ROWS_MULTIPLE)) * HEAD_ROWS_MULTIPLE


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """Bytes at the fullest moment of a training step."""

    parameters: int
    gradients: int
    """Those that are there at that moment."""
    optimiser: int
    activations: int
    """What the forward pass keeps for the backward pass."""
    working: int
    """What comes and goes, and the gaps that it leaves in the heap of a CPU."""
    process: int
    """What is there besides tensors: resident on a CPU; a GPU counts tensors only."""

    @property
    def total(self) -> int:
        """Resident in the process on a CPU, allocated on a GPU."""
        tensors = self.parameters + self.gradients + self.optimiser + self.activations
        return tensors + self.working + self.process


def peak_memory(config: ModelConfig, workload: Workload) -> PeakMemory:
    """The memory of training the model that `build_model(config)` builds."""
    weights = model_size(config).total_parameters * _PARAMETER_BYTES
    passes = HALVES if workload.in_halves else 1
    one = dataclasses.replace(workload, rows=math.ceil(workload.rows / passes))
    kept, made = kept_bytes(config, one), _working_bytes(config, one)
    # Of the halves, one borrows the room that evaluations take for the whole.
    workspace = (_logits_bytes(config, workload) + (passes - 1) * _logits_bytes(config, one)) * workload.on_cpu
    idle = round(_idle_share(workload) * (passes * (kept + made) + workspace)) * workload.on_cpu
    # When the forward pass ends, there is what earlier micro-batches have summed. As halves come to their end one after
    # the other, it waits beside the sum of this one; at the very end every gradient is there, and nothing else is.
    earlier = weights * workload.accumulates
    waiting = earlier * workload.in_halves
    moments = [(earlier, passes), *((waiting + weights, open_passes) for open_passes in range(passes))]
    gradients, passes = max(moments, key=lambda moment: moment[0] + moment[1] * (kept + made))
    return PeakMemory(
        parameters=weights,
        gradients=gradients,
        optimiser=2 * weights,
        activations=passes * kept,
        working=passes * made + idle + workspace,
        process=_PROCESS_BYTES * workload.on_cpu,
    )


def kept_bytes(config: ModelConfig, workload: Workload) -> int:
    """Bytes of the tensors that one forward pass with its loss keeps, parameters left out."""
    tokens, width = workload.tokens, model_size(config).width
    layers, layer = config.num_layers, _LAYERS[config.architecture](config, workload).kept
    stream = _PARAMETER_BYTES * tokens * width
    mask = stream if workload.on_cpu else tokens * width
    embedding = 8 * tokens + mask * workload.dropout
    # The loss keeps its gradients; targets are integers.
    head = workload.number_bytes * tokens * width + _PARAMETER_BYTES * config.vocab_size * _head_rows(workload, width)
    ends = embedding + stream + 8 * tokens + head + 8 * tokens
    return ends + (layers * stream + layer if workload.checkpoint_layers else layers * layer)


def _idle_share(workload: Workload) -> float:
    if workload.checkpoint_layers:
        return _IDLE_SHARE_CHECKPOINTED[workload.number_bytes]
    return (_IDLE_SHARE_OF_ONE_LENGTH if workload.one_length else _IDLE_SHARE)[workload.number_bytes]


def _logits_bytes(config: ModelConfig, workload: Workload) -> int:
    """Of the logits that are there at a time; a CPU keeps their room between the steps."""
    rows = most_head_rows(workload.tokens, config.vocab_size, workload.number_bytes, workload.device_type)
    return workload.number_bytes * config.vocab_size * rows


def _head_rows(workload: Workload, width: int) -> int:
    """Numbers a word of the head's weight and bias."""
    return width + (HEAD_BIAS_ROWS if workload.on_cpu and workload.number_bytes < _PARAMETER_BYTES else 1)


def _working_bytes(config: ModelConfig, workload: Workload) -> int:
    """The larger of what the head and what one layer's backward pass hold for a moment, logits apart on a CPU."""
    width, number = model_size(config).width, workload.number_bytes
    copy = number * config.vocab_size * _head_rows(workload, width)
    # The weight as the product takes it, its gradient as the product gives it and as it is added up.
    head = copy * (1 + (number < _PARAMETER_BYTES)) + _PARAMETER_BYTES * config.vocab_size * width
    logits = 0 if workload.on_cpu else _logits_bytes(config, workload)
    return max(head + logits, _LAYERS[config.architecture](config, workload).working)


@dataclass(frozen=True, kw_only=True)
class _LayerMemory:
    """Bytes of one layer."""

    kept: int
    """For the backward pass."""
    working: int
    """Made and freed in the backward pass."""


def _coupled_layer(config: ModelConfig, workload: Workload) -> _LayerMemory:
    tokens, width, experts, number = workload.tokens, config.embed_dim, config.num_experts, workload.number_bytes
    results, area, shape = experts * tokens * width, experts * width**2, coupler_shape(config)
    attention = _attention_bytes(workload, results, experts * config.heads)
    norm = number * results * (1 if workload.on_cpu else 2) + 8 * experts * tokens
    feed_forward = norm + _feed_forward_bytes(workload, results, 4 * results)
    wide = config.coupler.kept_wide_numbers(shape)
    of_tokens = tokens * (number * config.coupler.kept_numbers(shape) + _PARAMETER_BYTES * wide)
    coupler = of_tokens + _PARAMETER_BYTES * config.coupler.kept_once(shape)
    readout = 2 * number * tokens * width + (_PARAMETER_BYTES * width + 8) * tokens
    folded = 3 * area + 4 * area * (not workload.on_cpu)
    copied = area + 4 * area * (not workload.on_cpu) + width**2 + config.coupler.parameters(shape)
    weights = number * folded + _copies(workload, copied)
    at_once = 1 if workload.on_cpu else experts
    # A coupler layer's gradients are as many as what it keeps of tokens, as they are made and as they are added up.
    coupler_gradients = 2 * of_tokens // config.gnn_layers
    gradients = number * (4 * results + 20 * at_once * tokens * width) + coupler_gradients
    return _LayerMemory(
        kept=_normed_stream(workload, width) + attention + feed_forward + coupler + readout + weights,
        working=gradients + _PARAMETER_BYTES * 12 * area,
    )


def _dense_layer(config: ModelConfig, workload: Workload) -> _LayerMemory:
    size, number = model_size(config), workload.number_bytes
    width, results, hidden = size.width, workload.tokens * size.width, workload.tokens * size.feed_forward_width
    filling, at_once = _pieces(workload, 1, size.feed_forward_width, hidden)
    attention = _normed_stream(workload, width) + _attention_bytes(workload, results, size.heads)
    feed_forward = _normed_stream(workload, width) + _feed_forward_bytes(workload, results, hidden) + filling
    maps = 2 * width * size.feed_forward_width
    return _LayerMemory(
        kept=attention + feed_forward + _copies(workload, 4 * width**2 + maps * (not workload.on_cpu)),
        working=number * (4 * results + 5 * at_once) + _PARAMETER_BYTES * (4 * width**2 + maps),
    )


def _top_k_layer(config: ModelConfig, workload: Workload) -> _LayerMemory:
    size, tokens, number = model_size(config), workload.tokens, workload.number_bytes
    width, experts, chosen = size.width, config.num_experts, config.router_top_k
    rows = chosen * tokens
    results, hidden = rows * width, rows * size.feed_forward_width
    attention = _normed_stream(workload, width) + _attention_bytes(workload, tokens * width, size.heads)
    norm = tokens * (2 * _PARAMETER_BYTES * width + 8)
    # The chosen, their weights in both types, the order of the rows and its inverse; logits and probabilities.
    router = rows * (8 + _PARAMETER_BYTES + number + 16) + tokens * (2 * _PARAMETER_BYTES * experts + 4)
    filling, at_once = _pieces(workload, experts, size.feed_forward_width, hidden)
    numbers = 16 * rows * (not workload.on_cpu)
    feed_forward = 2 * number * results + _feed_forward_bytes(workload, results, hidden) + filling + numbers
    maps = 2 * experts * width * size.feed_forward_width
    return _LayerMemory(
        kept=attention + norm + router + feed_forward + _copies(workload, 4 * width**2 + maps * (not workload.on_cpu)),
        working=number * (4 * results + 5 * at_once) + _PARAMETER_BYTES * (4 * width**2 + maps),
    )


_LAYERS: Mapping[str, Callable[[ModelConfig, Workload], _LayerMemory]] = {
    COUPLED: _coupled_layer,
    DENSE: _dense_layer,
    TOP_K: _top_k_layer,
}


def _normed_stream(workload: Workload, width: int) -> int:
    """The stream, its LayerNorm's statistics and its normalised form as a product takes it."""
    return workload.tokens * (_PARAMETER_BYTES * width + 8 + workload.number_bytes * width)


def _attention_bytes(workload: Workload, results: int, heads: int) -> int:
    """Queries, keys and values, and what the output projection reads; fused kernels keep their result and its norm."""
    fused = not (workload.on_cpu and workload.dropout)
    return 4 * workload.number_bytes * results + fused * (
        workload.number_bytes * results + _PARAMETER_BYTES * heads * workload.tokens
    )


def _feed_forward_bytes(workload: Workload, results: int, hidden: int) -> int:
    """The input of GELU; where autograd differentiates, also its result, and the masks of hidden and results."""
    by_autograd = workload.number_bytes * hidden + (results + hidden) * workload.dropout
    return workload.number_bytes * hidden + by_autograd * (not workload.on_cpu)


def _pieces(workload: Workload, experts: int, inner_width: int, hidden: int) -> tuple[int, int]:
    """Of the FFNs of a control: bytes that filled-up pieces keep besides, and hidden numbers that are made at once."""
    if not workload.on_cpu:
        return 0, hidden
    return workload.number_bytes * PIECE_ROWS_MULTIPLE * experts * inner_width, PIECE_ROWS * inner_width


def _copies(workload: Workload, parameters: int) -> int:
    """Weights as the products take them, where they are not the parameters themselves."""
    return workload.number_bytes * parameters * (workload.number_bytes < _PARAMETER_BYTES)
