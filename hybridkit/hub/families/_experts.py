"""Mixtures of experts in files: a matrix for each expert, or all experts in one tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridkit.hub.layered import Joined


def each_expert(experts: int) -> tuple[Joined, Joined]:
    """`experts.3.gate_proj.weight` and so on."""
    up = tuple(f"experts.{e}.{name}_proj.weight" for e in range(experts) for name in ("gate", "up"))
    down = tuple(f"experts.{e}.down_proj.weight" for e in range(experts))
    return Joined(("up",), up, _stacked, _single), Joined(("down",), down, _stack, _unbound)


def _stacked(t: list[Tensor]) -> list[Tensor]:
    """From gate (F, D) and up (F, D) of every expert to (E, 2 F, D)."""
    return [torch.stack([torch.cat(t[place : place + 2]) for place in range(0, len(t), 2)])]


def _single(t: list[Tensor]) -> list[Tensor]:
    return [half for expert in t[0].unbind() for half in expert.chunk(2)]


def _stack(t: list[Tensor]) -> list[Tensor]:
    return [torch.stack(t)]


def _unbound(t: list[Tensor]) -> list[Tensor]:
    return list(t[0].unbind())


def interleaved(tensor: Tensor) -> Tensor:
    """From (E, ..., 2 F) with gate and up in turn to gate first."""
    return torch.cat([tensor[..., ::2], tensor[..., 1::2]], -1)


def in_turn(tensor: Tensor) -> Tensor:
    """The other way."""
    return torch.stack(tensor.chunk(2, -1), -1).flatten(-2)
