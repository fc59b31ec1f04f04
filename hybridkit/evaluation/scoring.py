"""Scores of given text, token by token. Text is read in chunks: memory grows with it only where states grow.

B rows, T tokens of a row, t tokens of a chunk, N targets that count, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hybridkit.data.feed import IGNORED, Batch
from hybridkit.evaluation.cut import Cut, Marks, cut_layers, every
from hybridkit.inference.decode import CHUNK
from hybridkit.model.model import Model

_LOGITS = 2**25  # held at a time


@dataclass(frozen=True)
class ReadOptions:
    """How text is read: the test-time window (None: each block's own), rows together, tokens at once, what is cut."""

    window: int | None = None
    batch: int = 8
    chunk: int = CHUNK
    cut: Cut | None = None


class TokenScores(NamedTuple):
    """Scores of the targets of a chunk; 0 and False where a target is ignored."""

    nats: Tensor  # (B, t), at least fp32
    right: Tensor  # (B, t) bool: the target was the likeliest token


def stream_scores(
    model: Model, batch: Batch, reading: ReadOptions, *, restart: int | None = None, marks: Marks = every
) -> Iterator[TokenScores]:
    """Scores of every target, chunk by chunk; states are carried from chunk to chunk.

    `restart`: as if a document began at every multiple of so many tokens. `marks`: where `reading.cut` cuts.
    """
    with cut_layers(model, reading.cut, lambda distance: marks(batch, distance)):
        yield from _stream(model, batch, reading, restart)


@torch.no_grad()
def _stream(model: Model, batch: Batch, reading: ReadOptions, restart: int | None) -> Iterator[TokenScores]:
    windows = model.fixed_windows(reading.window)
    device, states = model.head.weight.device, None
    for begin in range(0, batch.tokens.shape[1], reading.chunk):
        span = slice(begin, begin + reading.chunk)
        document_starts = None if batch.document_starts is None else batch.document_starts[:, span].to(device)
        tokens = batch.tokens[:, span].to(device)
        if restart:
            places = torch.arange(begin, begin + tokens.shape[1], device=device)
            document_starts = (places % restart == 0).expand_as(tokens)
        x, states = model.hidden(tokens, states, windows=windows, document_starts=document_starts)
        yield _score_chunk(model, x, batch.targets[:, span].to(device))


def score_tokens(model: Model, batch: Batch, reading: ReadOptions, marks: Marks = every) -> TokenScores:
    """Scores of every target of a batch, (B, T), on the CPU. `marks` as for `stream_scores`."""
    parts = [TokenScores(nats.cpu(), right.cpu()) for nats, right in stream_scores(model, batch, reading, marks=marks)]
    return TokenScores(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))


def continuation(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """A batch of rows (what is read, what should follow), both ids; only what should follow counts."""
    longest = max(len(read) + len(rest) for read, rest in pairs) - 1
    tokens = torch.zeros(len(pairs), longest, dtype=torch.int64)
    targets = torch.full_like(tokens, IGNORED)
    for row, (read, rest) in enumerate(pairs):
        ids = torch.from_numpy(np.concatenate([read, rest]).astype(np.int64))
        tokens[row, : len(ids) - 1] = ids[:-1]
        targets[row, len(read) - 1 : len(ids) - 1] = ids[len(read) :]
    return Batch(tokens, targets, None, 0)


def _score_chunk(model: Model, x: Tensor, targets: Tensor) -> TokenScores:
    """Of hidden states x (B, t, D) and targets (B, t). Logits are formed for the targets that count alone."""
    counted = targets != IGNORED
    wide = torch.promote_types(x.dtype, torch.float32)
    nats, right = x.new_zeros(targets.shape, dtype=wide), torch.zeros_like(counted)
    step = max(1, _LOGITS // model.plan.dims.vocab)
    found = [_of(model.head(rows).to(wide), y) for rows, y in _split(x[counted], targets[counted], step)]
    if found:
        nats[counted], right[counted] = (torch.cat(part) for part in zip(*found, strict=True))
    return TokenScores(nats, right)


def _of(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(dim=-1) == targets


def _split(x: Tensor, targets: Tensor, step: int) -> Iterable[tuple[Tensor, Tensor]]:
    return zip(x.split(step), targets.split(step), strict=True) if len(x) else ()
