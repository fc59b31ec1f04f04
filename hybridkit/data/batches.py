"""Batches of packed sequences, each a pure function of (seed, step): the place in the data is the step's number.

Letters: B sequences of a batch, T tokens of a sequence, N tokens of the corpus.

The training tokens are a ring, cut into N // T chunks from an offset on; an epoch takes every chunk once, in an order
of its own. Order and offset are hashed from (seed, epoch), so that any rank, at any step, computes its rows alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch

from hybridkit.data.corpus import Corpus, Tokens
from hybridkit.data.feed import IGNORED, Batch, Feed
from hybridkit.system.choices import Documents
from hybridkit.system.errors import UserError

__all__ = ["IGNORED", "Batch", "Batches", "Feed", "cover"]

_ROUNDS = 6  # of the permutation


class Batches:
    """A corpus as a feed: `batch` sequences of `sequence` tokens a step.

    Rank r of R takes `batch(step, slice(r, None, R))`, or any other slices that make up the batch. Raises UserError
    where the training text is shorter than one sequence.
    """

    def __init__(
        self, corpus: Corpus, sequence: int, batch: int, seed: int = 0, documents: Documents = "reset"
    ) -> None:
        have = len(corpus.train)
        if have <= sequence and (have or not len(corpus.validation)):  # a text may be there for validation alone
            raise UserError(
                f"data.sequence: a sequence of {sequence:,} needs {sequence + 1:,} tokens, and the training text has"
                f" {have:,}; give more text, or set data.sequence to at most {have - 1:,}"
            )
        self.tokenizer, self.digest = corpus.tokenizer, corpus.digest
        self.chunks = have // sequence  # of an epoch
        self.corpus, self._sequence, self._batch, self._seed = corpus, sequence, batch, seed
        self._documents = documents

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> Batch:
        """Rows of the batch of a step, which counts from 0."""
        number = step * self._batch + np.arange(self._batch)[rows]  # of the sequence, over all epochs
        epochs, places = np.divmod(number, self.chunks)
        begins = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            offset = _hashed(self._seed, int(epoch), "offset") % len(self.corpus.train)
            begins[here] = offset + self._sequence * _shuffled(places[here], self.chunks, self._seed, int(epoch))
        return _packed(self.corpus.train, begins, self._sequence, self._documents)

    def validation(self) -> Iterator[Batch]:
        """`cover` of the held-out documents."""
        return cover(self.corpus.validation, self._sequence, self._batch, self._documents)


def cover(tokens: Tokens, sequence: int, batch: int, documents: Documents = "reset") -> Iterator[Batch]:
    """All tokens in order, each a target once at most; the last batch has fewer rows, and its last row fewer targets.

    Not counted: the first token of all, and under `reset` that of every document.
    """
    begins = np.arange(0, len(tokens) - 1, sequence)
    for first in range(0, len(begins), batch):
        yield _packed(tokens, begins[first : first + batch], sequence, documents, targets_end=len(tokens))


def _packed(
    tokens: Tokens, begins: np.ndarray, sequence: int, documents: Documents, targets_end: int | None = None
) -> Batch:
    """The sequences that begin at `begins` (B,), round the end of the ring; no target counts from `targets_end` on."""
    places = begins[:, None] + np.arange(-1, sequence + 1)  # (B, T + 2): also the token before and the one after
    ids = tokens.ids.take(places, mode="wrap").astype(np.int64)
    ended = ids[:, :-1] == tokens.tokenizer.end  # the next token begins a document
    counted = np.ones_like(ended[:, 1:]) if targets_end is None else places[:, 2:] < targets_end
    if documents == "reset":
        counted &= ~ended[:, 1:]
    return Batch(
        tokens=torch.from_numpy(np.ascontiguousarray(ids[:, 1:-1])),
        targets=torch.from_numpy(np.where(counted, ids[:, 2:], IGNORED)),
        document_starts=torch.from_numpy(np.ascontiguousarray(ended[:, :-1])) if documents == "reset" else None,
        bytes=int(tokens.bytes_at(places[:, 2:])[counted].sum()),
    )


def _hashed(*key: int | str) -> int:
    return int.from_bytes(hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest(), "big")


def _shuffled(places: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Where a permutation of 0 ... size - 1 sends `places`, in constant memory and alike for ever.

    A Feistel network permutes the powers of four; values out of range are sent on until they fall inside
    (Black & Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002).
    """
    half = np.uint64(((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << int(half)) - 1)
    keys = np.array([_hashed(seed, epoch, turn) for turn in range(_ROUNDS)], np.uint64)
    found = places.astype(np.uint64)
    walking = np.ones(len(found), bool)
    while walking.any():
        left, right = found[walking] >> half, found[walking] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[walking] = left << half | right
        walking = found >= size
    return found.astype(np.int64)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """A hash of each 64-bit number: splitmix64's last steps (Steele, Lea & Flood, OOPSLA 2014)."""
    bits = (bits ^ bits >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ bits >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return bits ^ bits >> np.uint64(31)
