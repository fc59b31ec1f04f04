"""A mixture of sources: which of them every sequence comes from, as a pure function of its number.

Sequence n has the place u_n = (n p + o) mod 2^64, with p about 2^64 over the golden ratio and o hashed from the seed.
Each part has the stretch of [0, 2^64) that its weight gives it, and the sequences whose place lies there. Multiples of
the golden ratio are spread evenly (Weyl, 1916), so the shares hold at every step, better than those of a random draw.
How many of the first n sequences a part has is a sum of floors, which takes some 64 steps for any n; so any process
finds its rows alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from hybridkit.data.feed import Batch, ChangingFeed, Feed
from hybridkit.data.tokenizer import Tokenizer

_WHOLE = 1 << 64
_STEP = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, made odd


class MixturePart(NamedTuple):
    """One source of a mixture."""

    name: str
    weight: float
    feed: Feed  # of batches as large as the mixture's


class Mixture:
    """Several feeds as one. `held_out`: what is validated on, by name; `weighted`: by the weights of the parts.

    Part i's sequences keep the order that its own feed has.
    """

    def __init__(
        self,
        parts: Sequence[MixturePart],
        held_out: Mapping[str, Feed],
        digest: str,
        sequence: int,
        batch: int,
        seed: int,
        weighted: bool,
    ) -> None:
        self.parts, self.held_out, self.digest, self.weighted = parts, held_out, digest, weighted
        self.tokenizer: Tokenizer = parts[0].feed.tokenizer
        self._sequence, self._batch = sequence, batch
        self._offset = int.from_bytes(hashlib.blake2b(f"mixture/{seed}".encode(), digest_size=8).digest(), "big")
        ends = np.cumsum([*self.weights().values()])
        within = (min(round(end * 2**53) << 11, _WHOLE - 1) for end in ends[:-1])  # each fits 64 bits
        self._edges = [0, *within, _WHOLE]

    def batch(self, step: int, rows: slice | np.ndarray = slice(None)) -> Batch:
        """Rows of the batch of a step, which counts from 0."""
        first = step * self._batch
        numbers = np.arange(first, first + self._batch, dtype=np.uint64)
        with np.errstate(over="ignore"):
            places = numbers * np.uint64(_STEP) + np.uint64(self._offset)
        chosen = np.searchsorted(np.array(self._edges[1:-1], np.uint64), places, side="right")  # (B,) of parts
        wanted = np.arange(self._batch)[rows]
        found: list[tuple[np.ndarray, Batch]] = []
        for index, part in enumerate(self.parts):
            feed = part.feed.at(step) if isinstance(part.feed, ChangingFeed) else part.feed
            mine = np.flatnonzero(chosen == index)
            order = self.count(index, first) + np.arange(len(mine))  # of its own sequences
            here = np.isin(mine, wanted)
            for own in np.unique(order[here] // self._batch):
                chunk = here & (order // self._batch == own)
                found.append((mine[chunk], feed.batch(int(own), order[chunk] % self._batch)))
        return _in_order(found, wanted)

    def validation(self) -> Iterator[Batch]:
        """The first of what is held out."""
        return next(iter(self.held_out.values())).validation()

    def weights(self) -> dict[str, float]:
        """The share of each part, by name."""
        total = sum(part.weight for part in self.parts)
        return {part.name: part.weight / total for part in self.parts}

    def tokens(self, batches: int) -> dict[str, int]:
        """`tokens.NAME`: how many of the tokens of the first `batches` batches each part gave."""
        sequences = batches * self._batch
        return {f"tokens.{p.name}": self._sequence * self.count(i, sequences) for i, p in enumerate(self.parts)}

    def count(self, index: int, sequences: int) -> int:
        """How many of the first `sequences` come from a part."""
        low, high = (
            floor_sum(sequences, _WHOLE, _STEP, self._offset - edge + _WHOLE)
            for edge in (self._edges[index], self._edges[index + 1])
        )
        return low - high


def floor_sum(terms: int, modulus: int, slope: int, offset: int) -> int:
    """The sum of floor((slope k + offset) / modulus) over k = 0 ... terms - 1, for whole numbers that are not negative.

    As Euclid's algorithm: the whole parts are summed in closed form, and of what is left the axes are exchanged.
    """
    total = 0
    while terms > 0:
        total += slope // modulus * (terms * (terms - 1) // 2) + offset // modulus * terms
        slope, offset = slope % modulus, offset % modulus
        last = slope * terms + offset
        terms, offset = last // modulus, last % modulus
        modulus, slope = slope, modulus
    return total


def _in_order(found: Sequence[tuple[np.ndarray, Batch]], wanted: np.ndarray) -> Batch:
    """The batches of the parts as one, its rows in the order `wanted`."""
    rows = np.concatenate([mine for mine, _ in found])
    order = torch.from_numpy(np.argsort(rows)[np.searchsorted(np.sort(rows), wanted)])
    starts = [batch.document_starts for _, batch in found]
    whole = None
    if any(start is not None for start in starts):  # a row of a source without documents is one document
        whole = torch.cat(
            [
                torch.zeros_like(b.tokens, dtype=torch.bool) if s is None else s
                for s, (_, b) in zip(starts, found, strict=True)
            ]
        )
    return Batch(
        torch.cat([batch.tokens for _, batch in found])[order],
        torch.cat([batch.targets for _, batch in found])[order],
        None if whole is None else whole[order],
        sum(batch.bytes for _, batch in found),
    )
