"""Custom autograd functions as operators of torch.library: torch.compile keeps a layer in one graph, and does not look
into them. Eager code calls the functions themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hybridkit_blocks.ops.precision import no_autocast

Operator = Callable[..., tuple[Tensor, ...]]


class Kept:
    """What a function's forward hands to its gradient, without autograd."""

    def __init__(self, gradient: bool) -> None:
        self.needs_input_grad, self.saved_tensors = (gradient,), tuple[Tensor, ...]()

    def save_for_backward(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors


def operator(
    name: str,
    inputs: str,
    forward: Callable[..., Any],
    gradient: Callable[..., Any],
    fake: Operator,
    differentiable: int,
) -> Operator:
    """The operators `hybridkit::NAME` and `hybridkit::NAME_backward` of a function with two outputs.

    `inputs` is their schema, of which the first `differentiable` have gradients and the rest (`Tensor?`) none.
    `forward(ctx, *inputs)` and `gradient(ctx, *slopes)` are those of a torch.autograd.Function; `fake` gives empty
    tensors of the outputs' shapes and types. The operator keeps its inputs alone; its backward computes the rest again.
    """
    number = inputs.count("Tensor")

    def run(*given: Any) -> tuple[Tensor, ...]:
        with no_autocast(given[0]):
            return tuple(map(_own, forward(Kept(False), *given)))

    def run_back(*given: Any) -> tuple[Tensor, ...]:
        kept = Kept(True)
        with no_autocast(given[0]):
            forward(kept, *given[:number])
            return tuple(map(_own, gradient(kept, *given[number:])[:differentiable]))

    outputs, found = ", ".join(["Tensor"] * 2), ", ".join(["Tensor"] * differentiable)
    schema, schema_back = f"({inputs}) -> ({outputs})", f"({inputs}, Tensor d0, Tensor d1) -> ({found})"
    made = torch.library.custom_op(f"hybridkit::{name}", run, mutates_args=(), schema=schema)
    back = torch.library.custom_op(f"hybridkit::{name}_backward", run_back, mutates_args=(), schema=schema_back)
    made.register_fake(fake)
    back.register_fake(lambda *given: tuple(t.new_empty(t.shape) for t in given[:differentiable]))

    def through(ctx: Any, *slopes: Tensor) -> Any:
        return *back(*ctx.saved_tensors, *slopes), *(None for _ in range(number - differentiable))

    made.register_autograd(through, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))
    return made


def _own(t: Tensor) -> Tensor:
    """The same in memory of its own, as an operator has to give it."""
    return t.clone(memory_format=torch.contiguous_format)
