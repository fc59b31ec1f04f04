"""Attention between the projections, head by head, by the best kernel for the device.

B batch, T queries, S = past + T keys, H heads, K key-value heads, E width of a head, G = H / K.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from hybridkit.block import WindowLimit, has_values
from hybridkit_blocks.ops import kv_cache
from hybridkit_blocks.ops.cpu.banded import banded
from hybridkit_blocks.ops.scores import PLAIN, Scores, probabilities

REASONS = {
    "banded": "blocks of queries against their band of keys; torch's SDPA where no window or document hides anything",
    "flex": "FlexAttention: one compiled kernel for all windows, which skips the blocks that the mask hides; in bf16 "
    "torch's SDPA where no window or document hides anything",
    "flash-attn": "flash-attn is installed; packed documents and windows held in tensors go to FlexAttention, and what "
    "no window hides to torch's SDPA",
}
HALF = (torch.bfloat16, torch.float16)
NARROWEST = 16  # of the heads that FlexAttention takes on CUDA
ON_CUDA = "flash-attn" if find_spec("flash_attn") else "flex"


def kernel(device: str) -> tuple[str, str]:
    """The kernel that `attend` runs in training on a type of device, and why."""
    name = ON_CUDA if device == "cuda" else "banded"
    return name, REASONS[name]


def attend(
    q: Tensor,  # (B, T, H, E)
    k: Tensor,  # (B, S, K, E)
    v: Tensor,  # (B, S, K, E or another width)
    window: WindowLimit | Tensor,
    documents: Tensor | None,  # (B, S) int64, never falling
    scores: Scores = PLAIN,
) -> Tensor:
    """Query i sits at key i + S - T and sees its own document's keys, at most window - 1 back: (B, T, H, E of v)."""
    width, values = q.shape[-1], v.shape[-1]
    if q.device.type != "cuda":
        if width == values:  # all that torch's kernel on a CPU knows
            return _attend_in_blocks(q, k, v, window, documents, scores)
        return _widened(max(width, values), q, k, v, window, documents, scores)
    if min(width, values) < NARROWEST:
        return _widened(max(width, values, NARROWEST), q, k, v, window, documents, scores)
    if q.dtype in HALF and width == values and _causal(q, k, window, documents, scores):
        return _fused(q, k, v, scores)  # cuDNN's kernel or FlashAttention, as torch chooses for the card
    fits_flash = documents is None and not isinstance(window, Tensor) and q.dtype in HALF
    if fits_flash and ON_CUDA == "flash-attn" and scores.sinks is None and width == values:
        from flash_attn import flash_attn_func  # compiled for CUDA, absent elsewhere

        reach = (-1 if window is None else window - 1, 0)
        return flash_attn_func(
            q, k, v, causal=True, window_size=reach, softmax_scale=scores.scale, softcap=scores.cap or 0.0
        )
    from hybridkit_blocks.ops.cuda.flex import flex  # imports the compiler, which a CPU does not need

    return flex(q, k, v, window, documents, *scores)


def _widened(
    to: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: WindowLimit | Tensor,
    documents: Tensor | None,
    scores: Scores,
) -> Tensor:
    """`attend` with heads filled with zeros to a width."""
    scores, values = scores._replace(scale=scores.scale or q.shape[-1] ** -0.5), v.shape[-1]
    q, k, v = (F.pad(x, (0, to - x.shape[-1])) for x in (q, k, v))
    return attend(q, k, v, window, documents, scores)[..., :values]


def _attend_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, window: WindowLimit | Tensor, documents: Tensor | None, scores: Scores
) -> Tensor:
    if not _causal(q, k, window, documents, scores):
        if not torch.compiler.is_compiling() and (documents is None or has_values(documents)):
            return banded(q, k, v, window, documents, *scores)
        from hybridkit_blocks.ops.cpu.banded_operator import banded_operator  # takes time to register

        return banded(q, k, v, window, documents, *scores, banded_operator)
    return _fused(q, k, v, scores)


def _causal(q: Tensor, k: Tensor, window: WindowLimit | Tensor, documents: Tensor | None, scores: Scores) -> bool:
    """Whether nothing but the future is hidden, and scores are plain: what torch's own kernels compute."""
    keys = k.shape[1]
    if documents is not None or isinstance(window, Tensor):
        return False
    return q.shape[1] == keys and (window or keys) >= keys and scores.plain


def _fused(q: Tensor, k: Tensor, v: Tensor, scores: Scores) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scores.scale, enable_gqa=True).transpose(1, 2)


def decode(q: Tensor, k: Tensor, v: Tensor, state: kv_cache.KV, scores: Scores = PLAIN) -> Tensor:
    """One token's q (B, 1, H, E) over the ring and its own k and v (B, 1, K, E): (B, 1, H, E). Copies no ring."""
    head, (batch, kv_heads, size, _) = q.shape[-1], state.k.shape
    query, key, value = (x.view(batch, kv_heads, -1, head).to(state.k.dtype) for x in (q, k, v))  # (B, K, G or 1, E)
    s = torch.cat([query @ state.k.mT, query @ key.mT], -1).to(torch.promote_types(q.dtype, torch.float32))
    hidden = F.pad(~kv_cache.visible(state), (0, 1))[:, None, None]  # (B, 1, 1, S + 1)
    sinks = None if scores.sinks is None else scores.sinks.view(kv_heads, -1, 1)
    p = probabilities(s * (scores.scale or head**-0.5), hidden, scores.cap, sinks).to(query.dtype)
    return (p[..., :size] @ state.v + p[..., size:] * value).to(q.dtype).view_as(q)
