"""Attention between the projections, head by head, by the best kernel for the device.

B batch, T queries, S = past + T keys, H heads, K key-value heads, E width of a head, G = H / K.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridkit.block import WindowLimit
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.cpu.banded import banded
from hybridkit_blocks.ops.cpu.banded_operator import banded_operator

REASONS = {
    "banded": "blocks of queries against their band of keys; torch's SDPA where no window or document hides anything",
    "flex": "FlexAttention: one compiled kernel for all windows, which skips the blocks that the mask hides",
    "flash-attn": "flash-attn is installed; packed documents and windows held in tensors go to FlexAttention",
}
HALF = (torch.bfloat16, torch.float16)
ON_CUDA = "flash-attn" if find_spec("flash_attn") else "flex"


def kernel(device: str) -> tuple[str, str]:
    """The kernel that `attend` runs in training on a type of device, and why."""
    name = ON_CUDA if device == "cuda" else "banded"
    return name, REASONS[name]


def attend(
    q: Tensor,  # (B, T, H, E)
    k: Tensor,  # (B, S, K, E)
    v: Tensor,  # (B, S, K, E)
    window: WindowLimit | Tensor,
    documents: Tensor | None,  # (B, S) int64, never falling
) -> Tensor:
    """Query i sits at key i + S - T and sees its own document's keys, at most window - 1 back: (B, T, H, E)."""
    if q.device.type != "cuda":
        return _attend_in_blocks(q, k, v, window, documents)
    fits_flash = documents is None and not isinstance(window, Tensor) and q.dtype in HALF
    if fits_flash and ON_CUDA == "flash-attn":
        from flash_attn import flash_attn_func  # compiled for CUDA, absent elsewhere

        return flash_attn_func(q, k, v, causal=True, window_size=(-1 if window is None else window - 1, 0))
    from hybridkit_blocks.ops.cuda.flex import flex  # imports the compiler, which a CPU does not need

    return flex(q, k, v, window, documents)


def _attend_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, window: WindowLimit | Tensor, documents: Tensor | None
) -> Tensor:
    run = banded_operator if torch.compiler.is_compiling() else None
    if (
        isinstance(window, Tensor)
        or documents is not None
        or q.shape[1] != k.shape[1]
        or (window or len(k[0])) < len(k[0])
    ):
        return banded(q, k, v, window, documents, run)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def decode(q: Tensor, k: Tensor, v: Tensor, state: kv_cache.KV) -> Tensor:
    """One token's q (B, 1, H, E) over the ring and its own k and v (B, 1, K, E): (B, 1, H, E). Copies no ring."""
    head, (batch, kv_heads, size, _) = q.shape[-1], state.k.shape
    query, key, value = (x.view(batch, kv_heads, -1, head).to(state.k.dtype) for x in (q, k, v))  # (B, K, G or 1, E)
    scores = (query @ state.k.mT).masked_fill(~kv_cache.visible(state)[:, None, None], -torch.inf)  # (B, K, G, S)
    scores = torch.cat([scores, query @ key.mT], -1).to(torch.promote_types(q.dtype, torch.float32))
    p = (scores * head**-0.5).softmax(-1).to(query.dtype)
    return (p[..., :size] @ state.v + p[..., size:] * value).to(q.dtype).view_as(q)
