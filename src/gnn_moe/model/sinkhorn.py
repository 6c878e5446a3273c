"""The coupler `sinkhorn`: a learned doubly stochastic mix, the same for every token.

Letters: E experts, N tokens, D width, G coupler layers, K normalisations (columns, rows, columns, ...).

It is the HGNN coupler with P replaced by a matrix that no hypergraph shapes: the mix of manifold-constrained
hyper-connections (Xie et al., 2025, arXiv 2512.24880), which there joins residual streams. An HGNN that does no better
gains from mixing, not from its hypergraph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gnn_moe.config import ModelConfig
from gnn_moe.model.couplers import Coupler, HGNNLayer
from gnn_moe.model.exchange import Exchange, off_diagonal
from gnn_moe.model.once import refuse_second_derivative
from gnn_moe.model.strengths import moving_order

ITERATIONS = 20
"""Of Sinkhorn's normalisation, each of columns and then of rows."""
SAME = 1e-6
"""Two shares closer than this are one: a mix that is equal but for its order of sums differs by its rounding."""


def doubly_stochastic(logits_GEE: Tensor) -> Tensor:
    """Sinkhorn(exp Λ): columns and rows of exp Λ divided by their sums in turn, (G, E, E), in float32 or wider.

    Rows come last, so they sum to 1 to rounding, as those of P do. Columns come near it: with s = max Λ − min Λ, each
    iteration shrinks the logarithm of the largest column sum over the smallest at least tanh²(s/2)-fold (Franklin and
    Lorenz, 1989). After 20 iterations that is below 1e-4 for s ≤ 2; logits further apart leave more. All is done with
    logarithms, which do not overflow, whatever Λ.

    Example: Λ = [[a, 0], [0, a]] gives [[p, 1 − p], [1 − p, p]] with p = σ(a).
    """
    wide_GEE = logits_GEE.to(torch.promote_types(logits_GEE.dtype, torch.float32))
    mix_GEE: Tensor = normalise(wide_GEE, ITERATIONS)[0]
    return mix_GEE


@torch.library.custom_op("gnn_moe::sinkhorn", mutates_args=())
def normalise(logits_GEE: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """S (G, E, E) and the matrix after every normalisation, (K, G, E, E).

    An operator of its own, so that torch.compile takes one node for it instead of forty sums of exponentials. Not
    twice differentiable.
    """
    steps = []
    for _ in range(iterations):
        for dim in (-2, -1):
            logits_GEE = logits_GEE - logits_GEE.logsumexp(dim, keepdim=True)
            steps.append(logits_GEE)
    step_KGEE = torch.stack(steps).exp_()
    return step_KGEE[-1].clone(), step_KGEE


@torch.library.custom_op("gnn_moe::sinkhorn_backward", mutates_args=())
def normalise_backward(grad_GEE: Tensor, step_KGEE: Tensor) -> Tensor:
    """The gradient with respect to the logits, (G, E, E).

    Taking log Σ exp off a row of logarithms leaves a softmax, so its gradient is g − softmax · Σ g.
    """
    grad_log_GEE = grad_GEE * step_KGEE[-1]
    dims = (-2, -1) * (len(step_KGEE) // 2)
    for step_GEE, dim in zip(reversed(step_KGEE), reversed(dims), strict=True):
        grad_log_GEE = grad_log_GEE - step_GEE * grad_log_GEE.sum(dim, keepdim=True)
    return grad_log_GEE


@normalise.register_fake
def _(logits_GEE: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(logits_GEE), logits_GEE.new_empty(2 * iterations, *logits_GEE.shape)


@normalise_backward.register_fake
def _(grad_GEE: Tensor, step_KGEE: Tensor) -> Tensor:
    return torch.empty_like(grad_GEE)


def _save_for_backward(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, step_KGEE = output
    ctx.mark_non_differentiable(step_KGEE)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(step_KGEE)


def _backward(ctx, grad_GEE: Tensor | None, unused: None) -> tuple[Tensor | None, None]:  # type: ignore[no-untyped-def]
    refuse_second_derivative("the mixes of the sinkhorn coupler")
    if grad_GEE is None:
        return None, None
    return normalise_backward(grad_GEE.contiguous(), *ctx.saved_tensors), None


normalise.register_autograd(_backward, setup_context=_save_for_backward)


class SinkhornCoupler(Coupler):
    """x_i ← x_i + GELU(Σ_j S_ij x_j · Θ + b), S = Sinkhorn(exp Λ), G times.

    It starts as the HGNN coupler of all pairs: S = P there. (From Λ = 0, where S = 1/E, it would never move: every
    expert then receives one and the same mixture, and a change of S that keeps the columns' sums cancels in the
    readout's mean.)
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        layers, experts = config.gnn_layers, config.num_experts
        self.mixing_logits = nn.Parameter(torch.empty(layers, experts, experts))
        self.layers = nn.ModuleList(HGNNLayer(config.embed_dim) for _ in range(layers))

    def forward(self, x_END: Tensor) -> Tensor:
        for layer, mixing_EE in zip(self.layers, self.mixing(), strict=True):
            x_END = layer(x_END, mixing_EE)
        return x_END

    def mixing(self) -> Tensor:
        """S of every coupler layer, (G, E, E): row i holds how much expert i takes from each expert."""
        return doubly_stochastic(self.mixing_logits)

    def coupling(self) -> dict[str, Tensor]:
        """`mixing` (G, E, E)."""
        return {"mixing": self.mixing().detach().float().cpu()}

    def strengths(self) -> Tensor:
        """S, its diagonal too, (G, E²)."""
        return self.mixing().detach().flatten(1)

    @torch.no_grad()
    def shuffle_strengths(self, generator: torch.Generator) -> None:
        """Relabels the experts of each mix: S_ij ← S_π(i)π(j), with the same shares, doubly stochastic as before.

        Shares in any other order would not sum to 1 in rows and columns. Two experts have no other mix: a doubly
        stochastic 2×2 matrix is symmetric.
        """
        for logits_EE, mix_EE in zip(self.mixing_logits, self.mixing(), strict=True):

            def moves(order_E: Tensor, mix_EE: Tensor = mix_EE) -> bool:
                return bool((mix_EE[order_E][:, order_E] - mix_EE).abs().amax() > SAME)

            order_E = moving_order(len(logits_EE), moves, generator)
            logits_EE.copy_(logits_EE[order_E][:, order_E])

    @torch.no_grad()
    def level_strengths(self) -> None:
        """Every expert keeps the mean of what experts keep and takes the mean of what they take: doubly stochastic.

        Not 1 / E throughout, which would change how much is exchanged and not only with whom.
        """
        for logits_EE, mix_EE in zip(self.mixing_logits, self.mixing().double(), strict=True):
            kept, taken = mix_EE.diagonal().mean(), off_diagonal(mix_EE).mean()
            level_EE = taken.expand_as(mix_EE).clone().fill_diagonal_(kept)
            if (mix_EE - level_EE).abs().amax() > SAME:
                logits_EE.copy_(level_EE.log())

    def exchange(self, x_END: Tensor) -> tuple[Exchange, ...]:
        """S, the same for every token; an expert's shares are among all experts, itself too."""
        return tuple(Exchange(mixing_NEE=mix_EE[None], static_RK=mix_EE) for mix_EE in self.mixing())
