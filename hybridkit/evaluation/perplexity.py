"""Loss on held-out text, over all of it and by position.

B rows, t tokens of a chunk. The context of a target is the number of tokens before it in its row; bins of contexts
are [1, 2), [2, 4), [4, 8) and so on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridkit.data.feed import IGNORED, Batch
from hybridkit.evaluation.scoring import ReadOptions, TokenScores, stream_scores
from hybridkit.model.model import Model

Read = Callable[[int], object]  # is told of so many more tokens read

_BINS = 64
_MOST = 700.0  # nats whose exponential a float still holds


@dataclass
class TextLoss:
    """Summed nats of counted targets."""

    nats: float = 0.0
    tokens: int = 0
    bytes: int = 0
    read: int = 0  # tokens read, counted or not
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Loss in nats a token, perplexity, bits per byte and tokens read a second; null where nothing counted."""
        loss = self.nats / self.tokens if self.tokens else None
        return {
            "loss": loss,
            "perplexity": None if loss is None else math.exp(min(loss, _MOST)),
            "bits_per_byte": self.nats / math.log(2) / self.bytes if self.bytes else None,
            "tokens": self.tokens,
            "tokens_per_second": self.read / self.seconds,
        }


@dataclass(frozen=True)
class PositionBin:
    """The targets whose context has `first` to `last` tokens."""

    first: int
    last: int
    tokens: int
    nats: float  # summed
    restarted: float | None  # the loss summed, with no context from before the last multiple of the training length

    def to_json(self) -> dict[str, Any]:
        """Mean loss, and `gain`: how many nats a token the context before the restart saves."""
        loss = self.nats / self.tokens
        gain = None if self.restarted is None else self.restarted / self.tokens - loss
        sizes = {"first": self.first, "last": self.last, "tokens": self.tokens}
        return sizes | {"loss": loss, "perplexity": math.exp(min(loss, _MOST)), "gain": gain}


def _ignore(tokens: int) -> None:
    """Tells nobody."""


def perplexity(model: Model, batches: Iterable[Batch], reading: ReadOptions, read: Read = _ignore) -> TextLoss:
    """The loss over all counted targets of the batches."""
    total, begin = TextLoss(), time.perf_counter()
    for batch in batches:
        chunks = _told(stream_scores(model, batch, reading), read)
        total.nats += sum(chunk.nats.sum(dtype=torch.float64).item() for chunk in chunks)
        total.tokens += int((batch.targets != IGNORED).sum())
        total.bytes += batch.bytes
        total.read += batch.tokens.numel()
    total.seconds = time.perf_counter() - begin
    return total


def _told(chunks: Iterable[TokenScores], read: Read) -> Iterator[TokenScores]:
    """The chunks, telling `read` of each after it was used."""
    for chunk in chunks:
        yield chunk
        read(chunk.nats.numel())


def by_position(
    model: Model, batches: Iterable[Batch], reading: ReadOptions, restart: int | None = None, read: Read = _ignore
) -> list[PositionBin]:
    """The loss in bins of contexts. With `restart` all targets are predicted a second time, their context cut."""
    counts, carried, cut = torch.zeros(3, _BINS, dtype=torch.float64)
    longest = 0
    for batch in batches:
        longest = max(longest, batch.tokens.shape[1])
        counts += _binned([(batch.targets != IGNORED).double()])
        carried += _binned(chunk.nats for chunk in _told(stream_scores(model, batch, reading), read))
        if restart:
            again = stream_scores(model, batch, reading, restart=restart)
            cut += _binned(chunk.nats for chunk in _told(again, read))
    return [
        PositionBin(
            2**k, min(2 ** (k + 1) - 1, longest), int(counts[k]), carried[k].item(), cut[k].item() if restart else None
        )
        for k in range(_BINS)
        if counts[k]
    ]


def _binned(chunks: Iterable[Tensor]) -> Tensor:
    """Sums over chunks (B, t), one for each power of two of the context."""
    totals, context = torch.zeros(_BINS, dtype=torch.float64), 1
    for values in chunks:
        contexts = torch.arange(context, context + values.shape[1], dtype=torch.float64)
        totals.index_add_(0, contexts.log2().floor().long(), values.sum(0, dtype=torch.float64).cpu())
        context += values.shape[1]
    return totals
