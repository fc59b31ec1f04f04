"""Attention on CUDA: FlexAttention, whose mask reads window and documents from tensors, so that neither recompiles it.

B batch, T queries, S = past + T keys, H heads, K key-value heads, E width of a head, M, N blocks of queries and keys.

The number of a token's document never falls along a sequence. So the first and last position of each block tell which
blocks hold a visible pair, and which hold nothing else: no T x S mask is built.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as flex_attention_module
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from hybridkit.block import WindowLimit, building

BLOCK = 128
_GRAPHS = 64  # that torch may keep: with documents or not, with gradients or not, one row or more, T = S or not, types


def flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: WindowLimit | Tensor,
    documents: Tensor | None,
    scale: float | None = None,
    cap: float | None = None,
    sinks: Tensor | None = None,  # (H,)
) -> Tensor:
    """`attend` of attend.py: q (B, T, H, E), k and v (B, S, K, E) to (B, T, H, E).

    Compiled here, unless it is part of a layer that is compiled as a whole.
    """
    tokens, keys, whole = q.shape[1], k.shape[1], torch.compiler.is_compiling()
    if documents is None and not isinstance(window, Tensor) and not whole:
        mask = _cached_mask(tokens, keys, window, q.device)
    else:
        mask = block_mask(tokens, keys, window, documents, q.device)
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    eager: Callable[..., Tensor] = flex_attention  # the compiled kernel knows no float64
    run = eager if q.dtype == torch.float64 or whole else _compiled()
    options: dict[str, Any] = {"block_mask": mask, "enable_gqa": True, "kernel_options": _options(q.dtype)}
    if scale is not None:
        options["scale"] = scale
    if cap is not None:
        options["score_mod"] = (_capping if whole else _same_capping)(cap)
    if sinks is None:
        return run(*heads_first, **options).transpose(1, 2)
    y, extra = run(*heads_first, **options, return_aux=AuxRequest(lse=True))
    share = torch.sigmoid(extra.lse - sinks[:, None].to(extra.lse.dtype))  # e^l / (e^l + e^sink): (B, H, T)
    return (y * share[..., None].to(y.dtype)).transpose(1, 2)


def _capping(cap: float) -> Callable[..., Tensor]:
    """A function that FlexAttention applies to scaled scores."""

    def capped(score: Tensor, b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    return capped


_same_capping = cache(_capping)  # the same function for the same cap, for which torch keeps a graph


def _options(dtype: torch.dtype) -> dict[str, Any] | None:
    """The option that selects the ordinary kernel, for fp32; None for other types, which leave the choice to torch.

    For less than 128 queries torch would choose flex-decoding, which does not compile in fp32. The option has two names
    in different versions of torch; None as well where the installed one knows neither.
    """
    known = getattr(flex_attention_module, "FlexKernelOptions", None)
    names: Any = getattr(known, "__annotations__", {})
    ordinary = {"FORCE_USE_FLEX_ATTENTION": True, "BACKEND": "TRITON"}
    said = next(({name: value} for name, value in ordinary.items() if name in names), None)
    return said if dtype == torch.float32 else None


@cache
def _compiled() -> Callable[..., Tensor]:
    """Beyond its limit of graphs torch runs FlexAttention as it is written, with all T x S scores in memory."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _GRAPHS)
    compiled, built = torch.compile(flex_attention), list[bool]()

    def run(*given: Any, **options: Any) -> Any:
        if built:
            return compiled(*given, **options)
        built.append(True)
        with building("FlexAttention"):
            return compiled(*given, **options)

    return run


@lru_cache(maxsize=32)
def _cached_mask(tokens: int, keys: int, window: WindowLimit, device: torch.device) -> BlockMask:
    with torch.inference_mode(False):  # a mask first made while generating must also serve training
        return block_mask(tokens, keys, window, None, device)


def block_mask(
    tokens: int, keys: int, window: WindowLimit | Tensor, documents: Tensor | None, device: torch.device
) -> BlockMask:
    """Query t sits at key t + S - T, and sees keys of its document (B, S) less than `window` back."""
    past = keys - tokens
    if isinstance(window, Tensor):
        limit = window.to(device)
    else:
        limit = torch.full((), keys if window is None else window, device=device)  # made there: the CPU does not wait
    ids = torch.zeros(1, keys, dtype=torch.int64, device=device) if documents is None else documents

    def visible(b: Tensor, h: Tensor, t: Tensor, s: Tensor) -> Tensor:
        row = b if documents is not None else torch.zeros_like(b)
        age = t + past - s
        return (age >= 0) & (age < limit) & (ids[row, t + past] == ids[row, s])

    first_t, last_t = _edges(tokens, past, device)  # (M,)
    first_s, last_s = _edges(keys, 0, device)  # (N,)
    newest, oldest = last_t[:, None] - first_s, first_t[:, None] - last_s  # (M, N) ages
    begin, end = ids[:, first_t, None], ids[:, last_t, None]  # (B, M, 1)
    some = (newest >= 0) & (oldest < limit) & (ids[:, None, last_s] >= begin)  # (B, M, N)
    every = (oldest >= 0) & (newest < limit) & (ids[:, None, first_s] == end)
    part = some & ~every
    keys_of, queries_of = (*_listed(part), *_listed(every)), (*_listed(part.mT), *_listed(every.mT))
    return BlockMask((tokens, keys), *keys_of, *queries_of, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=visible)


def _edges(length: int, offset: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First and last position of every block."""
    first = torch.arange(0, length, BLOCK, device=device)
    return first + offset, (first + BLOCK - 1).clamp(max=length - 1) + offset


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks (B, M, N) that are true, as FlexAttention takes them.

    Their number for every block of queries (B, 1, M), and the numbers of all blocks of keys, those first (B, 1, M, N).
    Without a sort, whose kernel takes torch's compiler a minute or more (docs/results.md).
    """
    found = blocks.sum(-1, dtype=torch.int32)
    place = torch.where(blocks, blocks.cumsum(-1), found[..., None] + (~blocks).cumsum(-1)) - 1
    numbers = torch.arange(blocks.shape[-1], dtype=torch.int32, device=blocks.device).expand(blocks.shape)
    return found[:, None], torch.empty_like(numbers).scatter_(-1, place, numbers)[:, None]
