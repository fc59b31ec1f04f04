"""A language model from a plan: embedding, residual stack, final norm, head and loss.

B batch, T tokens of this call, D width, V vocabulary, L entries of the stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hybridkit.block import GivenWindow, Layer, State, TrainStep, linear, normal_, packed, recording, small_init_
from hybridkit.model.loss import HeadLoss, cap_logits, linear_cross_entropy, with_auxiliary
from hybridkit.model.norm import RMSNorm
from hybridkit.model.plan import Plan
from hybridkit.model.residual import BranchWindows, EntryStep, Residual, States

if TYPE_CHECKING:
    from hybridkit.data.tokenizer import Tokenizer
    from hybridkit.recipe.schema import Recipe

# Initial sizes of tied models. The head multiplies the stream by the rows that it began with, so that a token's own
# logit would grow with the width. So tied rows are smaller as input than untied ones, whose size is 1, and the weight
# of the final norm starts so small that this logit is at most `OWN_LOGIT`.
TIED_SIZE = 0.25
OWN_LOGIT = 2.0


class Embedding(nn.Embedding):
    """A row of the table for every token, times `scale`. In a new model the result has a standard deviation of `size`.

    At size 1 a token's own vector stays larger than what the first mixers add to the stream.
    """

    def __init__(self, vocab: int, width: int, scale: float, size: float) -> None:
        self.scale, self.size = scale, size
        super().__init__(vocab, width)

    def reset_parameters(self) -> None:
        """Draw the weights from N(0, (size / scale)^2)."""
        normal_(self.weight, std=self.size / self.scale)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to (B, T, D)."""
        x = super().forward(tokens)
        return x if self.scale == 1 else x * self.scale


class Head(nn.Module):
    """Logits times `scale`, softly capped where `cap` is given, or the loss without storing all logits."""

    def __init__(self, width: int, vocab: int, cap: float | None, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, width))
        self.cap, self.scale = cap, scale
        self.z_loss = 0.0  # of training alone: `linear_cross_entropy`
        self.cross_entropy: HeadLoss = linear_cross_entropy  # or a form of it that suits a device better
        small_init_(self.weight)

    def forward(self, x: Tensor, targets: Tensor | None = None, loss: HeadLoss | None = None) -> Tensor:
        """Logits (B, T, V); with targets (B, T) the loss in nats (by default cross-entropy), summed over those that
        count."""
        x = x if self.scale == 1 else x * self.scale
        if targets is None:
            return cap_logits(linear(x, self.weight), self.cap)
        found = loss or self.cross_entropy
        return found(x.flatten(0, 1), self.weight, targets.flatten(), self.cap, self.z_loss)

    def decoder(self, rows: int) -> packed.Product:
        """The logits (B, V) of x (B, D), with a copy of the current weights in a layout that is fast for `rows`."""
        project, cap, scale = packed.product(self.weight, rows), self.cap, self.scale
        return lambda x: cap_logits(project(x if scale == 1 else x * scale), cap)


class Model(nn.Module):
    """The module that a plan describes, on torch's current default device and dtype."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.tokenizer: Tokenizer | None = None  # set where the model comes from a run
        self.recipe: Recipe | None = None  # set where the model comes from a run
        self.recompute = False  # True: layers run again in backward instead of keeping their activations
        config = plan.config
        width, vocab = config.width, config.vocab
        self.embedding = Embedding(vocab, width, config.row_scale, TIED_SIZE if config.tie else 1.0)
        entries = (Residual(entry, plan.dims, config) for entry in plan.entries)
        self.layers: Sequence[Residual] = nn.ModuleList(entries)  # type: ignore[assignment]
        self.norm = RMSNorm(width, eps=config.norm_eps)
        if config.tie:
            nn.init.constant_(self.norm.weight, min(1, OWN_LOGIT * config.row_scale / (TIED_SIZE * width)))
        self.head = Head(width, vocab, config.logit_cap, config.logit_scale)
        self.share_weights()

    def share_weights(self) -> None:
        """Make the head's weight the embedding's, where the plan says so."""
        if self.plan.config.tie:
            self.head.weight = self.embedding.weight  # type: ignore[assignment]  # torch's stubs say Tensor

    def forward(
        self,
        tokens: Tensor,  # (B, T)
        states: States | None = None,
        *,
        windows: BranchWindows | None = None,
        document_starts: Tensor | None = None,  # (B, T) bool
        targets: Tensor | None = None,  # (B, T)
        loss: HeadLoss | None = None,
        keep_states: bool = True,
    ) -> tuple[Tensor, list[State]]:
        """Logits (B, T, V), or the summed `loss` where targets are given, and the states after the tokens.

        Without `keep_states` no states are returned, and none is held longer than its layer runs.
        """
        with recording() as told:
            x, states = self.hidden(
                tokens, states, windows=windows, document_starts=document_starts, keep_states=keep_states
            )
        y = self.head(x, targets, loss)
        return y if targets is None else with_auxiliary(y, told, targets), states

    def hidden(
        self,
        tokens: Tensor,
        states: States | None = None,
        *,
        windows: BranchWindows | None = None,
        document_starts: Tensor | None = None,
        keep_states: bool = True,
    ) -> tuple[Tensor, list[State]]:
        """What the head reads, (B, T, D), and the states after the tokens. Raises ValueError where layers do."""
        if windows is not None and len(windows) != len(self.plan.branches):
            raise ValueError(f"{len(windows)} windows for a stack of {len(self.plan.branches)}; it takes one a branch")
        x = self.embedding(tokens)
        after: list[State] = []
        for layer, own in self.spans():
            given = (x, states[own] if states else None, windows[own] if windows else None, document_starts)
            x, made = checkpoint(layer, *given, use_reentrant=False) if self.recompute else layer(*given)
            after += made if keep_states else []
            del made
        return self.norm(x), after

    def step(self, tokens: Tensor, states: States) -> tuple[Tensor, list[State]]:
        """Logits (B, V) after one more token (B,). The states need room (`reserve`) and may be changed in place."""
        return self.run_steps([layer.step for layer in self.layers], tokens, states)

    def run_steps(
        self, steps: Sequence[EntryStep], tokens: Tensor, states: States, head: packed.Product | None = None
    ) -> tuple[Tensor, list[State]]:
        """`step` with these functions, one an entry, in place of the layers' own, and perhaps another for the head."""
        x = self.embedding(tokens[:, None])
        after: list[State] = []
        for step, (_, own) in zip(steps, self.spans(), strict=True):
            x, made = step(x, states[own])
            after += made
        return (head or self.head)(self.norm(x)[:, 0]), after

    def reserve(self, states: States, tokens: int) -> list[State]:
        """The same states with room for `tokens` in all; they may share memory with those given, as a layer's do."""
        return [layer.reserve(state, tokens) for layer, state in zip(self.branches(), states, strict=True)]

    def branches(self) -> list[Layer]:
        """The layers of all branches, in the order of `plan.branches`."""
        return [layer for entry in self.layers for layer in entry.layers]

    def spans(self) -> Iterator[tuple[Residual, slice]]:
        """The entries, and the place of each in lists with one element a branch."""
        begin = 0
        for layer, entry in zip(self.layers, self.plan.entries, strict=True):
            yield layer, slice(begin, begin := begin + len(entry.branches))

    def windows(self, step: TrainStep) -> list[GivenWindow]:
        """What the policy of every branch gives at a training step."""
        return self.plan.windows(step)

    def fixed_windows(self, window: GivenWindow) -> list[GivenWindow]:
        """`window` for every branch with a policy: the window outside training."""
        return self.plan.fixed_windows(window)
