"""A cut: some layers forget what lies more than N tokens before an answer, as if a document began there for them.

`state` are the mixers whose state has a constant size, such as mLSTM: they begin anew. `cache` are attentions: their
keys and values are dropped. What lies behind the cut then reaches the answer through the other layers alone.

B rows, T tokens of a row, t tokens of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hybridkit.block import Layer, State
from hybridkit.data.feed import IGNORED, Batch
from hybridkit.evaluation.replaced import replaced_layers
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.system.errors import UserError

Held = Literal["state", "cache"]
OPTIONS = {"state": "reset-state", "cache": "evict"}  # of `hybridkit eval`
SAID = {"state": "states reset", "cache": "keys evicted"}


class Cut(NamedTuple):
    """Which layers forget, and how many tokens before the answer."""

    held: Held
    distance: int

    def __str__(self) -> str:
        return f"{SAID[self.held]} at {self.distance:,}"


Marks = Callable[[Batch, int], Tensor]  # where rows are cut, (B, T) bool, at a distance


def every(batch: Batch, distance: int) -> Tensor:
    """At every multiple of the distance: for text, in which every token is predicted."""
    return (torch.arange(batch.tokens.shape[1]) % distance == 0).expand(batch.tokens.shape)


def before_answers(batch: Batch, distance: int) -> Tensor:
    """At the place from which on `distance` tokens are left, the last of which predicts the first target of a row."""
    first = (batch.targets != IGNORED).int().argmax(dim=1, keepdim=True)  # (B, 1)
    return torch.arange(batch.tokens.shape[1]) == first + 1 - distance


def check_cut(plan: Plan, cut: Cut) -> None:
    """Raises UserError where no layer of the stack holds such a thing, or the distance is below 1."""
    if cut.distance < 1:
        raise UserError(f"--{OPTIONS[cut.held]} {cut.distance}: should be at least 1 token")
    if not any(_chosen(plan, cut.held)):
        what = "a state of constant size" if cut.held == "state" else "keys and values"
        raise UserError(f"--{OPTIONS[cut.held]}: no block of {plan.pattern} keeps {what}; leave it out")


def _chosen(plan: Plan, held: Held) -> list[bool]:
    return [branch.block.is_mixer and branch.block.keeps_tokens == (held == "cache") for branch in plan.branches]


class _CutLayer(Layer):
    """A layer for which documents begin at `marks`, too. Calls follow each other from the rows' beginning on."""

    def __init__(self, layer: Layer, marks: Tensor) -> None:
        super().__init__()
        self.layer, self._marks, self._seen = layer, marks, 0

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: int | Tensor | None = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        own = self._marks[:, self._seen : self._seen + x.shape[1]]  # (B, t)
        self._seen += x.shape[1]
        if own.any():
            document_starts = own if document_starts is None else document_starts | own
        found: tuple[Tensor, State] = self.layer(x, state, window=window, document_starts=document_starts)
        return found


@contextmanager
def cut_layers(model: Model, cut: Cut | None, marks: Callable[[int], Tensor]) -> Iterator[None]:
    """Within, the chosen layers are cut at `marks(distance)`, (B, T): rows are read once, from their beginning on.

    Nothing changes where `cut` is None.
    """
    if cut is None:
        yield
        return
    where = marks(cut.distance).to(model.head.weight.device)
    with replaced_layers(model, _chosen(model.plan, cut.held), lambda own: _CutLayer(own, where)):
        yield
