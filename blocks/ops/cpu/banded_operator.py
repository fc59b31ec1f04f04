"""Attention in blocks of queries as an operator of torch.library, for layers that torch.compile compiles.

The compiler would unroll every tile. Forward and backward are operators of their own, whose outputs share no memory
with their inputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from hybridkit_blocks.ops.cpu.banded import banded_backward, banded_forward, bands, gradients, keep
from hybridkit_blocks.ops.precision import wide

_INTO = "Tensor q, Tensor k, Tensor v, Tensor? sinks"
_HOW = "int? window, Tensor? limit, Tensor? documents, float? scale, float? cap"

banded_operator = torch.library.custom_op(
    "hybridkit::banded", banded_forward, mutates_args=(), schema=f"({_INTO}, {_HOW}) -> (Tensor, Tensor)"
)
_gradient = torch.library.custom_op(
    "hybridkit::banded_backward",
    banded_backward,
    mutates_args=(),
    schema=f"({_INTO}, Tensor out, Tensor norms, {_HOW}, Tensor dout) -> (Tensor, Tensor, Tensor, Tensor)",
)
banded_operator.register_fake(lambda q, *_: (torch.empty_like(q), q.new_empty(q.shape[:3], dtype=wide(q.dtype))))


@_gradient.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, *_: Any) -> Any:
    return *map(torch.empty_like, (q, k, v)), q.new_empty(0 if sinks is None else sinks.shape, dtype=wide(q.dtype))


def _through(ctx: Any, dout: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    return gradients(ctx, dout, _gradient)


banded_operator.register_autograd(_through, setup_context=keep)


@register_flop_formula(torch.ops.hybridkit.banded)
def _(q: Any, k: Any, v: Any, sinks: Any, window: int | None, *_: Any, **__: Any) -> int:
    return _product(q, k, window) * 2


@register_flop_formula(torch.ops.hybridkit.banded_backward)
def _(q: Any, k: Any, v: Any, sinks: Any, out: Any, norms: Any, window: int | None, *_: Any, **__: Any) -> int:
    return _product(q, k, window) * 5  # the weights once more, then two products for each


def _product(q: Any, k: Any, window: int | None) -> int:
    """FLOPs of all queries (N, T, G, E) with the keys (N, S, E) of their bands; documents cut none of them."""
    pairs = sum(tile.blocks * tile.block * tile.reach for tile in bands(q[1], k[1], window))
    return int(2 * q[0] * q[2] * q[3] * pairs)
