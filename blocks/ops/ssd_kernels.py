"""Which implementation of the SSD scan runs where."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridkit_blocks.ops.operator import operator
from hybridkit_blocks.ops.ssd import Chunkwise, ssd

_INPUTS = "Tensor mixed, Tensor dt, Tensor log_a, Tensor skip, Tensor state, Tensor? document_starts"
_operator = operator("ssd", Chunkwise, _INPUTS, outputs=2)


def scan(
    mixed: Tensor, dt: Tensor, log_a: Tensor, skip: Tensor, state: Tensor, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y and S as `ssd` gives them; where a layer is compiled, as an operator."""
    if torch.compiler.is_compiling():
        y, after = _operator(mixed, dt, log_a, skip, state, document_starts)
        return y, after
    return ssd(mixed, dt, log_a, skip, state, document_starts)


def choose_kernel(device: str) -> tuple[str, str]:
    """The kernel for a kind of device and why."""
    return "own", "the chunkwise form of matrix products, exact for documents and carried states"
