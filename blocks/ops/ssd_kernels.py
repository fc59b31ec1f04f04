"""Which implementation of the SSD scan runs where."""

from __future__ import annotations

from torch import Tensor

from hybridkit_blocks.ops.ssd import ssd


def scan(
    mixed: Tensor, dt: Tensor, log_a: Tensor, skip: Tensor, state: Tensor, document_starts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y and S as `ssd` gives them."""
    return ssd(mixed, dt, log_a, skip, state, document_starts)


def choose_kernel(device: str) -> tuple[str, str]:
    """The kernel for a kind of device and why."""
    return "own", "the chunkwise form of matrix products, exact for documents and carried states"
