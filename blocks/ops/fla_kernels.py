"""What mixers share that may run flash-linear-attention: when its kernels are chosen, and how these take documents."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from hybridkit_blocks.ops.kernel_gate import has_triton

NAMES = ("own", "fla")


def choose_fla(device: str, variable: str) -> tuple[str, str]:
    """The kernel for a kind of device, and why. Raises ValueError where `variable` asks for what is not there."""
    forced = os.environ.get(variable)
    if forced:
        if forced not in NAMES:
            raise ValueError(f"{variable}={forced}: it may be {', '.join(NAMES)}")
        if forced == "fla" and not has_fla():
            raise ValueError(f"{variable}=fla: it is not installed; run: pip install 'hybridkit[fla]'")
        return forced, f"{variable}={forced} asks for it"
    if torch.device(device).type != "cuda":
        return "own", "chunks of 64 with a gradient of their own, exact for documents and carried states"
    if not has_fla():
        return "own", "flash-linear-attention is not installed (pip install 'hybridkit[fla]')"
    return (
        "fla",
        "flash-linear-attention's chunks of 64, once they agree with the own form on this device, type and shape",
    )


@functools.cache
def has_fla() -> bool:
    """Whether the library and its compiler are installed."""
    return find_spec("fla") is not None and has_triton()


def by_documents(
    kernel: Callable[..., tuple[Tensor, Tensor]], tensors: Sequence[Tensor], state: Tensor, document_starts: Tensor
) -> tuple[Tensor, Tensor]:
    """All rows as one, in which each document is a sequence: outputs (B, T, ...), and the states after the rows.

    `kernel` takes tensors (1, B T, ...), states (N, ...) of N sequences, and where these begin, B T last. `state` (B,
    ...) is what rows carry that go on with a document.
    """
    (batch, tokens), (lengths, first, last) = document_starts.shape, _sequences(document_starts)
    held = state.masked_fill(document_starts[:, 0, None, None, None], 0)
    before = state.new_zeros(len(lengths) - 1, *state.shape[1:]).index_copy(0, first, held)
    joined = (t.reshape(1, batch * tokens, *t.shape[2:]) for t in tensors)
    y, after = kernel(*joined, before, lengths)
    return y.view(batch, tokens, *y.shape[2:]), after.index_select(0, last)


class Sequences(NamedTuple):
    """The documents of a batch, row after row."""

    lengths: Tensor  # (N + 1,): where each begins, and the end
    first: Tensor  # (B,): each row's first
    last: Tensor  # (B,)


def _sequences(document_starts: Tensor) -> Sequences:
    """How many documents there are decides shapes, so this waits for the device. The layers of a model share it."""
    if document_starts.is_inference():  # has no version
        return _found(document_starts)
    version, found = _KNOWN.get(document_starts, (None, None))
    if found is None or version != document_starts._version:
        found = _found(document_starts)
        _KNOWN[document_starts] = document_starts._version, found
    return found


_KNOWN = WeakTensorKeyDictionary()  # of `_sequences`: the tensor's version, and what was found


def _found(document_starts: Tensor) -> Sequences:
    batch, tokens = document_starts.shape
    begun = document_starts.clone()
    begun[:, 0] = True  # a row that goes on is a sequence, too, with the state that it carries
    starts = begun.flatten().nonzero().flatten()
    first = torch.searchsorted(starts, torch.arange(batch, device=starts.device) * tokens)
    last = torch.cat([first[1:], first.new_tensor([len(starts)])]) - 1
    return Sequences(torch.cat([starts, starts.new_tensor([batch * tokens])]), first, last)
