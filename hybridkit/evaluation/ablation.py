"""Ablation: a model in which the layers of one kind output zero."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hybridkit.block import Layer, State
from hybridkit.model.model import Model
from hybridkit.model.plan import Plan
from hybridkit.system.errors import UserError, nearest


class SilentLayer(Layer):
    """A layer that adds nothing to the residual stream and has no state."""

    def forward(
        self,
        x: Tensor,
        state: State | None = None,
        *,
        window: int | Tensor | None = None,
        document_starts: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        return torch.zeros_like(x), ()


def check_ablation(plan: Plan, name: str) -> None:
    """Raise UserError unless the stack has blocks of this name."""
    known = sorted({entry.block.name() for entry in plan.entries})
    if name not in known:
        hint = f"; did you mean `{close}`?" if (close := nearest(name, known)) else ""
        raise UserError(f"--ablate {name}: the stack has no such block, only {', '.join(known)}{hint}")


@contextmanager
def ablated(model: Model, name: str | None) -> Iterator[Model]:
    """The model with the output of every `name` layer zeroed, restored afterwards; as it is where `name` is None."""
    named = [entry.block.name() == name for entry in model.plan.entries]
    chosen = list(itertools.compress(model.layers, named))
    kept = [residual.layer for residual in chosen]
    for residual in chosen:
        residual.add_module(str(name), SilentLayer())
    try:
        yield model
    finally:
        for residual, own in zip(chosen, kept, strict=True):
            residual.add_module(str(name), own)
