"""Which implementation of the SSD scan runs where."""

from __future__ import annotations

import torch
from torch import Tensor

from hybridkit_blocks.ops.ssd import ssd


def scan(
    mixed: Tensor, dt: Tensor, log_a: Tensor, skip: Tensor, state: Tensor, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y and S as `ssd` gives them; torch.compile leaves it out, as it does the mLSTM's cell."""
    if torch.compiler.is_compiling():
        # Called here: as a decorator it would import the compiler, which takes a second.
        return torch.compiler.disable(ssd)(mixed, dt, log_a, skip, state, document_starts)
    return ssd(mixed, dt, log_a, skip, state, document_starts)


def choose_kernel(device: str) -> tuple[str, str]:
    """The kernel for a kind of device and why."""
    return "own", "the chunkwise form of matrix products, exact for documents and carried states"
