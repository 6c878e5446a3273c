"""The causal language model: embeddings, layers of coupled experts (or those of a control), head.

Letters: B rows, T positions, N = B·T tokens, L layers, E experts, D width, V vocabulary.

    x     = token_embedding[ids] + position_embedding[0..T)                     dropout
    layer:  x = x + Readout(Couple(y_1..y_E)),   y_e = expert e of x
    Readout(z) = LayerNorm(GELU(W_c · mean_e z_e + b_c))
    logits = LayerNorm(x) · W_headᵀ + b_head                                    untied, with bias

The stream x is kept in the parameters' type; under autocast everything that has an expert axis is computed in the
autocast type. Weights are cast explicitly, so that the same products run in the same types on every device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from gnn_moe.config import COUPLED, DENSE, TOP_K, ModelConfig
from gnn_moe.data.batches import IGNORED
from gnn_moe.errors import BadInput
from gnn_moe.model.couplers import build_coupler
from gnn_moe.model.dense import DenseLayer
from gnn_moe.model.dropout import dropout
from gnn_moe.model.experts import Experts
from gnn_moe.model.initial_values import set_initial_values
from gnn_moe.model.loss import head_loss
from gnn_moe.model.router import LOAD_BALANCING, Z, router_losses
from gnn_moe.model.size import model_size
from gnn_moe.model.stacked import LAYER_NORM_EPSILON
from gnn_moe.model.top_k import TopKLayer
from gnn_moe.model.workspace import Workspace


@dataclass(frozen=True)
class ModelOutput:
    """What a forward pass returns."""

    logits: Tensor | None = None
    """(B, T, V), or None where only a loss was asked for."""
    loss: Tensor | None = None
    """() cross-entropy in nats a predicted token, or None without labels or targets."""
    objective: Tensor | None = None
    """() what training minimises: the loss and, where tokens are routed, the weighted losses of the routers."""
    router_losses: Mapping[str, Tensor] = field(default_factory=dict)
    """In training of a model that routes: its losses by name, () each, unweighted, the part of the whole batch's."""
    router_logits: Tensor | None = None
    """(L, N, E) of every layer's router; None where tokens are not routed."""


class Readout(nn.Module):
    """LayerNorm(GELU(W_c · mean_e z_e + b_c)): (E, N, D) → (N, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.combine_weight = nn.Parameter(torch.empty(width, width))
        self.combine_bias = nn.Parameter(torch.empty(width))
        self.norm_gain = nn.Parameter(torch.empty(width))
        self.norm_bias = nn.Parameter(torch.empty(width))

    def forward(self, coupled_END: Tensor) -> Tensor:
        """The layer's update of the stream, in the parameters' type."""
        dtype = coupled_END.dtype
        mean_ND = coupled_END.mean(dim=0)
        combined_ND = functional.linear(mean_ND, self.combine_weight.to(dtype), self.combine_bias.to(dtype))
        active_ND = functional.gelu(combined_ND).to(self.norm_gain.dtype)
        return functional.layer_norm(
            active_ND, active_ND.shape[-1:], self.norm_gain, self.norm_bias, LAYER_NORM_EPSILON
        )


class CoupledLayer(nn.Module):
    """Experts, their coupler and the readout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts = Experts(config)
        self.coupler = build_coupler(config)
        self.readout = Readout(config.embed_dim)

    def forward(self, x_BTD: Tensor, compute_dtype: torch.dtype) -> tuple[Tensor, None]:
        coupled_END = self.coupler(self.experts(x_BTD, compute_dtype))
        return self.after(x_BTD, coupled_END), None

    def after(self, x_BTD: Tensor, coupled_END: Tensor) -> Tensor:
        """The stream with what the coupled results come to."""
        update: Tensor = self.readout(coupled_END)
        return x_BTD + update.view_as(x_BTD)


LAYERS: Mapping[str, type[nn.Module]] = {COUPLED: CoupledLayer, DENSE: DenseLayer, TOP_K: TopKLayer}
"""What stands between embeddings and head, by `--architecture`.

`Layer(config)` maps the stream (B, T, D) and the type to compute in to the stream, in its own type, and the logits of
the layer's router (N, E), or None where it has no router.
"""


