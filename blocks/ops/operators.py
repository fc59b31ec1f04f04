"""An autograd function as an operator of torch.library, so that torch.compile keeps its layer in one graph.

The compiler does not look into an operator: the loops of a chunkwise form are not unrolled. Forward and backward are
operators of their own. The shapes, types and order in memory of what they return are found by running the function on
fake tensors; their FLOPs by counting its products on the meta device. No output shares memory with an input or another.

The operator keeps its inputs alone, and its backward runs forward again for the rest. Eager code applies the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from hybridkit_blocks.ops.precision import no_autocast

Outputs = tuple[Tensor, ...]


class Tape:
    """What `forward` of an autograd function hands to its gradient, without autograd."""

    def __init__(self, gradient: bool) -> None:
        self.needs_input_grad, self.saved_tensors = (gradient,), tuple[Any, ...]()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep them."""
        self.saved_tensors = tensors


def operator(name: str, function: Any, inputs: str, outputs: int) -> Callable[..., Outputs]:
    """`hybridkit::NAME`, which computes what `function.apply` does.

    `function` has static methods `forward(ctx, *inputs)` and `gradient(ctx, *gradients of the outputs)`, which may use
    nothing of torch that needs values. `inputs` is their schema; those of type `Tensor?` have no gradient.
    """
    kinds = [part.split()[0] for part in inputs.split(",")]

    def forward(*given: Any) -> Outputs:
        with no_autocast(given[0]):
            return _owned(function.forward(Tape(False), *given), given)

    def backward(*given: Any) -> Outputs:
        tape = Tape(True)
        with no_autocast(given[0]):
            function.forward(tape, *given[: len(kinds)])
            grads = function.gradient(tape, *given[len(kinds) :])
        return _owned([grad for grad, kind in zip(grads, kinds, strict=True) if kind == "Tensor"], given)

    slopes = ", ".join(f"Tensor grad_{index}" for index in range(outputs))
    made = _registered(name, forward, inputs, outputs)
    gradient = _registered(f"{name}_backward", backward, f"{inputs}, {slopes}", kinds.count("Tensor"))

    def through(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = iter(gradient(*ctx.saved_tensors, *grads))
        return tuple(next(found) if kind == "Tensor" else None for kind in kinds)

    made.register_autograd(through, setup_context=_keep)
    return made


def _registered(name: str, run: Callable[..., Outputs], inputs: str, outputs: int) -> Any:
    schema = f"({inputs}) -> ({', '.join(['Tensor'] * outputs)})"
    made = torch.library.custom_op(f"hybridkit::{name}", run, mutates_args=(), schema=schema)
    made.register_fake(run)

    def flops(*given: Any, **_: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run(*(t.to("meta") if isinstance(t, Tensor) else t for t in given))
        return int(counter.get_total_flops())

    register_flop_formula(getattr(torch.ops.hybridkit, name), get_raw=True)(flops)
    return made


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
    ctx.save_for_backward(*inputs)


def _owned(outputs: Sequence[Tensor], inputs: Sequence[Any]) -> Outputs:
    """The outputs, those copied that share memory with inputs or with each other."""
    taken, own = {_place(t) for t in inputs if isinstance(t, Tensor)}, list[Tensor]()
    for t in outputs:
        own.append(t.clone() if _place(t) in taken else t)
        taken.add(_place(own[-1]))
    return tuple(own)


def _place(t: Tensor) -> int:
    return t.untyped_storage()._cdata
