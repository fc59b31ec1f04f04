"""What a layer carries from one call to the next."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

State = tuple[Tensor, ...]  # a NamedTuple of tensors, batch first; () for a block that carries nothing


def state_like(state: State, tensors: Sequence[Tensor]) -> State:
    """A state of the same class with other tensors."""
    return type(state)(*tensors) if hasattr(state, "_fields") else type(state)(tensors)


def clone_state(state: State) -> State:
    """A copy that shares no memory with the state."""
    return state_like(state, [tensor.clone() for tensor in state])


def state_bytes(state: State) -> int:
    """Bytes of all tensors of a state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state)
