"""Batches, and the protocol of what a trainer reads them from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hybridkit.data.tokenizer import Tokenizer

if TYPE_CHECKING:  # text is prepared without torch
    import numpy as np
    import torch
    from torch import Tensor

IGNORED = -100  # the target of a token that is not predicted


@dataclass(frozen=True)
class Batch:
    """Sequences, and the token that follows each of their tokens."""

    tokens: Tensor  # (B, T) int64
    targets: Tensor  # (B, T) int64, IGNORED where not counted
    document_starts: Tensor | None  # (B, T) bool: a document begins here; None where documents flow into each other
    bytes: int  # raw bytes of text that the counted targets stand for

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        starts = None if self.document_starts is None else self.document_starts.to(device)
        return replace(self, tokens=self.tokens.to(device), targets=self.targets.to(device), document_starts=starts)


class Feed(Protocol):
    """What a trainer reads: packed text (`batches.Batches`), or sequences that a source makes itself."""

    tokenizer: Tokenizer
    digest: str  # of what was trained on: a run resumes on the same digest only

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> Batch:
        """Rows of the batch of a step, which counts from 0. Pure: the same answer in any process, in any order."""

    def validation(self) -> Iterator[Batch]:
        """The held-out batches, always the same."""


@runtime_checkable
class ChangingFeed(Feed, Protocol):
    """A feed whose sequences change in the course of training. A mixture has fewer of them in a step than `batch` has,
    and asks for those of its own step."""

    def at(self, step: int) -> Feed:
        """The feed as it is at a step of training, whatever batch is asked for; itself where it changes no more."""
