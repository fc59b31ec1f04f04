"""Ablation: a model in which the layers of one kind, or one of them, output zero."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hybridkit.block import Layer, State
from hybridkit.evaluation.replaced import replaced_layers
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
    """Raise UserError unless the stack has blocks of this name, or a branch with this index, as 3 or 3.1."""
    if not name:
        raise UserError("--ablate: names no block; leave it out, or give the name of a block, as in --ablate swa")
    known = sorted({branch.block.name() for branch in plan.branches})
    if not plan.has(name):
        hint = f"; did you mean `{close}`?" if (close := nearest(name, known)) else ""
        last = plan.branches[-1].name
        raise UserError(
            f"--ablate {name}: the stack has no such block, only {', '.join(known)},"
            f" and layers 0 to {last}, by their index{hint}"
        )


def _chosen(plan: Plan, name: str | None) -> list[bool]:
    return [name in (branch.name, branch.block.name()) for branch in plan.branches]


@contextmanager
def ablated(model: Model, name: str | None) -> Iterator[Model]:
    """The model with the output of every `name` layer zeroed, restored afterwards; as it is where `name` is None."""
    with replaced_layers(model, _chosen(model.plan, name), lambda own: SilentLayer()):
        yield model
