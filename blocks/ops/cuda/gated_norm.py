"""RMSNorm (arXiv 1910.07467) of groups of channels and a gate, in either order, as one Triton kernel for decoding.

Letters: B batch, G groups, V width of a group. Importing this file imports triton.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from hybridkit_blocks.ops.cuda.functions import sigmoid


def launch_gated_norm(
    h: Tensor, gate: Tensor | None, groups: int, least: float | None, silu: bool, gate_first: bool, kind: torch.dtype
) -> Tensor:
    """y (B, G V) in `kind` from h (B, G V), contiguous and fp32, and a gate (B, G V), whose channels lie side by side.

    A group is divided by sqrt(|h|^2 + least), and not where `least` is None; the gate is SiLU or else the sigmoid of
    `gate`, before that or after it.
    """
    batch, width = len(h), h.shape[1] // groups
    y, columns = torch.empty(batch, groups * width, dtype=kind, device=h.device), triton.next_power_of_2(width)
    _gated[(batch, groups)](
        h, gate, y, 0 if gate is None else gate.stride(0), least or 0.0,
        G=groups, V=width, GATED=gate is not None, SILU=silu, FIRST=gate_first, NORMED=least is not None,
        COLUMNS=columns, num_warps=max(1, min(16, columns // 256)),
    )  # fmt: skip
    return y


@triton.jit
def _gated(
    h, gate, y, gate_stride, least,
    G: tl.constexpr, V: tl.constexpr, GATED: tl.constexpr, SILU: tl.constexpr, FIRST: tl.constexpr,
    NORMED: tl.constexpr, COLUMNS: tl.constexpr,
) -> None:  # fmt: skip
    row, group, e = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.arange(0, COLUMNS)
    known, at = e < V, (row * G + group) * V + e
    made, passed = tl.load(h + at, known, 0), tl.full([COLUMNS], 1.0, tl.float32)
    if GATED:
        raw = tl.load(gate + row * gate_stride + group * V + e, known, 0).to(tl.float32)
        passed = raw * sigmoid(raw) if SILU else sigmoid(raw)
    if FIRST:
        made = made * passed
    if NORMED:
        made = made / tl.sqrt(tl.sum(made * made) + least)
    if not FIRST:
        made = made * passed
    tl.store(y + at, made.to(y.dtype.element_ty), known)