class LanguageModel(nn.Module):
    """A causal language model; build one with `build_model`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = model_size(config).width
        self.token_embedding = nn.Parameter(torch.empty(config.vocab_size, width))
        self.position_embedding = nn.Parameter(torch.empty(config.max_seq_length, width))
        self.layers = nn.ModuleList(LAYERS[config.architecture](config) for _ in range(config.num_layers))
        self.norm_gain = nn.Parameter(torch.empty(width))
        self.norm_bias = nn.Parameter(torch.empty(width))
        self.head_weight = nn.Parameter(torch.empty(config.vocab_size, width))
        self.head_bias = nn.Parameter(torch.empty(config.vocab_size))
        self.workspace = Workspace()
        self.checkpoint_layers = False
        """Whether training keeps only each layer's input and computes the layer again in the backward pass."""

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        loss_denominator: Tensor | None = None,
        return_logits: bool = False,
    ) -> ModelOutput:
        """Logits, or the next-token cross-entropy.

        Args:
            input_ids: (B, T) int64, T at most `max_seq_length`. Right-padding needs no mask: no position sees it.
            labels: (B, T), usually `input_ids` itself; shifted inside, so that position t predicts labels[t + 1].
                −100 is ignored.
            targets: (B, T), already aligned: position t predicts targets[t]. Instead of `labels`.
            loss_denominator: () what the summed loss is divided by (default: the predicted tokens of this call, so
                that the loss is NaN where there are none, as torch's mean is). A micro-batch passes the predicted
                tokens of its whole batch.
            return_logits: with labels or targets, return the logits too.

        Raises:
            BadInput: a sequence is longer than the model's positions, labels and targets are both given, or they are
                not of the shape of `input_ids`.
        """
        if labels is not None and targets is not None:
            raise BadInput("labels and targets are two ways to give one thing: pass one of them")
        given = targets if labels is None else labels
        if given is not None and given.shape != input_ids.shape:
            raise BadInput(
                f"labels are {tuple(given.shape)} and input_ids {tuple(input_ids.shape)}: they must be of one shape"
            )
        if labels is not None:
            targets = functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        device_type = input_ids.device.type
        parameter_dtype = self.norm_gain.dtype
        autocast = torch.is_autocast_enabled(device_type)
        compute_dtype = torch.get_autocast_dtype(device_type) if autocast else parameter_dtype
        with torch.autocast(device_type, enabled=False):
            hidden_BTD, routed_LNE = self.routed_states(input_ids, compute_dtype)
            logits = self.logits(hidden_BTD) if targets is None or return_logits else None
            if targets is None:
                return ModelOutput(logits=logits, router_logits=routed_LNE)
            predicted_BT = targets != IGNORED
            denominator = predicted_BT.sum() if loss_denominator is None else loss_denominator
            loss = head_loss(
                hidden_BTD.flatten(0, 1),
                self.head_weight,
                self.head_bias,
                targets.flatten(),
                denominator,
                self.workspace,
            )
            routing = self._router_losses(routed_LNE, predicted_BT.flatten(), denominator)
        weights = {LOAD_BALANCING: self.config.load_balancing_weight, Z: self.config.router_z_weight}
        return ModelOutput(
            logits=logits,
            loss=loss,
            objective=sum((weights[name] * value for name, value in routing.items()), loss),
            router_losses=routing,
            router_logits=routed_LNE,
        )

    def hidden_states(self, input_ids: Tensor, compute_dtype: torch.dtype) -> Tensor:
        """The normalised final states that the head reads, (B, T, D) in `compute_dtype`."""
        return self.routed_states(input_ids, compute_dtype)[0]

    def routed_states(self, input_ids: Tensor, compute_dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The hidden states, and the logits of every layer's router (L, N, E), or None where there is none."""
        x_BTD = dropout(self.embedded(input_ids), self.config.dropout_rate, training=self.training)
        routed: list[Tensor] = []
        for layer in self.layers:
            if self.checkpoint_layers and torch.is_grad_enabled():
                x_BTD, logits_NE = checkpoint(layer, x_BTD, compute_dtype, use_reentrant=False)
            else:
                x_BTD, logits_NE = layer(x_BTD, compute_dtype)
            routed += [] if logits_NE is None else [logits_NE]
        normed_BTD = functional.layer_norm(x_BTD, x_BTD.shape[-1:], self.norm_gain, self.norm_bias, LAYER_NORM_EPSILON)
        return normed_BTD.to(compute_dtype), torch.stack(routed) if routed else None

    def embedded(self, input_ids: Tensor) -> Tensor:
        """What the first layer reads but for dropout, (B, T, D) in the parameters' type; errors as `forward`."""
        positions = input_ids.shape[1]
        if positions > len(self.position_embedding):
            raise BadInput(
                f"a sequence of {positions} tokens is longer than max_seq_length {len(self.position_embedding)}: cut it"
            )
        return functional.embedding(input_ids, self.token_embedding) + self.position_embedding[:positions]

    def coupled_layers(self) -> list[CoupledLayer]:
        """The layers, where they are coupled; [] in a control."""
        return [layer for layer in self.layers if isinstance(layer, CoupledLayer)]

    def coupling(self) -> dict[str, Tensor]:
        """What every coupler has learned: `layer_L/NAME` → float32 on the CPU; {} where there is nothing to learn."""
        return {
            f"layer_{number}/{name}": values
            for number, layer in enumerate(self.coupled_layers())
            for name, values in layer.coupler.coupling().items()
        }

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """The head on final hidden states, (..., D) → (..., V), in their type."""
        dtype = hidden_BTD.dtype
        return functional.linear(hidden_BTD, self.head_weight.to(dtype), self.head_bias.to(dtype))

    def _router_losses(self, routed_LNE: Tensor | None, predicted_N: Tensor, denominator: Tensor) -> dict[str, Tensor]:
        """Of the predicted tokens, times their share of the batch's; {} outside training."""
        if routed_LNE is None or not self.training:
            return {}
        share = predicted_N.sum() / denominator
        losses = router_losses(routed_LNE, predicted_N, self.config.router_top_k)
        return {name: value * share for name, value in losses.items()}


def build_model(config: ModelConfig, *, seed: int = 42) -> LanguageModel:
    """A model with its initial values set from `seed`, in float32 on the CPU, in training mode."""
    model = LanguageModel(config)
    set_initial_values(model, seed)
    return model
