"""What a layer tells of a training call beside its output: a loss of its own, and how its work was distributed.

A layer calls `record` in forward; whoever trains it listens with `recording()`. Nothing stays on the module, and
without a listener nothing happens. `Model` adds the losses to the gradient of its own, once for every target, and
leaves them out of the loss that it returns. An engine sums the loads of a step over its calls and ranks, reports them,
and after the update hands each layer its own (`Layer.balance`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import Tensor, nn


class Auxiliary(NamedTuple):
    """Of one call of one layer."""

    layer: nn.Module
    loss: Tensor | None  # a scalar, added to the loss of every target
    load: Tensor  # (parts,) tokens that each part of the layer, such as an expert, worked on


_listener: ContextVar[list[Auxiliary] | None] = ContextVar("listener", default=None)


def record(layer: nn.Module, loss: Tensor | None, load: Tensor) -> None:
    """Tell a listener of this call.

    A layer computes `loss` in every call that has a gradient, also without a listener: under `train.recompute` its
    forward pass runs a second time and must do the same.
    """
    heard = _listener.get()
    if heard is not None:
        heard.append(Auxiliary(layer, loss, load))


@contextmanager
def recording() -> Iterator[list[Auxiliary]]:
    """The list that `record` fills within; a recording around this one hears the same."""
    heard: list[Auxiliary] = []
    token = _listener.set(heard)
    try:
        yield heard
    finally:
        _listener.reset(token)
        if (outer := _listener.get()) is not None:
            outer.extend(heard)
